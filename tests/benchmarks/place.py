"""A database to measure on: tables of the program's own, which are gone at the end, whatever ends it.

Rules: only tables whose names begin with `ring.PREFIX` are made and dropped; one that an earlier run was killed over
is dropped first. An SQLite file that was not there before is removed. Everybody writes equally durably: the servers
are left as they are, and on SQLite each connection, whoever makes it, is told `SYNCHRONOUS`; the file is in WAL mode.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine, event, func, make_url, select
from sqlalchemy.pool import Pool

from statelatch.engines import is_in_memory, open_engine
from tests.benchmarks.ring import STATES, fill, table_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Table

    from tests.benchmarks.race import Entry

__all__ = ["SYNCHRONOUS", "Place", "UnprovenError", "opened"]

SYNCHRONOUS = "PRAGMA synchronous = NORMAL"
"""Without an fsync at each COMMIT, which would cost all alike, and hide what the contestants themselves cost."""


class UnprovenError(Exception):
    """A contestant did not do what it was timed for; the message says what its table holds."""


@dataclass(frozen=True)
class Place:
    """A database.

    Attributes:
        url: with its driver; of an SQLite file with an absolute path.
        engine: in AUTOCOMMIT, for what is not measured.
    """

    url: URL
    engine: Engine

    @property
    def dialect(self) -> str:
        """Name of the database, as SQLAlchemy spells it."""
        return self.engine.dialect.name

    def driver(self) -> Any:
        """A connection of the driver alone, in autocommit."""
        match self.dialect:
            case "sqlite":
                connection = sqlite3.connect(str(self.url.database), isolation_level=None, timeout=30)
                connection.execute(SYNCHRONOUS)
                return connection
            case "postgresql":
                import psycopg

                url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
                return psycopg.connect(url, autocommit=True)
            case _:
                arguments, options = self.engine.dialect.create_connect_args(self.url)
                return self.engine.dialect.loaded_dbapi.connect(*arguments, **options, autocommit=True)

    def marked(self, statement: str) -> str:
        """An SQL text with `%s` as its driver wants it."""
        return statement.replace("%s", "?") if self.dialect == "sqlite" else statement

    @contextmanager
    def table(self, name: str, rows: int) -> Generator[Table]:
        """A full table, dropped at the end."""
        table = table_of(name)
        table.drop(self.engine, checkfirst=True)
        try:
            table.create(self.engine)
            with self.engine.connect() as connection:
                fill(connection, table, rows)
                self.tidy(table)
            yield table
        finally:
            table.drop(self.engine, checkfirst=True)

    def tidy(self, table: Table) -> None:
        """Clear away now what PostgreSQL would clear away in the middle of somebody's block."""
        if self.dialect == "postgresql":
            with self.engine.connect() as connection:
                connection.exec_driver_sql(f"VACUUM ANALYZE {table.name}")

    def prove(self, table: Table, entry: Entry) -> None:
        """Raise `UnprovenError` unless each row was moved as often as it was timed."""
        with self.engine.connect() as connection:
            rows = connection.scalar(select(func.count()).select_from(table))
            if rows != entry.rows:
                raise UnprovenError(f"{entry.name}: expected {entry.rows} rows, found {rows}")
            for key, state, version in connection.execute(select(table.c.id, table.c.state, table.c.version)):
                expected = (STATES[entry.lap(key) % 2], entry.lap(key) + 1)
                if (state, version) != expected:
                    raise UnprovenError(f"{entry.name}: row {key}: expected {expected}, found {(state, version)}")


@contextmanager
def opened(url: str) -> Generator[Place]:
    """The database of this URL.

    Raises:
        ValueError: it is in memory.
        ConfigurationError: no such dialect, or its driver is not installed.
    """
    with ExitStack() as stack:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            path = Path(parsed.database).absolute()
            parsed = parsed.set(database=str(path))
            if not path.exists():
                stack.callback(_remove, path)
        statelatch = stack.enter_context(_disposed(open_engine(parsed)))
        if is_in_memory(statelatch):
            raise ValueError(f"{url}: a database in memory is durable for nobody; give a file on a disk")
        with statelatch.connect():
            pass  # the file is in WAL mode from now on
        stack.enter_context(_listening())
        engine = stack.enter_context(_disposed(create_engine(statelatch.url, isolation_level="AUTOCOMMIT")))
        yield Place(statelatch.url, engine)


@contextmanager
def _listening() -> Generator[None]:
    event.listen(Pool, "connect", _set_synchronous)
    try:
        yield
    finally:
        event.remove(Pool, "connect", _set_synchronous)


def _set_synchronous(connection: object, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(SYNCHRONOUS)


@contextmanager
def _disposed(engine: Engine) -> Generator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
