"""Guards: the SQL that each spelling becomes, and why some cannot become any."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import CHAR, JSON, LargeBinary, Numeric, Text, Uuid, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, synonym
from statemachine import State, StateMachine

from statelatch import ConfigurationError, MachineMapping
from statelatch.columns import TransitionColumns, UTCDateTime
from statelatch.edges import Guard, edges_of


class Base(DeclarativeBase):
    """Base of the entity here."""


class Job(TransitionColumns, Base):
    """What the guards here are about."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(Text())
    ready: Mapped[bool]
    held: Mapped[bool | None]
    tries: Mapped[int]
    most: Mapped[int | None]
    owner: Mapped[str | None] = mapped_column(Text())
    due: Mapped[datetime | None] = mapped_column(UTCDateTime())
    local: Mapped[datetime | None]
    payload: Mapped[Any | None] = mapped_column(JSON())
    blob: Mapped[bytes | None] = mapped_column(LargeBinary())
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    code: Mapped[str] = mapped_column(CHAR(6))
    one: Mapped[UUID]
    other: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    attempts = synonym("tries")
    a: Mapped[bool]  # named like a state
    name: Mapped[bool]  # named like an attribute of every machine

    @hybrid_property
    def spent(self) -> bool:
        """A hybrid whose Python half makes its SQL."""
        return self.tries > 3

    @hybrid_property
    def odd(self) -> bool:
        """A hybrid that SQL cannot be made of."""
        return bool(self.tries % 2) and len(self.owner or "") > 1

    @hybrid_property
    def worthwhile(self) -> bool:
        """A hybrid of which SQLAlchemy would lose all terms but the last."""
        return self.held is not None and self.held and self.tries > 3

    @hybrid_property
    def stepwise(self) -> bool:
        """A hybrid that does more than return."""
        tries = self.tries
        return tries > 3

    @hybrid_property
    def constant(self) -> bool:
        """A hybrid that reads nothing."""
        return True

    @hybrid_method
    def owned_by(self, owner: str) -> bool:
        """A parameter named like a column."""
        return self.owner == owner

    @hybrid_method
    def more_than(self, least: int = 2) -> bool:
        """A parameter with a default."""
        return self.tries > least

    @hybrid_method
    def any_of(self, *owners: str) -> bool:
        """Parameters without end."""
        return self.owner in owners

    @hybrid_method
    def told(self, event: str) -> bool:
        """A parameter that the engine injects."""
        return self.owner == event

    @hybrid_method
    def keyed(self, key: str) -> bool:
        """A parameter that `send` has an argument for."""
        return self.owner == key

    def method(self) -> bool:
        """A method of the entity, Python only."""
        return True


def guard_of(cond: Any = None, unless: Any = None) -> Guard:
    """The one guard of a machine that has it."""

    class Machine(StateMachine):
        a = State(initial=True, value="a%")
        b = State(final=True)

        go = a.to(b, cond=cond, unless=unless)

        def own(self) -> bool:
            """A method of the machine."""
            return True

    mapping = MachineMapping(machine=Machine, entity=Job)
    return next(iter(edges_of(mapping, "go"))).guards[0]


def sql_of(guard: Guard) -> str:
    """Where the guard passes, with its constants written out."""
    assert guard.truth is not None, guard.reason
    statement = select(Job.id).where(guard.truth.passes())
    sql = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    return sql.partition("WHERE ")[2].replace("job.", "").replace("\n", "")


TRANSLATED = {
    "ready": "ready = 1",
    "held": "coalesce(held, 0) = 1",
    "a": "a = 1",
    "tries": "coalesce(tries, 0) != 0",
    "owner": "coalesce((owner COLLATE BINARY) != ('' COLLATE BINARY), 0) = 1",
    "due": "due IS NOT NULL",
    "!held": "coalesce(held, 0) = 0",
    "not ready": "ready = 0",
    "ready and due": "ready = 1 AND due IS NOT NULL",
    "ready ^ due": "ready = 1 AND due IS NOT NULL",
    "ready v due": "ready = 1 OR due IS NOT NULL",
    "ready and (due or !ready)": "ready = 1 AND (due IS NOT NULL OR ready = 0)",
    "most == None": "most IS NULL",
    "None != most": "most IS NOT NULL",
    "tries == 3": "tries = 3",
    "most != 3": "coalesce(most = 3, 0) = 0",
    "tries == most": "CASE WHEN (tries IS NULL AND most IS NULL) THEN 1 ELSE coalesce(tries = most, 0) END = 1",
    "most < 3": "most IS NOT NULL AND coalesce(most < 3, 0) = 1",
    "owner == 'w%'": "coalesce((owner COLLATE BINARY) = ('w%' COLLATE BINARY), 0) = 1",
    "ready == True": "ready = 1",
    "In('a')": "state = 'a%'",
    "In('a', 'b')": "state = 'a%' AND state = 'b'",
    "In('nowhere')": "state IS NULL AND state IS NOT NULL",
    "In()": "1 = 1",
    "3": "1 = 1",
    "''": "0 = 1",
    "spent": "tries > 3",
    "constant": "1 = 1",
    "worthwhile": "held IS NOT NULL AND coalesce(held, 0) = 1 AND tries > 3",
    "attempts": "coalesce(tries, 0) != 0",
}

