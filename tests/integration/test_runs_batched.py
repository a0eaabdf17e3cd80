"""Runs whose claims and last words are written together: many at once, and what befalls a whole batch of them.

What holds of a single run is tested where it is told: the files that use the fixture `either_way`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, event, update

from statelatch import MachineMapping, PersistenceAdapter, Transitioned
from statelatch.runs import Finalized, Outcome, Run, RunHandle, RunLifecycle, RunManager, current_run, run_mapping
from tests.outages import LostCommit, Outage
from tests.runs import NEVER, PATIENCE, at_gate, eventually, everything, nothing, stored

CROWD = 16


class Updates:
    """How many UPDATEs an engine is sent."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        event.listen(engine, "before_cursor_execute", self._executing)

    def begin(self) -> None:
        """Count from now on."""
        self.count = 0

    def _executing(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self.count += "UPDATE" in statement


def crowd(manager: RunManager, first: Callable[[], None] = nothing) -> list[RunHandle]:
    """So many runs that end at the same instant, each with its number; `first` happens once before they do."""
    instant = threading.Barrier(CROWD, action=first)

    def function(number: int) -> int:
        instant.wait(PATIENCE)
        return number

    return [manager.start(function, number) for number in range(CROWD)]


@pytest.fixture
def executor() -> Generator[ThreadPoolExecutor]:
    """Threads for all of them."""
    with ThreadPoolExecutor(CROWD) as executor:
        yield executor


def test_a_crowd_is_written_together(runs_engine: Engine, executor: ThreadPoolExecutor) -> None:
    """Runs that end together need far fewer UPDATEs than there are runs, and each has its own result."""
    updates = Updates(runs_engine)
    with RunManager(runs_engine, executor=executor, heartbeat=NEVER, batch=True) as manager:
        for _ in range(3):  # the batcher knows by then that they come together
            handles = crowd(manager, updates.begin)
            assert [handle.result(PATIENCE) for handle in handles] == list(range(CROWD))
            assert {(end.state, end.version, end.outcome, end.via) for end in ends(handles)} == {
                ("completed", 3, Outcome.APPLIED, "primary")
            }

    assert 1 <= updates.count <= CROWD / 2
    assert [row.result for row in everything(runs_engine)] == [*range(CROWD)] * 3


def ends(handles: list[RunHandle]) -> list[Finalized]:
    """What was told about each."""
    return [handle.wait(PATIENCE) for handle in handles]


def test_each_of_a_crowd_ends_in_its_own_way(runs_engine: Engine, executor: ThreadPoolExecutor) -> None:
    """Completed, failed, cancelled, and overtaken by somebody else, at the same instant: each is told its own end."""
    targets = {0: "completed", 1: "failed", 2: "cancelled", 3: "completed"}

    def function(number: int) -> int:
        instant.wait(PATIENCE)
        if number % 4 == 1:
            raise ValueError(number)
        if number % 4 == 2:
            current_run().raise_if_cancelled()
        return number

    def interfere() -> None:
        for handle in handles[2::4]:
            handle.cancel()
        for handle in handles[3::4]:
            with runs_engine.begin() as connection:
                connection.execute(update(Run).where(Run.id == handle.id).values(lease_owner="another"))

    instant = threading.Barrier(CROWD + 1, action=interfere)
    with RunManager(runs_engine, executor=executor, heartbeat=NEVER, batch=True) as manager:
        handles = [manager.start(function, number) for number in range(CROWD)]
        instant.wait(PATIENCE)
        said = ends(handles)

    for number, (handle, end) in enumerate(zip(handles, said, strict=True)):
        row = stored(runs_engine, handle.id)
        assert (end.target, end.state, end.version) == (targets[number % 4], row.status, row.version)
        assert end.outcome is (Outcome.NO_OP if number % 4 == 3 else Outcome.APPLIED)
        assert row.error == (str(number) if number % 4 == 1 else None)


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])
def test_a_crowd_whose_commit_is_lost_ends_once(
    runs_engine: Engine, executor: ThreadPoolExecutor, *, landed: bool
) -> None:
    """The acknowledgement of a batch is lost: what became of each run is found out by its token, by the same call."""
    lost = LostCommit(runs_engine, landed=landed)
    with RunManager(runs_engine, executor=executor, heartbeat=NEVER, batch=True) as manager:
        said = ends(crowd(manager, lost.arm))

    assert lost.strikes == 1
    assert {(end.state, end.version, end.outcome) for end in said} == {("completed", 3, Outcome.APPLIED)}
    assert {end.via for end in said} == {"primary"}
    assert {(row.status, row.version) for row in everything(runs_engine)} == {("completed", 3)}


