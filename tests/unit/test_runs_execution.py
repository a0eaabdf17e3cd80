"""One run in memory: its cancel flag, hooks, progress and end, without a database."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest

from statelatch.runs import Finalized, LogLine, Outcome, Progress, RunCancelled, RunContext, Started, current_run
from statelatch.runs.context import LARGEST, entered
from statelatch.runs.execution import Execution
from statelatch.runs.executions import REMEMBERED, Executions
from statelatch.runs.subscriptions import Subscriptions

RUN = UUID(int=1)


def end(state: str = "completed") -> Finalized:
    """An end of the run."""
    return Finalized(run_id=RUN, target=state, outcome=Outcome.APPLIED, state=state, version=3, via="primary")


@pytest.fixture
def subscriptions() -> Subscriptions:
    """A registry of its own."""
    return Subscriptions()


@pytest.fixture
def execution(subscriptions: Subscriptions) -> Execution:
    """A run that has not begun."""
    return Execution(RUN, "worker", subscriptions)


@pytest.fixture
def run(execution: Execution) -> RunContext:
    """The run as its function sees it."""
    return RunContext(execution)


# -- cancel hooks -------------------------------------------------------------------------------------------


def test_cancel_hooks_run_once_in_order(execution: Execution, run: RunContext) -> None:
    """The first request sets the flag and calls the hooks as they were registered; a second does nothing."""
    called: list[object] = []
    run.on_cancel(lambda: called.append((1, run.cancelled)))
    run.on_cancel(lambda: called.append((2, run.cancelled)))

    execution.request_cancel()
    execution.request_cancel()

    assert called == [(1, True), (2, True)]


def test_a_hook_that_comes_after_the_request_runs_at_once(execution: Execution, run: RunContext) -> None:
    """Whoever registers too late is told now."""
    called: list[int] = []
    execution.request_cancel()
    run.on_cancel(lambda: called.append(1))

    assert called == [1]


def test_cancel_hooks_run_although_the_run_is_over(execution: Execution, run: RunContext) -> None:
    """A forced cancel ends the run while its function still waits: the hook must interrupt it all the same."""
    called: list[int] = []
    run.on_cancel(lambda: called.append(1))
    execution.close(end("cancelled"))
    execution.request_cancel()

    assert called == [1]


def test_no_cancel_hook_runs_once_the_function_has_ended(execution: Execution, run: RunContext) -> None:
    """A request that comes after the function has nothing to interrupt: neither old hooks nor new ones are called."""
    called: list[int] = []
    run.on_cancel(lambda: called.append(1))
    execution.stopped()
    execution.request_cancel()
    run.on_cancel(lambda: called.append(2))

    assert called == []
    assert run.cancelled


def test_a_hook_may_register_another(execution: Execution, run: RunContext) -> None:
    """No lock is held while hooks run."""
    called: list[int] = []
    run.on_cancel(lambda: run.on_cancel(lambda: called.append(2)))
    execution.request_cancel()

    assert called == [2]


def test_each_hook_runs_once_whoever_is_first(execution: Execution, run: RunContext) -> None:
    """Eight threads register and eight request at the same instant: every hook is called exactly once."""
    called: list[int] = []
    instant = threading.Barrier(16)

    def register(number: int) -> None:
        instant.wait(10)
        run.on_cancel(lambda: called.append(number))

    def request(_: int) -> None:
        instant.wait(10)
        execution.request_cancel()

    with ThreadPoolExecutor(16) as threads:
        for number in range(8):
            threads.submit(register, number)
            threads.submit(request, number)

    assert sorted(called) == list(range(8))


# -- the end --------------------------------------------------------------------------------------------------


def test_a_run_ends_once(execution: Execution) -> None:
    """The first end counts; later ones are dropped."""
    execution.close(end("cancelled"))
    execution.close(end("completed"))

    assert execution.finalized.result(0) == end("cancelled")


def test_a_run_ends_once_whoever_is_first(execution: Execution, run: RunContext, subscriptions: Subscriptions) -> None:
    """Of 16 ends at the same instant one is kept and told, and the close hook runs once."""
    called: list[int] = []
    run.on_close(lambda: called.append(1))
    instant = threading.Barrier(16)

    def close(_: int) -> None:
        instant.wait(10)
        execution.close(end())

    subscription = subscriptions.subscribe(RUN, 100)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(close, range(16)))
    assert called == [1]
    assert list(subscription) == [end()]


# -- who is inside ----------------------------------------------------------------------------------------------


def test_a_run_is_gone_when_it_is_over_and_nobody_is_inside(execution: Execution) -> None:
    """A forced cancel ends the run while its function goes on: it is gone when that stops, not before."""
    assert execution.enter()
    execution.close(end("cancelled"))
    assert (execution.finalized.done(), execution.gone.done()) == (True, False)
    execution.leave()

    assert execution.gone.done()


def test_a_run_that_is_over_lets_nobody_in(execution: Execution) -> None:
    """Cancelled before its thread came: the thread does not call the function, and the run is gone at once."""
    execution.close(end("cancelled"))

    assert execution.gone.done()
    assert not execution.enter()


def test_a_run_is_not_abandoned_while_a_thread_is_inside(execution: Execution) -> None:
    """Whoever is inside writes the last word; without anybody, waiting for it ends."""
    execution.enter()
    execution.abandon(end("cancelled"))
    assert not execution.over
    execution.leave()
    execution.abandon(end("cancelled"))

    assert execution.finalized.result(0) == end("cancelled")


def test_hooks_that_are_called_aside_do_not_hold_up_the_caller(execution: Execution, run: RunContext) -> None:
    """A hook that blocks blocks its own thread alone; the flag is set at once."""
    called, release = threading.Event(), threading.Event()
    run.on_cancel(lambda: called.set() or release.wait(10))
    execution.request_cancel(aside=True)

    assert run.cancelled
    assert called.wait(10)
    release.set()


def test_close_hooks_find_the_run_over(execution: Execution, run: RunContext, subscriptions: Subscriptions) -> None:
    """When they run everybody has been told."""
    found: list[object] = []
    subscription = subscriptions.subscribe(RUN, 10)
    run.on_close(lambda: found.append((execution.finalized.result(0), list(subscription))))
    execution.close(end())

    assert found == [(end(), [end()])]


def test_a_close_hook_that_comes_after_the_end_runs_at_once(execution: Execution, run: RunContext) -> None:
    """A function whose run was ended by force still gets its resources closed."""
    called: list[int] = []
    execution.close(end("cancelled"))
    run.on_close(lambda: called.append(1))

    assert called == [1]


ESCAPING = [ValueError("broken"), SystemExit(1), asyncio.CancelledError()]


@pytest.mark.parametrize("error", ESCAPING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["on_cancel", "on_close"])
def test_a_hook_that_raises_is_logged_and_no_more(
    execution: Execution, run: RunContext, caplog: pytest.LogCaptureFixture, kind: str, error: BaseException
) -> None:
    """Whatever a hook raises, the next one runs, and whoever caused it goes on."""

    def broken() -> None:
        raise error

    called: list[int] = []
    register: Callable[[Callable[[], object]], None] = getattr(run, kind)
    register(broken)
    register(lambda: called.append(1))
    with caplog.at_level(logging.ERROR, "statelatch.runs"):
        execution.request_cancel()
        execution.close(end())

    assert called == [1]
    assert [f"run {RUN}: a hook raised; the run's status is not affected"] == caplog.messages


# -- progress and log -------------------------------------------------------------------------------------------


def test_progress_is_unsaved_until_a_heartbeat_has_saved_it(execution: Execution, run: RunContext) -> None:
    """A heartbeat that failed leaves it for the next; what came meanwhile is not taken for saved."""
    assert execution.unsaved_progress is None
    run.progress(1)
    first = execution.unsaved_progress
    assert first is not None
    run.progress(2)
    execution.saved(first)
    second = execution.unsaved_progress
    assert second is not None
    assert (first.current, second.current) == (1, 2)
    execution.saved(second)

    assert execution.unsaved_progress is None
    assert execution.last_progress is second


class Number:
    """An integer of another library."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize("number", [0, -LARGEST, LARGEST, True, Number(5)])
