"""The guards of the lifecycle: what each says of a row in Python, and that SQL says the same.

The other databases are asked in `tests/integration/test_runs_guards.py`, with the rows and the comparison of here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from sqlalchemy import (
    DateTime,
    Engine,
    Integer,
    String,
    Text,
    create_engine,
    false,
    func,
    insert,
    not_,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from statelatch.errors import ConfigurationError
from statelatch.runs import Run, RunColumns, RunLifecycle, create_tables, run_mapping
from statelatch.runs.model import new_run_id

WORKER = "host:1:a"
LONG_AGO, FAR_AHEAD = datetime(2000, 1, 1, tzinfo=UTC), datetime(2900, 1, 1, tzinfo=UTC)

CANCELS = [None, LONG_AGO]
OWNERS = [None, WORKER, WORKER.upper(), WORKER + " ", "other", ""]
LEASES = [None, LONG_AGO, FAR_AHEAD]
ATTEMPTS = [(0, 1), (1, 1), (2, 1), (1, 3)]

GUARDS: dict[str, Any] = {
    "startable": Run.startable,
    "unclaimed": Run.unclaimed,
    "cancel_requested": Run.cancel_requested,
    "holds_lease": Run.holds_lease(WORKER),
    "lease_expired": Run.lease_expired,
    "attempts_used_up": Run.attempts_used_up,
}


def rows() -> Sequence[dict[str, object]]:
    """A row for every combination of what the guards look at."""
    return [
        {
            "id": new_run_id(),
            "status": "running",
            "cancel_requested_at": cancel,
            "lease_owner": owner,
            "lease_expires_at": lease,
            "attempt": attempt,
            "max_attempts": most,
        }
        for cancel, owner, lease, (attempt, most) in product(CANCELS, OWNERS, LEASES, ATTEMPTS)
    ]


def in_python(run: Run, guard: str) -> bool:
    """What the Python half says."""
    half = getattr(run, guard)
    return half(WORKER) if guard == "holds_lease" else half


def disagreements(engine: Engine) -> list[tuple[str, Run]]:
    """The guards and rows of which this database says something else than Python, true or not true."""
    create_tables(engine)
    with Session(engine, expire_on_commit=False) as session:
        session.execute(insert(Run), rows())
        session.commit()
        runs = session.scalars(select(Run)).all()
        found: list[tuple[str, Run]] = []
        for guard, expression in GUARDS.items():
            holding = set(session.scalars(select(Run.id).where(expression)))
            others = set(session.scalars(select(Run.id).where(not_(func.coalesce(expression, false())))))
            found += [(guard, run) for run in runs if in_python(run, guard) != (run.id in holding)]
            found += [(guard, run) for run in runs if in_python(run, guard) == (run.id in others)]
    assert len(runs) == len(rows())
    return found


TRUTHS = [
    ("startable", {"cancel_requested_at": None}, True),
    ("startable", {"cancel_requested_at": LONG_AGO}, False),
    ("unclaimed", {"lease_owner": None}, True),
    ("unclaimed", {"lease_owner": ""}, False),
    ("cancel_requested", {"cancel_requested_at": None}, False),
    ("cancel_requested", {"cancel_requested_at": LONG_AGO}, True),
    ("cancel_requested", {"cancel_requested_at": FAR_AHEAD}, True),
    ("holds_lease", {"lease_owner": None}, False),
    ("holds_lease", {"lease_owner": WORKER}, True),
    ("holds_lease", {"lease_owner": WORKER.upper()}, False),
    ("holds_lease", {"lease_owner": WORKER, "lease_expires_at": LONG_AGO}, True),
    ("lease_expired", {"lease_expires_at": None}, False),
    ("lease_expired", {"lease_expires_at": LONG_AGO}, True),
    ("lease_expired", {"lease_expires_at": FAR_AHEAD}, False),
    ("attempts_used_up", {"attempt": 0, "max_attempts": 1}, False),
    ("attempts_used_up", {"attempt": 1, "max_attempts": 1}, True),
    ("attempts_used_up", {"attempt": 2, "max_attempts": 1}, True),
]


@pytest.mark.parametrize(("guard", "columns", "expected"), TRUTHS, ids=str)
def test_guards_in_python(guard: str, columns: dict[str, object], *, expected: bool) -> None:
    """What each guard says of a row."""
    assert expected is in_python(Run(**columns), guard)


@pytest.fixture
def sqlite() -> Generator[Engine]:
    """SQLite in memory."""
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


def test_guards_in_sql_agree_with_python(sqlite: Engine) -> None:
    """Of rows with every combination of values and NULLs, each guard and its negation hold for the same ones."""
    assert disagreements(sqlite) == []


TRANSITIONS = {
    ("start", "pending", "running", "startable"),
    ("complete", "running", "completed", "holds_lease"),
    ("fail", "running", "failed", "holds_lease"),
    ("fail", "pending", "failed", "unclaimed"),
    ("cancel", "pending", "cancelled", "unclaimed"),
    ("cancel", "running", "cancelled", "cancel_requested"),
    ("expire", "running", "failed", "lease_expired and attempts_used_up"),
    ("requeue", "running", "pending", "lease_expired and not attempts_used_up"),
}


def test_every_transition_has_its_guard() -> None:
    """The lifecycle is this table, no transition more or less."""
    transitions = [transition for state in RunLifecycle.states for transition in state.transitions]

    assert {
        (
            event.id,
            transition.source.id,
            str(transition.target and transition.target.id),
            " ".join(map(str, transition.cond)),
        )
        for transition in transitions
        for event in transition.events
    } == TRANSITIONS


def test_every_guard_is_compared() -> None:
    """No guard of the lifecycle is missing above."""
    names = {name for *_, guard in TRANSITIONS for name in guard.split() if name not in {"and", "not"}}

    assert names == set(GUARDS)


def test_run_ids_are_new_and_ordered_by_time() -> None:
    """UUIDs of version 7; of two from one process the later is the greater, within a millisecond, too."""
    ids = [new_run_id() for _ in range(1000)]

    assert {7} == {each.version for each in ids}
    assert ids == sorted(set(ids))


def test_a_mapping_of_an_entity_without_the_columns_is_refused() -> None:
    """It says what is missing, before any statement."""

    class Bare:
        """No entity at all."""

    with pytest.raises(ConfigurationError, match="RunColumns"):
        run_mapping(Bare)


def entity(**columns: Any) -> type[Any]:
    """An entity with the mixin that redefines some of its columns."""

    class Base(DeclarativeBase):
        """A base of its own."""

    return type("Own", (RunColumns, Base), {"__tablename__": "own", **columns})


CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"key": mapped_column("run_key", String(255))}, r"Own\.key: expected a column named 'key'.*found 'run_key'"),
    ({"status": mapped_column("st", String(16))}, r"Own\.status: expected a column named 'status'.*found 'st'"),
    ({"id": mapped_column(Integer, primary_key=True)}, r"Own\.id: expected a column of type Uuid, found Integer"),
    ({"result": mapped_column(String(100))}, r"Own\.result: expected a column of type JSON, found String"),
    ({"error": mapped_column(String(20))}, r"Own\.error: expected room for 1024 characters, found 20"),
    ({"lease_expires_at": mapped_column(DateTime)}, r"Own\.lease_expires_at: .* type UTCDateTime, found DateTime"),
    ({"active_key": mapped_column(String(255))}, r"Own\.active_key: expected the generated, unique column"),
]


@pytest.mark.parametrize(("columns", "message"), CHANGED, ids=lambda value: str(value)[:20])
def test_a_mapping_whose_columns_were_changed_is_refused(columns: dict[str, Any], message: str) -> None:
    """The column and the remedy are named; on SQLite a renamed key would silently be the same for all runs."""
    with pytest.raises(ConfigurationError, match=message):
        run_mapping(entity(**columns))


def test_a_column_may_be_redefined_as_far_as_it_fits() -> None:
    """More room, another default, another column's name where nothing refers to it."""
    own = entity(
        error=mapped_column("error_text", String(2000)), name=mapped_column(Text), priority=mapped_column(Integer)
    )

    assert run_mapping(own).columns["error"].name == "error_text"


def test_the_mixin_is_what_run_is_made_of() -> None:
    """Every column of `Run` comes from `RunColumns`, so that an entity of the user's own has them all."""
    mixed_in = {name for cls in RunColumns.__mro__ for name in vars(cls)}

    assert set(Run.__table__.columns.keys()) - mixed_in == set()
