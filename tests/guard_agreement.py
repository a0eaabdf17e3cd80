"""Random events, judged twice: by python-statemachine on restored rows, and by the database in one guarded UPDATE.

An event has one to three edges, of one or two source states; what is drawn here must be translated. Python is
the judge: a row must be moved where Python moves it, to the state that Python chooses, and be left where it refuses
or raises.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import example
from hypothesis import strategies as st
from sqlalchemy import Engine, false, select, update
from statemachine import State
from statemachine.exceptions import TransitionNotAllowed
from statemachine.spec_parser import replace_operators
from statemachine.transition_list import TransitionList

from statelatch import MachineMapping, framework
from statelatch.event_statements import EventStatements
from statelatch.statements import Statements
from statelatch.writes import set_order
from tests.guarded import TEXTS, TWINS, VALUES, Guarded, Judging, is_small

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hypothesis.strategies import SearchStrategy
    from sqlalchemy import ColumnElement

    Row = Mapping[str, Any]

__all__ = ["PARAMETERS", "Drawn", "DrawnEdge", "Judge", "Verdict", "by_predicates", "by_update", "events", "subtle"]

PARAMETERS = {"least": 2}

# -- expressions ------------------------------------------------------------------------------------

ORDERED = ["==", "!=", "<", "<=", ">", ">="]
EQUAL = ["==", "!="]


def constants(*values: object) -> list[str]:
    """The values as a guard spells them; it knows no negative numbers."""
    return [repr(value) for value in values]


FAMILIES: list[tuple[list[str], list[str], list[str]]] = [
    (["count", "size", "amount"], constants(0, 1, 2, 3, True), ORDERED),
    (["count", "big", "size", "flag"], constants(2**53 + 1, 0, 2, False), ORDERED),
    (["score", "ratio", "count", "flag"], constants(0.1, 0, 2, 2.5, 16777216, True), ORDERED),
    (["title", "label", "first"], constants(*TEXTS), ORDERED),
    (["at", "due"], [], ORDERED),
    (["day", "holiday"], [], ORDERED),
    (["flag", "other_flag"], constants(True, False, 1, 0, 0.5), ORDERED),
    (["reference", "origin"], [], EQUAL),
]
"""Columns, constants and operators that go together."""

MEMBERS: list[tuple[str, list[str]]] = [
    ("tone", constants("a", "b", "", "A", "loud")),
    ("rank", constants(0, 1, 2, True, 1.5)),
    ("word", constants("yes", "no", "", "YES", "other")),
]
"""Enum columns, and constants with which their members compare."""


def comparisons(columns: list[str], literals: list[str], operators: list[str]) -> SearchStrategy[str]:
    """A comparison or chain of comparisons, each link with a column."""
    column, literal = st.sampled_from(columns), st.sampled_from(literals or columns)
    links = st.lists(st.tuples(st.sampled_from(operators), column), min_size=1, max_size=2)
    chain = st.tuples(column, links).map(lambda drawn: drawn[0] + "".join(f" {op} {name}" for op, name in drawn[1]))
    around = st.tuples(literal, st.sampled_from(operators), column, st.sampled_from(operators), literal)
    return st.one_of(
        chain,
        st.tuples(column, st.sampled_from(operators), literal).map(" ".join),
        around.map(" ".join),
    )


def of_members(column: str, literals: list[str]) -> SearchStrategy[str]:
    """An Enum column between constants, or before one."""
    literal, operator = st.sampled_from(literals), st.sampled_from(ORDERED)
    return st.one_of(
        st.tuples(st.just(column), operator, literal).map(" ".join),
        st.tuples(literal, operator, st.just(column), operator, literal).map(" ".join),
    )


NAMES = st.sampled_from(
    sorted({*VALUES, "large", "at_least", "busy", "idle", "balanced", "exceeds", *TWINS} - {"v", "is_small"})
)
NULLS = st.tuples(st.sampled_from(sorted({*VALUES, "large", "amount"} - {"v"})), st.sampled_from([*EQUAL * 4, "<"]))
STATES = st.sampled_from(["In('a')", "In('b')", "In('a', 'b')", "In('nowhere')", "In()", "In(3)"])
CONSTANTS = st.sampled_from(["1", "0", "''", "1 < 2", "'a' < 3", "1 == True", "2 < count < 1 < size"])
COMPARED = st.one_of(
    *(comparisons(*family) for family in FAMILIES),
    *(of_members(*family) for family in MEMBERS),
)
# A lone `v` is a column; inside of an expression it means `or`.
LEAVES = st.one_of(
    NAMES,
    NULLS.map(lambda drawn: f"{drawn[0]} {drawn[1]} None"),
    STATES,
    CONSTANTS,
    *(comparisons(*family) for family in FAMILIES),
    *(of_members(*family) for family in MEMBERS),
)


def _joined(parts: SearchStrategy[str]) -> SearchStrategy[str]:
    words, condition = st.sampled_from([" and ", " or ", " ^ ", " v "]), st.one_of(COMPARED, STATES)
    value = st.one_of(st.sampled_from(["flag", "other_flag", "True", "1"]), condition.map("({})".format))
    operand = st.one_of(condition, parts.map("not ({})".format)).map("({})".format)
    return st.one_of(
        st.tuples(parts, words, parts).map(lambda drawn: f"({''.join(drawn)})"),
        st.tuples(parts, words, parts, words, parts).map("".join),
        st.tuples(st.sampled_from(["not ", "!"]), parts).map(lambda drawn: f"{drawn[0]}({drawn[1]})"),
        st.tuples(operand, st.sampled_from(ORDERED), value).map(" ".join),
        st.tuples(value, st.sampled_from(ORDERED), operand).map(" ".join),
    )


EXPRESSIONS = st.recursive(LEAVES, _joined, max_leaves=5)


@dataclass(frozen=True)
class DrawnEdge:
    """One transition, with what stands under `cond` and under `unless`."""

    source: str
    target: str
    cond: tuple[Any, ...] = ()
    unless: tuple[Any, ...] = ()


Drawn = tuple[DrawnEdge, ...]
"""The transitions of one event, in the order in which the machine declares them."""

_GUARDS = st.one_of(EXPRESSIONS, EXPRESSIONS, EXPRESSIONS, st.sampled_from(["v", is_small]))


def _key(guard: Any) -> object:
    """What python-statemachine tells guards by, roughly: without parentheses and quotes."""
    return guard if callable(guard) else "".join(each for each in replace_operators(guard) if each not in "() '\"")


def _edges(sources: str) -> SearchStrategy[DrawnEdge]:
    return st.builds(
        DrawnEdge,
        source=st.sampled_from(sources),
        target=st.sampled_from("abcd"),
        cond=st.lists(_GUARDS, max_size=2, unique_by=_key).map(tuple),
        unless=st.lists(_GUARDS, max_size=1).map(tuple),
    )


def _told_apart(drawn: Drawn) -> bool:
    """Whether no two guards of a transition are one to python-statemachine."""
    return all(len({*map(_key, edge.cond + edge.unless)}) == len(edge.cond + edge.unless) for edge in drawn)


events: SearchStrategy[Drawn] = st.lists(_edges("aab"), min_size=1, max_size=3).map(tuple).filter(_told_apart)
"""The transitions of one event."""


def of(*cond: str, unless: tuple[str, ...] = ()) -> Drawn:
    """An event with one transition."""
    return (DrawnEdge("a", "b", cond, unless),)


SUBTLE: list[Drawn] = [
    of("score == 0.1"),
    of("score < 2.5", "ratio < 2.5"),
    of("!(score >= ratio)"),
    of("ratio != ratio"),
    of("title"),
    of("label == ' '", unless=("title",)),
    of("title > 'Z'", unless=("title == 'a'",)),
    of("kind or word"),
    of("not large"),
    of("busy", unless=("idle",)),
    of("exceeds"),
    of("flag or !exceeds"),
    of("v", unless=("In('b')",)),
    of("count > 0 or count == None"),
    of("count == None or count > 0"),
    of("1 < count < size"),
    of("word == ''"),
    of("'a' <= tone < 'b'"),
    of("rank < 1.5 or flag == 1"),
    of("(count > 1) == flag"),
    of("flag < (size >= count)"),
    of("count > None or flag"),
    (DrawnEdge("a", "b", ("size > 1",)), DrawnEdge("a", "c", ("flag",))),
    (DrawnEdge("a", "a", ("is_heavy",)), DrawnEdge("b", "d", (is_small,)), DrawnEdge("a", "c", ("!is_heavy",))),
]
"""Each has once been wrong, or would be if it were done simply."""


def subtle(test: Callable[..., None]) -> Callable[..., None]:
    """Try these events always, besides those that are drawn."""
    for drawn in SUBTLE:
        test = example(drawn=drawn)(test)
    return test


# -- verdicts -----------------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What becomes of an event that moves nothing; else it is the state that is entered."""

    REFUSED = enum.auto()
    RAISED = enum.auto()


