"""Time limits: a transaction that is not over in time is ended, whatever holds it up; what it wrote is found out."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import URL, Engine, event, text

from statelatch import ConnectionFailureError, OutcomeUnknownError, PersistenceAdapter, RequestError, cursor_line
from statelatch.errors import Phase
from tests.ambiguity import opened
from tests.databases import LOOPBACK, kill_connections, on, pooled
from tests.orders import KEY, PATHS, order_adapter, stored_order
from tests.servers import within

if TYPE_CHECKING:
    from collections.abc import Generator

LIMIT = 0.5
"""Seconds."""

PROMPT = 4.0
"""Seconds after which a limited call would have failed to be limited, with everything that it tries."""


@pytest.fixture(params=["engine", "url"])
def adapter(request: pytest.FixtureRequest, engine: Engine) -> Generator[PersistenceAdapter]:
    """Orders on an engine of the user's, and on the adapter's own, which sends in AUTOCOMMIT over bare cursors."""
    given = order_adapter(engine)
    given.create(tenant="acme", number=7, paid=True)
    if request.param == "engine":
        yield given
        return
    with PersistenceAdapter(engine.url, given.mapping) as own:
        own.load(KEY)
        yield own


@contextmanager
def locked(url: URL) -> Generator[None]:
    """Another connection holds the row, in a transaction that has not ended."""
    with pooled(url) as other, other.connect() as connection:
        connection.execute(text("UPDATE orders SET note = 'held' WHERE number = 7"))
        yield
        connection.rollback()


@contextmanager
def silent_peer() -> Generator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def led_away(engine: Engine) -> Generator[list[object]]:
    """Who connects meets with silence; those who did."""
    led: list[object] = []
    with silent_peer() as port:

        def lead(_dialect: object, record: object, _arguments: list[Any], keywords: dict[str, Any]) -> None:
            led.append(record)
            keywords["port"] = port

        event.listen(engine.dialect, "do_connect", lead)
        try:
            yield led
        finally:
            event.remove(engine.dialect, "do_connect", lead)


def connecting() -> list[threading.Thread]:
    """Threads that connect for somebody."""
    return [thread for thread in threading.enumerate() if thread.name == "statelatch-connect"]


@pytest.mark.parametrize("path", PATHS)
def test_a_lock_is_given_up_in_time(engine: Engine, path: str) -> None:
    """Somebody holds the row for longer: the limit ends the statement, nothing is written, and the engine goes on."""
    adapter = order_adapter(engine, PATHS[path])
    adapter.create(tenant="acme", number=7, paid=True)
    updates: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _connection, _cursor, sql, *_: updates.append(sql))  # pyright: ignore
    begun = time.monotonic()

    with locked(engine.url), pytest.raises(ConnectionFailureError) as caught:
        adapter.limited(LIMIT).send(KEY, "pay")

    assert len([sql for sql in updates if sql.startswith("UPDATE")]) == 1, "there was no time for another try"
    assert LIMIT / 2 < time.monotonic() - begun < PROMPT
    assert (type(caught.value), stored_order(engine)["version"]) == (ConnectionFailureError, 1)
    assert adapter.limited(LIMIT).send(KEY, "pay").version == 2


def test_a_lock_in_autocommit_is_given_up_in_time(adapter: PersistenceAdapter) -> None:
    """There a statement that is cut off may be carried out later: "nothing was written" is said only if it is so."""
    begun = time.monotonic()
    with locked(adapter.engine.url), pytest.raises(ConnectionFailureError) as caught:
        adapter.limited(LIMIT).send(KEY, "pay")

    assert LIMIT / 2 < time.monotonic() - begun < PROMPT
    error = caught.value
    if isinstance(error, OutcomeUnknownError):
        assert error.token is not None
        landed = adapter.verify(error.token, KEY, event="pay")
        assert stored_order(adapter.engine)["version"] == (2 if landed else 1)
        assert adapter.send(KEY, "pay", token=error.token).version == 2
    else:
        assert adapter.send(KEY, "pay").version == 2
    assert stored_order(adapter.engine)["version"] == 2


@on("postgresql", "mariadb")
def test_a_connection_of_its_own_is_given_up_by_the_server(engine: Engine) -> None:
    """It is told limits, and says itself that they are reached: nothing of the statement is left to be done later."""
    adapter = order_adapter(engine)
    adapter.create(tenant="acme", number=7, paid=True)
    seconds = 2.0  # MariaDB counts whole ones

    with locked(engine.url), adapter.limited(seconds).reconnected() as anew:
        with pytest.raises(ConnectionFailureError) as caught:
            anew.send(KEY, "pay")
        origin: Any = getattr(caught.value.__cause__, "orig", None)

    assert getattr(origin, "sqlstate", None) in {"55P03", "57014"} or origin.args[0] in {1205, 1969}
    assert stored_order(engine)["version"] == 1


@on("postgresql", "mariadb")
def test_a_silent_peer_is_given_up_in_time(adapter: PersistenceAdapter) -> None:
    """Behaviour 26: who takes the connection and says nothing is left: phase `connect`, nothing was written."""
    with silent_peer() as port:
        nowhere = adapter.engine.url.set(port=port)
        begun = time.monotonic()
        with PersistenceAdapter(nowhere, adapter.mapping) as mute, pytest.raises(ConnectionFailureError) as caught:
            mute.limited(LIMIT).send(KEY, "pay")

    assert LIMIT / 2 < time.monotonic() - begun < PROMPT
    assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.CONNECT)
    assert stored_order(adapter.engine)["version"] == 1


@on("postgresql", "mariadb")
@pytest.mark.parametrize("adapter", ["url"], indirect=True)
def test_a_line_that_ended_while_it_was_kept_is_renewed_in_time(
    adapter: PersistenceAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has ended its connection, and who connects anew meets with silence."""
    monkeypatch.setattr(cursor_line, "IDLE", 0.0)
    adapter.load(KEY)
    [kept] = adapter.lines._idle  # pyright: ignore[reportPrivateUsage]
    assert kill_connections(adapter.engine.url) >= 1
    assert within(PROMPT, lambda: kept.is_dropped)
    begun = time.monotonic()

    with led_away(adapter.lines.engine) as led, pytest.raises(ConnectionFailureError) as caught:
        adapter.limited(LIMIT).send(KEY, "pay")

    assert (len(led), time.monotonic() - begun < PROMPT) == (1, True)
    assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.CONNECT)
    assert stored_order(adapter.engine)["version"] == 1


