"""Locks: a row that another holds is waited for, within the database's own limit, and then given up by name."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, text

from statelatch import ConnectionFailureError, OutcomeUnknownError, PersistenceAdapter
from statelatch.errors import Phase
from tests.databases import on, pooled
from tests.orders import KEY, PATHS, order_adapter, stored_order

CREATED: dict[str, Any] = {"tenant": "acme", "number": 7, "paid": True}
HELD = 0.3
"""Seconds for which a lock is held that is shorter than any limit here."""

IMPATIENT: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 0.05},
    "postgresql": {"options": "-c lock_timeout=50ms"},
    "mariadb": {"init_command": "SET innodb_lock_wait_timeout = 1"},
}
"""Arguments of a connection that does not wait for long."""


@contextmanager
def locked(url: URL) -> Generator[None]:
    """Have another connection hold the row, as an open transaction that has changed it and takes that back."""
    with pooled(url) as engine, engine.connect() as connection:
        connection.execute(text("UPDATE orders SET note = 'held' WHERE number = 7"))
        yield
        connection.rollback()


@pytest.mark.parametrize("path", PATHS)
def test_a_short_lock_is_waited_for(engine: Engine, path: str) -> None:
    """Behaviour 22: a lock shorter than the limit delays the transition, on the same connection; no error is seen."""
    adapter = order_adapter(engine, PATHS[path])
    adapter.create(**CREATED)
    checked_out: list[object] = []
    event.listen(engine, "checkout", lambda *_: checked_out.append(1))
    done: list[int] = []
    with locked(engine.url):
        thread = threading.Thread(target=lambda: done.append(adapter.send(KEY, "pay").version))
        begun = time.monotonic()
        thread.start()
        time.sleep(HELD)
        assert done == []
    thread.join()

    assert (done, stored_order(engine)["version"], stored_order(engine)["note"]) == ([2], 2, None)
    assert time.monotonic() - begun >= HELD
    transactions = 1 if path == "compiled" else 2
    assert len(checked_out) == transactions + 2  # the two reads of this test


def test_a_long_lock_is_given_up(database_url: URL, engine: Engine) -> None:
    """A lock beyond the limit is a connection failure after three tries: nothing is written, nothing stays locked."""
    order_adapter(engine).create(**CREATED)
    impatient = create_engine(database_url, connect_args=IMPATIENT[engine.dialect.name])
    updates: list[str] = []
    event.listen(impatient, "before_cursor_execute", lambda _connection, _cursor, sql, *_: updates.append(sql))  # pyright: ignore
    adapter = order_adapter(impatient)
    updates.clear()

    with locked(database_url), pytest.raises(ConnectionFailureError) as caught:
        adapter.send(KEY, "pay")

    assert not isinstance(caught.value, OutcomeUnknownError)
    assert (caught.value.phase, [sql.split()[0] for sql in updates]) == (Phase.EXECUTE, ["UPDATE"] * 3)
    assert stored_order(engine)["version"] == 1
    assert adapter.send(KEY, "pay").version == 2
    impatient.dispose()


def test_an_exhausted_pool_is_a_connection_failure(database_url: URL) -> None:
    """Where the pool has no connection left, none was had: phase `connect`."""
    engine = create_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    adapter = order_adapter(engine)
    adapter.create(**CREATED)

    with engine.connect(), pytest.raises(ConnectionFailureError) as caught:
        adapter.send(KEY, "pay")

    assert caught.value.phase is Phase.CONNECT
    assert adapter.send(KEY, "pay").version == 2
    engine.dispose()


# -- isolation ----------------------------------------------------------------------------------------------


@on("postgresql", "mariadb")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_race_under_strict_isolation(database_url: URL, level: Any) -> None:
    """Behaviour 23: where the database breaks off the loser's transaction, the loser is refused, not failed."""
    engine = create_engine(database_url, isolation_level=level, pool_size=8)
    adapter = order_adapter(engine)
    adapter.create(**CREATED)
    at_once = threading.Barrier(8)
    outcomes: list[str] = []

    def race() -> None:
        at_once.wait()
        try:
            outcomes.append(adapter.send(KEY, "drop").target)
        except Exception as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["TransitionRefusedError"] * 7 + ["dropped"]
    assert stored_order(engine)["version"] == 2
    engine.dispose()


