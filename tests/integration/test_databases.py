"""The fixtures themselves: what a test may rely on when it asks for a database."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError

from tests import databases
from tests.databases import absent, fresh_database, kill_connections, on, pooled, required, unreachable

SERVE = """
from tests import databases
with databases.{}() as server:
    print(server.url.port, flush=True)
    input()
"""


def tables(url: URL) -> list[str]:
    """The names of the tables found through a new connection."""
    with pooled(url) as engine:
        return inspect(engine).get_table_names()


def test_each_database_answers_with_its_dialect(request: pytest.FixtureRequest, engine: Engine) -> None:
    """A test runs on the dialect that its id names, and the server answers."""
    expected: str = request.node.callspec.params["database_url"]

    with engine.connect() as connection:
        assert (expected, 1) == (connection.dialect.name, connection.scalar(text("SELECT 1")))


@pytest.mark.parametrize("turn", ["first", "second"])
def test_each_test_begins_empty(engine: Engine, turn: str) -> None:
    """A table made by one test is not there for the next."""
    assert inspect(engine).get_table_names() == []

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE left_behind (id INTEGER PRIMARY KEY)"))


@on("sqlite")
def test_sqlite_is_in_wal_mode(database_url: URL, engine: Engine) -> None:
    """Any engine on the URL, not only ours, finds the file in WAL mode and waits 30 s for a lock."""
    other = create_engine(database_url)

    for each in (engine, other):
        with each.connect() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
            assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
    other.dispose()


def test_engine_serves_a_race(engine: Engine) -> None:
    """Fifty connections can be open at the same time."""
    connections = [engine.connect() for _ in range(50)]

    assert [connection.scalar(text("SELECT 1")) for connection in connections] == [1] * 50
    for connection in connections:
        connection.close()


@on("postgresql", "mariadb")
def test_kill_connections_counts_what_it_kills(database_url: URL, engine: Engine) -> None:
    """Every session of the database is killed and counted, and its next statement fails as disconnected."""
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            connection.execute(text("SELECT 1"))

        assert kill_connections(database_url) == 2

        for connection in (first, second):
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text("SELECT 1"))
            assert caught.value.connection_invalidated
    assert kill_connections(database_url) == 0


@on("postgresql", "mariadb")
def test_kill_connections_spares_other_databases(
    request: pytest.FixtureRequest, database_url: URL, engine: Engine
) -> None:
    """A session in another database of the same server goes on."""
    server: Engine = request.getfixturevalue(f"{engine.dialect.name}_server")
    with fresh_database(server) as url, pooled(url) as bystander, bystander.connect() as connection:
        connection.execute(text("SELECT 1"))

        assert kill_connections(database_url) == 0

        assert connection.scalar(text("SELECT 1")) == 1


@on("sqlite")
def test_kill_connections_refuses_sqlite(database_url: URL) -> None:
    """SQLite has no sessions, so a test that wants to kill some is told instead of finding none."""
    with pytest.raises(ValueError, match="no server sessions"):
        kill_connections(database_url)


def test_unreachable_refuses(database_url: URL) -> None:
    """The unreachable URL differs in its place only and no connection can be made to it."""
    url = unreachable(database_url)

    with pooled(url) as engine, pytest.raises(OperationalError):
        engine.connect()
    assert database_url.drivername == url.drivername
    assert tables(database_url) == []


@on("postgresql", "mariadb")
def test_an_open_transaction_does_not_hold_up_the_cleanup(request: pytest.FixtureRequest, engine: Engine) -> None:
    """A database is dropped although a transaction in it was left open."""
    server: Engine = request.getfixturevalue(f"{engine.dialect.name}_server")
    with fresh_database(server) as url:
        left_open = create_engine(url).connect()
        left_open.execute(text("CREATE TABLE held (id INTEGER PRIMARY KEY)"))
        left_open.commit()
        left_open.execute(text("INSERT INTO held VALUES (1)"))

    with pytest.raises(OperationalError):
        tables(url)
    left_open.invalidate()


def test_an_installed_mariadb_is_started_in_a_folder_of_its_own() -> None:
    """Without a running MariaDB the installed program serves the tests, and is gone afterwards."""
    try:
        with databases.installed_mariadb() as server, fresh_database(server) as url:
            assert tables(url) == []
            assert url.port != 3306
    except databases.UnavailableError as error:
        pytest.skip(str(error))
    assert not databases.answers(url)


@pytest.mark.parametrize("start", ["postgresql_server", "installed_mariadb"])
def test_a_server_does_not_outlive_killed_tests(start: str, tmp_path: Path) -> None:
    """A server ends, and its folder goes, also when the process of the tests is killed."""
    tmp_path.chmod(0o1777)  # as a folder for temporary files is: the server runs as another user than root
    with subprocess.Popen(
        [sys.executable, "-c", SERVE.format(start)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        text=True,
    ) as tests:
        assert tests.stdout is not None
        port = int(tests.stdout.readline())
        tests.kill()

    deadline = time.monotonic() + 60  # a slow disk takes its time
    while any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set[str]()),
        ("mariadb", {"mariadb"}),
        ("postgresql, mariadb,", {"postgresql", "mariadb"}),
    ],
)
def test_required_reads_a_list(text: str, expected: set[str]) -> None:
    """STATELATCH_REQUIRE is a list separated by commas; unset, it requires nothing."""
    assert expected == required(text)


def test_required_refuses_an_unknown_name() -> None:
    """A misspelt dialect is an error, for it would require nothing."""
    with pytest.raises(ValueError, match=r"names mysql; expected .* sqlite, postgresql, mariadb"):
        required("postgresql,mysql")


def test_a_missing_server_skips_the_test() -> None:
    """A server that is not required may be missing; the reason is told."""
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        absent("mariadb", "it is not installed", required={"postgresql"})


def test_a_missing_server_that_is_required_fails_the_test() -> None:
    """A required server that is missing is a failure, with the same reason."""
    with pytest.raises(pytest.fail.Exception, match="STATELATCH_REQUIRE names mariadb, but it is not installed"):
        absent("mariadb", "it is not installed", required={"mariadb"})
