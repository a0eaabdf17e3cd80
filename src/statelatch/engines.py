"""Engines as statelatch wants them: the settings that each database needs, in one place."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from sqlalchemy import URL, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from statelatch.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.pool import PoolProxiedConnection

__all__ = [
    "disconnected",
    "give_back",
    "has_creator",
    "is_autocommitting",
    "is_in_memory",
    "is_initialized",
    "is_observed",
    "open_engine",
    "reconnected",
    "shown",
]

LOCK_TIMEOUT = 30.0
"""Seconds for which SQLite waits for another writer before it reports BUSY."""

_DRIVERS = {
    "postgresql": "statelatch[postgresql]",
    "mariadb": "statelatch[mariadb]",
    "mysql": "statelatch[mariadb]",
}

_SECRETS = frozenset({"password", "passwd", "pwd", "sslpassword", "ssl_key_password"})
"""Names under which drivers take a password in a URL's query."""

_MASK = "***"

_STATEMENT_EVENTS = (
    "do_execute",
    "do_execute_no_params",
    "do_executemany",
    "do_setinputsizes",
    "handle_error",
)
"""Those of SQLAlchemy's `DialectEvents` that concern statements."""

_CANNOT_SWITCH = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY")


def open_engine(url: URL | str, *, autocommit: bool = False) -> Engine:
    """An engine for this URL.

    SQLite files are put into WAL mode, so that readers and one writer do not wait for each other, as soon as nobody
    else uses them; a writer waits for another as long as the URL says (`?timeout=5`), by default `LOCK_TIMEOUT`.
    `mariadb://` and `mysql://` mean PyMySQL, the driver of the extra `mariadb`.

    Args:
        url: of the database.
        autocommit: each statement is durable by itself, in one round trip. Set when a connection is made: to set it
            for each use would cost two more round trips on MariaDB.

    Raises:
        ConfigurationError: no such dialect, or its driver is not installed.
    """
    try:
        parsed = _with_driver(make_url(url))
        is_default = parsed.get_backend_name() == "sqlite" and "timeout" not in parsed.query
        arguments: dict[str, Any] = {"timeout": LOCK_TIMEOUT} if is_default else {}
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
        engine = create_engine(parsed, connect_args=arguments, **(options if autocommit else {}))
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(f"database URL: {error}; expected for instance sqlite:///runs.db") from error
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(make_url(url).get_backend_name(), error.name)
        raise ConfigurationError(f"database URL: {error.name} is not installed; pip install '{package}'") from error
    if engine.dialect.name == "sqlite" and not is_in_memory(engine):
        event.listen(engine, "connect", _write_ahead)
    return engine


def reconnected(engine: Engine) -> Engine:
    """An engine for the same database with the same settings, which shares no connection with this one.

    Nothing but the pool is its own: what `create_engine` was told is in the dialect and in the engine's attributes,
    and so are the listeners; one that sets a search path at BEGIN is needed here as much as there.
    """
    anew = Engine(engine.pool.recreate(), engine.dialect, engine.url)
    own = {name: value for name, value in vars(engine).items() if name not in {"pool", "_proxied"}}
    vars(anew).update(own, _has_events=engine._has_events)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return anew


def has_creator(engine: Engine) -> bool:
    """Whether its connections are made by a function of the user's: they may be anybody's afterwards."""
    creator: Any = engine.pool._creator  # noqa: SLF001  # pyright: ignore
    return getattr(creator, "__module__", "") != "sqlalchemy.engine.create"


def is_initialized(engine: Engine) -> bool:
    """Whether the dialect knows its server, from the first connection that SQLAlchemy has made."""
    return getattr(engine.dialect, "server_version_info", None) is not None


def is_observed(engine: Engine) -> bool:
    """Whether SQLAlchemy's `Connection` does more here than send the statement: events, options, logging."""
    listeners = engine._has_events or _takes_statements(engine.dialect)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return bool(listeners or engine.get_execution_options() or engine.logger.isEnabledFor(logging.INFO))


def _takes_statements(dialect: Dialect) -> bool:
    """Whether somebody listens to the dialect's statements or errors; who makes its connections is another matter."""
    return dialect._has_events and any(getattr(dialect.dispatch, name) for name in _STATEMENT_EVENTS)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def is_autocommitting(engine: Engine, driver_connection: Any) -> bool:
    """Whether each statement on this connection is durable by itself, whoever has set it so."""
    by_driver = getattr(driver_connection, "autocommit", None) is True  # sqlite3's own, since Python 3.12
    return by_driver or engine.dialect.detect_autocommit_setting(driver_connection)


def disconnected(engine: Engine, connection: PoolProxiedConnection, error: BaseException) -> None:
    """Let the pool renew this connection, and all that are as old: they were lost together."""
    engine.pool._invalidate(connection, error)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if connection.is_valid:
        connection.invalidate(error)


def give_back(connection: PoolProxiedConnection) -> None:
    """Return a connection whose transaction is over; SQLAlchemy need not send a ROLLBACK for it."""
    connection._close_special(transaction_reset=True)  # noqa: SLF001  # pyright: ignore


def shown(url: URL) -> str:
    """The URL as messages give it: with `***` for each password, those in its query included."""
    secrets = dict.fromkeys(_SECRETS.intersection(url.query), _MASK)
    return url.update_query_dict(secrets).render_as_string(hide_password=True).replace(quote_plus(_MASK), _MASK)


def is_in_memory(engine: Engine) -> bool:
    """Whether the database is gone with its connection: an SQLite database in memory."""
    database, mode = engine.url.database, engine.url.query.get("mode")
    return engine.dialect.name == "sqlite" and (not database or ":memory:" in database or mode == "memory")


def _with_driver(url: URL) -> URL:
    bare = url.drivername in {"mysql", "mariadb"}
    return url.set(drivername=f"{url.drivername}+pymysql") if bare else url


def _write_ahead(connection: sqlite3.Connection, _record: object) -> None:
    """Switch the file to WAL mode; one that is in use, or cannot be written, stays as it is until the next connection.

    The switch needs the file for itself, and is not worth a wait.
    """
    with closing(connection.cursor()) as cursor:
        (patience,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        cursor.execute("PRAGMA busy_timeout=0")
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_CANNOT_SWITCH):
                raise
        finally:
            cursor.execute(f"PRAGMA busy_timeout={patience}")
