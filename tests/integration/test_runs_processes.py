"""Runs of several processes on one database: real ones, each a Python of its own."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack

import pytest
from sqlalchemy import URL, Engine, inspect

from statelatch.runs import Finalized, Outcome, RunManager
from tests.processes import process
from tests.runs import everything, stored

START_AT_ONCE = """
done = threading.Event()
with RunManager(url) as manager:
    manager.active("k")  # connected
    say(ready=True)
    input()
    for number in range(20):
        key = f"key {number}"
        try:
            handle = manager.start(done.wait, 20, key=key)
            say(key=key, started=handle.id)
        except ActiveRunExistsError as busy:
            say(key=key, busy=busy.run_id)
    input()
    done.set()
"""

WAIT_TO_BE_CANCELLED = """
def function():
    asked = threading.Event()
    current_run().on_cancel(asked.set)
    say(run=current_run().id)
    assert asked.wait(20)
    say(told=time.time())
    current_run().raise_if_cancelled()

with RunManager(url, heartbeat=0.2) as manager:
    said = manager.start(function).wait(20)
    say(state=said.state, version=said.version, outcome=said.outcome)
"""

LEAVE_AND_WAIT = """
def function():
    asked = threading.Event()
    current_run().on_cancel(asked.set)
    say(run=current_run().id)
    assert asked.wait(20)
    current_run().raise_if_cancelled()

with RunManager(url) as manager:
    manager.start(function)
"""

WAIT_FOR_CTRL_C = LEAVE_AND_WAIT.rstrip() + ".wait()\n"

END_WITHOUT_A_WORD = """
manager = RunManager(url, heartbeat=0.01)
manager.start(time.sleep, 0.2)
say(ready=True)
"""

CREATE_AT_ONCE = """
engine = open_engine(url)
engine.connect().close()
say(ready=True)
input()
create_tables(engine)
with RunManager(engine) as manager:
    say(state=manager.start(max, 1, 2).wait(20).state)
engine.dispose()
"""


def test_two_processes_with_one_key_start_one_run(runs_engine: Engine, database_url: URL) -> None:
    """Twenty keys, started by both at the same moment: one row each, and the other process is told its id."""
    with ExitStack() as stack:
        both = [stack.enter_context(process(START_AT_ONCE, database_url)) for _ in range(2)]
        assert [each.hear() for each in both] == [{"ready": True}] * 2
        for each in both:
            each.go()
        said = [[each.hear() for _ in range(20)] for each in both]
        for each in both:
            each.go()
            each.end()
    for one, other in zip(*said, strict=True):
        assert one["key"] == other["key"]
        assert {"started", "busy"} == (one.keys() | other.keys()) - {"key"}
        assert one.get("started", one.get("busy")) == other.get("started", other.get("busy"))

    assert [("completed", f"key {number}") for number in range(20)] == sorted(
        ((row.status, str(row.key)) for row in everything(runs_engine)), key=lambda row: int(row[1].split()[1])
    )


def test_a_run_of_another_process_is_cancelled_and_watched(runs_engine: Engine, database_url: URL) -> None:
    """Its worker sees the request within its heartbeat interval, and its end is seen here."""
    with process(WAIT_TO_BE_CANCELLED, database_url) as worker, RunManager(runs_engine, heartbeat=0.05) as manager:
        worker.hear()
        (run,) = manager.runs()
        subscription = manager.subscribe(run.id)
        asked = time.time()
        assert manager.cancel(run.id).written is False
        told = worker.hear()["told"]
        assert told - asked < 0.2 + 0.3
        assert worker.hear() == {"state": "cancelled", "version": 3, "outcome": "applied"}
        (end,) = list(subscription)
        worker.end()

    assert isinstance(end, Finalized)
    assert (end.state, end.version, end.outcome) == ("cancelled", 3, Outcome.APPLIED)
    assert stored(runs_engine, run.id).status == "cancelled"


@pytest.mark.parametrize("script", [WAIT_FOR_CTRL_C, LEAVE_AND_WAIT], ids=["in the block", "at its end"])
def test_ctrl_c_cancels_the_runs_of_a_process(runs_engine: Engine, database_url: URL, script: str) -> None:
    """The function is told, its run is written as cancelled, and the process ends as one that was interrupted."""
    with process(script, database_url) as worker:
        worker.hear()
        worker.interrupt()
        worker.end(-signal.SIGINT)
    (row,) = everything(runs_engine)

    assert (row.status, row.version, row.error) == ("cancelled", 3, None)


def test_a_process_that_just_ends_lets_its_runs_end(runs_engine: Engine, database_url: URL) -> None:
    """Nobody called `shutdown`: the interpreter waits for the threads, and the last word is written."""
    with process(END_WITHOUT_A_WORD, database_url) as worker:
        worker.hear()
        worker.end()

    assert [(row.status, row.version) for row in everything(runs_engine)] == [("completed", 3)]


def test_processes_create_the_table_at_once(engine: Engine, database_url: URL) -> None:
    """Three find no table at the same moment: all have it afterwards, and their runs complete."""
    with ExitStack() as stack:
        processes = [stack.enter_context(process(CREATE_AT_ONCE, database_url)) for _ in range(3)]
        for each in processes:
            each.hear()
        for each in processes:
            each.go()
        assert [each.hear() for each in processes] == [{"state": "completed"}] * 3
        for each in processes:
            each.end()

    assert inspect(engine).get_table_names() == ["statelatch_runs"]
    assert len(everything(engine)) == 3
