"""Starts whose caller was interrupted, by Ctrl-C for instance, and holds no handle: nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from statelatch.errors import OutcomeUnknownError
from statelatch.runs import RunManager, current_run
from tests.outages import LostCommit, Outage
from tests.runs import NEVER, PATIENCE, at_gate, everything, nothing, until_cancelled


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
