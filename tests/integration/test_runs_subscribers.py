"""Subscribers of real runs: what reaches whom. How a subscription itself behaves is in `tests/unit`."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from uuid import uuid4

import pytest
from sqlalchemy import Engine, delete

from statelatch.errors import RowNotFoundError
from statelatch.runs import Finalized, LogLine, Outcome, Progress, Run, RunEvent, RunManager, Started, current_run
from tests.databases import unreachable
from tests.runs import NEVER, PATIENCE, Gate, at_gate, nothing, until_cancelled


def talkative(gate: Gate, word: str, lines: int = 3) -> str:
    """Wait at a gate, then log and report progress."""
    gate()
    run = current_run()
    for number in range(lines):
        run.log(f"{word} {number}")
        run.progress(number, lines, word)
    return word


def lines_of(events: list[RunEvent]) -> list[str]:
    """What was logged."""
    return [event.message for event in events if isinstance(event, LogLine)]


def test_subscribers_see_their_own_run_alone(manager: RunManager) -> None:
    """Two runs at once, two subscribers each: every line of one's own run in order, none of the other's, one end."""
    with at_gate() as gate:
        handles = {word: manager.start(talkative, gate, word) for word in ("a", "b")}
        gate.wait()
        watching = {word: (handle.events(), manager.subscribe(handle.id)) for word, handle in handles.items()}
        gate.open()
        for word, subscriptions in watching.items():
            for subscription in subscriptions:
                events = list(subscription)
                assert [f"{word} {number}" for number in range(3)] == lines_of(events)
                assert {handles[word].id} == {event.run_id for event in events}
                assert [handles[word].wait(PATIENCE)] == [event for event in events if isinstance(event, Finalized)]
                assert [event.current for event in events if isinstance(event, Progress)] == [0, 1, 2]
                assert isinstance(events[-1], Finalized)


def test_the_start_is_the_first_event(runs_engine: Engine) -> None:
    """Who subscribes before the thread begins sees `Started`, with the attempt's number."""
    from concurrent.futures import ThreadPoolExecutor

    with (
        ThreadPoolExecutor(1) as executor,
        RunManager(runs_engine, executor=executor) as manager,
        at_gate() as gate,
    ):
        manager.start(gate)
        handle = manager.start(nothing)
        events = handle.events()
        gate.open()

        assert list(events) == [Started(run_id=handle.id, attempt=1), handle.wait(PATIENCE)]


def test_a_full_queue_drops_lines_and_never_the_end(manager: RunManager) -> None:
    """A subscriber that does not read misses lines, which are counted; it still gets the end."""
    with at_gate() as gate:
        handle = manager.start(talkative, gate, "a", 500)
        gate.wait()
        events = handle.events(maxsize=5)
        gate.open()
        said = handle.wait(PATIENCE)

    seen = list(events)
    assert seen[-1] == said
    assert (len(seen), events.dropped) == (6, 995)


def test_who_comes_late_gets_the_end_at_once(manager: RunManager, runs_engine: Engine) -> None:
    """After the end: by the handle the very same `Finalized`; by the id, here or in another manager, the row's."""
    handle = manager.start(nothing)
    said = handle.wait(PATIENCE)

    assert list(handle.events()) == [said]
    assert list(manager.subscribe(handle.id)) == [said]
    with RunManager(runs_engine, heartbeat=NEVER) as other:
        assert other.subscribe(handle.id).get(PATIENCE) == said


def test_who_comes_late_to_a_failure_gets_its_error(manager: RunManager, runs_engine: Engine) -> None:
    """The error's text comes from the row."""
    handle = manager.start(int, "no number")
    said = handle.wait(PATIENCE)
    with RunManager(runs_engine) as other:
        (end,) = list(other.subscribe(handle.id))

    assert end == said
    assert isinstance(end, Finalized)
    assert end.error == "invalid literal for int() with base 10: 'no number'"


def test_who_comes_at_the_very_end_misses_nothing(manager: RunManager) -> None:
    """A subscription at the instant of the end gets it, 100 times: at once or as it comes, and once."""
    for _ in range(100):
        handle = manager.start(nothing)
        events = [event for event in manager.subscribe(handle.id) if isinstance(event, Finalized)]
        assert events == [handle.wait(PATIENCE)]


