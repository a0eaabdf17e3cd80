"""Subscriptions: who sees which event, what is dropped, how everybody leaves."""

import asyncio
import gc
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelatch.errors import RequestError
from statelatch.runs.records import Finalized, LogLine, Outcome, Progress, RunEvent, Started
from statelatch.runs.subscriptions import Subscription, Subscriptions
from tests.runs import meanwhile

RUN, OTHER = UUID(int=1), UUID(int=2)
STARTED = Started(run_id=RUN, attempt=1)
Result = TypeVar("Result")
PATIENCE = 10.0
"""Seconds after which a thread that should have woken up is taken to sleep for ever."""


def log(number: int, run_id: UUID = RUN) -> LogLine:
    """A log line with a number."""
    return LogLine(run_id=run_id, at=datetime(2026, 1, 1, tzinfo=UTC), message=str(number))


def progress(number: int) -> Progress:
    """Progress with a number."""
    return Progress(run_id=RUN, current=number, total=None, step=None)


def end(run_id: UUID = RUN, version: int = 3) -> Finalized:
    """The end of a run."""
    return Finalized(
        run_id=run_id, target="completed", outcome=Outcome.APPLIED, state="completed", version=version, via="primary"
    )


def publish_all(subscriptions: Subscriptions, events: list[RunEvent]) -> None:
    """Publish the events in order."""
    for event in events:
        subscriptions.publish(event)


