"""A time limit for one transaction, connecting included: a peer that is silent must not hold anybody for ever.

Three parts, because none of them is enough:

- The database's own limits, where the connection is nobody else's: SQLite's patience with locks; on PostgreSQL and
  MariaDB the limits of statements and locks. So it gives up itself, and says so.
- A watchdog, which shuts down the socket of a connection when its time is over: see `statelatch.watchdog`.
- A connection that is not had in time is given up: see `statelatch.connecting`.

What a transaction that was cut has written is not known here: that is asked afterwards, as of every lost connection.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Any, Self

from statelatch import connecting
from statelatch.watchdog import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from sqlalchemy import Dialect, Executable

    from statelatch.commands import Reply
    from statelatch.lines import OpenLine
    from statelatch.prepared import Prepared
    from statelatch.sessions import Session

__all__ = ["Limit", "LimitedLine"]

OWN_SHARE = 0.8
"""How much of the time the database may use up before it gives up itself, so that its answer comes in time."""


class Limit:
    """What is left of so many seconds, from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, at least a thousandth."""
        return max(self._end - time.monotonic(), 0.001)

    @property
    def is_spent(self) -> bool:
        """Whether there is too little left for another try."""
        return self.left < self.seconds * (1 - OWN_SHARE) + 0.01


class LimitedLine:
    """A line that is given so much time.

    Args:
        line: which.
        limit: how much.
        dialect: of its engine.
        disposable: whether its connection is closed afterwards, so that it may be told limits of its own.
    """

    def __init__(self, line: OpenLine, limit: Limit, dialect: Dialect, *, disposable: bool) -> None:
        self._line, self._limit, self._dialect, self._disposable = line, limit, dialect, disposable
        self._watch: Watch | None = None
        self._patience: tuple[sqlite3.Connection, int] | None = None

    def __enter__(self) -> Self:
        """Connect, and let the watch begin.

        Raises:
            TimeoutError: no connection was had in time.
        """
        if self._dialect.name == "sqlite" or self._line.is_open:
            self._line.__enter__()
        else:
            connecting.enter(self._line, self._limit)
        try:
            driver_connection = self._line.driver_connection
            if isinstance(driver_connection, sqlite3.Connection):
                self._patience = _patience(driver_connection)
            self._watch = Watch.over(driver_connection, self._limit.left)
        except BaseException as error:
            self._line.__exit__(type(error), error, None)
            raise
        return self

    def begin(self, *, several: bool) -> bool:
        """Begin; the database is told its limits, if nobody else will use the connection."""
        self._hurry()
        autocommits = self._line.begin(several=several)
        if self._disposable:
            for statement in _own_limits(self._dialect, self._limit.left, local=not autocommits):
                self._line.say(statement)
        return autocommits

    def execute(self, statement: Executable | Prepared, parameters: Mapping[str, Any]) -> Reply:
        """Send one statement."""
        self._hurry()
        return self._line.execute(statement, parameters)

    def commit(self) -> None:
        """Commit."""
        self._hurry()
        self._line.commit()

    @property
    def session(self) -> Session | None:
        """The server's session."""
        return self._line.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the watch end, then give the connection back, over which nothing more is sent."""
        was_cut = self._watch is not None and self._watch.end()
        if self._patience is not None:
            _have_patience(*self._patience)
        if was_cut and error is None:
            error = TimeoutError("its time was over just when it had answered")
        if error is None or self._dialect.name == "sqlite":
            self._line.__exit__(kind, error if kind else None, traceback)
        else:
            self._line.drop(error)  # a ROLLBACK might wait for ever; the server does it when the connection ends

    def _hurry(self) -> None:
        """Let SQLite wait for a lock no longer than there is time left."""
        if self._patience is not None:
            connection, before = self._patience
            _have_patience(connection, min(before, ceil(self._limit.left * OWN_SHARE * 1000)))


def _own_limits(dialect: Dialect, seconds: float, *, local: bool) -> list[str]:
    """What a server is told, so that it gives up before we do."""
    milliseconds = ceil(seconds * OWN_SHARE * 1000)
    whole = max(1, int(seconds * OWN_SHARE))
    if dialect.name == "postgresql":
        name = "LOCAL" if local else "SESSION"
        return [f"SET {name} {limit}_timeout = {milliseconds}" for limit in ("lock", "statement")]
    if dialect.name in {"mysql", "mariadb"}:
        locks = f"SET SESSION innodb_lock_wait_timeout = {whole}, SESSION lock_wait_timeout = {whole}"
        limited = getattr(dialect, "is_mariadb", False)
        return [f"{locks}, SESSION max_statement_time = {milliseconds / 1000}" if limited else locks]
    return []


def _patience(connection: sqlite3.Connection) -> tuple[sqlite3.Connection, int] | None:
    """For how many milliseconds SQLite waits for a lock."""
    try:
        (before,) = connection.execute("PRAGMA busy_timeout").fetchone()
    except sqlite3.Error:  # it is closed: the statement will say so
        return None
    return connection, before


def _have_patience(connection: sqlite3.Connection, milliseconds: int) -> None:
    with suppress(sqlite3.Error):
        connection.execute(f"PRAGMA busy_timeout={milliseconds}").fetchone()
