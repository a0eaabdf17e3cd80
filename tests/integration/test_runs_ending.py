"""How a run ends: completed, failed or cancelled, what its row then says, and that nothing else changes it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from statelatch.errors import TransitionRefusedError
from statelatch.runs import Finalized, Outcome, Run, RunCancelled, RunManager, current_run
from statelatch.runs.endings import DEEPEST_JSON, LARGEST_JSON
from tests.runs import PATIENCE, at_gate, eventually, nothing, stored
from tests.unit.test_runs_endings import Stubborn, nested

pytestmark = pytest.mark.usefixtures("either_way")


def raising(error: BaseException) -> None:
    """Raise it."""
    raise error


# -- the last word --------------------------------------------------------------------------------------------


def test_a_function_that_returns_completes_its_run(manager: RunManager, runs_engine: Engine) -> None:
    """Completed at version 3, with its result, both times, and no lease; the caller gets the very value."""
    value = {"a": (1, 2)}
    handle = manager.start(lambda: value)

    assert handle.wait(PATIENCE) == Finalized(
        run_id=handle.id, target="completed", outcome=Outcome.APPLIED, state="completed", version=3, via="primary"
    )
    assert handle.result() is value
    row = stored(runs_engine, handle.id)
    assert (row.status, row.version, row.attempt, row.result) == ("completed", 3, 1, {"a": [1, 2]})
    assert (row.error, row.error_type, row.lease_expires_at) == (None, None, None)
    assert row.started_at is not None
    assert row.finished_at is not None
    assert row.created_at <= row.started_at <= row.finished_at
    assert abs(row.finished_at - datetime.now(UTC)) < timedelta(seconds=10)


def test_a_function_that_raises_fails_its_run(manager: RunManager, runs_engine: Engine) -> None:
    """Failed, with the sanitized text and the class; the caller gets the very exception."""
    error = ValueError("bad\nfile /etc/passwd at https://a.example/b")
    handle = manager.start(raising, error)
    said = handle.wait(PATIENCE)

    text = "bad file <path> at https://a.example/b"
    assert ("failed", 3, Outcome.APPLIED, text) == (said.state, said.version, said.outcome, said.error)
    row = stored(runs_engine, handle.id)
    assert ("failed", text, "ValueError", None) == (row.status, row.error, row.error_type, row.result)
    with pytest.raises(ValueError, match="bad") as caught:
        handle.result()
    assert caught.value is error


def test_a_function_that_raises_run_cancelled_cancels_its_run(manager: RunManager, runs_engine: Engine) -> None:
    """Cancelled by its own decision: no error, and the time of the request is the function's own."""
    handle = manager.start(raising, RunCancelled("enough"))
    said = handle.wait(PATIENCE)

    assert (said.state, said.version, said.outcome, said.error) == ("cancelled", 3, Outcome.APPLIED, None)
    row = stored(runs_engine, handle.id)
    assert (row.status, row.error, row.error_type) == ("cancelled", None, None)
    assert row.cancel_requested_at is not None
    with pytest.raises(RunCancelled):
        handle.result()


EXITS: list[BaseException] = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]


@pytest.mark.parametrize("error", EXITS, ids=lambda error: type(error).__name__)
def test_a_function_that_exits_fails_its_run(manager: RunManager, runs_engine: Engine, error: BaseException) -> None:
    """Whatever it raises is the run's end, not the thread's."""
    handle = manager.start(raising, error)

    assert handle.wait(PATIENCE).state == "failed"
    assert stored(runs_engine, handle.id).error_type in {type(error).__name__, "asyncio.exceptions.CancelledError"}
    with pytest.raises(type(error)):
        handle.result()


def test_a_coroutine_that_nobody_awaits_is_no_success(manager: RunManager) -> None:
    """A function that hides a coroutine function has done nothing yet: its run is failed, with what to do."""

    async def work() -> None: ...

    said = manager.start(lambda: work()).wait(PATIENCE)  # noqa: PLW0108  a coroutine function itself is refused

    assert said.state == "failed"
    assert "returned a coroutine" in str(said.error)


def test_a_function_that_returned_has_completed(manager: RunManager, runs_engine: Engine) -> None:
    """A cancel that was asked for while it ran changes nothing, for it did not stop."""
    with at_gate() as gate:
        handle = manager.start(gate, "value")
        gate.wait()
        assert handle.cancel().written is False
        gate.open()

        assert handle.wait(PATIENCE).state == "completed"
    assert handle.result() == "value"
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("completed", 3)