@on("postgresql", "mariadb")
def test_what_was_given_up_leaves_nothing_behind(adapter: PersistenceAdapter) -> None:
    """Neither a thread nor a place in the pool: when somebody answers again, the adapter goes on."""
    engine = adapter.lines.engine
    adapter.lines.renew()
    with led_away(engine) as led:
        for _ in range(3):
            with pytest.raises(ConnectionFailureError, match=r"\(connect\)"):
                adapter.limited(0.05).load(KEY)
        tried = engine.pool.checkedout()  # pyright: ignore  a QueuePool
        assert within(PROMPT, lambda: not connecting() and engine.pool.checkedout() == 0)  # pyright: ignore

    assert (len(led), tried) == (3, 3)
    assert adapter.limited(LIMIT).load(KEY).version == 1


@on("sqlite")
def test_what_waits_for_locks_one_after_the_other(engine: Engine) -> None:
    """SQLite waits at each statement, and at COMMIT, no longer than is left then, and as long as ever afterwards."""
    patience: list[Any] = []

    def note(connection: Any, *_: object) -> None:
        patience.append(connection.connection.dbapi_connection.execute("PRAGMA busy_timeout").fetchone()[0])
        time.sleep(0.02)

    with opened(engine.url, ("engine", "compiled", "log"), engine) as lights:
        event.listen(lights.sent_by.engine, "before_cursor_execute", note)
        event.listen(lights.sent_by.engine, "commit", note)
        lights.sent_by.limited(9.0).send(1, "step")
        update, insert, commit = patience
        lights.sent_by.send(1, "step")

    assert 7200 >= update >= insert + 10 >= commit + 20
    assert patience[3:] == [30_000] * 3


def test_a_limit_that_is_kept_changes_nothing(adapter: PersistenceAdapter) -> None:
    """The answer is the same, and SQLite's own patience is as it was."""
    assert adapter.limited(LIMIT).send(KEY, "pay").version == 2
    assert adapter.limited(LIMIT).load(KEY).version == 2

    if adapter.engine.dialect.name == "sqlite":
        with adapter.lines.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


@on("postgresql", "mariadb")
def test_the_limit_of_a_call_is_not_the_next_one_s(adapter: PersistenceAdapter) -> None:
    """A connection that was made and used in a limit is not cut off afterwards, and has no limits left."""
    adapter.lines.renew()
    adapter.limited(LIMIT).load(KEY)
    adapter.lines.close()
    with adapter.lines.engine.connect() as connection:
        asleep = text("SELECT pg_sleep(1.1)" if adapter.engine.dialect.name == "postgresql" else "SELECT SLEEP(1.1)")
        connection.execute(asleep)
    done: list[Any] = []
    with locked(adapter.engine.url):
        thread = threading.Thread(target=lambda: done.append(adapter.send(KEY, "pay").version))
        thread.start()
        time.sleep(2 * LIMIT)
        assert done == []
    thread.join()
    assert done == [2]


@pytest.mark.parametrize("seconds", [0, -1.0, True, float("nan"), float("inf"), 1e10])
def test_a_limit_is_a_positive_number(adapter: PersistenceAdapter, seconds: float) -> None:
    """Anything else is told at once."""
    with pytest.raises(RequestError, match="positive number of seconds"):
        adapter.limited(seconds)


def test_a_limited_adapter_shares_everything(adapter: PersistenceAdapter) -> None:
    """Hooks, connections, engine; to close it closes nothing."""
    hooked: list[Any] = []
    limited = adapter.limited(LIMIT)
    adapter.after_commit(hooked.append)

    with limited:
        done = limited.send(KEY, "pay")

    assert (hooked, limited.lines is adapter.lines, limited.engine is adapter.engine) == ([done], True, True)
    assert adapter.load(KEY).version == 2
