"""Engines: what a URL means, which settings a database gets, and what is told when it cannot be opened."""

from pathlib import Path

import pytest
from sqlalchemy import text

from statelatch import ConfigurationError, MachineMapping, PersistenceAdapter
from statelatch.engines import is_in_memory, open_engine
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