def test_a_cancel_after_the_end_is_refused(manager: RunManager, runs_engine: Engine) -> None:
    """It says that the run has completed, and touches nothing."""
    handle = manager.start(nothing)
    handle.wait(PATIENCE)
    for force in (False, True):
        with pytest.raises(TransitionRefusedError) as refused:
            handle.cancel(force=force)
        assert (refused.value.state, refused.value.version) == ("completed", 3)

    row = stored(runs_engine, handle.id)
    assert (row.status, row.version, row.cancel_requested_at) == ("completed", 3, None)


def test_a_pending_run_that_is_cancelled_never_runs(runs_engine: Engine) -> None:
    """It ends at once, before any thread has time for it, and its function is not called later either."""
    called: list[int] = []
    with ThreadPoolExecutor(1) as executor, RunManager(runs_engine, executor=executor) as manager, at_gate() as gate:
        manager.start(gate)
        handle = manager.start(called.append, 1)
        said = handle.cancel()

        assert (said.state, said.version, said.written) == ("cancelled", 2, True)
        assert (handle.wait(0).state, handle.wait(0).outcome) == ("cancelled", Outcome.APPLIED)
        with pytest.raises(RunCancelled):
            handle.result(0)
    assert called == []
    row = stored(runs_engine, handle.id)
    assert (row.status, row.version, row.started_at, row.attempt) == ("cancelled", 2, None, 0)


def test_a_pending_run_that_another_manager_cancels_never_runs(runs_engine: Engine) -> None:
    """Its own manager learns of it when its turn comes."""
    called: list[int] = []
    with ThreadPoolExecutor(1) as executor, RunManager(runs_engine, executor=executor) as manager, at_gate() as gate:
        manager.start(gate)
        handle = manager.start(called.append, 1)
        with RunManager(runs_engine) as other:
            assert other.cancel(handle.id).written
        gate.open()
        said = handle.wait(PATIENCE)

        assert (said.state, said.version, said.outcome) == ("cancelled", 2, Outcome.NO_OP)
    assert called == []


def test_a_request_that_is_there_before_the_thread_begins(runs_engine: Engine) -> None:
    """Somebody has asked and not yet written `cancelled`: the run does not start, and its own worker writes it."""
    called: list[int] = []
    with ThreadPoolExecutor(1) as executor, RunManager(runs_engine, executor=executor) as manager, at_gate() as gate:
        manager.start(gate)
        handle = manager.start(called.append, 1)
        with runs_engine.begin() as connection:
            connection.execute(update(Run).where(Run.id == handle.id).values(cancel_requested_at=datetime.now(UTC)))
        gate.open()
        said = handle.wait(PATIENCE)

        assert (said.state, said.version, said.outcome) == ("cancelled", 2, Outcome.APPLIED)
    assert called == []
    assert stored(runs_engine, said.run_id).status == "cancelled"


