"""Races for one row, on each database: one winner each time, and the losers learn it from the right error."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from queue import Empty, SimpleQueue
from threading import Barrier, Thread
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, insert, select
from sqlalchemy.engine import RowMapping

from statelatch import PersistenceAdapter, StaleVersionError, Transitioned, TransitionRefusedError
from statelatch.runs import Run, run_mapping
from statelatch.runs.model import new_run_id

VERSION = 5
TARGETS = {"complete": "completed", "fail": "failed", "cancel": "cancelled"}
PARAMS: dict[str, dict[str, Any]] = {"complete": {"worker": "w"}, "fail": {"worker": "w"}, "cancel": {}}
Outcome = Transitioned | Exception


@dataclass(frozen=True)
class Call:
    """One `send`."""

    run_id: UUID
    event: str
    expected_version: int | None = None


@pytest.fixture
def adapter(runs_engine: Engine) -> PersistenceAdapter:
    """Runs, on an engine for all threads."""
    return PersistenceAdapter(runs_engine, run_mapping())


def running(engine: Engine, count: int) -> list[UUID]:
    """So many running runs that may be completed, failed and cancelled."""
    now = datetime.now(UTC)
    common: dict[str, Any] = {"status": "running", "version": VERSION, "lease_owner": "w", "cancel_requested_at": now}
    common["lease_expires_at"] = now + timedelta(hours=1)
    run_ids = [new_run_id() for _ in range(count)]
    with engine.begin() as connection:
        connection.execute(insert(Run), [{"id": run_id, **common} for run_id in run_ids])
    return run_ids


def stored(engine: Engine) -> dict[UUID, RowMapping]:
    """All rows, as another connection sees them."""
    with engine.connect() as connection:
        return {row["id"]: row for row in connection.execute(select(Run.__table__)).mappings()}


def outcome(adapter: PersistenceAdapter, call: Call) -> Outcome:
    """What became of a call."""
    try:
        return adapter.send(call.run_id, call.event, expected_version=call.expected_version, **PARAMS[call.event])
    except Exception as error:
        return error


def in_threads(works: Iterable[Callable[[], None]]) -> None:
    """Do all of these at once, and wait for them."""
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def judge(engine: Engine, outcomes: Sequence[tuple[Call, Outcome]]) -> None:
    """One winner a run, whose state, version and token the row holds; the losers were stale or refused."""
    rows = stored(engine)
    winners = [(call, done) for call, done in outcomes if isinstance(done, Transitioned)]
    losers = Counter(type(error) for _, error in outcomes if not isinstance(error, Transitioned))

    assert Counter(call.run_id for call, _ in winners) == Counter(rows.keys())
    assert losers.keys() <= {StaleVersionError, TransitionRefusedError}
    for call, done in winners:
        row = rows[call.run_id]
        assert (row["status"], row["version"]) == (TARGETS[call.event], VERSION + 1) == (done.target, done.version)
        assert row["transition_token"] == done.token


def test_two_connections_send_different_ends(adapter: PersistenceAdapter) -> None:
    """Behaviour 6: two connections send different terminal events at once, 1,000 times: one winner each time."""
    run_ids = running(adapter.engine, 1000)
    at_once = Barrier(2)
    outcomes: list[tuple[Call, Outcome]] = []

    def one_side(events: tuple[str, str]) -> None:
        for number, run_id in enumerate(run_ids):
            call = Call(run_id, events[number % 2])
            at_once.wait()
            outcomes.append((call, outcome(adapter, call)))

    in_threads([lambda: one_side(("complete", "cancel")), lambda: one_side(("fail", "complete"))])

    assert len(outcomes) == 2000
    judge(adapter.engine, outcomes)


def test_many_threads_send_one_event(adapter: PersistenceAdapter) -> None:
    """Behaviour 7: 32 threads send one event to one row: exactly one `Transitioned`."""
    [run_id] = running(adapter.engine, 1)
    at_once = Barrier(32)
    outcomes: list[tuple[Call, Outcome]] = []

    def one_thread() -> None:
        call = Call(run_id, "complete")
        at_once.wait()
        outcomes.append((call, outcome(adapter, call)))

    in_threads([one_thread] * 32)

    assert len(outcomes) == 32
    judge(adapter.engine, outcomes)


def test_many_threads_end_many_runs_differently(adapter: PersistenceAdapter) -> None:
    """Must show 5: 32 threads, 500 runs, complete against cancel against fail: one winner each, losers told why."""
    run_ids = running(adapter.engine, 500)
    shuffled = random.Random(7)
    calls: SimpleQueue[Call] = SimpleQueue()
    for run_id in run_ids:
        versions = [None, VERSION, VERSION - 1]
        of_run = [Call(run_id, event, shuffled.choice(versions)) for event in TARGETS]
        of_run.append(Call(run_id, shuffled.choice(list(TARGETS)), VERSION))
        for call in shuffled.sample(of_run, len(of_run)):
            calls.put(call)
    outcomes: list[tuple[Call, Outcome]] = []

    def one_thread() -> None:
        try:
            while True:
                call = calls.get_nowait()
                outcomes.append((call, outcome(adapter, call)))
        except Empty:
            pass

    in_threads([one_thread] * 32)

    assert len(outcomes) == 2000
    judge(adapter.engine, outcomes)
    assert all(isinstance(done, StaleVersionError) for call, done in outcomes if call.expected_version == VERSION - 1)


def test_a_chain_of_versions_has_no_gap(adapter: PersistenceAdapter) -> None:
    """Eight threads move one run round and round: each applied transition is one version, none is lost or doubled."""
    created = adapter.create(max_attempts=1000)
    outcomes: list[Transitioned] = []

    def one_thread(worker: str) -> None:
        for _ in range(15):
            steps: dict[str, dict[str, Any]] = {"start": {"worker": worker, "lease": -1}, "requeue": {}}
            for event, params in steps.items():
                try:
                    outcomes.append(adapter.send(created.key, event, **params))
                except (StaleVersionError, TransitionRefusedError):
                    continue

    in_threads([lambda worker=f"w{number}": one_thread(worker) for number in range(8)])

    versions = sorted(done.version for done in outcomes)
    assert versions == list(range(2, len(outcomes) + 2))
    assert stored(adapter.engine)[created.key]["version"] == versions[-1]
    by_version = sorted(outcomes, key=lambda done: done.version)
    assert all(before.target == after.source for before, after in pairwise(by_version))
