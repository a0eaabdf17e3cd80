"""The heartbeat: it keeps leases, saves progress, learns of requests, and survives what happens to it."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from threading import Event
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, insert, select, update

from statelatch.runs import Outcome, Run, RunHandle, RunManager, current_run
from statelatch.runs.model import new_run_id
from tests.databases import on
from tests.outages import Outage, Traffic
from tests.runs import PATIENCE, at_gate, eventually, stored, until_cancelled


def _expires(engine: Engine, run_id: UUID) -> datetime:
    return stored(engine, run_id).lease_expires_at or datetime.min.replace(tzinfo=UTC)


def test_a_run_longer_than_its_lease_keeps_it(runs_engine: Engine) -> None:
    """The lease is extended before it expires, again and again, and the run completes under it."""
    with RunManager(runs_engine, lease=0.6, heartbeat=0.1) as manager, at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        first = stored(runs_engine, handle.id)
        expiries: set[datetime] = set()
        while len(expiries) < 5:
            expiry = _expires(runs_engine, handle.id)
            assert expiry > datetime.now(UTC) - timedelta(seconds=0.05)
            expiries.add(expiry)
            time.sleep(0.02)
        assert max(expiries) - min(expiries) > timedelta(seconds=0.6)
        last = stored(runs_engine, handle.id)
        assert (first.version, first.lease_owner) == (last.version, last.lease_owner)
        gate.open()

        assert (handle.wait(PATIENCE).state, handle.wait().version) == ("completed", 3)


def test_a_worker_that_lost_its_lease_is_told_and_completes_nothing(runs_engine: Engine) -> None:
    """Another has the run: the function learns of it, the other's lease is left alone, the last word is a no-op."""
    expiry = datetime.now(UTC).replace(microsecond=0)
    with RunManager(runs_engine, lease=0.1, heartbeat=0.02) as manager, at_gate() as gate:
        told = threading.Event()

        def function() -> None:
            current_run().on_cancel(told.set)
            gate()

        handle = manager.start(function)
        gate.wait()
        with runs_engine.begin() as connection:
            other = update(Run).where(Run.id == handle.id).values(lease_owner="another", lease_expires_at=expiry)
            connection.execute(other)
        assert told.wait(PATIENCE)
        traffic = Traffic(runs_engine)
        assert eventually(lambda: sum(said.startswith("UPDATE") for said in traffic.statements) >= 3)
        gate.open()
        said = handle.wait(PATIENCE)

    assert (said.target, said.outcome, said.state, said.version) == ("completed", Outcome.NO_OP, "running", 2)
    row = stored(runs_engine, handle.id)
    assert (row.status, row.lease_owner, row.version) == ("running", "another", 2)
    assert row.lease_expires_at == expiry


def test_progress_is_saved_by_the_heartbeat(runs_engine: Engine) -> None:
    """Another connection sees how far a run is while it runs; what is not new is not written again."""
    traffic = Traffic(runs_engine)
    with RunManager(runs_engine, heartbeat=0.02) as manager, at_gate() as gate:

        def function() -> None:
            current_run().progress(3, 9, "step")
            gate()

        handle = manager.start(function)
        gate.wait()
        assert eventually(lambda: stored(runs_engine, handle.id).progress_current == 3)
        row = stored(runs_engine, handle.id)
        assert (row.progress_current, row.progress_total, row.progress_step, row.version) == (3, 9, "step", 2)
        traffic.statements.clear()
        assert eventually(lambda: sum("IN (" in said for said in traffic.statements) >= 3)  # three more beats

        assert [said for said in traffic.statements if said.startswith("UPDATE")] == []


