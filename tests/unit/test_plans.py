"""Plans: the order of steps of each verb, driven by scripted replies; no database is near."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import ClauseElement, Executable, Text, bindparam
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    ConnectionFailureError,
    MachineMapping,
    RowNotFoundError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.columns import TransitionColumns
from statelatch.commands import Applied, Command, Execute, Fire, Pause, Plan, Reply
from statelatch.errors import Phase, Reason
from statelatch.faults import Contention
from statelatch.plans import create, load, send
from statelatch.prepared import Prepared
from statelatch.retrying import TRIES
from statelatch.statements import Statements
from statelatch.writes import token_parameter

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TOKEN, OTHER = UUID(int=0xA0), UUID(int=0xB000)
BUSY = Contention(phase=Phase.EXECUTE, database="db", detail="deadlock")
AWAY = ConnectionFailureError(phase=Phase.EXECUTE, database="db", detail="gone")

Result = TypeVar("Result")


class Base(DeclarativeBase):
    """Base of the entity here."""


class Order(TransitionColumns, Base):
    """An order."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(Text())
    paid: Mapped[bool] = mapped_column(default=False)
    limit: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(Text())


class Flow(StateMachine):
    """Events that are compiled, and some that are not."""

    draft = State(initial=True)
    sent = State()
    done = State(final=True)
    gone = State(final=True)

    send_off = draft.to(sent, cond="paid")
    drop = draft.to(gone) | sent.to(gone)
    choose = draft.to(sent, cond="limit > 3") | draft.to(gone, cond="paid")
    finish = sent.to(done)
    by_hand = draft.to(sent, cond="paid", on="write") | sent.to(done, on="write")
    tamper = draft.to(sent, on="count")
    lie = draft.to(gone, after="pretend")

    def write(self, model: Order, note: str = "by hand") -> None:
        """Change a column."""
        model.note = note

    def count(self, model: Order) -> None:
        """Change what statelatch writes."""
        model.version += 1

    def pretend(self, model: Order) -> None:
        """Change the state."""
        model.state = "elsewhere"


MAPPING = MachineMapping(machine=Flow, entity=Order, assigns={"finish": {"note": bindparam("note", type_=Text())}})
RETURNING = Statements(MAPPING, sqlite.dialect())
PLAIN = Statements(MAPPING, DefaultDialect())


def sql(statement: Executable | Prepared) -> str:
    """A statement as SQLite spells it."""
    clause = statement.statement if isinstance(statement, Prepared) else statement
    assert isinstance(clause, ClauseElement)
    return str(clause.compile(dialect=sqlite.dialect()))


class Script:
    """Replies to a plan's commands, in order; an exception is thrown into it. A machine is really run."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self._replies = list(replies)
        self.commands: list[Execute | Fire] = []
        self.pauses: list[float] = []
        self.applied: list[Transitioned] = []

    def run(self, plan: Plan[Result]) -> Result:
        """Run a plan to its end; every reply must be used."""
        try:
            command = next(plan)
            while True:
                reply = self._reply(command)
                command = plan.throw(reply) if isinstance(reply, Exception) else plan.send(reply)
        except StopIteration as stop:
            assert self._replies == []
            return stop.value

    def _reply(self, command: Command) -> object:
        if isinstance(command, Applied):
            return self.applied.extend(command.transitions)
        if isinstance(command, Pause):
            return self.pauses.append(command.seconds)
        self.commands.append(command)
        return command.firing.run() if isinstance(command, Fire) else self._replies.pop(0)

    @property
    def kinds(self) -> list[str]:
        """What was asked for: the first word of each transaction's statements, or FIRE."""
        return [
            "FIRE" if isinstance(command, Fire) else "+".join(sql(each).split()[0] for each, _ in command.statements)
            for command in self.commands
        ]

    def transaction(self, number: int) -> Execute:
        """The n-th command, which is a transaction."""
        command = self.commands[number]
        assert isinstance(command, Execute)
        return command

    def parameters(self, number: int) -> Mapping[str, Any]:
        """What the n-th command's first statement binds."""
        return self.transaction(number).statements[0][1]


def outcome(state: str, version: int, token: UUID | None = None, **diagnosed: object) -> Reply:
    """One row's outcome, as an UPDATE or the diagnosis gives it."""
    row = {"latch_state": state, "latch_version": version, "latch_token": token, "latch_at": NOW, **diagnosed}
    return Reply(1, [row])


def row(state: str = "draft", version: int = 1, token: UUID | None = None, **values: object) -> Reply:
    """One row, as `load` reads it."""
    columns = {"id": 7, "paid": True, "limit": None, "note": None, **values}
    return Reply(1, [{**columns, "state": state, "version": version, "transition_token": token}])