def test_progress_takes_any_integer_of_64_bits(execution: Execution, run: RunContext, number: int | Number) -> None:
    """It is kept as a plain int, which every driver knows."""
    run.progress(number, number)
    last = execution.last_progress

    assert last is not None
    assert (int, int) == (type(last.current), type(last.total))
    assert last.current == last.total == int(number.__index__())


@pytest.mark.parametrize("number", [LARGEST + 1, -LARGEST - 1, 10**100, 0.5, float("nan"), "3", None])
@pytest.mark.parametrize("name", ["current", "total"])
def test_progress_refuses_other_numbers(execution: Execution, run: RunContext, name: str, number: object) -> None:
    """A number that some database cannot hold is told to the function at once, and nothing is kept."""
    if (name, number) == ("total", None):
        return
    numbers = {"current": 1, name: number}
    with pytest.raises(ValueError, match=f"{name}: expected an integer of 64 bits, found"):
        run.progress(**numbers)  # pyright: ignore[reportArgumentType]  as untyped code may call it

    assert execution.last_progress is None


def test_progress_steps_are_cleaned(execution: Execution, run: RunContext) -> None:
    """A step is text for people: without control characters, which PostgreSQL would refuse, and not endless."""
    run.progress(1, step="a\x00b\ud800 \x1b[31m" + "x" * 5000)
    last = execution.last_progress

    assert last is not None
    assert last.step is not None
    assert last.step.startswith("ab ")
    assert len(last.step) <= 1024


