"""Finalizing while a database is away, or answers with no: who is asked next, and what is told.

The function ends the primary's connections as its last deed, so that its last word meets the outage and nothing
else does. The heart beats too seldom to get in between.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, delete, event, update

from statelatch.errors import ConnectionFailureError, TransitionRefusedError
from statelatch.runs import Finalized, Outcome, Run, RunCancelled, RunManager, current_run
from tests.databases import unreachable
from tests.outages import Outage, Traffic, disconnect
from tests.runs import PATIENCE, at_gate, nothing, stored, until_cancelled

NEVER = 29.0
"""Seconds between two heartbeats of these managers: longer than any test."""


def broken() -> None:
    """Fail."""
    raise ValueError("the function's own error")


def stopping() -> None:
    """Stop as cancelled."""
    raise RunCancelled


ENDS = [
    pytest.param(nothing, "completed", None, id="completed"),
    pytest.param(broken, "failed", "the function's own error", id="failed"),
    pytest.param(stopping, "cancelled", None, id="cancelled"),
]


class Delayed(ThreadPoolExecutor):
    """One thread, in which something else happens before each piece of work."""

    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__(1)
        self._before = before

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let the other thing happen once the caller has written what it writes, then do the work."""
        super().submit(self._before)
        return super().submit(fn, *args, **kwargs)


class Holding(Executor):
    """An executor that never begins, and drops its work when it is told to."""

    def __init__(self) -> None:
        self._futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep it."""
        self._futures.append(Future())
        return self._futures[-1]

    def drop(self) -> None:
        """Cancel everything."""
        for future in self._futures:
            future.cancel()


@pytest.fixture
def fallback(runs_engine: Engine) -> Generator[Engine]:
    """Another way to the same database."""
    engine = create_engine(runs_engine.url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(("function", "state", "error"), ENDS)
def test_the_fallback_writes_what_the_primary_cannot(
    runs_engine: Engine, fallback: Engine, function: Callable[[], None], state: str, error: str | None
) -> None:
    """The primary is away, and away anew: the fallback writes the very word that was due, never another."""
    outage = Outage(runs_engine)

    def last_deed() -> None:
        outage.begin()
        function()

    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        handle = manager.start(last_deed)
        said = handle.wait(PATIENCE)
        outage.end()

    assert outage.refused >= 1
    assert (state, Outcome.APPLIED, "fallback 1", 3) == (said.state, said.outcome, said.via, said.version)
    row = stored(runs_engine, handle.id)
    assert (state, error, 3) == (row.status, row.error, row.version)


@pytest.mark.parametrize(("function", "state", "error"), ENDS)
def test_a_reconnection_writes_what_dead_connections_cannot(
    runs_engine: Engine, fallback: Engine, function: Callable[[], None], state: str, error: str | None
) -> None:
    """The pool's connections were killed, the server is there: the same URL writes it, and no fallback is used."""
    traffic = Traffic(fallback)

    def last_deed() -> None:
        end_under_the_pool(runs_engine)
        function()

    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        handle = manager.start(last_deed)
        said = handle.wait(PATIENCE)

    assert (state, Outcome.APPLIED, "reconnected", 3) == (said.state, said.outcome, said.via, said.version)
    assert (state, error, 3) == (
        stored(runs_engine, handle.id).status,
        stored(runs_engine, handle.id).error,
        stored(runs_engine, handle.id).version,
    )
    assert (0, 0, []) == (traffic.opened, traffic.used, traffic.statements)


def end_under_the_pool(engine: Engine) -> None:
    """End the connections that the pool holds, without its knowledge."""
    if engine.dialect.name != "sqlite":
        disconnect(engine)
        return
    with engine.connect() as connection:
        driver_connection: Any = connection.connection.dbapi_connection
    driver_connection.close()


def test_the_second_fallback_is_asked_after_the_first(runs_engine: Engine, fallback: Engine) -> None:
    """In their order, and it is told which one wrote."""
    outage = Outage(runs_engine)
    nowhere = unreachable(runs_engine.url)
    with RunManager(runs_engine, fallbacks=[nowhere, fallback], heartbeat=NEVER) as manager:
        said = manager.start(outage.begin).wait(PATIENCE)
        outage.end()

    assert ("completed", "fallback 2") == (said.state, said.via)