UNTRANSLATED = {
    "own": "guard 'own' is Python on the machine",
    "name": "guard 'name' is Python on the machine",
    "method": "guard 'method' is not a column, hybrid_property or hybrid_method of Job",
    "odd": "hybrid 'odd' needs Python for 'bool(self.tries % 2)'",
    "stepwise": "hybrid 'stepwise' is more than one return",
    "worthwhile == True": "hybrid 'worthwhile' needs Python for",
    "any_of": "guard 'any_of' takes *owners: str",
    "told": "guard 'told' takes event: str",
    "keyed": "guard 'keyed' takes key: str",
    "payload": "the truth value of the SQL type JSON() is not Python's",
    "blob": "the truth value of the SQL type LargeBinary() is not Python's",
    "price": "the truth value of the SQL type Numeric(precision=10, scale=2) is not Python's",
    "price < 3": "values of the SQL type Numeric(precision=10, scale=2) are not compared in SQL",
    "code": "PostgreSQL pads CHAR with blanks",
    "code == 'abc'": "PostgreSQL pads CHAR with blanks",
    "one == other": "it compares uuid with uuid as text",
    "one < one": "it orders UUIDs",
    "payload == 3": "values of the SQL type JSON() are not compared in SQL",
    "tries == 'x'": "it compares integer with text",
    "tries == True": "it compares integer with truth",
    "due < local": "it compares instant with local time",
    "tries > None": "it compares NoneType with integer",
    "1 < 2": "it compares two constants",
    "(tries > 1) == ready": "'tries > 1' is used as a value",
}


@pytest.mark.parametrize(("expression", "expected"), TRANSLATED.items())
def test_translation(expression: str, expected: str) -> None:
    """Each spelling of a guard becomes this predicate."""
    assert expected == sql_of(guard_of(expression))


@pytest.mark.parametrize(("expression", "reason"), UNTRANSLATED.items())
def test_what_cannot_be_translated_says_why(expression: str, reason: str) -> None:
    """A guard without SQL is no error; the reason names what in it needs Python."""
    guard = guard_of(expression)

    assert guard.truth is None
    assert reason in guard.reason


def test_a_callable_is_python() -> None:
    """A guard that is a function is not looked into."""
    assert guard_of(lambda: True).reason == "guard '<lambda>' is a Python callable"


def test_unless_is_negated() -> None:
    """Under `unless` the predicate is the other way round, and the label says so."""
    guard = guard_of(unless="held")

    assert (guard.label, sql_of(guard)) == ("!held", "coalesce(held, 0) = 0")


def test_a_parameter_is_bound_by_name() -> None:
    """An argument of a hybrid_method is the event's parameter, also where a column has the same name."""
    guard = guard_of("owned_by")
    assert guard.truth is not None

    assert guard.truth.holds.compile().params == {"event_owner": None}


def test_a_parameter_keeps_its_default() -> None:
    """A default of the hybrid_method stands in for a parameter that is not given."""
    guard = guard_of("more_than")
    assert guard.truth is not None

    assert guard.truth.holds.compile().params["event_least"] == 2


def test_operands_that_are_not_reached_do_not_raise() -> None:
    """`most != None and most < 3` never compares NULL; the other way round it does, and is not passed."""
    careful, careless = guard_of("most != None and most < 3"), guard_of("most < 3 and most != None")
    assert careful.truth is not None
    assert careless.truth is not None

    def raises(truth: Any) -> str:
        return str(truth.raises.compile(dialect=sqlite.dialect())).replace("\n", "")

    assert raises(careful.truth) == "job.most IS NOT NULL AND job.most IS NULL"
    assert raises(careless.truth) == "job.most IS NULL"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("missing", "missing"),
        ("state == 'a'", "hides from guards"),
        ("b", "refers to b,"),
        ("tries in most", "ast.In"),
    ],
)
def test_a_guard_that_python_statemachine_would_refuse_is_refused(expression: str, names: str) -> None:
    """What the framework would not find, or not parse, is told when the mapping is built."""
    with pytest.raises(ConfigurationError, match=names):
        guard_of(expression)
