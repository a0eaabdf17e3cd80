"""The plan of `send_where`, driven by scripted replies, and its SQL as each database is sent it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Dialect
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from statemachine import State, StateChart, StateMachine

from statelatch import BulkResult, ConnectionFailureError, OutcomeUnknownError, RequestError, Transitioned
from statelatch.bulk import send_where
from statelatch.bulk_statements import BulkStatements
from statelatch.commands import Applied, Execute, Pause, Plan, Reply
from statelatch.errors import Phase
from statelatch.faults import Contention, LostRace
from statelatch.labels import AT_COLUMN, STATE_COLUMN, TOKEN_COLUMN, VERSION_COLUMN
from statelatch.prepared import Prepared
from statelatch.retrying import TRIES
from statelatch.statements import Statements
from statelatch.tokens import variants
from statelatch.writes import token_parameter
from tests.parcels import Parcel, ParcelFlow, parcel_mapping

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FAILED: dict[str, Any] = {"phase": Phase.EXECUTE, "database": "db", "detail": "deadlock"}
UNKNOWN = OutcomeUnknownError(phase=Phase.COMMIT, database="db", detail="gone")
LOSE = {"reason": "fell"}

KINDS: dict[str, Dialect] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.dialect(),
    "mariadb": MariaDBDialect(),
    "mysql": mysql.dialect(),
}


def plan(
    event: str = "lose",
    *criteria: object,
    limit: int | None = None,
    keys: bool = False,
    waive: tuple[str, ...] = (),
    hooked: bool = False,
    kind: str = "sqlite",
    machine: type[StateChart[Any]] = ParcelFlow,
) -> Plan[BulkResult]:
    """A call's plan, not begun."""
    bulk = BulkStatements(Statements(parcel_mapping(machine), KINDS[kind]))
    return send_where(bulk, event, criteria, limit=limit, keys=keys, waive=waive, params=LOSE, hooked=hooked)


def sent(begun: Plan[BulkResult]) -> Execute:
    """The first command."""
    command = next(begun)
    assert isinstance(command, Execute)
    return command


def ended(begun: Plan[BulkResult], reply: object) -> BulkResult:
    """What the plan returns upon this reply."""
    with pytest.raises(StopIteration) as end:
        begun.send(reply)
    return end.value.value


def spelled(command: Execute, kind: str) -> list[str]:
    """The statements of a command as a database is sent them, blanks made one."""
    statements = (each.statement if isinstance(each, Prepared) else each for each, _ in command.statements)
    return [" ".join(str(each.compile(dialect=KINDS[kind])).split()) for each in statements]  # pyright: ignore


def test_one_statement_where_nobody_asks_for_the_rows() -> None:
    """A count is one UPDATE, which carries the variants of one token; that token is in the result."""
    begun = plan()
    command = sent(begun)
    result = ended(begun, Reply(3))

    ((_, parameters),) = command.statements
    assert command.token is not None
    tokens = {token_parameter(n): variant for n, variant in enumerate(variants(command.token, 2))}
    assert parameters == {"event_reason": "fell", **tokens}
    assert result == BulkResult(event="lose", count=3, token=command.token, keys=None)


def test_keys_are_read_in_the_same_transaction() -> None:
    """The keys are read by the token's variants, after the UPDATE and before COMMIT; a hook needs the outcome too."""
    for hooked, columns in ((False, "parcels.id"), (True, "parcels.id, parcels.state")):
        command = sent(plan(keys=True, hooked=hooked))

        update, select = spelled(command, "sqlite")
        assert update.startswith("UPDATE parcels SET")
        assert select.replace(" AS id", "").replace(" AS latch_state", "").startswith(f"SELECT {columns}")
        assert select.endswith("WHERE parcels.transition_token IN (?, ?)")
        assert command.statements[1][1].keys() == {token_parameter(0), token_parameter(1)}


