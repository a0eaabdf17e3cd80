"""Cancelling a run: who is told, when, and what a cancel that changes nothing says."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, event

from statelatch.errors import ConnectionFailureError, RowNotFoundError, TransitionRefusedError
from statelatch.runs import (
    Cancellation,
    CancelRequestedError,
    Outcome,
    RunCancelled,
    RunHandle,
    RunManager,
    current_run,
)
from tests.outages import LostCommit, Outage
from tests.runs import PATIENCE, at_gate, stored, until_cancelled


def begun(manager: RunManager, **options: Any) -> RunHandle:
    """A run whose function is waiting to be cancelled."""
    reached = threading.Event()
    handle = manager.start(until_cancelled, reached, **options)
    assert reached.wait(PATIENCE)
    return handle


def test_a_running_run_is_asked_to_stop(manager: RunManager, runs_engine: Engine) -> None:
    """The request is in the row, the hook has run when `cancel` returns, and the run ends as cancelled."""
    handle = begun(manager)
    said = handle.cancel()

    assert said == Cancellation(run_id=handle.id, state="running", version=2, written=False)
    assert (
        handle.wait(PATIENCE).state,
        handle.wait().version,
        handle.wait().outcome,
    ) == ("cancelled", 3, Outcome.APPLIED)
    row = stored(runs_engine, handle.id)
    assert (row.status, row.version, row.error) == ("cancelled", 3, None)
    assert row.cancel_requested_at is not None
    with pytest.raises(RunCancelled):
        handle.result()


def test_one_run_is_cancelled_and_no_other(manager: RunManager, runs_engine: Engine) -> None:
    """A and B run, A is cancelled: B is untouched; nor does a late cancel of A, which has ended, touch anything."""
    first, second = begun(manager, key="a"), begun(manager, key="b")
    before = stored(runs_engine, second.id)
    first.cancel()
    first.wait(PATIENCE)
    ended = stored(runs_engine, first.id)
    with pytest.raises(TransitionRefusedError):
        first.cancel()

    after = stored(runs_engine, second.id)
    assert ("running", None, before.version) == (after.status, after.cancel_requested_at, after.version)
    again = stored(runs_engine, first.id)
    assert (ended.version, ended.finished_at, ended.cancel_requested_at) == (
        again.version,
        again.finished_at,
        again.cancel_requested_at,
    )
    second.cancel()


def test_a_second_request_keeps_the_first_one_s_time(manager: RunManager, runs_engine: Engine) -> None:
    """Asking twice is no error and changes nothing."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        first = handle.cancel(), stored(runs_engine, handle.id).cancel_requested_at
        second = handle.cancel(), stored(runs_engine, handle.id).cancel_requested_at

    assert first == second


def test_a_run_that_does_not_exist_cannot_be_cancelled(manager: RunManager) -> None:
    """It says so; it is not taken for one that has ended."""
    missing = uuid4()
    with pytest.raises(RowNotFoundError) as refused:
        manager.cancel(missing)

    assert missing == refused.value.key


def test_force_ends_a_run_that_does_not_stop(manager: RunManager, runs_engine: Engine) -> None:
    """Cancelled at once; the function is told, may go on, and what it returns is dropped without a fallback."""
    asked = threading.Event()

    def deaf() -> str:
        current_run().on_cancel(asked.set)
        gate()
        return "too late"

    with at_gate() as gate:
        handle = manager.start(deaf)
        gate.wait()
        said = handle.cancel(force=True)

        assert (said.state, said.version, said.written) == ("cancelled", 3, True)
        assert (handle.wait(0).target, handle.wait(0).state, handle.wait(0).version) == ("cancelled", "cancelled", 3)
        assert asked.is_set()
        gate.open()
    manager.shutdown()
    row = stored(runs_engine, handle.id)
    assert (row.status, row.version, row.result) == ("cancelled", 3, None)
    with pytest.raises(RunCancelled):
        handle.result()


def test_force_wakes_a_function_that_waits(manager: RunManager) -> None:
    """Cancel hooks run after a forced cancel, too: else the function would wait for ever, and `shutdown` with it."""
    handle = begun(manager)
    handle.cancel(force=True)
    waited = time.monotonic()
    manager.shutdown()

    assert time.monotonic() - waited < PATIENCE / 2


