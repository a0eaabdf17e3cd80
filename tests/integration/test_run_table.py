"""The lifecycle of a run as a full table: each state, each event, whatever its guards look at.

The table is literal. Each cell is carried out by the compiled UPDATE and by the interpreted machine, without an
expected version, with the right one and with an older one; the row that each leaves is compared as well.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, insert, select

from statelatch import MachineMapping, PersistenceAdapter, StaleVersionError, TransitionRefusedError
from statelatch.errors import Reason
from statelatch.runs import Run, RunLifecycle, run_mapping
from statelatch.runs.model import new_run_id

VERSION = 5
HOUR = timedelta(hours=1)
START = datetime.now(UTC)

Row = dict[str, Any]


class Watched(RunLifecycle):
    """The same lifecycle with a callback, so that every event needs Python."""

    def after_transition(self) -> None:
        """Look on."""


@dataclass(frozen=True)
class Refused:
    """Why nothing was written."""

    reason: Reason
    guards: tuple[str, ...] = ()


WRONG_STATE = Refused(Reason.STATE)


def false(guard: str) -> Refused:
    """This guard was false."""
    return Refused(Reason.GUARD, (guard,))


FREE: Row = {}
CLAIMED: Row = {"lease_owner": "other"}
ASKED: Row = {"cancel_requested_at": START}

MINE: Row = {"lease_owner": "me", "lease_expires_at": START + HOUR, "attempt": 1}
OTHERS: Row = {**MINE, "lease_owner": "Me"}
PADDED: Row = {**MINE, "lease_owner": "me "}
NOBODYS: Row = {**MINE, "lease_owner": None}
MINE_ASKED: Row = {**MINE, "cancel_requested_at": START}
OTHERS_ASKED: Row = {**OTHERS, "cancel_requested_at": START}
EXPIRED: Row = {**MINE, "lease_expires_at": START - HOUR}
EXPIRED_LEFT: Row = {**EXPIRED, "max_attempts": 2}
ALIVE_LEFT: Row = {**MINE, "max_attempts": 2}
UNLEASED: Row = {**MINE, "lease_expires_at": None}
UNLEASED_LEFT: Row = {**UNLEASED, "max_attempts": 2}
ENDED: Row = {**MINE_ASKED, "lease_expires_at": START - HOUR, "error": "kept", "finished_at": START}

USED_UP = "lease_expired and attempts_used_up"
LEFT = "lease_expired and not attempts_used_up"
TERMINAL = ("completed", "failed", "cancelled")
EVENTS = ("start", "complete", "fail", "cancel", "expire", "requeue")

TABLE: list[tuple[str, str, Row, str | Refused]] = [
    ("pending", "start", FREE, "running"),
    ("pending", "start", CLAIMED, "running"),
    ("pending", "start", ASKED, false("startable")),
    ("pending", "complete", FREE, WRONG_STATE),
    ("pending", "complete", MINE, WRONG_STATE),
    ("pending", "fail", FREE, "failed"),
    ("pending", "fail", ASKED, "failed"),
    ("pending", "fail", CLAIMED, false("unclaimed")),
    ("pending", "fail", MINE, false("unclaimed")),
    ("pending", "cancel", FREE, "cancelled"),
    ("pending", "cancel", ASKED, "cancelled"),
    ("pending", "cancel", CLAIMED, false("unclaimed")),
    ("pending", "expire", EXPIRED, WRONG_STATE),
    ("pending", "requeue", EXPIRED_LEFT, WRONG_STATE),
    ("running", "start", MINE, WRONG_STATE),
    ("running", "complete", MINE, "completed"),
    ("running", "complete", MINE_ASKED, "completed"),
    ("running", "complete", EXPIRED, "completed"),
    ("running", "complete", OTHERS, false("holds_lease")),
    ("running", "complete", PADDED, false("holds_lease")),
    ("running", "complete", NOBODYS, false("holds_lease")),
    ("running", "fail", MINE, "failed"),
    ("running", "fail", MINE_ASKED, "failed"),
    ("running", "fail", OTHERS, false("holds_lease")),
    ("running", "fail", PADDED, false("holds_lease")),
    ("running", "fail", NOBODYS, false("holds_lease")),
    ("running", "cancel", MINE, false("cancel_requested")),
    ("running", "cancel", MINE_ASKED, "cancelled"),
    ("running", "cancel", OTHERS_ASKED, "cancelled"),
    ("running", "expire", EXPIRED, "failed"),
    ("running", "expire", EXPIRED_LEFT, false(USED_UP)),
    ("running", "expire", MINE, false(USED_UP)),
    ("running", "expire", UNLEASED, false(USED_UP)),
    ("running", "requeue", EXPIRED_LEFT, "pending"),
    ("running", "requeue", EXPIRED, false(LEFT)),
    ("running", "requeue", ALIVE_LEFT, false(LEFT)),
    ("running", "requeue", UNLEASED_LEFT, false(LEFT)),
    *((state, event, ENDED, WRONG_STATE) for state, event in product(TERMINAL, EVENTS)),
]

PARAMS: dict[str, Row] = {
    "start": {"worker": "me", "lease": 30},
    "complete": {"worker": "me", "result": {"percent": "100%"}},
    "fail": {"worker": "me", "error": "broke at 100%", "error_type": "Error"},
    "cancel": {},
    "expire": {"error": "expired"},
    "requeue": {},
}

PATHS = {"compiled": RunLifecycle, "interpreted": Watched}


@pytest.fixture(params=PATHS)
def adapter(request: pytest.FixtureRequest, runs_engine: Engine) -> PersistenceAdapter:
    """The lifecycle on this path."""
    mapping = MachineMapping(machine=PATHS[request.param], entity=Run, state="status", assigns=run_mapping().assigns)
    adapter = PersistenceAdapter(runs_engine, mapping)
    assert {adapter.explain(event).compiled for event in EVENTS} == {request.param == "compiled"}
    return adapter


def inserted(engine: Engine, state: str, situation: Row) -> UUID:
    """A run in this state and situation, not written by the product."""
    run_id = new_run_id()
    row = {"id": run_id, "status": state, "version": VERSION, "key": run_id.hex, **situation}
    with engine.begin() as connection:
        connection.execute(insert(Run).values(row))
    return run_id


def stored(engine: Engine, run_id: UUID) -> Row:
    """The row as another connection sees it."""
    with engine.connect() as connection:
        return dict(connection.execute(select(Run.__table__).where(Run.id == run_id)).mappings().one())


def sent(adapter: PersistenceAdapter, run_id: UUID, event: str, expected_version: int | None) -> object:
    """What became of an event: the target, or why not."""
    try:
        done = adapter.send(run_id, event, expected_version=expected_version, **PARAMS[event])
    except TransitionRefusedError as refusal:
        return Refused(refusal.reason, refusal.guards)
    assert done.token == stored(adapter.engine, run_id)["transition_token"]
    return done.target


def test_the_table_is_full() -> None:
    """Every state meets every event."""
    states = [state.id for state in RunLifecycle.states]

    assert set(product(states, EVENTS)) == {(state, event) for state, event, _, _ in TABLE}


@pytest.mark.parametrize("expected_version", [None, VERSION])
def test_every_cell(adapter: PersistenceAdapter, expected_version: int | None) -> None:
    """Behaviours 2, 5: an event moves a run exactly where the table says, by one version, or leaves the row alone."""
    for state, event, situation, expected in TABLE:
        run_id = inserted(adapter.engine, state, situation)
        before = stored(adapter.engine, run_id)

        outcome = sent(adapter, run_id, event, expected_version)

        after = stored(adapter.engine, run_id)
        cell = (state, event, situation)
        assert (cell, expected) == (cell, outcome)
        if isinstance(expected, Refused):
            assert before == after
        else:
            assert (cell, expected, VERSION + 1) == (cell, after["status"], after["version"])


def test_every_cell_of_an_older_version(adapter: PersistenceAdapter) -> None:
    """Behaviour 3: with an older version every event is stale, whatever state and guards say; the row is unchanged."""
    for state, event, situation, _ in TABLE:
        run_id = inserted(adapter.engine, state, situation)
        before = stored(adapter.engine, run_id)

        with pytest.raises(StaleVersionError) as caught:
            sent(adapter, run_id, event, VERSION - 1)

        error = caught.value
        assert (error.expected_version, error.actual_version, error.state) == (VERSION - 1, VERSION, state)
        assert before == stored(adapter.engine, run_id)


ENDS_WITH: dict[str, Row] = {
    "running": {"lease_owner": "me", "attempt": 1, "error": None, "started_at": True, "lease_expires_at": True},
    "completed": {"result": {"percent": "100%"}, "error": None, "finished_at": True, "lease_expires_at": False},
    "failed": {"finished_at": True, "lease_expires_at": False},
    "cancelled": {"error": None, "finished_at": True, "lease_expires_at": False},
    "pending": {"lease_owner": None, "lease_expires_at": False, "error": None},
}
"""What a run holds after it was moved into a state; a time only as whether there is one."""


def test_what_every_cell_writes(adapter: PersistenceAdapter) -> None:
    """Behaviour 1: the assigned columns of each transition are visible to another connection, on both paths alike."""
    for state, event, situation, expected in TABLE:
        if isinstance(expected, str):
            run_id = inserted(adapter.engine, state, {**situation, "attempt": 0} if event == "start" else situation)
            sent(adapter, run_id, event, None)
            row = stored(adapter.engine, run_id)
            shown = {name: row[name] is not None if name.endswith("_at") else row[name] for name in ENDS_WITH[expected]}
            assert (state, event, ENDS_WITH[expected]) == (state, event, shown)
            if event in {"fail", "expire"}:
                assert row["error"] == PARAMS[event]["error"]
