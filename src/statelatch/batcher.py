"""`Batcher`: events that come one by one from many threads are written together, and each caller gets its own answer.

`collecting` decides what is written next and when, `batch_thread` writes it, `batch_outcomes` says what became of each.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from statelatch.batch_outcomes import check, outcomes, sent
from statelatch.batch_thread import BatchThread, Call
from statelatch.closing import Closing
from statelatch.collecting import Limits
from statelatch.records import Request, Transitioned

if TYPE_CHECKING:
    from uuid import UUID

    from statelatch.adapter import PersistenceAdapter
    from statelatch.batch_outcomes import Outcome

__all__ = ["Batcher"]


class Batcher(Closing):
    """Writes the events of many threads together: one statement and one commit for all who wait at the same time.

    Worth its while where many threads send at once, to many rows. A caller who is alone is written at once. Events of
    one row are applied in the order in which they were sent, one statement after the other. Events that only Python can
    decide are refused: send them with the adapter. One row that somebody holds locked holds up all others.

    Threads may share it; use it as a context manager. It belongs to one process: after a fork make a new one. What was
    submitted is written when the batcher is closed, dropped, or the interpreter exits.

    Args:
        adapter: whose rows; it stays open. Its `after_commit` hooks run in the batcher's thread, before the callers
            are answered.
        max_size: how many events are written together at most.
        max_delay: seconds for which an event that could be written waits for others, if there were more callers just
            now. 0 never waits, and collects only what comes while a batch is being written.
        max_pending: how many events may be unanswered; whoever sends more waits until some are answered, as long as
            the database takes.

    Raises:
        RequestError: no such size, delay or number.
    """

    def __init__(
        self,
        adapter: PersistenceAdapter,
        *,
        max_size: int = 1000,
        max_delay: float = 0.002,
        max_pending: int = 10_000,
    ) -> None:
        limits = Limits(max_size=max_size, max_delay=max_delay, max_pending=max_pending)
        self._adapter = adapter
        self._thread = BatchThread(partial(outcomes, adapter), limits)
        weakref.finalize(self, self._thread.end).atexit = False

    def send(
        self,
        key: Any,
        event: str,
        *,
        expected_version: int | None = None,
        token: UUID | None = None,
        **params: Any,
    ) -> Transitioned:
        """Apply one event to one row, together with those of others: see `PersistenceAdapter.send`.

        Blocks until the database has answered. If the wait is interrupted, by Ctrl-C for instance, the event may be
        written all the same: its token tells. In a hook or callback that the batcher's own thread runs, the event is
        sent at once and alone.

        Args:
            key: primary key; a tuple if it has several columns.
            event: name of the event.
            expected_version: apply it only to this version of the row; by default to any.
            token: proof to leave in the row, a random UUID; by default a new one.
            params: parameters of the event, for guards and `assigns`.

        Raises:
            RequestError: what `PersistenceAdapter.send` would not carry out, and an event that is not compiled; told
                before it is collected.
            NotAppliedError: the database answered, and nothing was written: as for `send`.
            UnknownStateError: the row holds a state that the machine lacks.
            ConnectionFailureError: the database did not answer, nothing was written; `OutcomeUnknownError` if
                this event may have been: repeat it with its token.
            RuntimeError: the batcher is closed, or another process's.
            Exception: whatever the driver said to this event; others are not affected.
        """
        request = Request(key, event, expected_version, params, token)
        check(self._adapter.statements, request)
        if self.is_here:
            return sent(self._adapter, request)
        answer: SimpleQueue[Outcome] = SimpleQueue()
        self._thread.put(Call(request, _always, answer.put))
        return _unwrapped(answer.get())

    def submit(
        self,
        key: Any,
        event: str,
        *,
        expected_version: int | None = None,
        token: UUID | None = None,
        **params: Any,
    ) -> Future[Transitioned]:
        """The same as `send` without waiting for the answer; waits only while `max_pending` events are unanswered.

        Returns:
            The answer to come. It may be cancelled until it is being written. Its callbacks run in the
            batcher's thread, which writes nothing meanwhile.

        Raises:
            RequestError: as for `send`.
            RuntimeError: the batcher is closed, or another process's.
        """
        request = Request(key, event, expected_version, params, token)
        check(self._adapter.statements, request)
        future: Future[Transitioned] = Future()
        call = Call(request, future.set_running_or_notify_cancel, partial(_settle, future))
        if self.is_here:
            self._thread.write([call])
        else:
            self._thread.put(call)
        return future

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the batcher's own: in a hook or callback, which cannot wait for the batcher."""
        return self._thread.is_here

    def flush(self) -> None:
        """Write what was sent before this call without waiting for more, and return when it is answered.

        Raises:
            RuntimeError: called by a hook or callback in the batcher's own thread.
        """
        self._thread.flush()

    def close(self) -> None:
        """Take no more, and return when all are answered and the thread has ended. The adapter stays open.

        Raises:
            RuntimeError: called by a hook or callback in the batcher's own thread.
        """
        self._thread.close()


def _settle(future: Future[Transitioned], outcome: Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _unwrapped(outcome: Outcome) -> Transitioned:
    if isinstance(outcome, Transitioned):
        return outcome
    try:
        raise outcome
    finally:
        del outcome  # it holds this frame, which must not hold it


def _always() -> bool:
    return True