def test_another_manager_s_force_wins_over_completion(runs_engine: Engine, manager: RunManager) -> None:
    """What the function returns afterwards is a no-op that says what the row holds."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        with RunManager(runs_engine) as other:
            assert other.cancel(handle.id, force=True).written
        gate.open()
        said = handle.wait(PATIENCE)

    assert (
        said.target,
        said.outcome,
        said.state,
        said.version,
        said.via,
    ) == ("completed", Outcome.NO_OP, "cancelled", 3, "primary")
    with pytest.raises(RunCancelled):
        handle.result()


@pytest.mark.parametrize("force", [False, True])
def test_a_cancel_between_return_and_last_word(manager: RunManager, runs_engine: Engine, *, force: bool) -> None:
    """The function has returned: a request changes nothing, a `cancelled` that is written before `completed` wins."""
    returning = threading.Event()
    said: list[Cancellation] = []

    def overtake(_connection: Connection, _cursor: object, _statement: str, *_: object) -> None:
        if returning.is_set():
            returning.clear()
            said.append(other.cancel(handle.id, force=force))

    with RunManager(runs_engine.url) as other, at_gate() as gate:

        def function() -> str:
            gate()
            returning.set()
            return "value"

        handle = manager.start(function)
        event.listen(runs_engine, "before_cursor_execute", overtake)
        gate.open()
        finalized = handle.wait(PATIENCE)

    assert [each.written for each in said] == [force]
    expected = ("cancelled", Outcome.NO_OP) if force else ("completed", Outcome.APPLIED)
    assert (finalized.state, finalized.outcome) == expected
    row = stored(runs_engine, handle.id)
    assert (row.status, row.version, row.cancel_requested_at is not None) == (finalized.state, 3, True)


@pytest.mark.parametrize("heartbeat", [0.05, 0.5])
def test_another_manager_s_cancel_is_seen_within_a_heartbeat(runs_engine: Engine, heartbeat: float) -> None:
    """The worker's own manager reads the request when its heart next beats, and the hooks run."""
    with RunManager(runs_engine, heartbeat=heartbeat) as manager, RunManager(runs_engine) as other:
        handle = begun(manager)
        assert other.cancel(handle.id) == Cancellation(run_id=handle.id, state="running", version=2, written=False)
        asked = time.monotonic()
        said = handle.wait(PATIENCE)

        assert time.monotonic() - asked < heartbeat + 0.5
        assert (said.state, said.version, said.outcome) == ("cancelled", 3, Outcome.APPLIED)


def test_a_run_may_cancel_itself(manager: RunManager) -> None:
    """From inside its own function; it stops where it looks."""

    def function() -> str:
        run = current_run()
        assert not run.cancelled
        manager.cancel(run.id)
        assert run.cancelled
        run.raise_if_cancelled()
        return "not reached"

    assert manager.start(function).wait(PATIENCE).state == "cancelled"


def test_a_hook_may_cancel_its_run_again(manager: RunManager) -> None:
    """No lock is held while a hook runs; the second request changes nothing."""
    calls: list[bool] = []

    def function() -> None:
        run = current_run()
        run.on_cancel(lambda: calls.append(manager.cancel(run.id).written))
        until_cancelled(reached)

    reached = threading.Event()
    handle = manager.start(function)
    assert reached.wait(PATIENCE)
    handle.cancel()

    assert handle.wait(PATIENCE).state == "cancelled"
    assert calls == [False]


def test_a_hook_that_comes_after_the_request_runs_at_once(manager: RunManager) -> None:
    """A function that registers too late is not left waiting."""
    called: list[int] = []

    def function() -> None:
        gate()
        current_run().on_cancel(lambda: called.append(1))
        current_run().raise_if_cancelled()

    with at_gate() as gate:
        handle = manager.start(function)
        gate.wait()
        handle.cancel()
        gate.open()

        assert handle.wait(PATIENCE).state == "cancelled"
    assert called == [1]


def test_no_cancel_hook_runs_because_a_run_has_ended(runs_engine: Engine) -> None:
    """The heart beats between COMMIT and its acknowledgement: nobody asked for a cancel, so no hook is called."""
    called: list[int] = []
    returning = threading.Event()
    beats = threading.Semaphore(0)

    def commit(connection: Connection) -> None:
        if threading.current_thread().name == "statelatch-heartbeat":
            beats.release()
        elif returning.is_set():
            returning.clear()
            driver_connection: Any = connection.connection.dbapi_connection
            driver_connection.commit()
            while beats.acquire(blocking=False):
                pass
            for _ in range(3):  # two may have looked before; the third's predecessor has done what it does
                assert beats.acquire(timeout=PATIENCE)

    def function() -> None:
        current_run().on_cancel(lambda: called.append(1))
        returning.set()

    event.listen(runs_engine, "commit", commit)
    with RunManager(runs_engine, heartbeat=0.01) as manager:
        assert manager.start(function).wait(PATIENCE).state == "completed"
    assert not returning.is_set()
    assert called == []


