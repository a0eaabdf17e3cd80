"""Two ways to carry one transaction to the database, which answer and fail alike.

- `CoreLine` is SQLAlchemy's `Connection`. It serves whoever listens to it, or has set options on it: instrumentation,
  `echo`, `schema_translate_map`; and statements that only SQLAlchemy can carry out.
- `CursorLine` is the pooled DBAPI cursor beneath it, for prepared statements: several times faster. Pool, its events,
  and the exceptions are SQLAlchemy's own.

Neither decides anything: `statelatch.drive` knows the order and the phase.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from sqlalchemy.pool import QueuePool

from statelatch.commands import Reply
from statelatch.connecting import can_hurry
from statelatch.cursor_line import CursorLine
from statelatch.engines import (
    give_back,
    has_creator,
    is_autocommitting,
    is_in_memory,
    is_initialized,
    is_observed,
    reconnected,
)
from statelatch.limits import Limit, LimitedLine
from statelatch.prepared import Prepared
from statelatch.sessions import Session, pooled_session
from statelatch.spooled import SpooledRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

    from sqlalchemy import Connection, CursorResult, Engine, Executable
    from sqlalchemy.engine.interfaces import DBAPICursor

    from statelatch.commands import Execute, Row

__all__ = ["Line", "Lines", "OpenLine"]


class Line(Protocol):
    """One connection, for one transaction; a context manager that gives it back."""

    def begin(self, *, several: bool) -> bool:
        """Begin, and tell whether each statement is durable by itself, so that a lost answer to it is ambiguous.

        Several statements are a transaction, whatever the connection is set to.
        """
        ...

    def execute(self, statement: Executable | Prepared, parameters: Mapping[str, Any]) -> Reply:
        """Send one statement."""
        ...

    def commit(self) -> None:
        """Commit; if that fails, the transaction is rolled back before the connection is given back to the pool."""
        ...

    @property
    def session(self) -> Session | None:
        """The server's session, once it has begun; None if that is not known."""
        ...

    def __enter__(self) -> Self:
        """Take a connection from the pool."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back."""
        ...


class OpenLine(Line, Protocol):
    """A line whose connection can be had."""

    @property
    def is_open(self) -> bool:
        """Whether it has a connection already, before it is entered."""
        ...

    @property
    def driver_connection(self) -> Any:
        """The driver's own connection."""
        ...

    def say(self, sql: str) -> None:
        """Send text that has no parameters and no answer."""
        ...

    def drop(self, error: BaseException) -> None:
        """End it like `__exit__`, and let nobody have its connection."""
        ...


class Lines:
    """The lines of one engine.

    A pool's connection costs nearly as much to get and to give back as SQLite takes for an UPDATE. So an engine of the
    adapter's own keeps some lines at hand, no more than its pool would keep connections: beyond that they go back to
    the pool, for whoever waits there.

    Args:
        engine: where to.
        keeps: it is nobody else's.
        disposable: its connections are closed after use.
    """

    def __init__(self, engine: Engine, *, keeps: bool, disposable: bool = False) -> None:
        self.engine = engine
        self._keeps = keeps
        self._disposable = disposable
        self._idle: deque[CursorLine] = deque()
        self._process = os.getpid()
        can_hurry(engine)

    def line_for(self, command: Execute, *, limit: Limit | None = None) -> Line:
        """A line that can carry these statements, in so much time."""
        if self._process != os.getpid():
            self._leave_to_parent()
        line = FreshLine(self.engine) if command.fresh and not is_in_memory(self.engine) else self._line_for(command)
        if limit is None:
            return line
        disposable = (self._disposable or isinstance(line, FreshLine)) and not has_creator(self.engine)
        return LimitedLine(line, limit, self.engine.dialect, disposable=disposable)

    def _line_for(self, command: Execute) -> CoreLine | CursorLine:
        """The faster line, unless somebody listens to the other or a statement needs it."""
        engine = self.engine
        if is_observed(engine) or not is_initialized(engine):
            return CoreLine(engine)
        for statement, _ in command.statements:
            if not (isinstance(statement, Prepared) and statement.direct):
                return CoreLine(engine)
        try:
            while (line := self._idle.pop()).is_dropped:
                line.drop(ConnectionError("the server has ended it meanwhile"))
        except IndexError:
            return CursorLine(self)
        return line

    def keep(self, line: CursorLine) -> bool:
        """Keep a line at hand, if it is one of few."""
        pool = self.engine.pool
        if not (self._keeps and isinstance(pool, QueuePool)) or pool.checkedout() > pool.size():
            return False
        self._idle.append(line)
        return True

    def close(self) -> None:
        """Give the kept lines' connections back to the pool."""
        if self._process != os.getpid():
            self._leave_to_parent()
        for line in self._taken():
            line.give_back()

    def renew(self) -> None:
        """Use no connection further that there is now."""
        self.close()
        if not is_in_memory(self.engine):
            self.engine.dispose()

    def lost(self, error: BaseException) -> None:
        """A connection was lost: so are those that were kept, most likely."""
        for line in self._taken():
            line.drop(error)

    def _taken(self) -> Iterator[CursorLine]:
        while True:
            try:
                yield self._idle.pop()
            except IndexError:
                return

    def _leave_to_parent(self) -> None:
        """After a fork: the sockets are the parent's, and to close them would end its sessions."""
        _PARENTS.append((self._idle, self.engine.pool))
        self._idle = deque()
        if self._keeps or self._disposable:
            self.engine.dispose(close=False)
        self._process = os.getpid()


