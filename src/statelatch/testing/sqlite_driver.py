"""sqlite3: connections that ask before they send. What dies is the connection; the file is always there."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

from statelatch.testing.drivers import Watch, send
from statelatch.testing.fault import InjectionError
from statelatch.testing.injected import COMMIT

__all__ = ["SqliteConnection", "SqliteCursor", "connect", "lock", "refuse"]

_PATIENCE = 1.0
"""Seconds for which a connection of the injector's own waits for a lock, whatever the engine's would."""


class SqliteCursor(sqlite3.Cursor):
    """A cursor that asks."""

    def execute(self, sql: str, parameters: Any = (), /) -> SqliteCursor:
        """In AUTOCOMMIT, what is returned must be read before the statement is over."""
        execute = super().execute

        def complete() -> None:
            execute(sql, parameters)
            self.fetchall()

        send(self._asking, sql, lambda: execute(sql, parameters), complete)
        return self

    def executemany(self, sql: str, parameters: Any, /) -> SqliteCursor:
        """Ask once."""
        executemany = super().executemany
        send(self._asking, sql, lambda: executemany(sql, parameters))
        return self

    @property
    def _asking(self) -> SqliteConnection:
        connection: Any = self.connection
        return connection


class SqliteConnection(sqlite3.Connection):
    """A connection that asks."""

    watch: Watch | None = None
    sent: list[str]

    def cursor(self, factory: Any = SqliteCursor) -> Any:
        """A cursor that asks, unless the caller has one of its own."""
        return super().cursor(factory)

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
        return not self.in_transaction and (
            self.isolation_level is None or getattr(self, "autocommit", None) is True  # the latter since Python 3.12
        )

    def cut(self) -> None:
        """End it; the database takes back what is not committed.

        A connection with a statement that is not finalized would keep its locks after `close`.
        """
        with suppress(sqlite3.Error):
            super().rollback()
        self.close()

    def fail(self) -> NoReturn:
        """Raise what the driver raises once it was cut."""
        sqlite3.Cursor(self).execute("SELECT 1")
        raise AssertionError("sqlite3 works on a connection that is closed")

    def stall(self, seconds: float) -> None:
        """Nobody can end it meanwhile: there is no peer."""
        time.sleep(seconds)

    def fail_serialization(self, carry_out: Callable[[], Any]) -> NoReturn:
        """The transaction has read before another has committed: what it writes now is SQLITE_BUSY_SNAPSHOT."""
        ask = sqlite3.Cursor(self)
        if not self.in_transaction:
            ask.execute("BEGIN")
        ask.execute("SELECT count(*) FROM sqlite_master").fetchall()
        (file,) = (file for _, name, file in ask.execute("PRAGMA database_list") if name == "main")
        try:
            with closing(sqlite3.connect(file, timeout=_PATIENCE, isolation_level=None)) as other:
                (number,) = other.execute("PRAGMA user_version").fetchone()
                other.execute(f"PRAGMA user_version = {number}")
        except sqlite3.OperationalError as error:
            raise InjectionError(
                "SERIALIZATION_FAILURE: this transaction, or another, has written already, and SQLite has one writer; "
                "inject it at the first statement that writes"
            ) from error
        carry_out()
        raise InjectionError(
            "SERIALIZATION_FAILURE: the statement has not written, and SQLite breaks off only who writes; inject it at "
            "a statement that writes"
        )

    def fail_full(self) -> NoReturn:
        """No page more: a table that needs many is SQLITE_FULL."""
        ask = sqlite3.Cursor(self)

        def pragma(name: str) -> int:
            return int(ask.execute(f"PRAGMA {name}").fetchone()[0])

        limit, size, free = pragma("max_page_count"), pragma("page_size"), pragma("freelist_count")
        pragma(f"max_page_count = {pragma('page_count')}")
        try:
            ask.execute(f"CREATE TABLE statelatch_full AS SELECT zeroblob({(free + 8) * size}) AS filling")
        finally:
            pragma(f"max_page_count = {limit}")
        raise AssertionError("SQLite has found room beyond max_page_count")


def connect(arguments: list[Any], keywords: dict[str, Any]) -> SqliteConnection:
    """A connection that asks, with the arguments of the driver."""
    if "factory" in keywords:
        raise InjectionError(
            "the engine's connect_args have a `factory` of their own, which the injector needs: use an engine without"
        )
    connection: SqliteConnection = sqlite3.connect(*arguments, factory=SqliteConnection, **keywords)
    connection.sent = []
    return connection


def refuse(arguments: list[Any], _keywords: dict[str, Any]) -> None:
    """A folder that is not there."""
    arguments[:1] = [str(Path(str(arguments[0]).removeprefix("file:")).parent / "no-such-folder" / "refused.db")]


def lock(connection: Any, _statement: str) -> None:
    """SQLite has one writer: the lock is the file's."""
    connection.autocommit = True  # since Python 3.12 there may be a transaction already; before, it means nothing
    connection.execute(f"PRAGMA busy_timeout = {_PATIENCE * 1000:.0f}")
    connection.execute("BEGIN IMMEDIATE")
