"""Statements: the SQL of an event, the order of what it writes, and why an event needs Python."""

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from sqlalchemy import Column, ColumnElement, Integer, String, Text, bindparam, func
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from statemachine import Event, State, StateChart, StateMachine

from statelatch import ConfigurationError, MachineMapping, RequestError
from statelatch.columns import TransitionColumns
from statelatch.event_statements import EventStatements
from statelatch.interpreter import Step
from statelatch.statements import Statements
from statelatch.writes import set_order


class Base(DeclarativeBase):
    """Base of the entity here."""


class Order(TransitionColumns, Base):
    """An order."""

    __tablename__ = "o"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(8))
    paid: Mapped[bool]
    limit: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(Text())
    price: Mapped[int]
    count: Mapped[int]

    @hybrid_method
    def dearer(self, least: int) -> bool:
        """A guard with a parameter."""
        return self.price > least

    @hybrid_property
    def even(self) -> bool:
        """A guard with a list of values."""
        return self.price in {10, 20}

    @even.inplace.expression
    @classmethod
    def _even(cls) -> ColumnElement[bool]:
        return cls.price.in_([10, 20])


class Flow(StateMachine):
    """A machine whose events differ in everything that makes a statement differ."""

    draft = State(initial=True)
    held = State()
    sent = State()
    done = State(final=True)
    gone = State(final=True)

    hold = draft.to(held)
    send_off = draft.to(sent, cond="paid") | draft.to(held, cond="limit > 3") | draft.to(gone)
    drop = draft.to(gone) | held.to(gone) | sent.to(gone, cond="!paid")
    finish = sent.to(done, cond=["dearer", "even"])
    again = held.to(held)
    stay = held.to(held, internal=True)
    release = held.to(draft, cond=lambda: True) | held.to(sent, cond="paid")
    call = held.to(sent, on="ring")
    idle = Event()

    def ring(self) -> None:
        """Ring the bell."""


ASSIGNS: dict[str, dict[str, object]] = {
    "gone": {"note": "gone"},
    "sent": {"note": bindparam("why", None), "count": Order.count + 1},
    "held": {"note": None},
    "finish": {"note": func.lower(bindparam("why"))},
}


def statements(machine: type[StateChart[Any]] = Flow, **mapping: Any) -> Statements:
    """The statements of a mapping, for a dialect without RETURNING."""
    built = MachineMapping(machine=machine, entity=Order, **mapping)
    return Statements(built, DefaultDialect())


def event(name: str, assigns: Mapping[str, Mapping[str, object]] = ASSIGNS) -> EventStatements:
    """The statements of one event of `Flow`."""
    return statements(assigns=assigns).event(name)


def sql(statement: Any) -> str:
    """The SQL with its constants written out and its parameters by name."""
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    params: Mapping[str, object] = cast("SQLCompiler", compiled).params

    def constant(found: re.Match[str]) -> str:
        name = found[1]
        return found[0] if name.startswith(("latch_", "event_")) else repr(params[name])

    return re.sub(r"(?<=[ (=]):(\w+)", constant, str(compiled)).replace("o.", "").replace("\n", "")


def sets(name: str, assigns: Mapping[str, Mapping[str, object]] = ASSIGNS) -> list[str]:
    """The assignments of a compiled event, in order."""
    assignments = sql(event(name, assigns).update).partition("SET ")[2].partition(" WHERE ")[0]
    return re.split(r", (?=\w+=)", assignments)


# -- what is written ----------------------------------------------------------------------------------


def test_one_edge() -> None:
    """A plain event writes the token, the version and the state, and checks key and state where it writes."""
    assert sql(event("hold", assigns={}).update) == (
        "UPDATE o SET transition_token=:latch_token_0, version=(version + 1), state='held' "
        "WHERE id = :latch_key_0 AND state = 'draft'"
    )


def test_the_state_is_written_after_all_that_read_it() -> None:
    """The token's CASE reads the state, so that on MariaDB the state must be written later."""
    assert sets("drop") == [
        "note='gone'",
        (
            "transition_token=CASE WHEN (state = 'held') THEN :latch_token_1 WHEN (state = 'sent') "
            "THEN :latch_token_2 ELSE :latch_token_0 END"
        ),
        "version=(version + 1)",
        "state='gone'",
    ]