def test_subscribers_see_what_the_function_says(
    execution: Execution, run: RunContext, subscriptions: Subscriptions
) -> None:
    """Start, lines, progress and end, in this order."""
    subscription = subscriptions.subscribe(RUN, 10)
    execution.started()
    run.log("line")
    run.progress(1, 2, "step")
    execution.close(end())
    events = list(subscription)

    assert events[0] == Started(run_id=RUN, attempt=1)
    assert isinstance(events[1], LogLine)
    assert events[1].message == "line"
    assert events[2:] == [Progress(run_id=RUN, current=1, total=2, step="step"), end()]


# -- current_run --------------------------------------------------------------------------------------------------


def test_current_run_is_the_run_that_was_entered(execution: Execution) -> None:
    """Inside it is the run; outside, and in a thread of the function's own, there is none."""
    with entered(execution):
        assert (current_run().id, current_run().attempt) == (RUN, 1)
        with ThreadPoolExecutor(1) as threads, pytest.raises(LookupError, match="no current run"):
            threads.submit(current_run).result()
    with pytest.raises(LookupError, match="no current run"):
        current_run()


def test_runs_inside_one_another_are_kept_apart(execution: Execution, subscriptions: Subscriptions) -> None:
    """An executor that runs work at once, in the caller's thread, gives the caller its own run back."""
    inner = Execution(UUID(int=2), "worker", subscriptions)
    with entered(execution):
        with entered(inner):
            assert current_run().id == UUID(int=2)
        assert current_run().id == RUN


def test_raise_if_cancelled(execution: Execution, run: RunContext) -> None:
    """It raises only once somebody has asked."""
    run.raise_if_cancelled()
    execution.request_cancel()
    with pytest.raises(RunCancelled, match=str(RUN)):
        run.raise_if_cancelled()


# -- the runs of a process ------------------------------------------------------------------------------------------


def unsaved(number: int) -> Finalized:
    """The end of a run that no connection took."""
    return Finalized(
        run_id=UUID(int=number), target="completed", outcome=Outcome.UNSAVED, state=None, version=None, via=None
    )


def test_unsaved_ends_are_remembered_for_a_while(subscriptions: Subscriptions) -> None:
    """The last thousand; the ends that a row tells are not."""
    executions = Executions()
    for number in range(REMEMBERED + 2):
        execution = Execution(UUID(int=number), "worker", subscriptions)
        executions.add(execution)
        execution.close(unsaved(number) if number else end())
        executions.forget(execution)

    assert len(executions) == 0
    assert [executions.unsaved(UUID(int=number)) for number in (0, 1, 2, REMEMBERED + 1)] == [
        None,
        None,
        unsaved(2),
        unsaved(REMEMBERED + 1),
    ]


def test_an_end_that_is_written_later_is_forgotten(subscriptions: Subscriptions) -> None:
    """A word in the spool is remembered like one that is lost, until it is written: then its row tells it."""
    executions = Executions()
    execution = Execution(UUID(int=1), "worker", subscriptions)
    executions.add(execution)
    spooled = replace(unsaved(1), outcome=Outcome.SPOOLED, via="spool")
    execution.close(spooled)

    assert executions.unsaved(UUID(int=1)) == spooled
    executions.written(UUID(int=1))
    executions.written(UUID(int=2))
    assert executions.unsaved(UUID(int=1)) is None


def test_no_executor_is_promised_a_run_once_the_manager_is_closing(
    execution: Execution, subscriptions: Subscriptions
) -> None:
    """Those that were promised before are what `close` returns to wait for."""
    executions = Executions()
    executions.add(execution)
    executions.promise(execution)
    assert [execution] == executions.close()
    late = Execution(UUID(int=2), "worker", subscriptions)
    executions.add(late)

    with pytest.raises(RuntimeError, match="this RunManager is shut down"):
        executions.promise(late)
    assert (execution.awaited, late.awaited) == (True, False)