def mapping_of(drawn: Drawn) -> MachineMapping:
    """The mapping of a machine with this event, with the twins of what is Python in it."""

    class Machine(Judging):
        a = State(initial=True)
        b = State()
        c = State()
        d = State(final=True)
        wander = a.to(b) | b.to(c) | c.to(d) | c.to(a)
        go = _transitions(drawn, {"a": a, "b": b, "c": c, "d": d})

    transitions: list[Any] = [*Machine.a.transitions, *Machine.b.transitions]
    specs = [spec for transition in transitions for spec in transition.cond]
    used = {name for spec in specs for name in (framework.names_in(spec) or {spec.attr_name})}
    return MachineMapping(
        machine=Machine,
        entity=Guarded,
        assigns={state: {"entered": state} for state in "bc"},
        guards={name: twin for name, twin in TWINS.items() if name in used},
    )


def _transitions(drawn: Drawn, states: Mapping[str, State]) -> TransitionList:
    made = TransitionList()
    for edge in drawn:
        made = made | states[edge.source].to(states[edge.target], cond=[*edge.cond], unless=[*edge.unless])  # pyright: ignore
    return made


class Judge:
    """One machine for all rows: its model's contents are swapped. A guard raises before anything has changed.

    It is built on a row without NULL: the framework reads every guard then, and some raise where they are read.
    """

    def __init__(self, mapping: MachineMapping) -> None:
        full = {"id": 0, "state": "a"} | {name: values[0] for name, values in VALUES.items()}
        model = mapping.restored(full)
        self._machine: Any = mapping.machine(model, state_field=mapping.state)
        self._contents: dict[str, Any] = vars(model)

    def verdict(self, row: Row) -> Verdict | str:
        """What python-statemachine does with the row."""
        framework.rest(self._machine)
        self._contents.update(row)
        try:
            framework.send(self._machine, "go", PARAMETERS)
        except TransitionNotAllowed:
            return Verdict.REFUSED
        except TypeError:
            return Verdict.RAISED
        return self._machine.model.state


