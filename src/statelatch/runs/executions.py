"""The runs of this process: those that are not over, and those whose function has not stopped. No database.

Rules:

- A run is known before its row is written, so that nothing interrupts its start unnoticed.
- It is forgotten when it is over and no thread is inside it any more. A run that was cancelled by force is over
  while its function goes on.
- Once the manager is closing, no executor is given another run.
- What no connection took is remembered for a while, until it is written: no row tells it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from statelatch.runs.records import Finalized, Outcome

if TYPE_CHECKING:
    from uuid import UUID

    from statelatch.runs.execution import Execution

__all__ = ["CLOSED", "Executions"]

CLOSED = "this RunManager is shut down; start a new one"
REMEMBERED = 1000
"""Ends that no row tells, kept for those who subscribe later."""


class Executions:
    """The registry of one manager. Threads share it.

    Attributes:
        closing: set when the manager shuts down.
    """

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._lock = threading.RLock()  # a signal handler may come while its own thread is inside
        self._known: dict[UUID, Execution] = {}
        self._unsaved: dict[UUID, Finalized] = {}

    def add(self, execution: Execution) -> None:
        """Know it, before anything is written."""
        execution.finalized.add_done_callback(lambda done: self._remember(done.result()))
        with self._lock:
            self._known[execution.run_id] = execution

    def promise(self, execution: Execution) -> None:
        """An executor is about to be given this run: whoever shuts down waits for it.

        Raises:
            RuntimeError: the manager is shut down.
        """
        with self._lock:
            if self.closing.is_set():
                raise RuntimeError(CLOSED)
            execution.promised = True

    def forget(self, execution: Execution) -> None:
        """It is over, and nobody is inside, or it never came to be."""
        with self._lock:
            self._known.pop(execution.run_id, None)

    def close(self) -> list[Execution]:
        """No executor is given another run from now on; those that there are."""
        with self._lock:
            self.closing.set()
            return list(self._known.values())

    def get(self, run_id: UUID) -> Execution | None:
        """The run, if it is one of these."""
        return self._known.get(run_id)

    def claimed(self) -> dict[UUID, Execution]:
        """Those that hold a lease."""
        with self._lock:
            return {each.run_id: each for each in self._known.values() if each.claimed and not each.over}

    def is_here(self) -> bool:
        """Whether the calling thread is inside one of them."""
        with self._lock:
            return any(each.is_here for each in self._known.values())

    def unsaved(self, run_id: UUID) -> Finalized | None:
        """How a run ended whose last word no connection took."""
        return self._unsaved.get(run_id)

    def written(self, run_id: UUID) -> None:
        """A run's last word has been written after all: its row tells it."""
        with self._lock:
            self._unsaved.pop(run_id, None)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._known)

    def _remember(self, finalized: Finalized) -> None:
        if finalized.outcome not in {Outcome.SPOOLED, Outcome.UNSAVED}:
            return
        with self._lock:
            self._unsaved[finalized.run_id] = finalized
            if len(self._unsaved) > REMEMBERED:
                del self._unsaved[next(iter(self._unsaved))]
