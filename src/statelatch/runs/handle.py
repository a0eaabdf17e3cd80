"""`RunHandle`: what `RunManager.start` returns; the caller's end of a run."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from statelatch.runs.context import RunCancelled

if TYPE_CHECKING:
    from uuid import UUID

    from statelatch.runs.execution import Execution
    from statelatch.runs.manager import RunManager
    from statelatch.runs.records import Cancellation, Finalized
    from statelatch.runs.subscriptions import Subscription

__all__ = ["RunHandle"]


class RunHandle:
    """One run that this process started. Threads may share it."""

    def __init__(self, manager: RunManager, execution: Execution) -> None:
        self._manager = manager
        self._execution = execution

    @property
    def id(self) -> UUID:
        """The run's id."""
        return self._execution.run_id

    def cancel(self, *, force: bool = False) -> Cancellation:
        """Ask the run to stop: see `RunManager.cancel`."""
        return self._manager.cancel(self.id, force=force)

    def wait(self, timeout: float | None = None) -> Finalized:
        """Wait until the run is over and its last word is written, or could not be.

        Args:
            timeout: seconds; None waits for as long as it takes.

        Raises:
            TimeoutError: the run is not over; it goes on.
        """
        try:
            return self._execution.finalized.result(timeout)
        except FutureTimeoutError:
            raise TimeoutError(f"run {self.id} is not over after {timeout} seconds; it goes on") from None

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned.

        Args:
            timeout: seconds; None waits for as long as it takes.

        Raises:
            TimeoutError: the run is not over; it goes on.
            RunCancelled: the run was cancelled, whatever the function did afterwards.
            NotAppliedError: the function returned, or was never called, but the database holds another last word.
            Exception: whatever the function raised.
        """
        finalized, ending = self.wait(timeout), self._execution.ending
        if finalized.state == "cancelled" or (ending and ending.target == "cancelled"):
            raise RunCancelled(f"run {self.id} was cancelled")
        if ending and ending.exception is not None:
            raise ending.exception
        if self._execution.refusal is not None:
            raise self._execution.refusal
        return ending and ending.value

    def events(self, maxsize: int = 1000) -> Subscription:
        """The run's events from now on, for `for` and `async for`; the last is its `Finalized`.

        Args:
            maxsize: events that may wait; when it is full, log lines and progress are dropped.
        """
        return self._manager.subscribed(self.id, maxsize, self._execution)
