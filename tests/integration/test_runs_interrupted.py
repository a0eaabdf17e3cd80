"""Interrupts, by Ctrl-C, an exit or a cancellation, in the middle of what must come to its end.

A start whose caller was interrupted holds no handle: nothing is left behind. A last word stays what it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from statelatch.adapter import PersistenceAdapter
from statelatch.errors import OutcomeUnknownError
from statelatch.records import Transitioned
from statelatch.runs import Outcome, RunManager, current_run, run_mapping
from tests.outages import LostCommit, Outage
from tests.runs import ENDS, NEVER, PATIENCE, Holding, at_gate, everything, nothing, stored, until_cancelled
from tests.spools import applied, recovered

# -- starts --------------------------------------------------------------------------------------------------------


def test_a_start_that_is_interrupted_after_its_row_is_cancelled(runs_engine: Engine) -> None:
    """Ctrl-C between COMMIT and the handle: nobody has the run, so its row is cancelled and its key is free."""
    struck: list[str] = []

    def strike(connection: Connection) -> None:
        if not struck:
            struck.append("struck")
            driver_connection: Any = connection.connection.dbapi_connection
            driver_connection.commit()
            raise KeyboardInterrupt

    event.listen(runs_engine, "commit", strike)
    with RunManager(runs_engine) as manager:
        with pytest.raises(KeyboardInterrupt):
            manager.start(nothing, key="k")
        (row,) = everything(runs_engine)

        assert struck == ["struck"]
        assert (row.status, row.version, row.active_key) == ("cancelled", 2, None)
        assert manager.start(nothing, key="k").wait(PATIENCE).state == "completed"


def test_a_start_whose_outcome_is_unknown_is_cancelled(runs_engine: Engine) -> None:
    """The row was written, COMMIT's answer was lost, nobody answered for a while: the caller is told, the row ends."""
    lost, outage = LostCommit(runs_engine, landed=True), Outage(runs_engine)

    def back_again(*_: object) -> None:
        if outage.refused >= 4:
            outage.end()

    event.listen(runs_engine, "do_connect", back_again, insert=True)
    with RunManager(runs_engine, heartbeat=NEVER) as manager:
        lost.arm()
        outage.away = True  # for new connections; the pool's is there until it is lost
        with pytest.raises(OutcomeUnknownError):
            manager.start(nothing, key="k")
        (row,) = everything(runs_engine)

        assert (lost.strikes, outage.refused) == (1, 4)
        assert (row.status, row.active_key) == ("cancelled", None)


class Interrupted(ThreadPoolExecutor):
    """An executor whose caller is interrupted once it has taken the work, as by Ctrl-C."""

    def __init__(self, before: Callable[[], object] = nothing) -> None:
        super().__init__(1)
        self._before = before

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        super().submit(fn, *args, **kwargs)
        self._before()
        raise KeyboardInterrupt


def test_a_start_that_is_interrupted_while_its_function_runs_asks_it_to_stop(runs_engine: Engine) -> None:
    """The function is told, the run ends as cancelled and not as failed, and shutdown waits for it."""
    reached = threading.Event()
    manager = RunManager(runs_engine, executor=Interrupted(lambda: reached.wait(PATIENCE)), heartbeat=NEVER)
    with pytest.raises(KeyboardInterrupt):
        manager.start(until_cancelled, reached)
    manager.shutdown()
    (row,) = everything(runs_engine)

    assert (row.status, row.version, row.error) == ("cancelled", 3, None)


def test_a_start_that_is_interrupted_before_its_function_runs_cancels_it(runs_engine: Engine) -> None:
    """The work is queued: the row says cancelled, and the function is never called."""
    called: list[int] = []
    executor = Interrupted()
    with at_gate() as gate:
        ThreadPoolExecutor.submit(executor, gate)
        gate.wait()
        manager = RunManager(runs_engine, executor=executor)
        with pytest.raises(KeyboardInterrupt):
            manager.start(called.append, 1)
        manager.shutdown()
        (row,) = everything(runs_engine)
        assert (row.status, row.version, row.error) == ("cancelled", 2, None)
    executor.shutdown()

    assert called == []


def test_an_executor_that_refuses_after_it_began_asks_the_function_to_stop(runs_engine: Engine) -> None:
    """Its exception reaches the caller, and the function does not go on for nobody."""
    reached, asked = threading.Event(), threading.Event()

    def function() -> None:
        current_run().on_cancel(asked.set)
        reached.set()
        assert asked.wait(PATIENCE)

    def refuse() -> None:
        assert reached.wait(PATIENCE)
        raise OSError("no more")

    with RunManager(runs_engine, executor=Interrupted(refuse)) as manager:
        with pytest.raises(OSError, match="no more"):
            manager.start(function)
        assert asked.is_set()


# -- last words ----------------------------------------------------------------------------------------------------


