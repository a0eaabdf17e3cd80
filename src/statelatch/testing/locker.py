"""Another connection that holds a lock for a while.

It lives in a thread of its own, from beginning to end: a connection of sqlite3 belongs to its thread.
"""

from __future__ import annotations

import re
from contextlib import closing
from threading import Event, Thread
from typing import TYPE_CHECKING

from statelatch.engines import reconnected
from statelatch.testing.fault import InjectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Engine

__all__ = ["Locker", "table_of"]

_TABLE = re.compile(
    r"\b(?:UPDATE|INTO|FROM)\s+(?:ONLY\s+)?((?:[\w$]+|\"[^\"]+\"|`[^`]+`)(?:\.(?:[\w$]+|\"[^\"]+\"|`[^`]+`))*)", re.I
)


def table_of(statement: str) -> str | None:
    """The first table that a statement names, as it names it."""
    found = _TABLE.search(statement)
    return found[1] if found else None


class Locker:
    """Holds a lock.

    Args:
        engine: of the database.
        statements: which take it, after which it is held until the end of the transaction.
        seconds: how long.
        aside: entered by the thread: what it sends is nobody's statement.
    """

    def __init__(
        self,
        engine: Engine,
        statements: Sequence[str],
        seconds: float,
        aside: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._engine, self._statements, self._seconds, self._aside = engine, statements, seconds, aside
        self._held, self._let_go = Event(), Event()
        self._failure: Exception | None = None
        self._thread = Thread(target=self._run, name="statelatch-locker", daemon=True)

    def hold(self) -> None:
        """Return as soon as the lock is held.

        Raises:
            InjectionError: it cannot be had within a second.
        """
        self._thread.start()
        self._held.wait()
        if self._failure:
            raise InjectionError(
                f"LOCK: {self._failure}; expected that nobody holds it, not even an earlier statement of the "
                "transaction that is to meet the lock: inject it at the first"
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
                cursor = connection.cursor()
                for statement in self._statements:
                    cursor.execute(statement)
                self._held.set()
                self._let_go.wait(self._seconds)
                connection.rollback()
        finally:
            engine.dispose()
