"""`CursorLine`: the pooled DBAPI cursor beneath SQLAlchemy's `Connection`, for prepared statements.

Pool, its events, and the exceptions are SQLAlchemy's own; see `statelatch.lines` for when it is used.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy.exc import DBAPIError

from statelatch.commands import Reply
from statelatch.engines import disconnected, give_back, is_autocommitting
from statelatch.prepared import Prepared
from statelatch.sessions import Session, is_dropped, pooled_session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from sqlalchemy import Executable
    from sqlalchemy.engine.interfaces import DBAPICursor
    from sqlalchemy.pool import PoolProxiedConnection

    from statelatch.lines import Lines

__all__ = ["IDLE", "CursorLine"]

IDLE = 1.0
"""Seconds after which a connection that was kept is looked at before it is used: what is lost on it would have to be
asked about."""


class CursorLine:
    """A DBAPI cursor of a pooled connection; kept by its `Lines`, it serves one transaction after the other."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._engine = lines.engine
        self._dialect = lines.engine.dialect
        self._begun_here = False
        self._connection: PoolProxiedConnection | None = None
        self._cursor: DBAPICursor | None = None
        self.session: Session | None = None
        self._used = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it was kept."""
        return self._connection is not None

    @property
    def is_dropped(self) -> bool:
        """Whether the server has ended it while it was kept."""
        return time.monotonic() - self._used > IDLE and is_dropped(self.driver_connection)

    @property
    def driver_connection(self) -> Any:
        """The driver's own connection."""
        return self._pooled.dbapi_connection

    def __enter__(self) -> Self:
        """Take a connection, unless it was kept."""
        if self._connection is None:
            try:
                self._connection = self._engine.raw_connection()
            except self._dialect.loaded_dbapi.Error as error:
                raise self._wrapped(error, lost=False) from error
        return self

    def begin(self, *, several: bool) -> bool:
        """Begin: see `statelatch.lines.Line`."""
        if self._cursor is None:
            try:
                self._cursor = self._pooled.cursor()
            except self._dialect.loaded_dbapi.Error as error:
                raise self._failure(error) from error
            self.session = pooled_session(self._dialect, self._pooled)
        autocommits = is_autocommitting(self._engine, self._pooled.dbapi_connection)
        if autocommits and several:
            self._begun_here = True
            self._send("BEGIN", ())
        return autocommits and not several

    def execute(self, statement: Executable | Prepared, parameters: Mapping[str, Any]) -> Reply:
        """Send one statement."""
        assert isinstance(statement, Prepared), "`line_for` has chosen"  # noqa: S101
        try:
            bound = statement.bound(parameters)
        except Exception as error:  # a type of the user's refuses the value
            raise self._wrapped(error, statement.sql, parameters, lost=False) from error
        return self._send(statement.sql, bound, statement)

    def commit(self) -> None:
        """Commit."""
        if self._begun_here:
            self._send("COMMIT", ())
            return
        try:
            self._dialect.do_commit(self._pooled)
        except self._dialect.loaded_dbapi.Error as error:
            raise self._failure(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Be kept, or give the connection back; after an error take back what was begun."""
        if error is None:
            self._begun_here, self._used = False, time.monotonic()
            if not self._lines.keep(self):
                self.give_back()
        elif self._pooled.is_valid:
            self._take_back(error)

    def say(self, sql: str) -> None:
        """Send text that has no parameters and no answer."""
        self._send(sql, ())

    def drop(self, error: BaseException) -> None:
        """End it, and let nobody have its connection."""
        if self._pooled.is_valid:
            self._pooled.invalidate(error)

    def give_back(self) -> None:
        """Let the pool have the connection."""
        give_back(self._pooled)

    @property
    def _pooled(self) -> PoolProxiedConnection:
        assert self._connection is not None, "it was entered"  # noqa: S101
        return self._connection

    def _take_back(self, error: BaseException) -> None:
        """Roll back; a connection that cannot, or was interrupted in the middle of an answer, is not used again.

        The cursor first: on SQLite, rows that were not read hold on to the state in which they were.
        """
        try:
            if self._cursor is not None:
                self._cursor.close()
            if not isinstance(error, Exception):
                raise error
            if self._begun_here:
                self._send("ROLLBACK", ())
            else:
                self._pooled.rollback()
        except BaseException as failure:  # noqa: BLE001  the first error is the one to tell
            if self._pooled.is_valid:
                self._pooled.invalidate(failure)
        else:
            self._pooled.close()

    def _send(self, sql: str, parameters: Any, returning: Prepared | None = None) -> Reply:
        cursor = self._cursor
        assert cursor is not None, "it was begun"  # noqa: S101
        try:
            cursor.execute(sql, parameters)
            if not cursor.description:
                return Reply(cursor.rowcount, (), getattr(cursor, "lastrowid", None))
            rows = returning.rows(cursor) if returning else ()
            return Reply(len(rows), rows, None)
        except self._dialect.loaded_dbapi.Error as error:
            raise self._failure(error, sql, parameters) from error

    def _failure(self, error: BaseException, sql: str | None = None, parameters: Any = None) -> BaseException:
        """The driver's error as SQLAlchemy raises it; others as they are."""
        dbapi = self._dialect.loaded_dbapi
        if not isinstance(error, dbapi.Error):
            return error
        lost = self._dialect.is_disconnect(error, self._pooled.dbapi_connection, None)
        if lost:
            disconnected(self._engine, self._pooled, error)
            self._lines.lost(error)
        return self._wrapped(error, sql, parameters, lost=lost)

    def _wrapped(
        self, error: Exception, sql: str | None = None, parameters: Any = None, *, lost: bool
    ) -> BaseException:
        return DBAPIError.instance(
            sql,
            parameters,
            error,
            self._dialect.loaded_dbapi.Error,
            hide_parameters=self._engine.hide_parameters,
            connection_invalidated=lost,
            dialect=self._dialect,
        )
