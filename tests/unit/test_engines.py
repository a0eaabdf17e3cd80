"""Engines: what a URL means, which settings a database gets, and what is told when it cannot be opened."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, make_url, text

from statelatch import ConfigurationError, MachineMapping, PersistenceAdapter
from statelatch.engines import is_in_memory, is_observed, open_engine, reconnected, shown
from statelatch.runs import run_mapping


@pytest.fixture(scope="module")
def mapping() -> MachineMapping:
    """Any mapping."""
    return run_mapping()


def test_an_sqlite_file_is_in_wal_mode_and_waits_for_locks(tmp_path: Path) -> None:
    """Readers and one writer do not wait for each other, and writers wait half a minute for one another."""
    engine = open_engine(f"sqlite:///{tmp_path / 'x.db'}")

    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
    engine.dispose()


@pytest.mark.parametrize("lock", ["BEGIN; SELECT * FROM t", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_file_in_use_is_opened_at_once_and_switched_later(tmp_path: Path, lock: str) -> None:
    """WAL is no precondition: a connection that cannot switch goes on without it, and the next one tries again."""
    file = tmp_path / "x.db"
    engine = open_engine(f"sqlite:///{file}?timeout=5")
    began = time.monotonic()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        for statement in lock.split("; "):
            other.execute(statement).fetchall()
        with engine.connect() as connection:
            assert connection.scalar(text("PRAGMA busy_timeout")) == 5_000
        assert time.monotonic() - began < 4
        other.execute("ROLLBACK")
    engine.dispose()

    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    engine.dispose()


def test_a_file_that_cannot_be_written_is_opened(tmp_path: Path) -> None:
    """A file opened to be read only stays in the mode it is in."""
    file = tmp_path / "x.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE t (x)")
    engine = open_engine(f"sqlite:///file:{file}?mode=ro&uri=true")

    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM t")) == 0
        assert connection.scalar(text("PRAGMA journal_mode")) == "delete"
    engine.dispose()


@pytest.mark.parametrize("options", [None, {"mine": 1}], ids=["engine", "view"])
def test_a_reconnection_is_set_up_and_watched_like_its_engine(tmp_path: Path, options: dict[str, Any] | None) -> None:
    """Listeners, once each, log settings, options and hidden parameters are the same; the engine keeps its pool."""
    whole = create_engine(
        f"sqlite:///{tmp_path / 'x.db'}", hide_parameters=True, logging_name="mine", execution_options={"stream": 1}
    )
    engine = whole.execution_options(**options) if options else whole
    heard: list[str] = []

    @event.listens_for(whole, "begin")
    def beginning(connection: Connection) -> None:
        heard.append("begin")

    @event.listens_for(whole, "set_connection_execution_options")
    def setting(connection: Connection, options: dict[str, Any]) -> None:
        heard.append("options")

    pool, anew = engine.pool, reconnected(engine)
    with anew.connect() as connection:
        connection.execution_options(stream_results=False).execute(text("SELECT 1"))
    anew.dispose()

    assert heard == ["options", "begin"]
    assert anew.get_execution_options() == engine.get_execution_options()
    assert (anew.hide_parameters, anew.logging_name, anew.echo) == (True, "mine", engine.echo)
    assert (engine.pool is pool, anew.pool is pool) == (True, False)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql+pymysql://u:x@h/d?passwd=x&charset=utf8", "mysql+pymysql://u:***@h/d?charset=utf8&passwd=***"),
        ("postgresql://h/d?sslpassword=x&sslmode=require", "postgresql://h/d?sslmode=require&sslpassword=***"),
        ("sqlite:///x.db?timeout=5", "sqlite:///x.db?timeout=5"),
    ],
)
def test_no_password_is_shown(url: str, told: str) -> None:
    """A URL in a message has a mask for each password, wherever it stands, and is else as it was."""
    assert told == shown(make_url(url))


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("mariadb://u@h/d", "mariadb+pymysql"),
        ("mysql://u@h/d", "mysql+pymysql"),
        ("mysql+pymysql://u@h/d", "mysql+pymysql"),
        ("postgresql://u@h/d", "postgresql"),
    ],
)
def test_the_driver_need_not_be_named(url: str, driver: str) -> None:
    """A URL without a driver means the one of the extra."""
    engine = open_engine(url)

    assert engine.url.drivername == driver
    assert engine.dialect.driver in {"pymysql", "psycopg"}


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("runs.db", ["database URL", "expected for instance sqlite:///runs.db"]),
        ("", ["database URL", "expected for instance sqlite:///runs.db"]),
        ("nosuch://h/d", ["database URL", "nosuch", "expected for instance sqlite:///runs.db"]),
        ("postgresql+psycopg2://h/d", ["psycopg2 is not installed", "pip install 'statelatch[postgresql]'"]),
        ("mariadb+mysqldb://h/d", ["MySQLdb is not installed", "pip install 'statelatch[mariadb]'"]),
        ("oracle+oracledb://h/d", ["oracledb is not installed", "pip install 'oracledb'"]),
        ("sqlite://", ["belongs to one connection", "use a file", "an engine of your own"]),
        ("sqlite:///:memory:", ["belongs to one connection"]),
    ],
)
def test_a_url_that_cannot_be_opened(mapping: MachineMapping, url: str, parts: list[str]) -> None:
    """What is no URL, names no database, or lacks its driver is a ConfigurationError with the next step."""
    with pytest.raises(ConfigurationError) as caught:
        PersistenceAdapter(url, mapping)

    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.filterwarnings("ignore:Selection of the SingletonThreadPool")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite://", True),
        ("sqlite:///:memory:", True),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", True),
        ("sqlite:///file:x.db?uri=true", False),
        ("sqlite:///x.db", False),
        ("postgresql+psycopg://u@h/d", False),
    ],
)
def test_which_databases_live_in_memory(url: str, expected: bool) -> None:
    """A database in memory is gone with its connection: no other connection can reach it."""
    assert expected == is_in_memory(open_engine(url))


@pytest.mark.parametrize(
    ("listened_to", "expected"),
    [
        (None, False),
        ("do_connect", False),
        ("connect", False),
        ("do_execute", True),
        ("do_execute_no_params", True),
        ("do_executemany", True),
        ("do_setinputsizes", True),
        ("handle_error", True),
        ("before_cursor_execute", True),
    ],
)
def test_who_listens_to_statements(tmp_path: Path, listened_to: str | None, expected: bool) -> None:
    """Only a listener that a statement would miss makes SQLAlchemy's `Connection` needed, not one for connections."""
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    if listened_to:
        event.listen(engine, listened_to, lambda *_: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]

    assert expected == is_observed(engine)
