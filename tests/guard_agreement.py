"""Random guards, judged twice: by python-statemachine on a restored row, and by the database in SQL.

The rows are few and their values nearer to one another than in life: what is equal, nearly equal, NULL, falsy,
or differs by case, accent or a trailing blank is there on purpose. Every expression that is drawn here must be
translated; what the engine then does with each row must be what the predicate says, an exception included.
"""

from __future__ import annotations

import enum
import random
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hypothesis import example
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Double, Engine, Enum, Float, String, Text, false, select
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine
from statemachine.exceptions import TransitionNotAllowed

from statelatch import MachineMapping, PersistenceAdapter, framework
from statelatch.columns import TransitionColumns, UTCDateTime, state_text
from statelatch.interpreter import build_machine
from statelatch.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hypothesis.strategies import SearchStrategy
    from sqlalchemy import ColumnElement

__all__ = ["Base", "Guarded", "Verdict", "by_database", "by_machine", "guards", "insert_rows", "mapping_of", "subtle"]

ROWS = 30
LIMIT = 2


class Kind(enum.Enum):
    """An Enum with a falsy member."""

    PLAIN = "plain"
    ODD = ""

    def __bool__(self) -> bool:
        """Whether it is plain."""
        return bool(self.value)


class Base(DeclarativeBase):
    """Base of the entity here."""


class Guarded(TransitionColumns, Base):
    """A row with two columns of each kind that guards may compare, all of them nullable."""

    __tablename__ = "guarded"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    flag: Mapped[bool | None]
    other_flag: Mapped[bool | None]
    count: Mapped[int | None]
    size: Mapped[int | None]
    big: Mapped[int | None] = mapped_column(BigInteger())
    score: Mapped[float | None] = mapped_column(Float(24))  # single precision
    ratio: Mapped[float | None] = mapped_column(Double())
    title: Mapped[str | None] = mapped_column(String(40))
    label: Mapped[str | None] = mapped_column(Text())
    kind: Mapped[Kind | None] = mapped_column(Enum(Kind))
    word: Mapped[str | None] = mapped_column(Enum("yes", "no", "", name="word"))
    at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    due: Mapped[datetime | None] = mapped_column(UTCDateTime())
    local: Mapped[datetime | None]
    day: Mapped[date | None]
    holiday: Mapped[date | None]
    reference: Mapped[UUID | None]
    origin: Mapped[UUID | None]
    v: Mapped[bool | None]

    @hybrid_property
    def large(self) -> bool | None:
        """NULL in SQL where it is None in Python."""
        return None if self.count is None else self.count > LIMIT

    @large.inplace.expression
    @classmethod
    def _large(cls) -> ColumnElement[bool]:
        return cls.count > LIMIT

    @hybrid_property
    def busy(self) -> bool | None:
        """A Python half alone, of which SQLAlchemy would keep the last term."""
        return self.flag and self.count is not None and (self.count > 2 or not self.other_flag)

    @hybrid_property
    def idle(self) -> bool:
        """A Python half that asks another."""
        return not self.busy or self.size == self.count

    @hybrid_method
    def exceeds(self, least: int) -> bool:
        """A Python half with a parameter, which raises where the row has no size."""
        return self.size > least or self.title == "a"  # pyright: ignore

    @hybrid_method
    def at_least(self, least: int, slack: int = 1) -> bool:
        """A guard with a parameter, and one with a default."""
        return self.size is not None and self.size >= least - slack

    @at_least.inplace.expression
    @classmethod
    def _at_least(cls, least: Any, slack: Any = 1) -> ColumnElement[bool]:
        return cls.size >= least - slack


PARAMETERS = {"least": 2}

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXTS = ["", " ", "a", "A", "a ", "á", "ab", "ss", "ß", "Z", "z", "100%", "a_b", "\\", "'", "\U0001f600", "\uffff", "v"]
NUMBERS = [-1, 0, 1, 2, 3, 2**31 - 1]
FLOATS = [-1.0, -0.0, 0.0, 0.1, 1 / 3, 1.0, 2.0, 2.5, 16777217.0]
MOMENTS = [NOON, NOON + timedelta(microseconds=1), NOON + timedelta(hours=1)]
DAYS = [date(2026, 3, 1), date(2026, 3, 2)]
IDS = [UUID(int=1), UUID(int=1 << 127), UUID("00000000-0000-7000-8000-000000000001")]

VALUES: dict[str, list[Any]] = {
    "flag": [True, False],
    "other_flag": [True, False],
    "count": NUMBERS,
    "size": NUMBERS,
    "big": [0, 1, 2**53, 2**53 + 1, -(2**63)],
    "score": FLOATS,
    "ratio": FLOATS,
    "title": TEXTS,
    "label": TEXTS,
    "kind": list(Kind),
    "word": ["yes", "no", ""],
    "at": MOMENTS,
    "due": MOMENTS,
    "local": [NOON.replace(tzinfo=None)],
    "day": DAYS,
    "holiday": DAYS,
    "reference": IDS,
    "origin": IDS,
    "v": [True, False],
}


def insert_rows(adapter: PersistenceAdapter, extremes: Mapping[str, list[Any]]) -> list[Mapping[str, Any]]:
    """Insert the rows, with further values by column, and return them as they are read: each value occurs."""
    draw = random.Random(20260301)
    options = {name: [None, *values, *extremes.get(name, [])] for name, values in VALUES.items()}
    for number in range(ROWS):
        first = number < max(map(len, options.values()))
        row = {name: each[number % len(each)] if first else draw.choice(each) for name, each in options.items()}
        with adapter.engine.begin() as connection:
            connection.execute(Guarded.__table__.insert().values(state="a", **row))  # pyright: ignore
    return [adapter.load(key).values for key in range(1, ROWS + 1)]


