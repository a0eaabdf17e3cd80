"""A time limit for one transaction, connecting included: a peer that is silent must not hold anybody for ever.

Three parts, because none of them is enough:

- The database's own limits, where the connection is nobody else's: SQLite's patience with locks; on PostgreSQL and
  MariaDB the limits of statements and locks. So it gives up itself, and says so.
- A watchdog, which shuts down the socket of a connection when its time is over: the driver then finds it lost, in
  whatever phase it was. SQLite's statement is interrupted.
- A connection that is not had in time is given up, and closed if it comes after all.

What a transaction that was cut has written is not known here: that is asked afterwards, as of every lost connection.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import sqlite3
import struct
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from statelatch.sessions import Session, file_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from sqlalchemy import Dialect, Executable

    from statelatch.commands import Reply
    from statelatch.lines import OpenLine
    from statelatch.prepared import Prepared

__all__ = ["Limit", "LimitedLine"]

T = TypeVar("T")

LONGEST = 3600.0
"""Seconds for which the watchdog sleeps at a time."""

SOME = 100
"""Watches that have ended, which may be kept."""

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
        self._watch: _Watch | None = None
        self._patience: tuple[sqlite3.Connection, int] | None = None

    def __enter__(self) -> Self:
        """Connect, and let the watch begin.

        Raises:
            TimeoutError: no connection was had in time.
        """
        if self._dialect.name == "sqlite" or self._line.is_open:
            self._line.__enter__()
        else:
            _in_time(self._line.__enter__, self._limit.left, lambda line: line.__exit__(None, None, None))
        try:
            driver_connection = self._line.driver_connection
            if isinstance(driver_connection, sqlite3.Connection):
                self._patience = _patience(driver_connection, self._limit.left)
            self._watch = _Watch.over(driver_connection, self._limit.left)
        except BaseException as error:
            self._line.__exit__(type(error), error, None)
            raise
        return self

    def begin(self, *, several: bool) -> bool:
        """Begin; the database is told its limits, if nobody else will use the connection."""
        autocommits = self._line.begin(several=several)
        if self._disposable:
            for statement in _own_limits(self._dialect, self._limit.left, local=not autocommits):
                self._line.say(statement)
        return autocommits

    def execute(self, statement: Executable | Prepared, parameters: Mapping[str, Any]) -> Reply:
        """Send one statement."""
        return self._line.execute(statement, parameters)

    def commit(self) -> None:
        """Commit."""
        self._line.commit()

    @property
    def session(self) -> Session | None:
        """The server's session."""
        return self._line.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the watch end, then give the connection back."""
        was_cut = self._watch is not None and self._watch.end()
        if self._patience is not None:
            _have_patience(*self._patience)
        if was_cut and error is None:
            error = TimeoutError("its time was over just when it had answered")
        if error is None or self._dialect.name == "sqlite":
            self._line.__exit__(kind, error if kind else None, traceback)
        else:
            self._line.drop(error)  # a ROLLBACK might wait for ever; the server does it when the connection ends


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


def _patience(connection: sqlite3.Connection, seconds: float) -> tuple[sqlite3.Connection, int] | None:
    """Let SQLite wait no longer than this for a lock; how many milliseconds it was before."""
    try:
        (before,) = connection.execute("PRAGMA busy_timeout").fetchone()
    except sqlite3.Error:  # it is closed: the statement will say so
        return None
    _have_patience(connection, min(before, ceil(seconds * OWN_SHARE * 1000)))
    return connection, before


def _have_patience(connection: sqlite3.Connection, milliseconds: int) -> None:
    with suppress(sqlite3.Error):
        connection.execute(f"PRAGMA busy_timeout={milliseconds}").fetchone()


def _in_time(work: Callable[[], T], seconds: float, discard: Callable[[T], object]) -> T:
    """What the work makes, if it does in time; what comes later is discarded."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            made = work()
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for, or nobody waits
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            if future.set_running_or_notify_cancel():
                future.set_result(made)
            else:
                discard(made)

    try:
        threading.Thread(target=run, name="statelatch-connect", daemon=True).start()
    except RuntimeError:  # no thread is to be had: better without a limit than not at all
        return work()
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if future.cancel():
            raise TimeoutError(f"no connection within {seconds:.1f} s") from None
        return future.result()
    except BaseException:
        future.cancel()
        raise


class _Watch:
    """Cuts one connection off when its time is over, unless it has ended by then."""

    def __init__(self, driver_connection: Any, number: int | None) -> None:
        self._connection = driver_connection if number is None else None
        self._number = None if number is None else os.dup(number)  # the driver's own may be another's by then
        self._lock = threading.Lock()
        self.is_ended = False
        self._struck = False

    @classmethod
    def over(cls, driver_connection: Any, seconds: float) -> _Watch | None:
        """Watch this connection from now on; None if nothing is known of how to cut it off."""
        number = None if isinstance(driver_connection, sqlite3.Connection) else file_number(driver_connection)
        if number is None and not isinstance(driver_connection, sqlite3.Connection):
            return None
        watch = cls(driver_connection, number)
        WATCHDOG.watch(watch, seconds)
        return watch

    def strike(self) -> None:
        """The time is over."""
        with self._lock:
            if not self.is_ended:
                self._struck = True
                with suppress(Exception):  # it is cut off already, or closed
                    self._cut()

    def _cut(self) -> None:
        """What is still to be sent is not sent any more: it would be carried out when nobody expects it."""
        if self._number is None:
            cast("sqlite3.Connection", self._connection).interrupt()
            return
        peer = socket.socket(fileno=self._number)
        try:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.shutdown(socket.SHUT_RDWR)
        finally:
            peer.detach()

    def end(self) -> bool:
        """Nothing more is cut off; whether it was."""
        with self._lock:
            if not self.is_ended:
                self.is_ended, self._connection = True, None
                if self._number is not None:
                    os.close(self._number)
            WATCHDOG.ended()
            return self._struck


class _Watchdog:
    """One thread for all watches, begun with the first; in a forked process again."""

    def __init__(self) -> None:
        self._anew()

    def _anew(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Watch]] = []
        self._numbers = itertools.count()
        self._over = 0
        self._thread: threading.Thread | None = None

    def watch(self, watch: _Watch, seconds: float) -> None:
        """Strike after so many seconds."""
        if self._process != os.getpid():
            self._anew()
        with self._changed:
            if self._over > len(self._due) // 2 + SOME:  # else memory would grow with the limit
                self._due = [each for each in self._due if not each[2].is_ended]
                heapq.heapify(self._due)
                self._over = 0
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), watch))
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="statelatch-watchdog", daemon=True)
                with suppress(RuntimeError):  # no thread is to be had: the next call tries again
                    thread.start()
                    self._thread = thread
            if self._due[0][2] is watch:
                self._changed.notify()

    def ended(self) -> None:
        """One of the watches has nothing more to do."""
        self._over += 1

    def _run(self) -> None:
        while True:
            self._next().strike()

    def _next(self) -> _Watch:
        with self._changed:
            while (wait := self._until_due()) is None or wait > 0:
                self._changed.wait(wait)
            return heapq.heappop(self._due)[2]

    def _until_due(self) -> float | None:
        """Seconds; None if nothing is to be done."""
        return min(self._due[0][0] - time.monotonic(), LONGEST) if self._due else None


WATCHDOG = _Watchdog()