async def until_waiting(task: "asyncio.Task[RunEvent]") -> None:
    """Let the loop go round until the task has nothing left to do but wait."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


async def take(subscription: Subscription) -> RunEvent:
    """The next event; `anext` as a coroutine, for tasks."""
    return await anext(subscription)


def existing(kind: type) -> int:
    """How many objects of this kind there are."""
    return sum(isinstance(each, kind) for each in gc.get_objects())


@pytest.fixture
def subscriptions() -> Subscriptions:
    """An empty registry."""
    return Subscriptions()


def test_subscribers_see_their_run_only(subscriptions: Subscriptions) -> None:
    """Each subscriber of a run sees all of its events in order, and none of another run."""
    first, second = (subscriptions.subscribe(RUN, 10) for _ in range(2))
    other = subscriptions.subscribe(OTHER, 10)
    events = [STARTED, log(1), progress(2), end()]

    publish_all(subscriptions, [log(7, OTHER), *events, end(OTHER)])

    assert [list(first), list(second), list(other)] == [events, events, [log(7, OTHER), end(OTHER)]]


def test_full_queue_drops_the_newest(subscriptions: Subscriptions) -> None:
    """What does not fit is dropped and counted if it is a log line or progress; start and end always fit."""
    subscription = subscriptions.subscribe(RUN, 2)

    publish_all(subscriptions, [log(1), progress(2), log(3), progress(4), STARTED, log(5), end()])

    assert list(subscription) == [log(1), progress(2), STARTED, end()]
    assert subscription.dropped == 3


def test_room_is_used_again(subscriptions: Subscriptions) -> None:
    """A subscriber that was too slow receives again as soon as it has taken an event."""
    subscription = subscriptions.subscribe(RUN, 1)
    publish_all(subscriptions, [log(1), log(2)])

    assert subscription.get(0) == log(1)
    publish_all(subscriptions, [log(3), log(4)])

    assert (subscription.get(0), subscription.dropped) == (log(3), 2)


@given(st.lists(st.sampled_from(["log", "start", "end", "take", "close"]), max_size=30), st.integers(1, 3))
def test_any_order_of_calls(calls: list[str], maxsize: int) -> None:
    """In whatever order events come, are taken and the subscription closes, the queue does as its rules say."""
    subscriptions = Subscriptions()
    subscription = subscriptions.subscribe(RUN, maxsize)
    queued: list[RunEvent] = []
    dropped, complete, over = 0, False, False
    for number, call in enumerate(calls):
        match call:
            case "take" if queued:
                event = subscription.get(0)
                assert event == queued.pop(0)
                over = over or isinstance(event, Finalized)
            case "take" if over:
                assert subscription.get(0) is None
            case "take":
                with pytest.raises(TimeoutError):
                    subscription.get(0)
            case "close":
                subscription.close()
                queued, complete, over = [], True, True
            case _:
                event = {"log": log(number), "start": STARTED, "end": end(version=number)}[call]
                subscriptions.publish(event)
                fits = len(queued) < maxsize or call != "log"
                dropped += not complete and not fits
                queued += [event] if fits and not complete else []
                complete = complete or call == "end"
        assert (subscription.dropped, subscriptions.wanted(RUN)) == (dropped, not complete)


def test_iteration_ends_for_good(subscriptions: Subscriptions) -> None:
    """After `Finalized` there is nothing more, however often one asks."""
    subscription = subscriptions.subscribe(RUN, 10)
    subscriptions.publish(end())

    assert list(subscription) == [end()]
    assert (list(subscription), subscription.get(), next(subscription, "none")) == ([], None, "none")


def test_completion_comes_once(subscriptions: Subscriptions) -> None:
    """A second end, and whatever is published after the first, is not seen and not counted as dropped."""
    subscription = subscriptions.subscribe(RUN, 1)
    publish_all(subscriptions, [end(), end(version=4), log(1), log(2)])

    for late in (end(version=5), log(3)):
        subscription.deliver(late)

    assert (list(subscription), subscription.dropped) == ([end()], 0)


def test_completion_from_many_threads_comes_once(subscriptions: Subscriptions) -> None:
    """Of eight threads that publish the end at the same moment one is heard, by each of ten subscribers."""
    watching = [subscriptions.subscribe(RUN, 1) for _ in range(10)]
    barrier = threading.Barrier(8)

    def finish(version: int) -> None:
        barrier.wait(PATIENCE)
        subscriptions.publish(end(version=version))

    for publishing in [meanwhile(partial(finish, version)) for version in range(8)]:
        publishing.result(PATIENCE)

    assert [len(list(subscription)) for subscription in watching] == [1] * 10


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_get_times_out(subscriptions: Subscriptions, timeout: float) -> None:
    """No event in time is a `TimeoutError` that names the run, and the next event is not missed."""
    subscription = subscriptions.subscribe(RUN, 1)

    with pytest.raises(TimeoutError, match=f"run {RUN}: no event within {timeout} seconds"):
        subscription.get(timeout)

    subscriptions.publish(log(1))
    assert subscription.get(timeout) == log(1)


def test_get_waits_for_a_thread(subscriptions: Subscriptions) -> None:
    """A thread that waits receives what another publishes."""
    subscription = subscriptions.subscribe(RUN, 10)

    publishing = meanwhile(lambda: publish_all(subscriptions, [log(1), end()]))

    assert [subscription.get(PATIENCE) for _ in range(3)] == [log(1), end(), None]
    publishing.result(PATIENCE)


def test_close_wakes_waiting_threads(subscriptions: Subscriptions) -> None:
    """Threads that wait for an event stop when the subscription closes."""
    subscription = subscriptions.subscribe(RUN, 10)
    iterations = [meanwhile(lambda: list(subscription)) for _ in range(4)]
    with pytest.raises(TimeoutError):
        iterations[0].result(0.05)

    subscription.close()

    assert [iteration.result(PATIENCE) for iteration in iterations] == [[]] * 4


def test_shared_subscription(subscriptions: Subscriptions) -> None:
    """Of threads that share a subscription each event reaches one, and the end stops all."""
    subscription = subscriptions.subscribe(RUN, 1000)
    iterations = [meanwhile(lambda: list(subscription)) for _ in range(4)]

    publish_all(subscriptions, [*map(log, range(500)), end()])

    taken = [event for iteration in iterations for event in iteration.result(PATIENCE)]
    assert sorted(map(repr, taken)) == sorted(map(repr, [*map(log, range(500)), end()]))


def test_close_frees_the_queue(subscriptions: Subscriptions) -> None:
    """Whoever leaves keeps no event, receives none, and is not known to the registry; leaving twice is no error."""
    event = log(1)
    before = sys.getrefcount(event)
    with subscriptions.subscribe(RUN, 10) as subscription:
        subscriptions.publish(event)
        assert sys.getrefcount(event) == before + 1

    assert (sys.getrefcount(event), subscriptions.wanted(RUN)) == (before, False)
    subscription.deliver(event)
    assert (list(subscription), sys.getrefcount(event)) == ([], before)
    subscription.close()
    subscriptions.unsubscribe(subscription)


def test_one_who_leaves_does_not_take_others_along(subscriptions: Subscriptions) -> None:
    """The other subscribers of the run, and its registry entry, stay when one leaves or vanishes."""
    first, second, third = (subscriptions.subscribe(RUN, 10) for _ in range(3))

    first.close()
    del second
    gc.collect()
    publish_all(subscriptions, [log(1), end()])

    assert list(third) == [log(1), end()]


def test_forgotten_subscription_is_collected(subscriptions: Subscriptions) -> None:
    """A subscription that nobody holds any more is gone without `close()`, and so is its registry entry."""
    subscription = subscriptions.subscribe(RUN, 10)
    subscriptions.publish(log(1))
    assert subscriptions.wanted(RUN)
    trace = weakref.ref(subscription)

    del subscription
    gc.collect()

    assert (trace(), subscriptions.wanted(RUN)) == (None, False)


def test_forgotten_subscriptions_do_not_pile_up(subscriptions: Subscriptions) -> None:
    """However many runs were watched and forgotten, the registry remembers no more than the last."""
    before = existing(weakref.ref)

    for number in range(100):
        subscriptions.subscribe(UUID(int=number), 1)

    assert existing(weakref.ref) - before <= 1


def test_one_who_waited_leaves_nothing_behind(subscriptions: Subscriptions) -> None:
    """Neither one who received an event nor one who gave up is remembered as waiting."""
    subscription = subscriptions.subscribe(RUN, 10)
    before = existing(SimpleQueue)
    for _ in range(10):
        with suppress(TimeoutError):
            subscription.get(0)
        subscriptions.publish(log(1))
        subscription.get(0)

    assert existing(SimpleQueue) == before


@pytest.mark.parametrize("by", ["publish", "deliver"])
def test_end_removes_the_registry_entry(subscriptions: Subscriptions, by: str) -> None:
    """A run that is over is not in the registry, though its events are not taken yet; other runs are."""
    subscription, other = subscriptions.subscribe(RUN, 10), subscriptions.subscribe(OTHER, 10)

    {"publish": subscriptions.publish, "deliver": subscription.deliver}[by](end())

    assert (subscriptions.wanted(RUN), subscriptions.wanted(OTHER)) == (False, True)
    assert (list(subscription), other.dropped) == ([end()], 0)


@pytest.mark.parametrize("maxsize", [0, -1])
def test_refuses_a_queue_without_room(subscriptions: Subscriptions, maxsize: int) -> None:
    """A queue that holds nothing is refused, and nothing is registered."""
    with pytest.raises(RequestError, match=f"expected at least 1 event, found {maxsize}"):
        subscriptions.subscribe(RUN, maxsize)

    assert not subscriptions.wanted(RUN)


def test_many_threads(subscriptions: Subscriptions) -> None:
    """Four publishers, and others who come and go: a subscriber misses nothing and sees each publisher's order."""
    subscription = subscriptions.subscribe(RUN, 10_000)

    def publisher(number: int) -> None:
        for line in range(500):
            subscriptions.publish(log(number * 1000 + line))

    def passer_by() -> None:
        for turn in range(200):
            passing = subscriptions.subscribe(RUN, 2)
            if turn % 2:
                passing.close()

    passing = [meanwhile(passer_by) for _ in range(2)]
    for each in [*passing, *(meanwhile(partial(publisher, number)) for number in range(4))]:
        each.result(PATIENCE)
    subscriptions.publish(end())

    *lines, last = list(subscription)
    numbers = [int(line.message) for line in lines if isinstance(line, LogLine)]
    assert [[n for n in numbers if n // 1000 == p] for p in range(4)] == [
        [p * 1000 + line for line in range(500)] for p in range(4)
    ]
    assert last == end()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signal to a thread")
def test_signal_handler_may_publish(subscriptions: Subscriptions) -> None:
    """A signal handler publishes whatever its thread is doing, inside the subscription and the registry included."""
    subscription = subscriptions.subscribe(RUN, 10_000)
    published, taken, deadline = 0, list[RunEvent](), time.monotonic() + PATIENCE

    def publish(_signal: int, _frame: object) -> None:
        nonlocal published
        if published < 300:
            published += 1
            subscriptions.publish(log(published))

    def send() -> None:
        while published < 300 and time.monotonic() < deadline:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(0.0001)

    before = signal.signal(signal.SIGUSR1, publish)
    sending = meanwhile(send)
    try:
        while len(taken) < 300:
            assert subscriptions.wanted(RUN)
            with suppress(TimeoutError):
                taken += filter(None, [subscription.get(0.001 if len(taken) % 10 == 0 else 0)])
    finally:
        sending.result(PATIENCE + 1)
        signal.signal(signal.SIGUSR1, before)

    assert taken == [log(number) for number in range(1, 301)]


def test_async_iteration(subscriptions: Subscriptions) -> None:
    """`async for` sees what other threads publish, and ends after the end."""

    async def watch() -> list[RunEvent]:
        subscription = subscriptions.subscribe(RUN, 1000)
        published = asyncio.to_thread(publish_all, subscriptions, [STARTED, *map(log, range(300)), end()])
        publishing = asyncio.ensure_future(published)
        seen = [event async for event in subscription]
        await publishing
        return seen + [event async for event in subscription]

    assert asyncio.run(watch(), debug=True) == [STARTED, *map(log, range(300)), end()]


def test_async_waits_without_blocking(subscriptions: Subscriptions) -> None:
    """While a task waits for an event the loop runs others, and what they publish ends the wait."""

    async def watch() -> RunEvent:
        waiting = asyncio.create_task(take(subscription))
        await until_waiting(waiting)
        subscriptions.publish(log(1))
        return await asyncio.wait_for(waiting, PATIENCE)

    subscription = subscriptions.subscribe(RUN, 10)
    assert asyncio.run(watch()) == log(1)


def test_async_iteration_lets_others_run(subscriptions: Subscriptions) -> None:
    """A queue that is never empty does not keep the loop from other tasks."""
    subscription = subscriptions.subscribe(RUN, 1000)
    publish_all(subscriptions, [*map(log, range(100)), end()])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def watch() -> int:
        other = asyncio.create_task(others())
        taken = len([event async for event in subscription])
        other.cancel()
        return taken

    assert asyncio.run(watch()) == 101
    assert turns >= 100


def test_close_wakes_waiting_tasks(subscriptions: Subscriptions) -> None:
    """Tasks that wait stop when the subscription closes, in their loop or in another thread."""

    async def watch(subscription: Subscription, close: Callable[[], None]) -> list[RunEvent]:
        async def everything() -> list[RunEvent]:
            return [event async for event in subscription]

        waiting = [asyncio.create_task(everything()) for _ in range(2)]
        await asyncio.sleep(0.01)
        close()
        return list(chain(*await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)))

    for _ in range(2):
        subscription = subscriptions.subscribe(RUN, 10)
        assert asyncio.run(watch(subscription, subscription.close)) == []
    subscription = subscriptions.subscribe(RUN, 10)
    assert asyncio.run(watch(subscription, threading.Timer(0.05, subscription.close).start), debug=True) == []