def test_a_claim_may_need_the_fallback(runs_engine: Engine, fallback: Engine) -> None:
    """The primary goes away before the thread begins: the fallback starts the run and ends it."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER, executor=Delayed(outage.begin)) as manager:
        said = manager.start(nothing).wait(PATIENCE)
        outage.end()

    assert ("completed", 3, "fallback 1") == (said.state, said.version, said.via)
    assert stored(runs_engine, said.run_id).attempt == 1


def test_the_primary_is_asked_again_when_it_is_back(runs_engine: Engine, fallback: Engine) -> None:
    """An outage is not remembered: the next run's last word goes over the primary."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        assert manager.start(outage.begin).wait(PATIENCE).via == "fallback 1"
        outage.end()
        assert manager.start(nothing).wait(PATIENCE).via == "primary"


# -- the database says no ------------------------------------------------------------------------------------

NOES: list[tuple[dict[str, Any] | None, str | None, int | None]] = [
    ({"status": "cancelled", "version": 3}, "cancelled", 3),
    ({"status": "completed", "version": 3}, "completed", 3),
    ({"status": "failed", "version": 7, "error": "lease expired"}, "failed", 7),
    ({"lease_owner": "another"}, "running", 2),
    ({"lease_owner": None}, "running", 2),
    (None, None, None),
]
"""What somebody else makes of the running row (None deletes it), and the state and version that it then has."""


def overtake(engine: Engine, change: dict[str, Any] | None) -> None:
    """Somebody else changes the run behind its worker's back, or deletes it."""
    this = Run.id == current_run().id
    with engine.begin() as connection:
        connection.execute(update(Run).where(this).values(change) if change else delete(Run).where(this))


@pytest.mark.parametrize(("function", "target", "error"), ENDS)
def test_a_no_is_a_no_op_and_reaches_no_fallback(
    runs_engine: Engine,
    fallback: Engine,
    caplog: pytest.LogCaptureFixture,
    function: Callable[[], None],
    target: str,
    error: str | None,
) -> None:
    """0 rows: no connection is opened or used for it but the primary's own; INFO tells, and so does `Finalized`."""
    primary, other = Traffic(runs_engine), Traffic(fallback)
    caplog.set_level(logging.INFO, "statelatch.runs")

    def last_deed(change: dict[str, Any] | None) -> None:
        overtake(runs_engine, change)
        caplog.clear()
        opened.append(primary.opened)
        function()

    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        for change, state, version in NOES:
            opened: list[int] = []
            said = manager.start(last_deed, change).wait(PATIENCE)

            assert said == Finalized(
                run_id=said.run_id,
                target=target,
                outcome=Outcome.NO_OP,
                state=state,
                version=version,
                via="primary",
                error=error,
            )
            assert opened == [primary.opened]
            (record,) = caplog.records
            assert (logging.INFO, True) == (
                record.levelno,
                f"run {said.run_id}: {target} not written" in record.message,
            )
    assert (0, 0, []) == (other.opened, other.used, other.statements)