def test_several_targets_are_a_case() -> None:
    """Of several edges from one state the first that may be taken decides, for the state and for what it assigns."""
    written = dict(each.split("=", 1) for each in sets("send_off"))
    first = "state = 'draft' AND paid = 1"
    second = 'state = \'draft\' AND "limit" IS NOT NULL AND coalesce("limit" > 3, 0) = 1'
    last = "state = 'draft' AND \"limit\" IS NOT NULL"  # where the guard before it does not raise

    def case(one: str, two: str, three: str, otherwise: str) -> str:
        return (
            f"CASE WHEN ({first}) THEN {one} WHEN ({second}) THEN {two} WHEN ({last}) THEN {three} ELSE {otherwise} END"
        )

    assert case("'sent'", "'held'", "'gone'", "state") == written["state"]
    assert case("count + 1", "count", "count", "count") == written["count"]
    assert case(":event_why", "NULL", "'gone'", "note") == written["note"].replace("None", "NULL")


def test_the_states_entry_wins_over_the_events() -> None:
    """Where event and state assign one column, the state's expression is written."""
    assigns = {"hold": {"note": "event", "price": 1}, "held": {"note": "state"}}

    assert sets("hold", assigns=assigns)[:2] == ["note='state'", "price=1"]


@pytest.mark.parametrize(("name", "enters"), [("again", True), ("stay", False)])
def test_a_self_transition_assigns_what_it_enters(name: str, enters: bool) -> None:
    """An internal self-transition does not enter its state, so that the state's entry is not written."""
    assigns = {"held": {"count": Order.count + 1}}

    assert enters == ("count=(count + 1)" in sets(name, assigns=assigns))


COLUMNS: list[Column[int]] = [Column(name, Integer()) for name in "abcd"]
A, B, C, D = COLUMNS


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({A: B + 0, B: C + 0, C: D + 0}, [A, B, C]),
        ({C: D + 0, B: C + 0, A: B + 0}, [A, B, C]),
        ({A: A + 1, B: A + B}, [B, A]),
        ({A: B + 0, B: A + 0}, None),
        ({A: B + 0, B: C + 0, C: A + 0}, None),
    ],
)
def test_order_of_writing(written: dict[Any, Any], expected: list[Any] | None) -> None:
    """A column is written after all that read it; in a circle there is no such order."""
    order = set_order(written)

    assert order is None if expected is None else [id(column) for column in order or []] == list(map(id, expected))


# -- what is read ---------------------------------------------------------------------------------------


def test_the_version_is_checked_when_it_is_asked_for() -> None:
    """With an expected version the UPDATE checks that too; a resent one spares the row that it has written."""
    both = sql(event("drop").compiled_update(at_version=True, resent=True, packed=True).update.statement)
    neither = sql(event("drop").compiled_update(at_version=False, resent=False, packed=True).update.statement)

    assert both.endswith(
        "AND version = :latch_expected_version AND (transition_token IS NULL OR "
        "(transition_token NOT IN (:latch_token_0, :latch_token_1, :latch_token_2)))"
    )
    assert "latch_expected_version" not in neither
    assert "NOT IN" not in neither


def test_the_diagnosis_selects_each_guard() -> None:
    """What an UPDATE that matched nothing is asked about: the outcome, each guard, and where one raises."""
    selected = sql(event("send_off").diagnosis.statement).partition(" FROM ")[0]

    assert selected.startswith(
        "SELECT state AS latch_state, version AS latch_version, transition_token AS latch_token, strftime("
    )
    assert selected.endswith(
        'paid AS latch_guard_0_0, "limit" IS NOT NULL AND coalesce("limit" > 3, 0) = 1 AS latch_guard_1_0, '
        '"limit" IS NULL AS latch_raises_1'
    )


def test_an_interpreted_update_checks_what_sql_can() -> None:
    """The edge that Python took is written only while its SQL guards hold, and no earlier one has become true."""
    of_event = event("send_off", assigns={})
    second = of_event.edges[1].transition

    update = sql(of_event.interpreted((Step(second, "send_off"),), ("note",)).update.statement)

    assert update.partition(" WHERE ")[2] == (
        "id = :latch_key_0 AND state = 'draft' AND paid = 0 AND \"limit\" IS NOT NULL AND "
        'coalesce("limit" > 3, 0) = 1 AND version = :latch_expected_version'
    )
    assert update.startswith("UPDATE o SET note=:latch_value_note, transition_token=")


def test_an_interpreted_update_is_made_once() -> None:
    """The same steps and changes give the same statement, so that SQLAlchemy compiles it once."""
    of_event = event("call")
    steps = (Step(of_event.edges[0].transition, "call"),)

    assert of_event.interpreted(steps, ("note",)) is of_event.interpreted(steps, ("note",))
    assert of_event.interpreted(steps, ("note",)) is not of_event.interpreted(steps, ())