def test_cancelled_wait_loses_no_event(subscriptions: Subscriptions, caplog: pytest.LogCaptureFixture) -> None:
    """A task that is cancelled after its event was published, but before it ran, leaves the event for the next."""

    async def watch() -> RunEvent:
        waiting = asyncio.create_task(take(subscription))
        await until_waiting(waiting)
        subscriptions.publish(log(1))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return await asyncio.wait_for(take(subscription), PATIENCE)

    subscription = subscriptions.subscribe(RUN, 10)
    assert asyncio.run(watch()) == log(1)
    assert caplog.messages == []


def test_cancelled_wait_wakes_another(subscriptions: Subscriptions) -> None:
    """Of two tasks that wait for one event the second receives it when the first is cancelled meanwhile."""

    async def watch() -> RunEvent:
        waiting = [asyncio.create_task(take(subscription)) for _ in range(2)]
        await until_waiting(waiting[1])
        subscriptions.publish(log(1))
        waiting[0].cancel()
        return await asyncio.wait_for(waiting[1], PATIENCE)

    subscription = subscriptions.subscribe(RUN, 10)
    assert asyncio.run(watch()) == log(1)


def test_impatient_task_loses_no_event(subscriptions: Subscriptions) -> None:
    """A task that gives up and asks again, all the time, while a thread publishes, sees everything in order."""

    async def watch() -> tuple[list[RunEvent], int]:
        publishing = asyncio.ensure_future(asyncio.to_thread(slowly))
        seen: list[RunEvent] = []
        given_up = 0
        while not seen or seen[-1] != end():
            try:
                seen.append(await asyncio.wait_for(anext(subscription), 0.001))
            except TimeoutError:
                given_up += 1
        await publishing
        return seen, given_up

    def slowly() -> None:
        for number in range(50):
            subscriptions.publish(log(number))
            time.sleep(0.005)
        subscriptions.publish(end())

    subscription = subscriptions.subscribe(RUN, 1000)
    seen, given_up = asyncio.run(watch())
    assert seen == [*map(log, range(50)), end()]
    assert given_up > 0


def test_closed_loop_does_not_break_publishing(subscriptions: Subscriptions) -> None:
    """A loop that was closed while a task waited in it is no concern of those who publish, nor of other subscribers."""
    abandoned, other = subscriptions.subscribe(RUN, 10), subscriptions.subscribe(RUN, 10)
    waiting = take(abandoned)

    async def begin() -> object:
        waiting.send(None)  # by hand: a task would complain that its loop was closed
        return waiting.send(None)

    loop = asyncio.new_event_loop()
    bell = loop.run_until_complete(begin())
    loop.close()
    assert isinstance(bell, asyncio.Future)
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(print)

    publish_all(subscriptions, [log(1), end()])

    assert (list(other), list(abandoned)) == ([log(1), end()], [log(1), end()])
    waiting.close()