def test_the_heart_beats_on_after_an_outage(runs_engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """While the database is away each missed beat is a warning; back again, progress and leases are saved at once."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, lease=0.9, heartbeat=0.02) as manager, at_gate() as gate:

        def function() -> None:
            gate()
            outage.begin()
            current_run().progress(7)
            assert eventually(lambda: outage.refused >= 5)
            outage.end()
            until_cancelled()

        handle = manager.start(function)
        gate.wait()
        before = stored(runs_engine, handle.id).lease_expires_at
        gate.open()
        assert eventually(lambda: outage.refused >= 5 and not outage.away)
        assert eventually(lambda: stored(runs_engine, handle.id).progress_current == 7)
        assert before is not None
        assert eventually(lambda: (stored(runs_engine, handle.id).lease_expires_at or before) > before)
        with RunManager(runs_engine) as other:
            other.cancel(handle.id)

        assert handle.wait(PATIENCE).state == "cancelled"
    assert [record.levelno for record in caplog.records if "no heartbeat" in record.message][:1] == [logging.WARNING]


@pytest.mark.parametrize(("error", "broken"), [(RuntimeError("a listener's bug"), 2), (SystemExit(), 4)], ids=repr)
def test_a_beat_that_breaks_is_not_the_last(
    runs_engine: Engine, caplog: pytest.LogCaptureFixture, error: BaseException, broken: int
) -> None:
    """Whatever is raised in it is logged; the next request is still learnt of."""
    strikes: list[object] = []
    reached = threading.Event()

    def strike(_connection: object, record: object, _proxy: object) -> None:
        if reached.is_set() and len(strikes) < 4:  # from then on nothing but the heart is at work
            strikes.append(record)
            raise error

    event.listen(runs_engine, "checkout", strike)
    with RunManager(runs_engine, heartbeat=0.02) as manager, RunManager(runs_engine) as other:
        handle = manager.start(until_cancelled, reached)
        assert reached.wait(PATIENCE)
        assert eventually(lambda: len(strikes) == 4)
        other.cancel(handle.id)

        assert handle.wait(PATIENCE).state == "cancelled"
    assert sum("no heartbeat" in record.message for record in caplog.records) == broken


def test_a_hook_that_exits_does_not_end_the_heartbeat(runs_engine: Engine) -> None:
    """A cancel hook that calls `sys.exit` when another process asks leaves the other runs their heart."""

    def function() -> None:
        def leave() -> None:
            raise SystemExit

        current_run().on_cancel(leave)
        until_cancelled(reached)

    with RunManager(runs_engine, heartbeat=0.02) as manager, RunManager(runs_engine) as other:
        for _ in range(2):
            reached = threading.Event()
            handle = manager.start(function)
            assert reached.wait(PATIENCE)
            other.cancel(handle.id)
            assert handle.wait(PATIENCE).state == "cancelled"


def test_a_hook_that_blocks_does_not_stop_the_heartbeat(runs_engine: Engine) -> None:
    """It waits in a thread of its own: the other run keeps its lease and learns of its own request."""
    release = threading.Event()

    def function(blocking: Event, reached: Event) -> None:
        current_run().on_cancel(lambda: blocking.wait(PATIENCE))
        until_cancelled(reached)

    with RunManager(runs_engine, heartbeat=0.02) as manager, RunManager(runs_engine) as other:
        try:
            free = threading.Event()
            free.set()
            handles: list[RunHandle] = []
            for blocking in (release, free):
                reached = threading.Event()
                handles.append(manager.start(function, blocking, reached))
                assert reached.wait(PATIENCE)
            other.cancel(handles[0].id)
            assert eventually(lambda: any("statelatch-cancel" in thread.name for thread in threading.enumerate()))
            other.cancel(handles[1].id)

            assert handles[1].wait(PATIENCE / 2).state == "cancelled"
        finally:
            release.set()
        assert handles[0].wait(PATIENCE).state == "cancelled"


@on("postgresql", "mariadb")
def test_a_lock_on_another_run_does_not_hold_up_the_heartbeat(runs_engine: Engine) -> None:
    """Somebody's long transaction keeps a row of this table locked: the leases of other runs are extended all the same.

    An UPDATE of several rows may, on MariaDB, look at the whole table, and it locks what it looks at.
    """
    stranger = new_run_id()
    with runs_engine.begin() as connection:
        connection.execute(insert(Run).values(id=stranger, status="running", lease_owner="somebody", version=1))
    with (
        RunManager(runs_engine, lease=0.6, heartbeat=0.05) as manager,
        runs_engine.connect() as locking,
        at_gate() as gate,
    ):
        locking.execute(select(Run.id).where(Run.id == stranger).with_for_update())
        handles = [manager.start(gate) for _ in range(4)]
        gate.wait()
        first = datetime.now(UTC) + timedelta(seconds=0.8)
        extended = eventually(lambda: all(_expires(runs_engine, handle.id) > first for handle in handles))
        locking.rollback()

        assert extended
