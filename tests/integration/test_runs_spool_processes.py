"""A spool that several processes use, and that survives those that are killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine

from statelatch import PersistenceAdapter, Transitioned
from statelatch.runs import Finalized, Outcome, RunManager, run_mapping
from statelatch.runs.spool import Spool
from tests.processes import process
from tests.runs import NEVER, everything, stored
from tests.spools import applied, recovered, spooled

KILLED = """
import os, signal
from statelatch import PersistenceAdapter
from statelatch.runs import run_mapping
from tests.outages import Outage

engine = open_engine(url)
outage, adapter = Outage(engine), PersistenceAdapter(engine, run_mapping())
manager = RunManager(adapter, heartbeat=29, spool=sys.argv[2])
for number in range(3):
    handle = manager.start(outage.begin, name=str(number))
    say(run=handle.id, outcome=handle.wait(20).outcome)
    outage.end()
adapter.after_commit(lambda _: os.kill(os.getpid(), signal.SIGKILL))
manager.recover()
"""

RECOVER = """
with RunManager(url, heartbeat=29, spool=sys.argv[2]) as manager:
    say(active=manager.active("k"))  # connected
    input()
    say(told=[(said.run_id, said.outcome, said.version) for said in manager.recover()])
"""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Where the spool is to be."""
    return tmp_path / "spool.db"


def test_a_process_that_is_killed_leaves_every_word(runs_engine: Engine, database_url: URL, spool: Path) -> None:
    """SIGKILL after one is written and before it is removed, before the others are replayed: each is written once."""
    with process(KILLED, database_url, spool) as worker:
        said = [worker.hear() for _ in range(3)]
        worker.end(-signal.SIGKILL)
    runs_engine.dispose()  # the outage was one of all sessions
    rows = everything(runs_engine)

    assert [each["outcome"] for each in said] == ["spooled"] * 3
    assert [str(word.run_id) for word in Spool(spool).entries()] == [each["run"] for each in said]
    assert [(row.status, row.version) for row in rows] == [("completed", 3), ("running", 2), ("running", 2)]

    told = recovered(runs_engine, spool)
    assert [(str(end.run_id), end.state, end.version, end.outcome) for end in told] == [
        (each["run"], "completed", 3, Outcome.APPLIED) for each in said
    ]
    assert [(row.status, row.version) for row in everything(runs_engine)] == [("completed", 3)] * 3
    assert recovered(runs_engine, spool) == []


def test_two_processes_recover_at_once(runs_engine: Engine, database_url: URL, spool: Path) -> None:
    """Each word is written once, and told by one of the two; nothing is left."""
    handles = spooled(runs_engine, spool, number=12)
    with (
        process(RECOVER, database_url, spool) as other,
        RunManager(runs_engine, heartbeat=NEVER, spool=spool) as manager,
    ):
        other.hear()
        other.go()
        mine = manager.recover()
        others = other.hear()["told"]
        other.end()
    ids = [str(said.run_id) for said in mine] + [run_id for run_id, _, _ in others]

    assert sorted(ids) == sorted(str(handle.id) for handle in handles)
    assert [said for said in mine if said.outcome is not Outcome.APPLIED or said.version != 3] == []
    assert {(outcome, version) for _, outcome, version in others} <= {("applied", 3)}
    assert {(row.status, row.version) for row in everything(runs_engine)} == {("completed", 3)}
    assert Spool(spool).entries() == []


def test_a_word_whose_replay_another_process_began_is_told_by_who_removes_it(runs_engine: Engine, spool: Path) -> None:
    """Both have read it and both have written it, one after the other: it is applied once and told once."""
    (handle,) = spooled(runs_engine, spool)
    other = RunManager(runs_engine, heartbeat=NEVER, spool=spool)
    adapter = PersistenceAdapter(runs_engine, run_mapping())
    told: list[list[Finalized]] = []

    @adapter.after_commit
    def be_overtaken(_: Transitioned) -> None:
        told.append(other.recover())

    with RunManager(adapter, heartbeat=NEVER, spool=spool) as manager:
        assert manager.recover() == []
    other.shutdown()

    assert told == [[applied(handle, "completed")]]
    assert stored(runs_engine, handle.id).version == 3
