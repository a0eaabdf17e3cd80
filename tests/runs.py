"""What the tests of runs share: functions and executors to run, and a row as another connection sees it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from statelatch.runs import Run, RunCancelled, current_run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from uuid import UUID

    from sqlalchemy import Engine

Result = TypeVar("Result")

PATIENCE = 20.0
"""Seconds after which something that must happen has not happened."""


NEVER = 29.0
"""Seconds between two heartbeats: longer than any test."""


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + PATIENCE
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds


def meanwhile(work: Callable[[], Result]) -> Future[Result]:
    """Do the work in a thread that keeps nobody from going home, should it sleep for ever."""
    done: Future[Result] = Future()

    def settle() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=settle, daemon=True).start()
    return done


class Gate:
    """A function's way to say that it has begun, and to wait until it may go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, value: object = None) -> object:
        """Wait at the gate, then return the value."""
        self.reached.set()
        assert self.opened.wait(PATIENCE), "nobody opened the gate"
        return value

    def wait(self) -> None:
        """Wait until the function stands at the gate."""
        assert self.reached.wait(PATIENCE), "the function never came"

    def open(self) -> None:
        """Let it go on."""
        self.opened.set()


@contextmanager
def at_gate() -> Generator[Gate]:
    """A gate that is open in the end, whatever happens: a test that fails must not hang in `shutdown`."""
    gate = Gate()
    try:
        yield gate
    finally:
        gate.open()


def until_cancelled(reached: threading.Event | None = None) -> None:
    """Wait to be cancelled, and stop."""
    asked = threading.Event()
    current_run().on_cancel(asked.set)
    if reached is not None:
        reached.set()
    assert asked.wait(PATIENCE), "nobody cancelled the run"
    current_run().raise_if_cancelled()


def nothing() -> None:
    """Return at once."""


def broken() -> None:
    """Fail."""
    raise ValueError("the function's own error")


def stopping() -> None:
    """Stop as cancelled."""
    raise RunCancelled


ENDS = [
    pytest.param(nothing, "completed", None, id="completed"),
    pytest.param(broken, "failed", "the function's own error", id="failed"),
    pytest.param(stopping, "cancelled", None, id="cancelled"),
]
"""How a function may end, the state of its run, and the error text."""


class Delayed(ThreadPoolExecutor):
    """One thread, in which something else happens before each piece of work."""

    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__(1)
        self._before = before

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let the other thing happen once the caller has written what it writes, then do the work."""
        super().submit(self._before)
        return super().submit(fn, *args, **kwargs)


class Holding(Executor):
    """An executor that never begins, and drops its work when it is told to."""

    def __init__(self) -> None:
        self._futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep it."""
        self._futures.append(Future())
        return self._futures[-1]

    def drop(self) -> None:
        """Cancel everything."""
        for future in self._futures:
            future.cancel()


def stored(engine: Engine, run_id: UUID) -> Run:
    """The run's row, read anew and not by the product."""
    with Session(engine) as session:
        return session.scalars(select(Run).where(Run.id == run_id)).one()


def everything(engine: Engine) -> list[Run]:
    """All rows, oldest first."""
    with Session(engine) as session:
        return list(session.scalars(select(Run).order_by(Run.created_at, Run.id)))