def test_a_run_may_start_another(manager: RunManager, runs_engine: Engine) -> None:
    """Each knows itself; the inner one's cancel is not the outer one's."""

    def outer() -> tuple[object, object]:
        inner = manager.start(until_cancelled)
        inner.cancel()
        inner.wait(PATIENCE)
        assert not current_run().cancelled
        return current_run().id, inner.id

    handle = manager.start(outer)
    outer_id, inner_id = handle.result(PATIENCE)

    assert outer_id == handle.id
    assert (stored(runs_engine, outer_id).status, stored(runs_engine, inner_id).status) == ("completed", "cancelled")


def test_a_cancel_without_a_database_says_so(runs_engine: Engine) -> None:
    """No connection answers: the caller is told, and a function that takes no notice completes."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=9.0) as manager, at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        outage.begin()
        with pytest.raises(ConnectionFailureError):
            handle.cancel()
        outage.end()
        gate.open()

        assert handle.wait(PATIENCE).state == "completed"
    assert outage.refused >= 1


@pytest.mark.parametrize("force", [False, True])
def test_a_cancel_without_a_database_reaches_a_function_of_this_process(runs_engine: Engine, *, force: bool) -> None:
    """The request needs no row to get there: the function stops, and its last word is cancelled."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=9.0) as manager:
        reached, back = threading.Event(), threading.Event()

        def function() -> None:
            try:
                until_cancelled(reached)
            finally:
                assert back.wait(PATIENCE)

        handle = manager.start(function)
        assert reached.wait(PATIENCE)
        outage.begin()
        with pytest.raises(ConnectionFailureError):
            handle.cancel(force=force)
        outage.end()
        back.set()

        assert (handle.wait(PATIENCE).state, handle.wait().version) == ("cancelled", 3)
    assert outage.refused >= 1


@pytest.mark.parametrize("force", [False, True])
def test_a_request_that_was_written_before_the_database_went_away(runs_engine: Engine, *, force: bool) -> None:
    """The caller is told that it is written, and not that nothing was; the function stops by it."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=9.0) as manager, RunManager(runs_engine, heartbeat=9.0) as other:
        handle = begun(manager)
        event.listen(runs_engine, "checkin", lambda *_: outage.begin(), once=True)
        with pytest.raises(CancelRequestedError, match=f"The request to cancel run {handle.id} is written") as told:
            other.cancel(handle.id, force=force)
        outage.end()

        assert (outage.refused >= 1, told.value.key) == (True, handle.id)
        assert stored(runs_engine, handle.id).cancel_requested_at is not None
        assert handle.cancel().state == "running"
        assert handle.wait(PATIENCE).state == "cancelled"


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("skip", [0, 2])
def test_a_cancel_whose_commit_is_lost_is_written_once(
    manager: RunManager, runs_engine: Engine, *, landed: bool, skip: int
) -> None:
    """Of the request (the first COMMIT) or of `cancelled` (the third): one version more, whether it landed or not."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        lost = LostCommit(runs_engine, landed=landed)
        lost.arm(skip=skip)
        said = handle.cancel(force=True)

        assert lost.strikes == 1
        assert (said.state, said.version, said.written) == ("cancelled", 3, True)
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("cancelled", 3)


def test_many_cancel_one_run(manager: RunManager, runs_engine: Engine) -> None:
    """Twelve ask at the same instant: each is told the truth, the run ends once."""
    handle = begun(manager)
    instant = threading.Barrier(12)

    def cancel(number: int) -> str:
        instant.wait(PATIENCE)
        try:
            return manager.cancel(handle.id, force=number % 2 == 0).state
        except TransitionRefusedError as refused:
            return f"refused: {refused.state}"

    with ThreadPoolExecutor(12) as threads:
        said = set(threads.map(cancel, range(12)))

    assert said <= {"running", "cancelled", "refused: cancelled"}
    assert said & {"running", "cancelled"}
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("cancelled", 3)


def test_runs_of_many_managers_are_kept_apart(runs_engine: Engine) -> None:
    """A cancelled run in one of two managers leaves the other's alone."""
    with RunManager(runs_engine, heartbeat=0.02) as first, RunManager(runs_engine, heartbeat=0.02) as second:
        mine, theirs = begun(first), begun(second)
        first.cancel(theirs.id)

        assert theirs.wait(PATIENCE).state == "cancelled"
        assert stored(runs_engine, mine.id).cancel_requested_at is None
        mine.cancel()
