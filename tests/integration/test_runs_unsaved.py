"""Nobody answers: a last word that cannot be written is told, and taken for nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from statelatch.errors import ConnectionFailureError
from statelatch.runs import Outcome, RunCancelled, RunManager
from tests.databases import unreachable
from tests.outages import Outage
from tests.runs import ENDS, NEVER, PATIENCE, Delayed, Holding, at_gate, broken, nothing, stored


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


def test_a_claim_that_nobody_takes_calls_nothing(runs_engine: Engine) -> None:
    """The database goes away before the thread begins: the function is not called, and its run is unsaved as failed."""
    called: list[int] = []
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=NEVER, executor=Delayed(outage.begin)) as manager:
        handle = manager.start(called.append, 1)
        said = handle.wait(PATIENCE)
        outage.end()

        assert (said.target, said.outcome) == ("failed", Outcome.UNSAVED)
        with pytest.raises(ConnectionFailureError):
            handle.result()
    assert called == []
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("pending", 1)


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