NOTHING = Reply(0)


def sent(event: str, *, version: int | None = None, token: UUID | None = None, **params: Any) -> Plan[Transitioned]:
    """A `send` to row 7."""
    return send(RETURNING, 7, event, expected_version=version, token=token, params=params)


# -- compiled -----------------------------------------------------------------------------------------


def test_an_applied_event_is_one_statement() -> None:
    """One UPDATE is sent; its row says what became of it."""
    script = Script(outcome("gone", 2, TOKEN))

    assert script.run(sent("drop", token=TOKEN)) == Transitioned(
        key=7, event="drop", source="draft", target="gone", version=2, token=TOKEN, at=NOW
    )
    assert script.kinds == ["UPDATE"]


def test_an_applied_event_is_told_once_it_is_durable() -> None:
    """The adapter's hooks are due after the transaction, once; a refusal tells them nothing."""
    applied, refused = Script(outcome("gone", 2, TOKEN)), Script(NOTHING, outcome("gone", 2))
    done = applied.run(sent("drop", token=TOKEN))
    with pytest.raises(TransitionRefusedError):
        refused.run(sent("drop"))

    assert (applied.applied, refused.applied) == ([done], [])


def test_without_returning_the_row_is_read_in_the_same_transaction() -> None:
    """Where UPDATE returns nothing, a SELECT follows it before the commit."""
    script = Script(outcome("gone", 2, TOKEN))

    script.run(send(PLAIN, 7, "drop", expected_version=None, token=TOKEN, params={}))

    assert script.kinds == ["UPDATE+SELECT"]


@pytest.mark.parametrize(("number", "source"), [(0, "draft"), (1, "sent")])
def test_the_token_tells_the_source(number: int, source: str) -> None:
    """The variant of the token that the row holds says which state was left."""
    variant = UUID(int=TOKEN.int ^ number)

    assert source == Script(outcome("gone", 2, variant)).run(sent("drop", token=TOKEN)).source


def test_every_write_carries_token_and_key() -> None:
    """What a lost answer would be asked about later goes with the command; reads carry none."""
    script = Script(NOTHING, outcome("gone", 5))
    with pytest.raises(TransitionRefusedError):
        script.run(sent("drop", token=TOKEN))

    update, diagnosis = script.transaction(0), script.transaction(1)
    assert (update.token, update.key, update.writes) == (TOKEN, 7, True)
    assert (diagnosis.token, diagnosis.writes) == (None, False)
    assert script.parameters(0)[token_parameter(1)] == UUID(int=TOKEN.int ^ 1)


def test_a_token_is_made_for_each_call() -> None:
    """Two calls leave different proofs, and neither asks whether it was there before."""
    tokens: list[object] = []
    for _ in range(2):
        script = Script(outcome("done", 2, OTHER))
        script.run(sent("finish", note="x"))
        tokens.append(script.parameters(0)[token_parameter(0)])

    assert tokens[0] != tokens[1]


def test_the_diagnosis_is_a_new_transaction() -> None:
    """Why an UPDATE matched nothing is asked in a transaction of its own: an old snapshot would not tell."""
    script = Script(NOTHING, outcome("done", 4))
    with pytest.raises(TransitionRefusedError):
        script.run(sent("finish", note="x"))

    assert script.kinds == ["UPDATE", "SELECT"]
    assert [len(script.transaction(number).statements) for number in range(2)] == [1, 1]


