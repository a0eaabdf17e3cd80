"""Last words that no connection takes, replayed by two managers again and again: each is told, and written, once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import create_engine

from statelatch import Snapshot, Transitioned
from statelatch.runs import Finalized, Outcome, RunManager, create_tables
from statelatch.testing.history import check_history
from statelatch.testing.operations import History, Operation, Verb
from tests.outages import Outage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import URL

__all__ = ["replay_spools"]

RUNS = 6
PATIENCE = 20.0
"""Seconds in which a run must have ended."""


def replay_spools(url: URL, folder: Path) -> int:
    """Spool the ends of a few runs, and replay them.

    Args:
        url: a database in which the runs' table is made, if it is not there.
        folder: for the spool.

    Returns:
        How many.

    Raises:
        HistoryError: a last word was told twice.
        AssertionError: one was not told, or not spooled in the first place.
    """
    history, path = History(), folder / "spool"
    with ExitStack() as stack:
        engine = create_engine(url)
        stack.callback(engine.dispose)
        create_tables(engine)
        managers = [stack.enter_context(RunManager(engine, spool=path, heartbeat=9.0)) for _ in range(2)]
        runs = _spooled(managers[0], Outage(engine), history)
        initial = [Snapshot(key=run, state="running", version=2, values={}) for run in runs]
        with ThreadPoolExecutor(len(managers)) as threads:
            for _ in range(2):
                list(threads.map(partial(_recover, history), managers))
        told = [each.key for each in history if isinstance(each.answer, Transitioned)]

    check_history(history, initial=initial)
    assert sorted(told) == sorted(runs), f"of {len(runs)} last words {len(told)} were told as applied"
    return len(runs)


def _spooled(manager: RunManager, outage: Outage, history: History) -> Sequence[UUID]:
    """Let runs end while nobody answers."""
    gate = threading.Event()
    handles = [manager.start(gate.wait, PATIENCE) for _ in range(RUNS)]
    for handle in handles:
        while manager.get(handle.id).status != "running":
            pass
    outage.begin()
    for handle in handles:
        history.called(Operation(verb=Verb.SEND, key=handle.id, called=0, event="complete", client="worker"))
    gate.set()
    ends = [handle.wait(PATIENCE).outcome for handle in handles]
    outage.end()
    assert ends == [Outcome.SPOOLED] * RUNS, f"expected spooled ends, found {ends}"
    return [handle.id for handle in handles]


def _recover(history: History, manager: RunManager) -> None:
    """Each word that is told as written is an operation of its own."""
    called = history.called(Operation(verb=Verb.LOAD, key=None, called=0, client="recover"))
    told = manager.recover()
    history.returned(called, None)
    for said in told:
        if said.outcome is Outcome.APPLIED:
            operation = Operation(verb=Verb.SEND, key=said.run_id, called=0, event="complete", client="recover")
            history.returned(history.called(operation), _transitioned(said))


def _transitioned(said: Finalized) -> Transitioned:
    return Transitioned(
        key=said.run_id,
        event="complete",
        source="running",
        target=said.state,
        version=said.version or 0,
        token=uuid4(),
        at=datetime.now(UTC),
    )