def test_waiting_has_a_limit(manager: RunManager) -> None:
    """A run that is not over goes on; the caller is told so."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        with pytest.raises(TimeoutError, match=f"run {handle.id} is not over after 0.01 seconds"):
            handle.wait(0.01)
        with pytest.raises(TimeoutError):
            handle.result(0.01)


def returned(value: object) -> object:
    """Return it."""
    return value


# -- results and error texts ---------------------------------------------------------------------------------

RESULTS: list[tuple[str, Any, Any]] = [
    ("none", None, None),
    ("false", False, False),
    ("text", "Größe 漢字 😀 \x00", "Größe 漢字 😀 \x00"),
    ("large numbers", [2**63 - 1, -(2**63), 0.1], [2**63 - 1, -(2**63), 0.1]),
    ("a large number alone", 2**63 - 1, 2**63 - 1),
    ("a number too large", 2**64 + 1, None),
    ("deepest", nested(DEEPEST_JSON), nested(DEEPEST_JSON)),
    ("largest", "x" * (LARGEST_JSON - 2), "x" * (LARGEST_JSON - 2)),
    ("too deep", nested(DEEPEST_JSON + 1), None),
    ("2 MB", "x" * 2**21, None),
    ("no JSON", object(), None),
    ("not a number", float("nan"), None),
    ("half a character", "\ud800", None),
    ("raises when read", Stubborn(a=1), None),
]


def test_results_are_kept_where_every_database_holds_them(manager: RunManager, runs_engine: Engine) -> None:
    """Whatever a function returns, its run has completed; what is no JSON for some database is not in the row."""
    handles = [(name, value, manager.start(returned, value), kept) for name, value, kept in RESULTS]

    for name, value, handle, kept in handles:
        assert (name, "completed", Outcome.APPLIED) == (name, handle.wait(PATIENCE).state, handle.wait().outcome)
        assert handle.result() is value
        assert (name, kept) == (name, stored(runs_engine, handle.id).result)


class SilentError(Exception):
    """An error without words."""


class BrokenError(Exception):
    """An error whose words are an error."""

    def __str__(self) -> str:
        raise RuntimeError


ERRORS: list[tuple[BaseException, str]] = [
    (ValueError("a\x00b\x07c"), "abc"),
    (ValueError("Größe 漢字 😀"), "Größe 漢字 😀"),
    (ValueError("half \ud83d a pair"), "half a pair"),
    (ValueError("x" * 5000), "x" * 1023 + "…"),
    (ValueError("😀" * 5000), "😀" * 1023 + "…"),
    (SilentError(), "SilentError"),
    (BrokenError(), "BrokenError"),
    (FileNotFoundError(2, "No such file", "/srv/x y"), "[Errno 2] No such file: '<path>'"),
    (OSError("see https://a.example/b?c=d"), "see https://a.example/b?c=d"),
]


def test_error_texts_are_fit_to_be_kept(manager: RunManager, runs_engine: Engine) -> None:
    """No control characters, no file paths, 1,024 characters at most, the class name where there is no message."""
    handles = [(manager.start(raising, error), expected) for error, expected in ERRORS]

    for handle, expected in handles:
        assert ("failed", expected) == (handle.wait(PATIENCE).state, handle.wait().error)
        assert expected == stored(runs_engine, handle.id).error


def test_the_last_progress_is_kept(manager: RunManager, runs_engine: Engine) -> None:
    """However the run ends, its row says how far it came, without waiting for a heartbeat."""

    def function(end: Callable[[], object]) -> None:
        run = current_run()
        run.progress(1, 9, "first")
        run.progress(2**63 - 1, 2**63 - 1, "a\x00b 😀 /etc/passwd")
        end()

    ends: list[Callable[[], object]] = [nothing, lambda: raising(ValueError()), lambda: raising(RunCancelled())]
    for handle in [manager.start(function, end) for end in ends]:
        handle.wait(PATIENCE)
        row = stored(runs_engine, handle.id)
        assert (row.progress_current, row.progress_total, row.progress_step) == (2**63 - 1, 2**63 - 1, "ab 😀 <path>")


def test_the_three_columns_of_progress_are_of_one_report(runs_engine: Engine) -> None:
    """A heartbeat has saved a report with total and step: the last one, which has neither, does not inherit them."""
    with RunManager(runs_engine, heartbeat=0.02) as manager, at_gate() as gate:

        def function() -> None:
            current_run().progress(1, 10, "first")
            gate()
            current_run().progress(2)

        handle = manager.start(function)
        gate.wait()
        assert eventually(lambda: stored(runs_engine, handle.id).progress_step == "first")
        gate.open()
        handle.wait(PATIENCE)
        row = stored(runs_engine, handle.id)

    assert (row.progress_current, row.progress_total, row.progress_step) == (2, None, None)


def test_without_a_last_report_the_saved_progress_stays(manager: RunManager, runs_engine: Engine) -> None:
    """The function never said how far it is: what the row holds is not wiped out."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        with runs_engine.begin() as connection:
            saved = {"progress_current": 1, "progress_total": 2, "progress_step": "s"}
            connection.execute(update(Run).where(Run.id == handle.id).values(saved))
        gate.open()
        handle.wait(PATIENCE)
    row = stored(runs_engine, handle.id)

    assert (row.progress_current, row.progress_total, row.progress_step) == (1, 2, "s")


# -- hooks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["on_cancel", "on_close"])
def test_a_hook_that_raises_changes_no_status(manager: RunManager, runs_engine: Engine, kind: str) -> None:
    """The run ends as it would have, and the hooks after it are called."""
    closed, reached = threading.Event(), threading.Event()

    def function() -> None:
        run, asked = current_run(), threading.Event()
        getattr(run, kind)(lambda: raising(SystemExit(1)))
        run.on_cancel(asked.set)
        run.on_close(closed.set)
        reached.set()
        assert asked.wait(PATIENCE)
        run.raise_if_cancelled()

    handle = manager.start(function)
    assert reached.wait(PATIENCE)
    handle.cancel()

    assert (handle.wait(PATIENCE).state, handle.wait().outcome) == ("cancelled", Outcome.APPLIED)
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).error) == ("cancelled", None)
    assert closed.wait(PATIENCE)


def test_close_hooks_run_after_the_last_word(manager: RunManager, runs_engine: Engine) -> None:
    """What a close hook reads in the database is the end, for every kind of end."""
    found: list[str] = []

    def function(end: Callable[[], object]) -> None:
        run_id = current_run().id
        current_run().on_close(lambda: found.append(stored(runs_engine, run_id).status))
        end()

    ends: list[Callable[[], object]] = [nothing, lambda: raising(ValueError()), lambda: raising(RunCancelled())]
    with RunManager(runs_engine) as other:
        for end in ends:
            other.start(function, end).wait(PATIENCE)

    assert found == ["completed", "failed", "cancelled"]
