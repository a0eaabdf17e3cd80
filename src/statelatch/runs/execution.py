"""One run in this process, in memory: its cancel flag, hooks, progress, and the future of its end.

No database: the manager writes, this remembers. Threads share it.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from statelatch.runs.error_text import clean
from statelatch.runs.records import Finalized, LogLine, Progress, Started

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from statelatch.errors import NotAppliedError
    from statelatch.runs.endings import Ending
    from statelatch.runs.last_word import LastWord
    from statelatch.runs.subscriptions import Subscriptions

__all__ = ["Execution"]

logger = logging.getLogger("statelatch.runs")


class Execution:
    """One run of one function in this process.

    Args:
        run_id: the run.
        worker: owner of the lease; a new name for each attempt.
        subscriptions: where its events go.

    Attributes:
        promised: an executor has been given it, or is about to be.
        word: its last word, made once, when it has ended here.
        finalized: its end.
        gone: done when it is over and no thread is inside it any more.
    """

    def __init__(self, run_id: UUID, worker: str, subscriptions: Subscriptions) -> None:
        self.run_id = run_id
        self.worker = worker
        self.attempt = 1
        self.promised = False
        self.claimed = False
        self.over = False
        self.ending: Ending | None = None
        self.word: LastWord | None = None
        self.refusal: NotAppliedError | None = None
        self.finalized: Future[Finalized] = Future()
        self.gone: Future[None] = Future()
        self.cancel_requested = threading.Event()
        self._subscriptions = subscriptions
        self._lock = threading.RLock()  # a signal handler may come while its own thread is inside
        self._thread: int | None = None
        self._cancel_hooks: list[Callable[[], object]] = []
        self._close_hooks: list[Callable[[], object]] = []
        self._stopped = False
        self._progress: Progress | None = None
        self._saved: Progress | None = None

    def enter(self) -> bool:
        """The calling thread takes the run. False if it is over already: its function must not be called."""
        with self._lock:
            if not self.over:
                self._thread = threading.get_ident()
            return not self.over

    def leave(self) -> None:
        """The thread that took the run lets go of it."""
        with self._lock:
            self._thread = None
            gone = self.over
        if gone:
            self.gone.set_result(None)

    @property
    def awaited(self) -> bool:
        """Whether somebody will end it without being asked: its thread, or its executor."""
        return self.promised or self._thread is not None

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that is inside."""
        return self._thread == threading.get_ident()

    def started(self) -> None:
        """Tell subscribers that the function begins."""
        self.claimed = True
        self._subscriptions.publish(Started(run_id=self.run_id, attempt=self.attempt))

    def stopped(self) -> None:
        """The function has ended: whoever asks it to stop from now on interrupts nothing."""
        with self._lock:
            self._stopped = True
            self._cancel_hooks = []

    def log(self, message: str) -> None:
        """Tell subscribers a line."""
        self._subscriptions.publish(LogLine(run_id=self.run_id, at=datetime.now(UTC), message=message))

    def progress(self, current: int, total: int | None, step: str | None) -> None:
        """Tell subscribers how far the function is, and keep it for the next heartbeat."""
        said = Progress(run_id=self.run_id, current=current, total=total, step=None if step is None else clean(step))
        self._progress = said
        self._subscriptions.publish(said)

    @property
    def last_progress(self) -> Progress | None:
        """The last that the function said."""
        return self._progress

    @property
    def unsaved_progress(self) -> Progress | None:
        """The last that the function said, if no heartbeat has saved it yet."""
        last = self._progress
        return None if last is self._saved else last

    def saved(self, progress: Progress) -> None:
        """A heartbeat has saved this."""
        self._saved = progress

    def request_cancel(self, *, aside: bool = False) -> None:
        """Set the flag and call the hooks; the second time nothing happens.

        Args:
            aside: call them in a thread of their own: one that blocks must not hold up the caller.
        """
        with self._lock:
            if self.cancel_requested.is_set():
                return
            self.cancel_requested.set()
            hooks, self._cancel_hooks = self._cancel_hooks, []
        if aside and hooks:
            self._call_aside(hooks)
        else:
            self._call(hooks)

    def on_cancel(self, hook: Callable[[], object]) -> None:
        """Keep the hook, or call it if the request has come already."""
        with self._lock:
            if self._stopped:
                return
            if not self.cancel_requested.is_set():
                self._cancel_hooks.append(hook)
                return
        self._call([hook])

    def on_close(self, hook: Callable[[], object]) -> None:
        """Keep the hook for the end of the run, or call it if that has come already."""
        with self._lock:
            if not self.over:
                self._close_hooks.append(hook)
                return
        self._call([hook])

    def close(self, finalized: Finalized) -> None:
        """The run is over: tell everybody, once."""
        self._close(finalized, unless_inside=False)

    def abandon(self, finalized: Finalized) -> None:
        """The same, unless a thread is inside, which will end it."""
        self._close(finalized, unless_inside=True)

    def _close(self, finalized: Finalized, *, unless_inside: bool) -> None:
        with self._lock:
            inside = self._thread is not None
            if self.over or (inside and unless_inside):
                return
            self.over = True
            hooks, self._close_hooks = self._close_hooks, []
        try:
            self._subscriptions.publish(finalized)
        finally:  # whatever interrupts: nobody must wait for ever
            self.finalized.set_result(finalized)
            if not inside:
                self.gone.set_result(None)
        self._call(hooks)

    def _call_aside(self, hooks: list[Callable[[], object]]) -> None:
        try:
            threading.Thread(target=self._call, args=(hooks,), name="statelatch-cancel", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            self._call(hooks)

    def _call(self, hooks: list[Callable[[], object]]) -> None:
        for hook in hooks:
            try:
                hook()
            except KeyboardInterrupt:
                raise
            except BaseException:  # one that exits must not end the caller's thread
                logger.exception("run %s: a hook raised; the run's status is not affected", self.run_id)