@pytest.mark.parametrize("settings", [{}, {"isolation_level": "AUTOCOMMIT"}, {"json_serializer": lambda _: '"mine"'}])  # pyright: ignore
def test_reconnected_has_new_connections_and_the_same_settings(database_url: URL, settings: dict[str, Any]) -> None:
    """`reconnected` opens the same database as it was opened, and shares no connection."""
    engine = create_engine(database_url, **settings)
    adapter = order_adapter(engine)
    adapter.create(**CREATED, data={"a": 1})
    sessions: set[int] = set()

    with adapter.reconnected() as again, again.engine.connect() as new, engine.connect() as old:
        sessions = {id(new.connection.dbapi_connection), id(old.connection.dbapi_connection)}
        assert new.get_isolation_level() == old.get_isolation_level()
        new.rollback()
        again.create(tenant="acme", number=8, data={"a": 1})

    assert len(sessions) == 2
    assert stored_order(engine, ("acme", 8))["data"] == stored_order(engine)["data"]
    assert adapter.load(KEY).version == 1  # the first engine goes on
    engine.dispose()


def test_an_adapter_closes_what_it_opened(engine: Engine) -> None:
    """An engine of the caller's keeps its connections; one that was made from a URL gives them up."""
    mapping = order_adapter(engine).mapping
    pool = engine.pool

    with PersistenceAdapter(engine, mapping), PersistenceAdapter(engine.url, mapping) as own:
        own_pool = own.engine.pool

    assert engine.pool is pool
    assert own.engine.pool is not own_pool


AUTOCOMMIT: list[dict[str, Any]] = [
    {"connect_args": {"autocommit": True}},
    {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True},
]
"""Settings of an engine whose connections commit each statement."""


@on("mariadb")
@pytest.mark.parametrize("settings", AUTOCOMMIT, ids="+".join)
def test_a_connection_is_given_back_as_it_was(database_url: URL, settings: dict[str, Any]) -> None:
    """Statements that belong together are a transaction also where each is committed, and that stays as it was."""
    engine = create_engine(database_url, pool_size=1, max_overflow=0, **settings)
    adapter = order_adapter(engine)
    adapter.create(**CREATED)
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", note)
    assert adapter.send(KEY, "pay").version == 2

    assert sent == ["BEGIN", "UPDATE", "SELECT", "COMMIT"]
    with engine.connect() as connection:
        driver_connection: Any = connection.connection.dbapi_connection
        assert driver_connection.get_autocommit()
    engine.dispose()


@on("mariadb")
@pytest.mark.parametrize("settings", AUTOCOMMIT, ids="+".join)
def test_what_fails_leaves_nothing_open(database_url: URL, settings: dict[str, Any]) -> None:
    """A listener raises between two statements of a transaction: the first is undone, and holds no lock."""
    engine = create_engine(database_url, pool_size=1, max_overflow=0, **settings)
    adapter = order_adapter(engine)
    adapter.create(**CREATED)
    struck: list[str] = []

    def strike(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and not struck:
            struck.append(statement)
            raise KeyError("a listener's bug")

    event.listen(engine, "before_cursor_execute", strike)
    with pytest.raises(KeyError):
        adapter.send(KEY, "pay")

    assert (len(struck), stored_order(engine)["version"]) == (1, 1)
    with pooled(database_url) as other, other.begin() as connection:
        connection.execute(text("SELECT * FROM orders WHERE number = 7 FOR UPDATE NOWAIT"))
    engine.dispose()