def test_columns_that_read_each_other_in_a_circle_are_refused() -> None:
    """A callback's change may close a circle that no mapping shows: a named error instead of a wrong write."""
    assigns = {"call": {"price": Order.count + 0}, "sent": {"count": Order.price + 0}}

    with pytest.raises(ConfigurationError, match=r"price, count, which read\s+each other in a circle"):
        statements(assigns=assigns)


# -- parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("hold", {}), ("drop", {}), ("send_off", {"why": False}), ("finish", {"why": True, "least": True})],
)
def test_parameters_of_an_event(name: str, expected: dict[str, bool]) -> None:
    """The parameters are those of guards and assigns, required unless they have a value of their own."""
    assert expected == event(name).parameters


def test_one_parameter_bound_in_two_ways_is_refused() -> None:
    """SQLAlchemy would take the last of two defaults for both."""
    assigns: dict[str, dict[str, object]] = {"hold": {"price": bindparam("n", 1), "count": bindparam("n", 2)}}

    with pytest.raises(ConfigurationError, match=r"parameter 'n' is bound as .* [12] and as .* [12]; give the two"):
        _ = event("hold", assigns=assigns).parameters


# -- why Python ---------------------------------------------------------------------------------------------


class Listened(StateMachine):
    """A machine with a listener."""

    listeners = [object()]  # noqa: RUF012
    a = State(initial=True)
    b = State(final=True)
    go = a.to(b)


class Sliding(StateChart[Any]):
    """A chart with an eventless transition."""

    a = State(initial=True)
    b = State()
    c = State(final=True)
    go = a.to(b)
    b.to(c, cond="paid")


class Catching(StateChart[Any]):
    """A chart that makes an event of a guard that raises."""

    a = State(initial=True)
    b = State(final=True)
    go = a.to(b, cond="limit > 3")


class Conventional(StateMachine):
    """Callbacks by convention."""

    a = State(initial=True)
    b = State(final=True)
    c = State(final=True)
    go = a.to(b, validators="check")
    on = a.to(c)

    def check(self) -> None:
        """Look at it."""

    def on_enter_b(self) -> None:
        """Come in."""

    def before_go(self) -> None:
        """Get up."""


REASONS: list[tuple[type[StateChart[Any]], str, dict[str, Any], list[str]]] = [
    (Flow, "hold", {}, []),
    (Flow, "release", {}, ["guard '<lambda>' is a Python callable"]),
    (Flow, "call", {}, ["action 'ring' is Python"]),
    (Listened, "go", {}, ["Listened has listeners"]),
    (Sliding, "go", {}, ["Sliding has eventless transitions"]),
    (Catching, "go", {}, ["guards of transition go from A to B may raise, and the chart catches errors as events"]),
    (
        Conventional,
        "go",
        {},
        ["validator 'check' is Python", "action 'before_go' is Python", "action 'on_enter_b' is Python"],
    ),
    (Conventional, "on", {}, []),
    (
        Flow,
        "send_off",
        {"assigns": {"sent": {"limit": 1}}},
        ["a guard reads a column that the event assigns, so that one UPDATE cannot order its writes"],
    ),
]


@pytest.mark.parametrize(("machine", "name", "mapping", "reasons"), REASONS)
def test_why_an_event_is_interpreted(
    machine: type[StateChart[Any]], name: str, mapping: dict[str, Any], reasons: list[str]
) -> None:
    """Each reason for Python is named; without one the event is compiled."""
    of_event = statements(machine, **mapping).event(name)

    assert (list(of_event.reasons), of_event.compiled) == (reasons, not reasons)


@pytest.mark.parametrize("dialect", [sqlite.dialect, postgresql.dialect, mysql.dialect])
@pytest.mark.parametrize("name", ["hold", "send_off", "drop", "finish", "release", "call"])
def test_every_event_can_be_explained(dialect: Callable[[], Any], name: str) -> None:
    """`explain` gives kind, reasons and SQL of any event on any dialect."""
    explanation = event(name).explained(dialect())

    assert str(explanation).startswith(f"{name}: {'compiled' if explanation.compiled else 'interpreted'} (")
    assert [reason for reason in explanation.reasons if f"  because {reason}\n" not in str(explanation)] == []
    assert explanation.sql.startswith("UPDATE o SET ")
    assert "POSTCOMPILE" not in explanation.sql


@pytest.mark.parametrize("name", ["idle", "nothing"])
def test_an_event_without_transition_is_none(name: str) -> None:
    """An event that the machine lacks, or that no transition has, is refused before anything is sent."""
    with pytest.raises(RequestError, match=f"Flow has no event '{name}'"):
        event(name)
