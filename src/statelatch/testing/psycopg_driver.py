"""psycopg: connections to PostgreSQL that ask before they send."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import Composable

from statelatch.testing.drivers import Watch, send
from statelatch.testing.fault import InjectionError
from statelatch.testing.injected import COMMIT
from statelatch.testing.locker import table_of
from statelatch.testing.sockets import LOOPBACK, refused_port, shut, silence

__all__ = ["PsycopgConnection", "PsycopgCursor", "PsycopgServerCursor", "connect", "lock", "refuse"]

_ELSEWHERE = ("hostaddr", "service")


class PsycopgCursor(psycopg.Cursor[Any]):
    """A cursor that asks."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> PsycopgCursor:
        """Ask, and execute."""
        execute = super().execute
        send(_asking(self), _text(query, self), lambda: execute(query, params, **options))
        return self

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """Ask once."""
        executemany = super().executemany
        send(_asking(self), _text(query, self), lambda: executemany(query, params_seq, returning=returning))


class PsycopgServerCursor(psycopg.ServerCursor[Any]):
    """A cursor that asks, whose rows stay on the server until they are wanted."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> PsycopgServerCursor:
        """Ask, and declare."""
        execute = super().execute
        send(_asking(self), _text(query, self), lambda: execute(query, params, **options))
        return self


class PsycopgConnection(psycopg.Connection[Any]):
    """A connection that asks."""

    watch: Watch | None = None
    sent: list[str]

    def commit(self) -> None:
        """Ask, and commit."""
        send(self, COMMIT, super().commit)

    def rollback(self) -> None:
        """Roll back: the transaction is over."""
        self.sent.clear()
        super().rollback()

    @property
    def commits_itself(self) -> bool:
        """Whether the next statement is durable by itself."""
        return self.autocommit and self.info.transaction_status is TransactionStatus.IDLE

    def cut(self) -> None:
        """End it; the database takes back what is not committed."""
        shut(self.fileno())

    def fail(self) -> NoReturn:
        """Raise what the driver raises once it was cut."""
        psycopg.Cursor(self).execute("SELECT 1")
        raise AssertionError("psycopg works over a socket that is shut")

    def stall(self, seconds: float) -> None:
        """Let nothing pass for so long, or until somebody else ends the connection."""
        silence(self.fileno(), seconds)

    def fail_serialization(self, carry_out: Callable[[], Any]) -> NoReturn:  # noqa: ARG002  SQLite's needs it
        """The server says that the transaction would not be serializable."""
        self._raise("40001", "could not serialize access: injected by statelatch.testing")

    def fail_full(self) -> NoReturn:
        """The server says that its disk is full."""
        self._raise("53100", "could not extend file: No space left on device: injected by statelatch.testing")

    def _raise(self, state: str, message: str) -> NoReturn:
        """The server itself raises it, so that its transaction is broken off as ever."""
        block: Any = f"DO $$ BEGIN RAISE SQLSTATE '{state}' USING MESSAGE = '{message}'; END $$"
        psycopg.Cursor(self).execute(block)
        raise AssertionError(f"PostgreSQL has not raised {state}")


def _text(query: Any, cursor: psycopg.Cursor[Any] | psycopg.ServerCursor[Any]) -> Any:
    """The query as it will be sent, but for its parameters."""
    return query.as_string(cursor) if isinstance(query, Composable) else query


def _asking(cursor: psycopg.Cursor[Any] | psycopg.ServerCursor[Any]) -> PsycopgConnection:
    connection: Any = cursor.connection
    return connection


def connect(arguments: list[Any], keywords: dict[str, Any]) -> PsycopgConnection:
    """A connection that asks, with the arguments of the driver."""
    if "cursor_factory" in keywords:
        raise InjectionError(
            "the engine's connect_args have a `cursor_factory` of their own, which the injector needs: "
            "use an engine without"
        )
    connection = PsycopgConnection.connect(*arguments, cursor_factory=PsycopgCursor, **keywords)
    connection.server_cursor_factory = PsycopgServerCursor
    connection.sent = []
    return connection


def refuse(_arguments: list[Any], keywords: dict[str, Any]) -> None:
    """A port that nobody listens to."""
    for name in _ELSEWHERE:
        keywords.pop(name, None)
    keywords |= {"host": LOOPBACK, "port": refused_port()}


def lock(connection: Any, statement: str) -> None:
    """Writers of the table wait, and so does who reads FOR UPDATE; other readers do not."""
    connection.execute("BEGIN")
    connection.execute("SET LOCAL lock_timeout = '1s'")
    connection.execute(f"LOCK TABLE {table_of(statement)} IN EXCLUSIVE MODE")
