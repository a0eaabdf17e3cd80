"""The three faults that this project grew from. Each was in code that people relied on; none may come back.

(a) An update that matched no row was taken for a lost connection, and repeated over every fallback.
(b) An exception that nobody expected, on the primary's way, skipped the fallback: the last word was lost.
(c) A cancel that changed no row reported success.
"""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Connection, Engine, event
from uuid_utils.compat import uuid7

from statelatch.errors import NotAppliedError, RowNotFoundError, TransitionRefusedError
from statelatch.runs import Outcome, RunManager
from tests.outages import Traffic
from tests.runs import NEVER, PATIENCE, at_gate, nothing, stored

pytestmark = pytest.mark.usefixtures("either_way")


def test_an_update_that_matches_no_row_is_no_failure(runs_engine: Engine, fallback: Engine) -> None:
    """(a) A run was cancelled meanwhile: completing it is a no-op over the primary's one connection, and no other's."""
    primary, other = Traffic(runs_engine), Traffic(fallback)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager, at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        with RunManager(runs_engine) as somebody:
            somebody.cancel(handle.id, force=True)
        opened, used = primary.opened, primary.used
        gate.open()
        said = handle.wait(PATIENCE)

    assert (said.outcome, said.state, said.version, said.via) == (Outcome.NO_OP, "cancelled", 3, "primary")
    assert (primary.opened - opened, primary.used - used) == (0, 2)  # the update, and why it matched no row
    assert (other.opened, other.used, other.statements) == (0, 0, [])
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("cancelled", 3)


def test_an_exception_from_the_primary_still_reaches_the_fallback(runs_engine: Engine, fallback: Engine) -> None:
    """(b) Something on the primary's way raises what no driver raises: the fallback writes the last word."""
    strikes: list[str] = []
    ending = threading.Event()

    def strike(_connection: Connection) -> None:
        if ending.is_set():
            strikes.append("struck")
            raise RuntimeError("a listener's bug")

    def strike_anew(_connection: object, _record: object) -> None:
        strike(None)  # pyright: ignore[reportArgumentType]  it looks at none

    event.listen(runs_engine, "begin", strike)
    event.listen(runs_engine, "connect", strike_anew)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        said = manager.start(ending.set).wait(PATIENCE)
        ending.clear()

    assert strikes == ["struck", "struck"]  # on the pooled connection, and on the one that was made anew
    assert (said.outcome, said.state, said.version, said.via) == (Outcome.APPLIED, "completed", 3, "fallback 1")
    assert stored(runs_engine, said.run_id).status == "completed"


def test_a_cancel_that_changed_no_row_says_so(manager: RunManager, runs_engine: Engine) -> None:
    """(c) Of a run that does not exist, and of one that has ended: an error each, of its own kind."""
    missing = uuid7()
    ended = manager.start(nothing)
    ended.wait(PATIENCE)
    before = stored(runs_engine, ended.id)
    kinds: list[tuple[type[NotAppliedError], object]] = []
    for run_id in (missing, ended.id):
        for force in (False, True):
            with pytest.raises(NotAppliedError) as refused:
                manager.cancel(run_id, force=force)
            kinds.append((type(refused.value), getattr(refused.value, "state", None)))

    assert kinds == [(RowNotFoundError, None)] * 2 + [(TransitionRefusedError, "completed")] * 2
    after = stored(runs_engine, ended.id)
    assert (after.status, after.version, after.cancel_requested_at) == ("completed", 3, None)
    assert before.finished_at == after.finished_at