REFUSALS: dict[str, tuple[str, dict[str, Any], Reply, type[Exception], dict[str, Any]]] = {
    "no row": ("drop", {}, NOTHING, RowNotFoundError, {"key": 7, "event": "drop"}),
    "wrong state": (
        "drop",
        {},
        outcome("done", 4),
        TransitionRefusedError,
        {"reason": Reason.STATE, "state": "done", "version": 4, "guards": (), "sources": ("draft", "sent")},
    ),
    "false guard": (
        "send_off",
        {},
        outcome("draft", 4, latch_guard_0_0=False),
        TransitionRefusedError,
        {"reason": Reason.GUARD, "state": "draft", "guards": ("paid",)},
    ),
    "both guards false": (
        "choose",
        {},
        outcome("draft", 4, latch_guard_0_0=False, latch_raises_0=False, latch_guard_1_0=False),
        TransitionRefusedError,
        {"reason": Reason.GUARD, "guards": ("limit > 3", "paid")},
    ),
    "a guard that raises hides the next": (
        "choose",
        {},
        outcome("draft", 4, latch_guard_0_0=False, latch_raises_0=True, latch_guard_1_0=True),
        TransitionRefusedError,
        {"reason": Reason.GUARD, "guards": ("limit > 3",)},
    ),
    "older version": (
        "drop",
        {"version": 3},
        outcome("draft", 4),
        StaleVersionError,
        {"expected_version": 3, "actual_version": 4, "state": "draft"},
    ),
    "older version and wrong state": ("drop", {"version": 3}, outcome("done", 4), StaleVersionError, {"state": "done"}),
    "right version and wrong state": (
        "drop",
        {"version": 4},
        outcome("done", 4),
        TransitionRefusedError,
        {"reason": Reason.STATE},
    ),
    "unknown state": ("drop", {}, outcome("lost", 4), UnknownStateError, {"key": 7, "value": "lost"}),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_why_an_update_matched_no_row(why: str) -> None:
    """The diagnosis tells a missing row, another version, another state and a false guard from one another."""
    event, call, diagnosis, expected, attributes = REFUSALS[why]
    script = Script(NOTHING, diagnosis)

    with pytest.raises(expected) as caught:
        script.run(sent(event, **call))

    assert attributes == {name: getattr(caught.value, name) for name in attributes}


def test_a_row_that_could_move_is_tried_again_three_times() -> None:
    """Where the diagnosis finds the row ready, somebody was faster: three tries, then stale."""
    script = Script(*[NOTHING, outcome("draft", 4)] * TRIES)

    with pytest.raises(StaleVersionError) as caught:
        script.run(sent("drop"))

    assert script.kinds == ["UPDATE", "SELECT"] * 3
    assert (caught.value.expected_version, caught.value.actual_version) == (None, 4)


def test_a_lost_race_may_be_won_later() -> None:
    """A second try that matches is an applied transition."""
    script = Script(NOTHING, outcome("draft", 4), outcome("gone", 6, TOKEN))

    assert script.run(sent("drop", token=TOKEN)).version == 6


# -- resent ---------------------------------------------------------------------------------------------


def test_a_resent_event_finds_its_own_earlier_write() -> None:
    """The token comes first: what this call has written before is its success, whatever the row would allow now."""
    script = Script(NOTHING, outcome("gone", 2, UUID(int=TOKEN.int ^ 1)))

    done = script.run(sent("drop", token=TOKEN, version=1))

    assert (done.source, done.target, done.version) == ("sent", "gone", 2)
    assert "NOT IN" in sql(script.transaction(0).statements[0][0])


def test_a_resent_event_that_was_overtaken_is_stale() -> None:
    """Another's token one version on: the call was not the one that wrote."""
    with pytest.raises(StaleVersionError):
        Script(NOTHING, outcome("gone", 2, OTHER)).run(sent("drop", token=TOKEN, version=1))


def test_a_resent_interpreted_event_does_not_run_the_machine_again() -> None:
    """If the row carries the token already, no callback runs."""
    script = Script(row("sent", 2, TOKEN), outcome("sent", 2, TOKEN))

    assert script.run(sent("by_hand", token=TOKEN)).source == "draft"
    assert script.kinds == ["SELECT", "SELECT"]


# -- contention and connections ---------------------------------------------------------------------------


def test_contention_is_tried_again() -> None:
    """A transaction that the database broke off for another's sake is begun anew."""
    script = Script(BUSY, BUSY, outcome("gone", 2, TOKEN))

    assert script.run(sent("drop", token=TOKEN)).version == 2
    assert script.kinds == ["UPDATE"] * 3
    assert [0 <= pause <= longest for pause, longest in zip(script.pauses, (0.1, 0.2), strict=True)] == [True] * 2


@pytest.mark.parametrize("verb", [sent("drop"), load(RETURNING, 7), create(RETURNING, {"id": 7})])
def test_contention_without_end_is_a_connection_failure(verb: Plan[Any]) -> None:
    """After three tries it is told, as what it is by its class: the database did not answer."""
    script = Script(BUSY, BUSY, BUSY)

    with pytest.raises(ConnectionFailureError) as caught:
        script.run(verb)

    assert (type(caught.value), len(script.commands)) == (ConnectionFailureError, TRIES)


@pytest.mark.parametrize("failure", [AWAY, ZeroDivisionError()])
@pytest.mark.parametrize("verb", ["send", "load", "create"])
def test_other_failures_are_not_tried_again(verb: str, failure: Exception) -> None:
    """A lost connection is the caller's to decide about; nothing is repeated behind its back."""
    plans: dict[str, Plan[Any]] = {
        "send": sent("drop"),
        "load": load(RETURNING, 7),
        "create": create(RETURNING, {"id": 7}),
    }
    script = Script(failure)

    with pytest.raises(type(failure)) as caught:
        script.run(plans[verb])

    assert (caught.value, len(script.commands)) == (failure, 1)
