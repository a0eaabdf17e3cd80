"""Nobody answers: a last word that cannot be written is told, and taken for nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from statelatch.errors import ConnectionFailureError
from statelatch.runs import Outcome, RunCancelled, RunManager
from tests.databases import unreachable
from tests.outages import Outage
from tests.runs import ENDS, NEVER, PATIENCE, Delayed, Holding, at_gate, broken, eventually, nothing, stored

pytestmark = pytest.mark.usefixtures("either_way")


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
    assert (
        stored(runs_engine, handle.id).status,
        stored(runs_engine, handle.id).version,
        stored(runs_engine, handle.id).finished_at,
    ) == ("running", 2, None)
    assert_result(handle.result, function)


def assert_result(result: Callable[[], object], function: Callable[[], None]) -> None:
    """The caller still learns what the function did."""
    if function is nothing:
        assert result() is None
    else:
        with pytest.raises(ValueError if function is broken else RunCancelled):
            result()


def test_a_claim_waits_for_a_database_that_comes_back(runs_engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The database goes away before the thread begins: nothing has been done, so the run begins when it is back."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=0.02, executor=Delayed(outage.begin)) as manager:
        handle = manager.start(max, 1, 2)
        assert eventually(lambda: outage.refused >= 5)
        with pytest.raises(TimeoutError):
            handle.wait(0)
        outage.end()

        assert (handle.wait(PATIENCE).state, handle.wait().outcome, handle.result()) == (
            *("completed", Outcome.APPLIED),
            2,
        )
    assert stored(runs_engine, handle.id).attempt == 1
    assert f"run {handle.id}: not started, no connection answered; next try in 0.02 s" in caplog.messages


@pytest.mark.parametrize("cancel", [False, True])
def test_a_claim_that_nobody_takes_ends_at_shutdown(runs_engine: Engine, *, cancel: bool) -> None:
    """The database does not come back: the function is not called, its run is unsaved, and `shutdown` does not hang."""
    called: list[int] = []
    outage = Outage(runs_engine)
    manager = RunManager(runs_engine, heartbeat=NEVER, executor=Delayed(outage.begin))
    handle = manager.start(called.append, 1)
    assert eventually(lambda: outage.refused >= 1)
    manager.shutdown(cancel=cancel)
    said = handle.wait(0)
    outage.end()

    assert (said.target, said.outcome) == ("cancelled" if cancel else "failed", Outcome.UNSAVED)
    with pytest.raises(RunCancelled if cancel else ConnectionFailureError):
        handle.result()
    assert called == []
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("pending", 1)


def test_a_run_that_was_asked_to_stop_before_it_could_begin_does_not(runs_engine: Engine) -> None:
    """Cancelled while nobody answers: when the database is back the run is cancelled, its function was not called."""
    called: list[int] = []
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=0.02, executor=Delayed(outage.begin)) as manager:
        handle = manager.start(called.append, 1)
        assert eventually(lambda: outage.refused >= 1)
        with pytest.raises(ConnectionFailureError):
            handle.cancel()
        outage.end()

        assert (handle.wait(PATIENCE).state, handle.wait().outcome) == ("cancelled", Outcome.APPLIED)
    assert called == []


def test_a_claim_that_cannot_work_fails_with_the_driver_s_words(runs_engine: Engine) -> None:
    """What is no outage is not waited out; the statement and its values, which SQLAlchemy adds, are not told."""

    def spoil() -> None:
        with runs_engine.begin() as connection:
            connection.execute(text("ALTER TABLE statelatch_runs RENAME TO elsewhere"))

    with RunManager(runs_engine, heartbeat=NEVER, executor=Delayed(spoil)) as manager:
        handle = manager.start(nothing)
        said = handle.wait(PATIENCE)

    assert (said.target, said.outcome) == ("failed", Outcome.UNSAVED)
    assert said.error is not None
    assert ("statelatch_runs" in said.error, "[SQL" in said.error, "[parameters" in said.error) == (True, False, False)
    with pytest.raises(DBAPIError):
        handle.result()


def test_a_late_subscriber_gets_an_unsaved_end(runs_engine: Engine) -> None:
    """No row tells it, so the manager remembers; it does not leave the subscriber waiting."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=NEVER) as manager:
        handle = manager.start(outage.begin)
        said = handle.wait(PATIENCE)
        outage.end()
        manager.start(nothing).wait(PATIENCE)

        assert said.outcome is Outcome.UNSAVED
        assert list(manager.subscribe(handle.id)) == [said]


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

        assert (said.target, said.outcome) == ("cancelled", Outcome.UNSAVED)
        with pytest.raises(RunCancelled):
            handle.result()
