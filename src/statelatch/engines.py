"""Engines as statelatch wants them: the settings that each database needs, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from statelatch.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlite3 import Connection as SQLiteConnection

__all__ = ["is_in_memory", "open_engine", "reconnected"]

LOCK_TIMEOUT = 30.0
"""Seconds for which SQLite waits for another writer before it reports BUSY."""

_DRIVERS = {
    "postgresql": "statelatch[postgresql]",
    "mariadb": "statelatch[mariadb]",
    "mysql": "statelatch[mariadb]",
}


def open_engine(url: URL | str) -> Engine:
    """An engine for this URL.

    SQLite files are put into WAL mode, so that readers and one writer do not wait for each other; a writer waits
    for another as long as the URL says (`?timeout=5`), by default `LOCK_TIMEOUT`.
    `mariadb://` and `mysql://` mean PyMySQL, the driver of the extra `mariadb`.

    Raises:
        ConfigurationError: no such dialect, or its driver is not installed.
    """
    try:
        parsed = _with_driver(make_url(url))
        is_default = parsed.get_backend_name() == "sqlite" and "timeout" not in parsed.query
        arguments: dict[str, Any] = {"timeout": LOCK_TIMEOUT} if is_default else {}
        engine = create_engine(parsed, connect_args=arguments)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(f"database URL: {error}; expected for instance sqlite:///runs.db") from error
    except ModuleNotFoundError as error:
        extra = _DRIVERS.get(make_url(url).get_backend_name(), "the driver")
        raise ConfigurationError(f"database URL: {error.name} is not installed; pip install '{extra}'") from error
    if engine.dialect.name == "sqlite" and not is_in_memory(engine):
        event.listen(engine, "connect", _write_ahead)
    return engine


def reconnected(engine: Engine) -> Engine:
    """An engine for the same database with the same settings, which shares no connection with this one.

    The dialect is the same object: what `create_engine` was told, as `isolation_level` or `json_serializer`, is in it.
    """
    return Engine(engine.pool.recreate(), engine.dialect, engine.url, execution_options=engine.get_execution_options())


def is_in_memory(engine: Engine) -> bool:
    """Whether the database is gone with its connection: an SQLite database in memory."""
    database, mode = engine.url.database, engine.url.query.get("mode")
    return engine.dialect.name == "sqlite" and (not database or ":memory:" in database or mode == "memory")


def _with_driver(url: URL) -> URL:
    bare = url.drivername in {"mysql", "mariadb"}
    return url.set(drivername=f"{url.drivername}+pymysql") if bare else url


def _write_ahead(connection: SQLiteConnection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