def test_a_crowd_needs_the_fallback(runs_engine: Engine, fallback: Engine, executor: ThreadPoolExecutor) -> None:
    """The primary is away for all of them: each goes to the fallback by itself, with the word that was due."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[fallback], executor=executor, heartbeat=NEVER, batch=True) as manager:
        said = ends(crowd(manager, outage.begin))
        outage.end()
        assert ends(crowd(manager))[0].via == "primary"

    assert outage.refused >= 2
    assert {(end.state, end.version, end.outcome, end.via) for end in said} == {
        ("completed", 3, Outcome.APPLIED, "fallback 1")
    }


def test_a_crowd_that_nobody_takes_is_unsaved(runs_engine: Engine, executor: ThreadPoolExecutor) -> None:
    """No connection answers: each is told, nobody hangs, and the manager shuts down."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, executor=executor, heartbeat=NEVER, batch=True) as manager:
        said = ends(crowd(manager, outage.begin))
        outage.end()

    assert [(end.outcome, end.state) for end in said] == [(Outcome.UNSAVED, None)] * CROWD
    assert {(row.status, row.version) for row in everything(runs_engine)} == {("running", 2)}


def test_shutdown_writes_what_is_collected(runs_engine: Engine, executor: ThreadPoolExecutor) -> None:
    """When it returns every last word is in the table; no thread of the batcher's is left."""
    before = set(threading.enumerate())  # another test's may be about to end
    with at_gate() as gate:
        manager = RunManager(runs_engine, executor=executor, heartbeat=NEVER, batch=True)
        for number in range(CROWD):
            manager.start(gate, number)
        gate.wait()
        threading.Timer(0.05, gate.open).start()
        manager.shutdown()

    assert {(row.status, row.version) for row in everything(runs_engine)} == {("completed", 3)}

    def names() -> set[str]:
        new = set(threading.enumerate()) - before
        return {thread.name for thread in new if thread.name.startswith("statelatch")}

    # the watchdog of all time limits is the process's; of threads that began at once all but one leave, sooner or later
    assert eventually(lambda: names() <= {"statelatch-watchdog"}), names()


class Watched(RunLifecycle):
    """The same lifecycle with a callback, so that every event needs Python."""

    def after_transition(self) -> None:
        """Look on."""


def test_a_lifecycle_that_needs_python_is_written_run_by_run(runs_engine: Engine, executor: ThreadPoolExecutor) -> None:
    """What cannot be batched goes over the primary all the same."""
    mapping = MachineMapping(machine=Watched, entity=Run, state="status", assigns=run_mapping().assigns)
    adapter = PersistenceAdapter(runs_engine, mapping)
    with RunManager(adapter, executor=executor, heartbeat=NEVER, batch=True) as manager:
        said = ends(crowd(manager))

    assert {(end.state, end.version, end.via) for end in said} == {("completed", 3, "primary")}


def test_a_hook_cannot_wait_for_all_runs(runs_engine: Engine, executor: ThreadPoolExecutor) -> None:
    """It runs in the thread for which they wait: a shutdown there is refused, and does not hang."""
    adapter = PersistenceAdapter(runs_engine, run_mapping())
    caught: Future[None] = Future()

    @adapter.after_commit
    def shut_down(_: Transitioned) -> None:
        if not caught.done():
            try:
                manager.shutdown()
                caught.set_result(None)
            except RuntimeError as error:
                caught.set_exception(error)

    with RunManager(adapter, executor=executor, heartbeat=NEVER, batch=True) as manager:
        handle = manager.start(nothing)
        with pytest.raises(RuntimeError, match="a run cannot wait for its own end"):
            caught.result(PATIENCE)
        assert handle.wait(PATIENCE).state == "completed"


def test_without_being_asked_a_manager_does_not_batch(runs_engine: Engine, executor: ThreadPoolExecutor) -> None:
    """It is off by default: no thread of a batcher is there while runs are written."""
    with RunManager(runs_engine, executor=executor, heartbeat=NEVER) as manager:
        ends(crowd(manager))

        assert "statelatch-batcher" not in {thread.name for thread in threading.enumerate()}