_PARENTS: list[object] = []


class CoreLine:
    """SQLAlchemy's `Connection`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._begun_here = False
        self._is_over = False
        self._connection: Connection
        self.session: Session | None = None

    @property
    def is_open(self) -> bool:
        return False

    @property
    def driver_connection(self) -> Any:
        return self._connection.connection.dbapi_connection

    def __enter__(self) -> Self:
        self._connection = self._engine.connect()
        return self

    def begin(self, *, several: bool) -> bool:
        """On SQLite a listener of the user's may have sent BEGIN where the driver does not."""
        connection = self._connection
        connection.begin()
        self.session = pooled_session(self._engine.dialect, connection.connection)
        driver = self.driver_connection
        sent = connection.dialect.name == "sqlite" and driver.in_transaction
        autocommits = not sent and is_autocommitting(self._engine, driver)
        if autocommits and several:
            self._begun_here = True
            connection.exec_driver_sql("BEGIN")
        self._is_over = autocommits and not several
        return self._is_over

    def execute(self, statement: Executable | Prepared, parameters: Mapping[str, Any]) -> Reply:
        if isinstance(statement, Prepared) and statement.is_varying and self._takes_text(statement):
            return self._execute_text(statement, parameters)
        result = self._connection.execute(_unprepared(statement), parameters)
        if not result.returns_rows:
            return Reply(result.rowcount, (), getattr(result, "lastrowid", None))
        if _is_streamed(statement):
            rows = _spooled(result)
        else:
            rows = [dict(row) for row in cast("Iterable[Row]", result.mappings())]
        return Reply(len(rows), rows, None)  # SQLite counts no rows for RETURNING

    def say(self, sql: str) -> None:
        self._connection.exec_driver_sql(sql)

    def _takes_text(self, statement: Prepared) -> bool:
        """Whether nobody misses a statement that SQLAlchemy has not compiled itself."""
        connection = self._connection
        is_changed = "schema_translate_map" in connection.get_execution_options()
        return statement.direct and not (
            is_changed or connection.dispatch.before_execute or connection.dispatch.after_execute
        )

    def _execute_text(self, statement: Prepared, parameters: Mapping[str, Any]) -> Reply:
        result = self._connection.exec_driver_sql(statement.sql, cast("Any", statement.bound(parameters)))
        if not result.returns_rows:
            return Reply(result.rowcount, (), getattr(result, "lastrowid", None))
        with result:
            rows = statement.rows(cast("DBAPICursor", result.cursor))
        return Reply(len(rows), rows, None)

    def commit(self) -> None:
        if self._begun_here:
            self._connection.exec_driver_sql("COMMIT")
        else:
            try:
                self._connection.commit()
            except BaseException as error:
                self._take_back(error)
                raise
        self._is_over = True

    def _take_back(self, error: BaseException) -> None:
        """Roll back what COMMIT has left open: SQLAlchemy takes its transaction for over."""
        connection = self._connection
        if connection.invalidated:
            return
        try:
            if not isinstance(error, Exception):
                raise error
            connection.connection.rollback()
        except BaseException:  # noqa: BLE001  the first error is the one to tell
            connection.invalidate()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._begun_here and not self._connection.invalidated:
            self._connection.invalidate()  # SQLAlchemy may hold a ROLLBACK for needless here
        if error is None and self._is_over:
            give_back(self._connection.connection)  # without the ROLLBACK of `close`, for which nobody would wait
        else:
            self._connection.close()

    def drop(self, error: BaseException) -> None:
        if not self._connection.invalidated:
            self._connection.invalidate(error)
        self._connection.close()


class FreshLine(CoreLine):
    """A connection that is made for one transaction and closed after it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(reconnected(engine))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            self._engine.dispose()

    def drop(self, error: BaseException) -> None:
        super().drop(error)
        self._engine.dispose()


def _unprepared(statement: Executable | Prepared) -> Executable:
    return statement.statement if isinstance(statement, Prepared) else statement


def _is_streamed(statement: Executable | Prepared) -> bool:
    """Whether its rows come a chunk at a time: there may be more than fit into memory."""
    return not isinstance(statement, Prepared) and "yield_per" in statement.get_execution_options()


def _spooled(result: CursorResult[Any]) -> SpooledRows[Row]:
    names = tuple(result.keys())
    with result:
        return SpooledRows[Any].of(result.partitions(), lambda row: dict(zip(names, row, strict=True)))