class Interrupts:
    """Raises an interrupt where an engine is about to commit, once it is armed; so many times."""

    def __init__(self, engine: Engine, interrupt: BaseException, *, landed: bool = False, times: int = 1) -> None:
        """`landed`: the write has reached the database before."""
        self._interrupt, self._landed, self._left = interrupt, landed, times
        self._armed = threading.Event()
        self.fired = 0
        event.listen(engine, "commit", self._committing)

    def arm(self) -> None:
        """From now on."""
        self._armed.set()

    def _committing(self, connection: Connection) -> None:
        if not self._armed.is_set() or self.fired == self._left:
            return
        self.fired += 1
        if self._landed:
            driver_connection: Any = connection.connection.dbapi_connection
            driver_connection.commit()
        raise self._interrupt


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize(("function", "state", "error"), ENDS)
def test_an_interrupt_changes_no_last_word(
    runs_engine: Engine,
    function: Callable[[], None],
    state: str,
    error: str | None,
    *,
    landed: bool,
) -> None:
    """Before or after it was durable: the very word that was due is written, once, over the next connection."""
    interrupts = Interrupts(runs_engine, SystemExit(), landed=landed)
    with RunManager(runs_engine, heartbeat=NEVER) as manager:
        handle = manager.start(lambda: (interrupts.arm(), function()))
        said = handle.wait(PATIENCE)

    assert interrupts.fired == 1
    assert said == applied(handle, state, error, via="reconnected")
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).error) == (state, error)


@pytest.mark.usefixtures("either_way")
def test_a_last_word_that_is_interrupted_every_time_is_kept(runs_engine: Engine, tmp_path: Path) -> None:
    """No connection comes to an end: spooled, and nothing waits for ever; what is kept is the success."""
    spool = tmp_path / "spool.db"
    interrupts = Interrupts(runs_engine, SystemExit(), times=2)
    with RunManager(runs_engine, heartbeat=NEVER, spool=spool) as manager:
        handle = manager.start(interrupts.arm)
        said = handle.wait(PATIENCE)
        assert manager.keep_pending() == []

    assert (interrupts.fired, said.target, said.outcome) == (2, "completed", Outcome.SPOOLED)
    assert said.error == "interrupted by SystemExit"
    assert recovered(runs_engine, spool) == [applied(handle, "completed")]


@pytest.mark.usefixtures("either_way")
def test_a_hook_that_exits_changes_no_last_word(runs_engine: Engine) -> None:
    """An `after_commit` hook that exits each time: written over the primary, and told as that."""
    adapter = PersistenceAdapter(runs_engine, run_mapping())
    called: list[str] = []

    @adapter.after_commit
    def leave(done: Transitioned) -> None:
        called.append(done.event)
        raise SystemExit

    with RunManager(adapter, heartbeat=NEVER) as manager:
        handle = manager.start(nothing)
        assert handle.wait(PATIENCE) == applied(handle, "completed")
    assert called == ["start", "complete"]


class Leaving(logging.Handler):
    """Exits when it is told this; so many times."""

    def __init__(self, text: str, times: int) -> None:
        super().__init__()
        self._text, self._times = text, times
        self.fired = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Leave."""
        if self._text in record.getMessage() and self.fired < self._times:
            self.fired += 1
            raise SystemExit


@contextmanager
def leaving(logger: str, text: str, times: int = 1) -> Generator[Leaving]:
    """Exit in the middle of something: where it logs this."""
    named, handler = logging.getLogger(logger), Leaving(text, times)
    level = named.level
    named.setLevel(logging.DEBUG)
    named.addHandler(handler)
    try:
        yield handler
    finally:
        named.removeHandler(handler)
        named.setLevel(level)


def test_what_is_interrupted_after_its_last_word_says_no_other(runs_engine: Engine) -> None:
    """The worker exits when it is written, and before anybody is told: told all the same, and not as a failure."""
    with (
        leaving("statelatch.runs", "completed at version") as left,
        RunManager(runs_engine, heartbeat=NEVER) as manager,
    ):
        handle = manager.start(nothing)
        assert (handle.wait(PATIENCE), left.fired) == (applied(handle, "completed"), 1)


@pytest.mark.parametrize(("times", "outcome"), [(1, Outcome.SPOOLED), (2, Outcome.UNSAVED)])
def test_a_last_word_that_is_interrupted_on_its_way_into_the_spool(
    runs_engine: Engine, tmp_path: Path, times: int, outcome: Outcome
) -> None:
    """Nothing answers, and the worker exits while it waits for the spool: kept all the same; nobody waits for ever."""
    outage, spool = Outage(runs_engine), tmp_path / "spool.db"
    with RunManager(runs_engine, heartbeat=NEVER, spool=spool) as manager:
        with leaving("filelock", "Attempting to acquire lock", times) as left:
            handle = manager.start(outage.begin)
            assert (handle.wait(PATIENCE).outcome, left.fired) == (outcome, times)
        outage.end()
        assert manager.recover() == ([applied(handle, "completed")] if times == 1 else [])


def test_an_interrupt_of_the_main_thread_reaches_it_afterwards(runs_engine: Engine) -> None:
    """Who drops what has not begun writes its last word, and presses Ctrl-C: it is written, and the caller leaves."""
    executor, interrupts = Holding(), Interrupts(runs_engine, KeyboardInterrupt())
    with RunManager(runs_engine, executor=executor, heartbeat=NEVER) as manager:
        handle = manager.start(nothing)
        interrupts.arm()
        with pytest.raises(KeyboardInterrupt):
            executor.drop()

        assert (interrupts.fired, handle.wait(0).state) == (1, "cancelled")
    assert stored(runs_engine, handle.id).status == "cancelled"