def test_hooks_are_due_once_the_rows_are_durable() -> None:
    """After the transaction the plan yields a transition for each row, with the state that its token tells."""
    begun = plan(hooked=True)
    token = sent(begun).token
    assert token is not None
    rows = [
        {"id": 3 + n, STATE_COLUMN: "lost", VERSION_COLUMN: 4 + n, TOKEN_COLUMN: variant, AT_COLUMN: NOW}
        for n, variant in enumerate(variants(token, 2))
    ]

    due = begun.send(Reply(2, rows))

    assert isinstance(due, Applied)
    common: dict[str, Any] = {"event": "lose", "target": "lost", "at": NOW}
    assert list(due.transitions) == [
        Transitioned(key=3, source="packed", version=4, token=token, **common),
        Transitioned(key=4, source="held", version=5, token=variants(token, 2)[1], **common),
    ]
    assert ended(begun, None) == BulkResult(event="lose", count=2, token=token, keys=None)


@pytest.mark.parametrize("failure", [Contention, LostRace])
def test_a_transaction_that_was_broken_off_is_begun_anew(failure: type[ConnectionFailureError]) -> None:
    """For the sake of others, a bounded number of times, with the same token: nothing of it was written."""
    begun = plan()
    commands: list[object] = [sent(begun)]
    for _ in range(TRIES - 1):
        assert isinstance(begun.throw(failure(**FAILED)), Pause)
        commands.append(begun.send(None))

    with pytest.raises(ConnectionFailureError) as caught:
        begun.throw(failure(**FAILED))

    assert commands == [commands[0]] * TRIES
    assert type(caught.value) is ConnectionFailureError


def test_an_unknown_outcome_is_never_repeated() -> None:
    """Rows may have been moved: a second UPDATE might move some of them once more."""
    begun = plan("again")
    sent(begun)

    with pytest.raises(OutcomeUnknownError) as caught:
        begun.throw(UNKNOWN)

    assert caught.value is UNKNOWN


LIMITED = {
    "sqlite": ("UPDATE parcels SET", "ORDER BY parcels.id LIMIT ? OFFSET ?)"),
    "postgresql": ("WITH latch_first AS (SELECT parcels.id AS id", "IN (SELECT latch_first.id FROM latch_first)"),
    "mariadb": ("UPDATE parcels SET", "AND (parcels.id > %s) ORDER BY parcels.id LIMIT %s"),
    "mysql": ("UPDATE parcels SET", "AND (parcels.id > %s) ORDER BY parcels.id LIMIT %s"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit(kind: str) -> None:
    """Each database is told in its own way which rows are the first."""
    begins, ends = LIMITED[kind]

    (update,) = spelled(sent(plan("lose", Parcel.id > 7, limit=5, kind=kind)), kind)

    assert (update[: len(begins)], update[-len(ends) :]) == (begins, ends)
    assert ("FOR UPDATE SKIP LOCKED) UPDATE" in update) == (kind == "postgresql")


class Eager(StateMachine):
    """It may move before it takes an event."""

    packed = State(initial=True)
    held = State()
    sent = State(final=True)
    lose = packed.to(sent)
    on_its_own = packed.to(held, cond="fragile") | held.to(sent)
    packed.to(held, cond="fragile")


class Catching(StateChart[Any]):
    """A guard that raises is an event to it."""

    packed = State(initial=True)
    held = State(final=True)
    sent = State(final=True)
    lose = packed.to(held, cond="weight > most") | packed.to(sent)


class Circular(StateMachine):
    """A guard reads what the event writes."""

    packed = State(initial=True)
    held = State(final=True)
    sent = State(final=True)
    lose = packed.to(sent, cond="note") | packed.to(held)


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Eager, "Eager has eventless transitions"),
        (Catching, "may raise, and the chart catches errors as events"),
        (Circular, "a guard reads a column that the event assigns"),
    ],
)
def test_what_no_waiver_helps_against(machine: type[StateChart[Any]], reason: str) -> None:
    """Machines that one UPDATE cannot stand for are refused before the first command, with the reason of `explain`."""
    with pytest.raises(RequestError, match=reason):
        next(plan("lose", machine=machine))


@pytest.mark.parametrize("waive", ["stick", 5, None, True])
def test_waivers_are_names(waive: Any) -> None:
    """A word is no collection of names, though Python would iterate over its letters."""
    with pytest.raises(RequestError, match="waive: expected names"):
        next(plan("mark", waive=waive))