def event_of(mapping: MachineMapping, engine: Engine) -> EventStatements:
    """The event's statements; it must have been compiled."""
    event = Statements(mapping, engine.dialect).event("go")
    assert event.compiled, event.reasons
    return event


_BOUND = {f"event_{name}": value for name, value in PARAMETERS.items()}


def by_update(event: EventStatements, engine: Engine) -> list[str | None]:
    """The state that the guarded UPDATE moves each row to, by key; None if it leaves the row alone.

    It is taken back. What it writes besides the state is looked at: the version, and what its target assigns.
    """
    order = set_order(event.sets)
    assert order is not None
    moving = update(Guarded).ordered_values(*((column, event.sets[column]) for column in order)).where(event.anywhere)
    tokens = {name: uuid4() for name in event.token_parameters}
    looking = select(Guarded.state, Guarded.version, Guarded.entered).order_by(Guarded.id)
    with engine.connect() as connection:
        connection.execute(moving, {**_BOUND, **tokens})
        found = connection.execute(looking).all()
        connection.rollback()
    return [_moved(*each) for each in found]


def _moved(state: str, version: int, entered: str | None) -> str | None:
    assert version in {1, 2}
    assert entered == (state if version == 2 and state in "bc" else None)
    return state if version == 2 else None


def by_predicates(event: EventStatements, engine: Engine) -> list[Verdict | str]:
    """What the predicates of the edges say of each row, by key, if they are read as Python reads guards."""
    truths = [(edge, edge.truth()) for edge in event.edges]
    predicates = [each for _, truth in truths for each in (truth.passes(), _or_false(truth.raises))]
    looking = select(Guarded.state, *(each.label(f"p{n}") for n, each in enumerate(predicates))).order_by(Guarded.id)
    with engine.connect() as connection:
        found = connection.execute(looking, _BOUND).all()
    return [_judged(event, state, said) for state, *said in found]


def _or_false(raises: ColumnElement[bool] | None) -> ColumnElement[bool]:
    return false() if raises is None else raises


def _judged(event: EventStatements, state: str, said: Sequence[bool | None]) -> Verdict | str:
    assert None not in said, "a predicate was NULL"
    for edge, passes, raises in zip(event.edges, said[::2], said[1::2], strict=True):
        if edge.source == state and (passes or raises):
            return Verdict.RAISED if raises else edge.target
    return Verdict.REFUSED