def test_a_run_of_another_manager_is_watched_to_its_end(runs_engine: Engine, manager: RunManager) -> None:
    """Its end is seen within a heartbeat; its lines stay in the process that runs it."""
    with RunManager(runs_engine, heartbeat=0.02) as watcher, at_gate() as gate:
        handle = manager.start(talkative, gate, "a")
        gate.wait()
        subscription = watcher.subscribe(handle.id)
        gate.open()

        assert list(subscription) == [handle.wait(PATIENCE)]


def test_who_watches_a_row_that_is_deleted_is_let_go(runs_engine: Engine, manager: RunManager) -> None:
    """There will be no end to tell; nobody waits for it for ever."""
    with RunManager(runs_engine, heartbeat=0.02) as watcher, at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        subscription = watcher.subscribe(handle.id)
        with runs_engine.begin() as connection:
            connection.execute(delete(Run))

        assert subscription.get(PATIENCE) is None


def test_an_end_says_which_connection_told_it(runs_engine: Engine, manager: RunManager) -> None:
    """Not the primary, if that does not answer: at once, and by the heartbeat."""
    nowhere = unreachable(runs_engine.url)
    with RunManager(nowhere, fallbacks=[runs_engine], heartbeat=0.02) as watcher, at_gate() as gate:
        ended, running = manager.start(nothing), manager.start(gate)
        ended.wait(PATIENCE)
        gate.wait()
        subscription = watcher.subscribe(running.id)
        gate.open()
        said = [watcher.subscribe(ended.id).get(PATIENCE), subscription.get(PATIENCE)]

    assert [end.via for end in said if isinstance(end, Finalized)] == ["fallback 1"] * 2


def test_a_run_that_does_not_exist_cannot_be_watched(manager: RunManager) -> None:
    """It says so, instead of waiting for ever."""
    with pytest.raises(RowNotFoundError):
        manager.subscribe(uuid4())


def test_who_leaves_is_forgotten(manager: RunManager) -> None:
    """Closed, or let go of: the run goes on without anybody collecting its events."""
    with at_gate() as gate:
        handle = manager.start(talkative, gate, "a")
        gate.wait()
        with handle.events() as left:
            pass
        handle.events()
        gc.collect()
        assert not manager._subscriptions.wanted(handle.id)  # pyright: ignore[reportPrivateUsage]
        gate.open()

        assert handle.wait(PATIENCE).state == "completed"
    assert list(left) == []


def test_an_async_subscriber_does_not_block_its_loop(manager: RunManager) -> None:
    """While it waits for the run other tasks go on; it sees every event and the end."""

    async def watch() -> tuple[list[RunEvent], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                if ticks == 5:
                    gate.open()
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        events = [event async for event in subscription]
        ticking.cancel()
        return events, ticks

    with at_gate() as gate:
        handle = manager.start(talkative, gate, "a")
        gate.wait()
        subscription = handle.events()
        events, ticks = asyncio.run(asyncio.wait_for(watch(), PATIENCE))

    assert lines_of(events) == ["a 0", "a 1", "a 2"]
    assert events[-1] == handle.wait(PATIENCE)
    assert ticks >= 5


def test_the_end_by_force_is_the_last_event(manager: RunManager) -> None:
    """What the function logs after its run was ended by force reaches nobody."""
    logged = threading.Event()

    def function() -> None:
        try:
            until_cancelled(reached)
        finally:
            current_run().log("too late")
            logged.set()

    reached = threading.Event()
    handle = manager.start(function)
    assert reached.wait(PATIENCE)
    events = handle.events()
    handle.cancel(force=True)
    assert logged.wait(PATIENCE)

    (end,) = list(events)
    assert end == handle.wait(PATIENCE)
    assert handle.wait(0).outcome is Outcome.APPLIED


def test_iterating_waits_for_the_run(manager: RunManager) -> None:
    """The iteration ends when the run does, not before."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        opener = threading.Timer(0.05, gate.open)
        opener.start()
        began = time.monotonic()
        assert [type(event) for event in handle.events()] == [Finalized]
        assert time.monotonic() - began >= 0.04
        opener.join()