# -- the primary's path breaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("a listener's bug"), KeyError("x"), MemoryError()], ids=repr)
def test_any_exception_of_the_primary_reaches_the_fallback(
    runs_engine: Engine, fallback: Engine, error: Exception
) -> None:
    """Not only what a driver raises: whatever goes wrong on the primary's way, the next connection is asked."""
    strikes: list[str] = []
    ending = threading.Event()

    def strike(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if ending.is_set():
            strikes.append(statement)
            raise error

    event.listen(runs_engine, "before_cursor_execute", strike)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        said = manager.start(ending.set).wait(PATIENCE)
        ending.clear()

    assert len(strikes) == 1
    assert ("completed", Outcome.APPLIED, 3) == (said.state, said.outcome, said.version)
    assert said.via in {"reconnected", "fallback 1"}
    assert stored(runs_engine, said.run_id).status == "completed"


def test_an_exception_of_the_primary_s_pool_reaches_the_fallback(runs_engine: Engine, fallback: Engine) -> None:
    """The same where it strikes every new connection to the primary, the reconnection included."""
    strikes: list[object] = []
    ending = threading.Event()

    def strike(_connection: object, record: object, _proxy: object) -> None:
        if ending.is_set():
            strikes.append(record)
            raise RuntimeError("a listener's bug")

    event.listen(runs_engine, "checkout", strike)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        said = manager.start(ending.set).wait(PATIENCE)
        ending.clear()

    assert len(strikes) == 2
    assert ("completed", Outcome.APPLIED, "fallback 1") == (said.state, said.outcome, said.via)


# -- nobody answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "target", "error"), ENDS)
def test_a_last_word_that_nobody_takes_is_told(
    runs_engine: Engine,
    caplog: pytest.LogCaptureFixture,
    function: Callable[[], None],
    target: str,
    error: str | None,
) -> None:
    """Unsaved: a warning, the caller and the subscribers are told, the row is as it was, no thread has an exception."""
    outage = Outage(runs_engine)

    def last_deed() -> None:
        gate()
        outage.begin()
        function()

    nowhere = unreachable(runs_engine.url)
    with RunManager(runs_engine, fallbacks=[nowhere], heartbeat=NEVER) as manager, at_gate() as gate:
        handle = manager.start(last_deed)
        gate.wait()
        subscription = manager.subscribe(handle.id)
        gate.open()
        said = handle.wait(PATIENCE)
        outage.end()

    assert (target, Outcome.UNSAVED, None, None, None) == (
        said.target,
        said.outcome,
        said.state,
        said.version,
        said.via,
    )
    assert list(subscription)[-1] == said
    assert said.error is not None
    assert (said.error == error) == (target == "failed")
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.message == f"run {handle.id}: {target} could not be saved, no connection answered"
    assert ("running", 2, None) == (
        stored(runs_engine, handle.id).status,
        stored(runs_engine, handle.id).version,
        stored(runs_engine, handle.id).finished_at,
    )
    assert_result(handle.result, function)


def assert_result(result: Callable[[], object], function: Callable[[], None]) -> None:
    """The caller still learns what the function did."""
    if function is nothing:
        assert result() is None
    else:
        with pytest.raises(ValueError if function is broken else RunCancelled):
            result()


def test_a_claim_that_nobody_takes_calls_nothing(runs_engine: Engine) -> None:
    """The database goes away before the thread begins: the function is not called, and its run is unsaved as failed."""
    called: list[int] = []
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=NEVER, executor=Delayed(outage.begin)) as manager:
        handle = manager.start(called.append, 1)
        said = handle.wait(PATIENCE)
        outage.end()

        assert ("failed", Outcome.UNSAVED) == (said.target, said.outcome)
        with pytest.raises(ConnectionFailureError):
            handle.result()
    assert called == []
    assert ("pending", 1) == (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version)


def test_a_run_that_never_began_is_no_success(runs_engine: Engine) -> None:
    """Dropped by its executor while the database is away: the caller is not given None for a result."""
    outage = Outage(runs_engine)
    executor = Holding()
    with RunManager(runs_engine, heartbeat=NEVER, executor=executor) as manager:
        handle = manager.start(nothing)
        outage.begin()
        executor.drop()
        said = handle.wait(PATIENCE)
        outage.end()

        assert ("cancelled", Outcome.UNSAVED) == (said.target, said.outcome)
        with pytest.raises(RunCancelled):
            handle.result()


def test_an_outage_does_not_disturb_a_run_that_outlives_it(runs_engine: Engine) -> None:
    """The database is away for a while in the middle of the run: its last word is written over the primary again."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=0.02) as manager:

        def function() -> None:
            outage.begin()
            while outage.refused < 6:
                assert not threading.Event().wait(0.005)
            outage.end()

        handle = manager.start(function)
        said = handle.wait(PATIENCE)

        assert ("completed", 3) == (said.state, said.version)
        second = manager.start(until_cancelled)
        with RunManager(runs_engine) as other:
            other.cancel(second.id)
        assert second.wait(PATIENCE).state == "cancelled"


def test_a_refusal_is_what_result_raises(runs_engine: Engine) -> None:
    """The function returned, but the run is another's: the caller learns that the result does not count."""
    with RunManager(runs_engine, heartbeat=NEVER) as manager:
        handle = manager.start(overtake, runs_engine, {"lease_owner": "another"})
        with pytest.raises(TransitionRefusedError) as refused:
            handle.result(PATIENCE)

    assert ("running", ("holds_lease",)) == (refused.value.state, refused.value.guards)
