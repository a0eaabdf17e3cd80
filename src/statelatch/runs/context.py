"""What a function sees of its own run: `current_run()`, and the exception that ends it as cancelled."""

from __future__ import annotations

import operator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from uuid import UUID

    from statelatch.runs.execution import Execution

__all__ = ["RunCancelled", "RunContext", "current_run"]

LARGEST = 2**63 - 1


class RunCancelled(Exception):  # noqa: N818  named like asyncio.CancelledError's role: not an error
    """Raised inside a run's function to end it as `cancelled`; by `RunHandle.result` if the run was."""


class RunContext:
    """The run that the calling function is. Its methods may be called from any thread."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def id(self) -> UUID:
        """The run's id."""
        return self._execution.run_id

    @property
    def attempt(self) -> int:
        """Which attempt this is; the first is 1."""
        return self._execution.attempt

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for the run to be cancelled, or it was taken from this worker."""
        return self._execution.cancel_requested.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise `RunCancelled` if somebody asked for the run to be cancelled."""
        if self.cancelled:
            raise RunCancelled(f"run {self.id} was cancelled")

    def log(self, message: str) -> None:
        """Send a line to the run's subscribers. A subscriber that is too slow misses it; nothing waits."""
        self._execution.log(message)

    def progress(self, current: SupportsIndex, total: SupportsIndex | None = None, step: str | None = None) -> None:
        """Say how far the function is; subscribers see it at once, the database at the next heartbeat.

        Args:
            current: units done.
            total: units in all, if known.
            step: what is being done.

        Raises:
            ValueError: no number that every database holds.
        """
        self._execution.progress(_whole("current", current), None if total is None else _whole("total", total), step)

    def on_cancel(self, hook: Callable[[], object]) -> None:
        """Call the hook, once, when somebody asks for the run to be cancelled; now if somebody has.

        It does not run in the function's thread, so that it can interrupt what the function waits for, but in that
        of the caller who asks, or in one of its own if another process does. What it raises is logged and changes
        nothing.
        """
        self._execution.on_cancel(hook)

    def on_close(self, hook: Callable[[], object]) -> None:
        """Call the hook when the run is over and its last word is written. What it raises is logged."""
        self._execution.on_close(hook)


def _whole(name: str, number: SupportsIndex) -> int:
    """The number as a plain `int`: NumPy's, for instance, are none to a driver."""
    try:
        whole = int(operator.index(number))
    except TypeError:
        whole = None
    if whole is None or not -LARGEST <= whole <= LARGEST:
        raise ValueError(f"{name}: expected an integer of 64 bits, found {number!r}")
    return whole


_current: ContextVar[RunContext] = ContextVar("statelatch_current_run")


def current_run() -> RunContext:
    """The run that the calling function is.

    Raises:
        LookupError: the caller is not inside a run's function, or in a thread of its own making.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError(
            "no current run: call current_run() inside a function that RunManager.start runs, in its own thread"
        ) from None


@contextmanager
def entered(execution: Execution) -> Generator[None]:
    """Make this the current run of the calling context, for the time of its function."""
    token = _current.set(RunContext(execution))
    try:
        yield
    finally:
        _current.reset(token)
