"""Subscriptions: how a run's events reach those who watch it, in threads and in event loops.

Rules:

- A subscriber sees the events of its run only, in the order in which they were published. `Finalized` comes last and
  once; then the iteration ends.
- Publishing never waits and never raises. A subscriber that is too slow misses log lines and progress, the newest
  first, and `dropped` counts them; it never misses `Started` or `Finalized`.
- The registry holds subscriptions weakly: one that is closed, or that nobody holds any more, is gone with its queue.
- An event is taken in the same step in which it is returned. So cancelling the one who waits loses nothing.

Why no `queue.Queue`: its locks are not reentrant, and a signal handler or a finalizer may publish or close while its
own thread is inside one. Here state is guarded by reentrant locks, tuples are replaced and never changed, and
whoever waits first leaves a bell, then looks, and then sleeps: a bell that rang in between stays rung.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Self

from statelatch.closing import Closing
from statelatch.errors import RequestError
from statelatch.runs.records import Finalized, Started

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from uuid import UUID

    from statelatch.runs.records import RunEvent

__all__ = ["Subscription", "Subscriptions"]


class Subscription(Closing):
    """The events of one run, to be iterated with `for` or `async for`; a context manager that closes it.

    Threads and tasks may share it: each event goes to one of them, the end to all.

    Attributes:
        run_id: the run that it watches.
    """

    def __init__(self, run_id: UUID, maxsize: int, leave: Callable[[Subscription], None]) -> None:
        if maxsize < 1:
            raise RequestError(f"maxsize: expected at least 1 event, found {maxsize}")
        self.run_id = run_id
        self._maxsize = maxsize
        self._leave = leave
        self._lock = threading.RLock()
        self._queue: deque[RunEvent] = deque()
        self._bells: tuple[Callable[[], None], ...] = ()
        self._dropped = 0
        self._kept: object = None
        self._complete = False  # nothing more comes in
        self._over = False  # nothing more comes out

    @property
    def dropped(self) -> int:
        """How many log lines and progress events were dropped because the queue was full."""
        return self._dropped

    def keep(self, source: object) -> None:
        """Hold what brings the events for as long as somebody holds the subscription."""
        self._kept = source

    def deliver(self, event: RunEvent) -> None:
        """Queue an event, or drop it. After `Finalized` or `close()` nothing is queued, a second `Finalized` included.

        Args:
            event: an event of this run.
        """
        with self._lock:
            if self._complete:
                return
            if len(self._queue) >= self._maxsize and not isinstance(event, Started | Finalized):
                self._dropped += 1
                return
            self._queue.append(event)
            self._complete = isinstance(event, Finalized)
        self._ring()
        if isinstance(event, Finalized):
            self._leave(self)

    def get(self, timeout: float | None = None) -> RunEvent | None:
        """Wait for the next event.

        Args:
            timeout: seconds; 0 does not wait, None waits for as long as it takes.

        Returns:
            The event; None if there will be no more: `Finalized` was delivered, or the subscription closed.

        Raises:
            TimeoutError: no event came in time; the subscription goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        bell: SimpleQueue[None] = SimpleQueue()
        with self._waiting(lambda: bell.put(None)):
            while (event := self._take()) is None and not self._over:
                remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                try:
                    bell.get(timeout=remaining)
                except Empty:
                    raise TimeoutError(f"run {self.run_id}: no event within {timeout} seconds") from None
        return event

    def close(self) -> None:
        """Leave: drop what is queued, receive nothing more, end every iteration. A second time nothing happens."""
        with self._lock:
            self._complete = self._over = True
            self._queue.clear()
        self._ring()
        self._leave(self)

    def __iter__(self) -> Self:
        """Return the subscription itself."""
        return self

    def __next__(self) -> RunEvent:
        """Wait for the next event; the iteration ends after `Finalized` or `close()`."""
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> Self:
        """Return the subscription itself."""
        return self

    async def __anext__(self) -> RunEvent:
        """Wait for the next event without blocking the loop; ends as `__next__` does."""
        await asyncio.sleep(0)  # a queue that other threads keep filling would never let other tasks run
        loop = asyncio.get_running_loop()
        while True:
            bell = loop.create_future()
            with self._waiting(partial(_ring_in, loop, bell)):
                if (event := self._take()) is not None:
                    return event
                if self._over:
                    raise StopAsyncIteration
                await bell

    def _take(self) -> RunEvent | None:
        with self._lock:
            try:
                event = self._queue.popleft()
            except IndexError:
                return None
            self._over = self._over or isinstance(event, Finalized)
        return event

    def _ring(self) -> None:
        """Wake all who wait: one for the event, unless it was just cancelled, and all for the end."""
        for ring in self._bells:
            ring()

    @contextmanager
    def _waiting(self, ring: Callable[[], None]) -> Generator[None]:
        with self._lock:
            self._bells = (*self._bells, ring)
        try:
            yield
        finally:
            with self._lock:
                self._bells = tuple(bell for bell in self._bells if bell is not ring)


class Subscriptions:
    """The registry: which subscriptions watch which run. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._watching: dict[UUID, tuple[weakref.ref[Subscription], ...]] = {}
        self._vanished: deque[UUID] = deque()  # runs of subscriptions that were collected, to be swept

    def subscribe(self, run_id: UUID, maxsize: int) -> Subscription:
        """Watch a run. Hold the subscription for as long as you watch: the registry does not.

        Args:
            run_id: which run.
            maxsize: events that may wait; when it is full, log lines and progress are dropped.

        Raises:
            RequestError: a `maxsize` below 1.
        """
        subscription = Subscription(run_id, maxsize, self.unsubscribe)
        vanished = self._vanished  # the callback may come at any moment, in any thread: no lock, no registry
        watcher = weakref.ref(subscription, lambda _: vanished.append(run_id))
        with self._lock:
            self._sweep()
            self._watching[run_id] = (*self._watching.get(run_id, ()), watcher)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; its `close()` calls this. One that is not known is no error."""
        with self._lock:
            self._keep(subscription.run_id, lambda other: other is not subscription)

    def publish(self, event: RunEvent) -> None:
        """Give an event to all who watch its run, and forget them after `Finalized`. Never waits, never raises.

        Args:
            event: any event; its `run_id` says whose it is.
        """
        with self._lock:
            watchers = self._watching.get(event.run_id, ())
            if isinstance(event, Finalized):
                self._watching.pop(event.run_id, None)  # all at once; one by one takes the square of their number
        for watcher in watchers:
            subscription = watcher()
            if subscription is not None:
                subscription.deliver(event)

    def wanted(self, run_id: UUID) -> bool:
        """Whether anybody watches this run."""
        with self._lock:
            self._sweep()
            return run_id in self._watching

    def _sweep(self) -> None:
        while self._vanished:
            self._keep(self._vanished.popleft(), lambda _: True)

    def _keep(self, run_id: UUID, wanted: Callable[[Subscription], bool]) -> None:
        """Keep those of the run's subscriptions that still exist and are wanted."""
        watchers = self._watching.get(run_id, ())
        kept = tuple(watcher for watcher in watchers if (alive := watcher()) is not None and wanted(alive))
        if kept:
            self._watching[run_id] = kept
        else:
            self._watching.pop(run_id, None)


def _ring_in(loop: asyncio.AbstractEventLoop, bell: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, bell)
    except RuntimeError:
        return  # the loop is closed, and with it all who waited in it


def _settle(bell: asyncio.Future[None]) -> None:
    if not bell.done():
        bell.set_result(None)
