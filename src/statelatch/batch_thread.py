"""The thread of a `Batcher`, and how others wait for it.

Rules:

- One thread writes, and only it touches a connection; what it writes next, and when, is decided in `collecting`.
- Nobody waits for ever: whatever the thread leaves unanswered at its end is answered with an exception.
- Callers wait in a `SimpleQueue`, never in a `Condition`, which Ctrl-C may leave locked for everybody else; and
  what they change is in order between any two bytecodes.
- A thread too many, of two callers who were first at once, leaves again.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from statelatch.collecting import Collection, Limits

if TYPE_CHECKING:
    from statelatch.batch_outcomes import Outcome
    from statelatch.records import Request

__all__ = ["BatchThread", "Call"]

logger = logging.getLogger("statelatch.batcher")

CLOSED = "this Batcher is closed; nothing was written. Make a new one."
FORKED = "this Batcher belongs to the process that forked this one; nothing was written. Make one in each process."
WITHIN = "a Batcher's own thread would wait for itself; call this outside of hooks and callbacks"
DIED = "the Batcher's thread has died; this event may have been written. Load the row to see."


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and who waits for its answer.

    Attributes:
        request: what is to be written.
        begins: asked when it is about to be; False if nobody wants it any more.
        answer: told what became of it.
    """

    request: Request
    begins: Callable[[], bool]
    answer: Callable[[Outcome], object]


class BatchThread:
    """The thread that writes, and those who wait for it. It does not hold the `Batcher`, whose end is its end.

    Args:
        write: what became of each of these requests.
        limits: how many they are, and when.
    """

    def __init__(self, write: Callable[[Sequence[Request]], Sequence[Outcome]], limits: Limits) -> None:
        self._write = write
        self._lock = threading.RLock()  # a signal handler, or a finalizer, may come while its own thread is inside
        self._collection: Collection[Call] = Collection(limits)
        self._rung: SimpleQueue[None] = SimpleQueue()  # for the thread
        self._bells: list[SimpleQueue[None]] = []  # for those who wait for room, a flush or the end
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._closed = False
        self._over = False
        _threads.add(self)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that writes."""
        return self._thread is threading.current_thread()

    def put(self, call: Call) -> None:
        """Collect a call; waits for room."""
        if self._is_foreign:
            raise RuntimeError(FORKED)
        self._until(lambda: self._accepts(call))

    def _accepts(self, call: Call) -> bool:
        if self._closed:
            raise RuntimeError(CLOSED)
        if not self._collection.has_room:
            return False
        if self._thread is None:
            threading.Thread(target=self._run, name="statelatch-batcher", daemon=True).start()
        if self._collection.is_awaited:
            self._rung.put(None)  # before: if we are interrupted in between, it looks in vain, and not never
        self._collection.add(call, time.monotonic())
        return True

    def write(self, calls: Sequence[Call]) -> None:
        """Write these at once, in the calling thread, and tell each caller."""
        wanted = [call for call in calls if _begins(call)]
        for call, outcome in zip(wanted, self._write([call.request for call in wanted]), strict=True):
            _tell(call, outcome)

    def flush(self) -> None:
        """Return when everything that was collected before is answered."""
        if self._is_foreign:
            return
        self._check_elsewhere()
        with self._lock:
            collected = self._collection.settled + self._collection.unanswered
            self._hurry()
        self._until(lambda: self._collection.settled >= collected)

    def end(self) -> None:
        """Collect no more; write what there is and end. Does not wait: the garbage collector calls it anywhere."""
        with self._lock:
            self._closed = True
            self._hurry()
            self._ring()

    def close(self) -> None:
        """End, and return when the thread has ended."""
        if self._is_foreign:
            return
        self._check_elsewhere()
        self.end()
        self._until(lambda: self._over or not (self._thread or self._collection.unanswered))
        if self._thread is not None:
            self._thread.join()

    @property
    def _is_foreign(self) -> bool:
        """Whether its thread is in the process that forked this one. Before the lock, which may never be free here."""
        return self._thread is not None and self._process != os.getpid()

    def _check_elsewhere(self) -> None:
        if self.is_here:
            raise RuntimeError(WITHIN)

    def _until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; it is asked, inside the lock, now and whenever something was answered."""
        while True:
            with self._lock:
                if holds():
                    return
                bell: SimpleQueue[None] = SimpleQueue()
                self._bells.append(bell)
            bell.get()

    def _ring(self) -> None:
        """Let those who wait look again."""
        bells, self._bells = self._bells, []
        for bell in bells:
            bell.put(None)

    def _hurry(self) -> None:
        self._rung.put(None)
        self._collection.hurry()

    def _run(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread, self._process = threading.current_thread(), os.getpid()
        try:
            while self._wrote():
                pass
        finally:
            self._leave()

    def _wrote(self) -> bool:
        """Wait for a batch and write it; False at the end. Holds nothing of it afterwards."""
        batch = self._next()
        if not batch:
            return False
        self.write(batch)
        with self._lock:
            self._collection.settle(time.monotonic())
            self._ring()
        return True

    def _next(self) -> Sequence[Call]:
        while True:
            with self._lock:
                patience = self._collection.patience(time.monotonic())
                if patience == 0.0 or (patience is None and self._closed):
                    return self._collection.take()
            with suppress(Empty):
                self._rung.get(timeout=patience)

    def _leave(self) -> None:
        """The thread ends: in order with nothing left, or through an error of ours, which its hook reports."""
        with self._lock:
            self._closed = self._over = True
            left = self._collection.drain()
            self._ring()
        for call in left:
            _tell(call, RuntimeError(DIED))


def _begins(call: Call) -> bool:
    """Whether it is still wanted; not if its caller has given its future a result of his own."""
    try:
        return call.begins()
    except Exception:
        logger.exception("a batched event was answered by somebody else; it is not sent")
        return False


def _tell(call: Call, outcome: Outcome) -> None:
    try:
        call.answer(outcome)
    except BaseException:  # one caller's callback must not keep the others from their answers
        logger.exception("%r for %s: a callback of its future raised", call.request.event, call.request.key)


_threads: weakref.WeakSet[BatchThread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """The interpreter exits: what was submitted is written before the threads are gone."""
    for thread in list(_threads):
        thread.close()