# -- expressions ------------------------------------------------------------------------------------

ORDERED = ["==", "!=", "<", "<=", ">", ">="]
EQUAL = ["==", "!="]


def constants(*values: object) -> list[str]:
    """The values as a guard spells them; it knows no negative numbers."""
    return [repr(value) for value in values]


FAMILIES: list[tuple[list[str], list[str], list[str]]] = [
    (["count", "size"], constants(0, 1, 2, 3), ORDERED),
    (["count", "big", "size"], constants(2**53 + 1, 0, 2), ORDERED),
    (["score", "ratio", "count"], constants(0.1, 0, 2, 2.5, 16777216), ORDERED),
    (["title", "label"], constants(*TEXTS), ORDERED),
    (["at", "due"], [], ORDERED),
    (["day", "holiday"], [], ORDERED),
    (["flag", "other_flag"], constants(True, False), ORDERED),
    (["reference", "origin"], [], EQUAL),
]
"""Columns, constants and operators that go together."""


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


NAMES = st.sampled_from([*VALUES, "large", "at_least", "busy", "idle", "exceeds"])
TESTED, TESTS = st.sampled_from([*VALUES, "large"]), st.sampled_from(EQUAL)
NULLS = st.tuples(TESTED, TESTS).map(lambda drawn: f"{drawn[0]} {drawn[1]} None")
STATES = st.sampled_from(["In('a')", "In('b')", "In('a', 'b')", "In('nowhere')", "In()", "1", "0", "''"])
# A lone `v` is a column; inside of an expression it means `or`.
LEAVES = st.one_of(
    NAMES.filter(lambda name: name != "v"),
    NULLS.filter(lambda text: not text.startswith("v ")),
    STATES,
    *(comparisons(*family) for family in FAMILIES),
)


def _joined(parts: SearchStrategy[str]) -> SearchStrategy[str]:
    words = st.sampled_from([" and ", " or ", " ^ ", " v "])
    return st.one_of(
        st.tuples(parts, words, parts).map(lambda drawn: f"({''.join(drawn)})"),
        st.tuples(parts, words, parts, words, parts).map("".join),
        st.tuples(st.sampled_from(["not ", "!"]), parts).map(lambda drawn: f"{drawn[0]}({drawn[1]})"),
    )


EXPRESSIONS = st.recursive(LEAVES, _joined, max_leaves=5)
guards: SearchStrategy[tuple[list[str], list[str]]] = st.tuples(
    st.lists(st.one_of(EXPRESSIONS, st.just("v")), max_size=2, unique=True),
    st.lists(EXPRESSIONS, max_size=1),
)
"""What stands under `cond` and under `unless`."""


SUBTLE: list[tuple[list[str], list[str]]] = [
    (["score == 0.1"], []),
    (["score < 2.5", "ratio < 2.5"], []),
    (["!(score >= ratio)"], []),
    (["ratio != ratio"], []),
    (["title"], []),
    (["label == ' '"], ["title"]),
    (["title > 'Z'"], ["title == 'a'"]),
    (["kind or word"], []),
    (["not large"], []),
    (["busy"], ["idle"]),
    (["exceeds"], []),
    (["flag or !exceeds"], []),
    (["v"], ["In('b')"]),
    (["count > 0 or count == None"], []),
    (["count == None or count > 0"], []),
    (["1 < count < size"], []),
]
"""Each has once been wrong, or would be if it were done simply."""


def subtle(test: Callable[..., None]) -> Callable[..., None]:
    """Try these guards always, besides those that are drawn."""
    for drawn in SUBTLE:
        test = example(drawn=drawn)(test)
    return test


# -- verdicts -----------------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What becomes of an event."""

    MOVED = enum.auto()
    REFUSED = enum.auto()
    RAISED = enum.auto()


def mapping_of(cond: list[str], unless: list[str]) -> MachineMapping:
    """The mapping of a machine with these guards."""

    class Machine(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=cond, unless=unless)

    return MachineMapping(machine=Machine, entity=Guarded)


def by_machine(mapping: MachineMapping, row: Mapping[str, Any]) -> Verdict:
    """What python-statemachine does with the row."""
    machine = build_machine(mapping.machine, mapping.restored(row), mapping.state)
    try:
        framework.send(machine, "go", PARAMETERS)
    except TransitionNotAllowed:
        return Verdict.REFUSED
    except TypeError:
        return Verdict.RAISED
    return Verdict.MOVED


def by_database(mapping: MachineMapping, engine: Engine) -> list[Verdict]:
    """What the database says of each row, by key."""
    event = Statements(mapping, update_returning=False, insert_returning=False).event("go")
    assert event.compiled, event.reasons
    truth = event.edges[0].truth()
    raises = false() if truth.raises is None else truth.raises
    statement = select(truth.passes(), raises).select_from(Guarded).order_by(Guarded.id)
    with engine.connect() as connection:
        found = connection.execute(statement, {f"event_{name}": value for name, value in PARAMETERS.items()}).all()
    return [_verdict(*each) for each in found]


def _verdict(passes: bool | None, raises: bool | None) -> Verdict:
    assert None not in {passes, raises}, "a predicate was NULL"
    return Verdict.RAISED if raises else Verdict.MOVED if passes else Verdict.REFUSED
