"""Real faults between a manager and its database, and a count of what went over an engine.

Rules: nothing of the product is patched and no driver is imitated. A connection is killed by the server, closed
under the pool's hands, or sent to a place where nothing listens; each fault counts how often it struck, so that
a test can prove that it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from tests.databases import kill_connections, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

__all__ = ["LostCommit", "Outage", "Traffic", "disconnect"]


class Outage:
    """An engine's database that can go away, for the connections that are there and those to come."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.away = False
        self.refused = 0
        event.listen(engine, "do_connect", self._lead_away)

    def begin(self) -> None:
        """From now on nothing answers."""
        self.away = True
        disconnect(self._engine)

    def end(self) -> None:
        """It answers again."""
        self.away = False

    def after(self, fault: LostCommit, work: Callable[[], object]) -> None:
        """Do this work; as soon as the fault has struck, nothing answers."""
        fault.then = self.begin
        work()

    def _lead_away(self, dialect: Any, _record: object, arguments: list[Any], keywords: dict[str, Any]) -> None:
        if self.away:
            self.refused += 1
            arguments[:], elsewhere = dialect.create_connect_args(unreachable(self._engine.url))
            keywords |= elsewhere


def disconnect(engine: Engine) -> None:
    """End the engine's connections: the server kills them; SQLite's are closed, there is nobody to kill them."""
    if engine.dialect.name == "sqlite":
        engine.dispose()
    else:
        kill_connections(engine.url)


class Traffic:
    """What goes over an engine, and over its reconnections: connections opened and used, statements sent."""

    def __init__(self, engine: Engine) -> None:
        self.opened = self.used = 0
        self.statements: list[str] = []
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "before_cursor_execute", self._executed)

    def _connected(self, _connection: object, _record: object) -> None:
        self.opened += 1

    def _checked_out(self, _connection: object, _record: object, _proxy: object) -> None:
        self.used += 1

    def _executed(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement)


class LostCommit:
    """Loses the acknowledgement of an engine's COMMIT, its connection with it, once it is armed."""

    def __init__(self, engine: Engine, *, landed: bool) -> None:
        """`landed`: the write has reached the database all the same."""
        self._engine = engine
        self._landed = landed
        self._left: int | None = None
        self.strikes = 0
        self.then: Callable[[], object] = lambda: None
        event.listen(engine, "commit", self._committing)

    def arm(self, *, skip: int = 0) -> None:
        """Strike at the next COMMIT; let so many pass first."""
        self._left = skip

    def _committing(self, connection: Connection) -> None:
        if self._left is None:
            return
        self._left = self._left - 1 if self._left else None
        if self._left is None:
            self.strikes += 1
            self._strike(connection)

    def _strike(self, connection: Connection) -> None:
        driver_connection: Any = connection.connection.dbapi_connection
        if self._landed:
            driver_connection.commit()
            driver_connection.cursor().execute("SELECT 1")  # psycopg sends no COMMIT where nothing has begun
        if connection.dialect.name == "sqlite":
            driver_connection.close()
        else:
            kill_connections(self._engine.url)
        self.then()
