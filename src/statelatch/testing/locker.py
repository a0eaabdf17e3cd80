"""Another connection that holds a lock for a while.

It lives in a thread of its own, from beginning to end: a connection of sqlite3 belongs to its thread.
"""

from __future__ import annotations

import re
from contextlib import closing
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from statelatch.engines import reconnected
from statelatch.testing.fault import InjectionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sqlalchemy import Engine

__all__ = ["Locker", "table_of"]

_PART = r"(?:[\w$]+|\"[^\"]+\"|`[^`]+`)"
_NAME = rf"{_PART}(?:\.{_PART})*"

_PIECE = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.|'')*'"
    r"|\b(?:FOR|KEY|DO|ON)\s+UPDATE\b|\bDISTINCT\s+FROM\b"
    rf"|\b(?:UPDATE|INTO|DELETE\b[^'()]*?\bFROM)\s+(?:(?:ONLY|LOW_PRIORITY|IGNORE)\s+)*(?P<written>{_NAME})"
    rf"|\bFROM\s+(?:ONLY\s+)?(?P<read>{_NAME})"
    rf"|(?P<parenthesis>[()])|{_PART}",
    re.I | re.S,
)
"""What is looked for in a statement, or skipped: comments and literals, what only looks like a table, other names."""


def table_of(statement: str) -> str:
    """The table that a statement writes first, else the one that it reads first, outside parentheses, as it names it.

    Raises:
        InjectionError: it names none, or not so that it would be understood without a parser.
    """
    depth, read = 0, None
    for piece in _PIECE.finditer(statement):
        if piece["written"]:
            return piece["written"]
        if piece["parenthesis"]:
            depth += 1 if piece["parenthesis"] == "(" else -1
        elif not depth:
            read = read or piece["read"]
    if read is None:
        raise InjectionError(
            "LOCK: expected a statement that names the table which it writes, or reads, outside parentheses; got "
            f"{' '.join(statement.split())[:120]!r}: name a simpler one"
        )
    return read


class Locker:
    """Holds a lock.

    Args:
        engine: of the database.
        take: takes it, on the driver's connection, until the end of a transaction.
        seconds: how long.
        aside: entered by the thread: what it sends is nobody's statement.
    """

    def __init__(
        self,
        engine: Engine,
        take: Callable[[Any], None],
        seconds: float,
        *,
        aside: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._engine, self._take, self._seconds, self._aside = engine, take, seconds, aside
        self._held, self._let_go = Event(), Event()
        self._failure: Exception | None = None
        self._thread = Thread(target=self._run, name="statelatch-locker", daemon=True)

    def hold(self) -> None:
        """Return as soon as the lock is held.

        Raises:
            InjectionError: it cannot be had within a second, or the statement is not understood.
        """
        self._thread.start()
        self._held.wait()
        if isinstance(self._failure, InjectionError):
            raise self._failure
        if self._failure:
            raise InjectionError(
                f"LOCK: {self._failure}; expected a table that is there, and a lock that nobody holds, not even an "
                "earlier statement of the transaction that is to meet it: inject it at the first"
            ) from self._failure

    def release(self) -> None:
        """Let go, if it is still held."""
        self._let_go.set()
        if self._thread.ident is not None:  # else the fault ends in the instant in which another thread is struck
            self._thread.join()

    def _run(self) -> None:
        try:
            with self._aside():
                self._lock()
        except Exception as error:  # noqa: BLE001  told to who waits for the lock
            self._failure = error
        finally:
            self._held.set()

    def _lock(self) -> None:
        engine = reconnected(self._engine)
        try:
            with closing(engine.raw_connection()) as connection:
                self._take(connection.dbapi_connection)
                self._held.set()
                self._let_go.wait(self._seconds)
                connection.rollback()
        finally:
            engine.dispose()
