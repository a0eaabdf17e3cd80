"""Guards: the SQL that each spelling becomes, and why some cannot become any."""

import enum
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    BindParameter,
    Boolean,
    Double,
    Enum,
    LargeBinary,
    Numeric,
    Text,
    Uuid,
    bindparam,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, synonym
from statemachine import State, StateMachine

from statelatch import ConfigurationError, MachineMapping
from statelatch.columns import TransitionColumns, UTCDateTime
from statelatch.edges import Guard, edges_of


class Tone(enum.StrEnum):
    """Members that are text."""

    LOUD = "l"
    SOFT = "s"


class Rank(enum.IntEnum):
    """Members that are numbers."""

    LOW = 0
    HIGH = 2


class Kind(enum.Enum):
    """Members that compare with nothing but themselves."""

    ODD = 1


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
    handle: Mapped[str] = mapped_column(Text().with_variant(postgresql.CITEXT(), "postgresql"))
    tags: Mapped[set[str]] = mapped_column(mysql.SET("x", "y"))
    either: Mapped[str] = mapped_column(Text().with_variant(Numeric(), "mysql"))
    weight: Mapped[Decimal] = mapped_column(Double(asdecimal=True))
    ratio: Mapped[float | None] = mapped_column(Double())
    large: Mapped[int] = mapped_column(BigInteger().with_variant(sqlite.INTEGER(), "sqlite"))
    tone: Mapped[Tone] = mapped_column(Enum(Tone))
    rank: Mapped[Rank | None] = mapped_column(Enum(Rank))
    kind: Mapped[Kind] = mapped_column(Enum(Kind))
    word: Mapped[str | None] = mapped_column(Enum("yes", "no", name="word"))
    one: Mapped[UUID]
    other: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    attempts = synonym("tries")
    a: Mapped[bool]  # named like a state
    both: Mapped[bool]  # named like a method of the machine
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

    @hybrid_property
    def balanced(self) -> bool:
        """A hybrid in which a comparison is compared."""
        return (self.tries > 3) == self.ready

    @hybrid_property
    def typed(self) -> bool:
        """A hybrid that SQL has another type for than Python has, for all that is known."""
        return self.ready

    @typed.inplace.expression
    @classmethod
    def _typed(cls) -> Any:
        return cls.ready

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


class Judging(StateMachine):
    """A machine without states, for the Python in it."""

    def own(self) -> bool:
        """A method of the machine."""
        return True

    async def slow(self) -> bool:
        """A coroutine."""
        return True

    @property
    def amount(self) -> int:
        """A property of the machine."""
        return 3

    def both(self) -> bool:
        """A method named like a column: the two must hold."""
        return True


def mapping_of(
    cond: Any = None, unless: Any = None, guards: Mapping[str, object] | None = None, machine: Any = Judging
) -> MachineMapping:
    """The mapping of a machine with these guards, and their twins."""

    class Machine(machine):
        a = State(initial=True, value="a%")
        b = State(final=True)

        go = a.to(b, cond=cond, unless=unless)

    return MachineMapping(machine=Machine, entity=Job, guards=guards or {})


def guards_of(mapping: MachineMapping) -> tuple[Guard, ...]:
    """The guards of its one transition."""
    return next(iter(edges_of(mapping, "go"))).guards


def guard_of(cond: Any = None, unless: Any = None, guards: Mapping[str, object] | None = None) -> Guard:
    """The one guard of a machine that has it."""
    return guards_of(mapping_of(cond, unless, guards))[0]


def sql_of(guard: Guard) -> str:
    """Where the guard passes, with its constants written out."""
    assert guard.truth is not None, guard.reason
    statement = select(Job.id).where(guard.truth.passes())
    sql = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    return sql.partition("WHERE ")[2].replace("job.", "").replace("\n", "")


TRANSLATED = {
    # a name
    "ready": "ready = 1",
    "held": "coalesce(held, 0) = 1",
    "a": "a = 1",
    "tries": "coalesce(tries, 0) != 0",
    "ratio": "coalesce(ratio, 0) != 0",
    "owner": "coalesce((owner COLLATE BINARY) != ('' COLLATE BINARY), 0) = 1",
    "due": "due IS NOT NULL",
    "rank": "coalesce(rank IN ('HIGH'), 0) = 1",
    "word": "coalesce(word IN ('yes', 'no'), 0) = 1",
    "attempts": "coalesce(tries, 0) != 0",
    "spent": "tries > 3",
    "typed": "ready = 1",
    "constant": "1 = 1",
    "worthwhile": "held IS NOT NULL AND coalesce(held, 0) = 1 AND tries > 3",
    "balanced": "CASE WHEN (tries > 3) THEN 1 ELSE 0 END = ready",
    # operators, in each of their spellings
    "!held": "coalesce(held, 0) = 0",
    "not ready": "ready = 0",
    "not not ready": "ready = 1",
    "ready and due": "ready = 1 AND due IS NOT NULL",
    "ready ^ due": "ready = 1 AND due IS NOT NULL",
    "ready or due": "ready = 1 OR due IS NOT NULL",
    "ready v due": "ready = 1 OR due IS NOT NULL",
    "ready and (due or !ready)": "ready = 1 AND (due IS NOT NULL OR ready = 0)",
    "not (ready ^ (due v !held))": "NOT (ready = 1 AND (due IS NOT NULL OR coalesce(held, 0) = 0))",
    # comparisons and chains
    "most == None": "most IS NULL",
    "None != most": "most IS NOT NULL",
    "tries > None": "0 = 1",
    "tries == 3": "tries = 3",
    "most != 3": "coalesce(most = 3, 0) = 0",
    "tries == most": "CASE WHEN (tries IS NULL AND most IS NULL) THEN 1 ELSE coalesce(tries = most, 0) END = 1",
    "most < 3": "most IS NOT NULL AND coalesce(most < 3, 0) = 1",
    "1 < tries <= 3": "1 < tries AND tries <= 3",
    "owner == 'w%'": "coalesce((owner COLLATE BINARY) = ('w%' COLLATE BINARY), 0) = 1",
    "tries <= 2.5": "tries <= 2.5",
    "large == tries": "large = tries",
    "large > 9007199254740993": "large > 9007199254740993",
    # a truth value is a number
    "ready == True": "ready = 1",
    "ready == 1": "CAST(ready AS INTEGER) = 1",
    "0.5 < ready": "0.5 < CAST(ready AS INTEGER)",
    "tries == True": "tries = 1",
    "tries >= ready": "tries >= CAST(ready AS INTEGER)",
    "tries == 1 == ready": "tries = 1 AND 1 = CAST(ready AS INTEGER)",
    # the members of an Enum are what Python compares
    "tone == 'l'": "tone IN ('LOUD')",
    "tone < 'm'": "tone IN ('LOUD')",
    "'m' != tone": "tone IN ('LOUD', 'SOFT')",
    "tone == 'LOUD'": "0 = 1",
    "rank >= 1": "rank IS NOT NULL AND coalesce(rank IN ('HIGH'), 0) = 1",
    "rank != True": "rank IS NULL OR rank IN ('LOW', 'HIGH')",
    "word == 'yes'": "coalesce(word IN ('yes'), 0) = 1",
    "word != 'maybe'": "word IS NULL OR word IN ('yes', 'no')",
    # a condition is a value
    "(tries > 1) == ready": "CASE WHEN (tries > 1) THEN 1 ELSE 0 END = ready",
    "ready != (not held)": "ready != CASE WHEN coalesce(held, 0) = 0 THEN 1 ELSE 0 END",
    "In('a') == True": "CASE WHEN (state = 'a%') THEN 1 ELSE 0 END = 1",
    "(most > 1) == ready": "most IS NOT NULL AND CASE WHEN coalesce(most > 1, 0) THEN 1 ELSE 0 END = ready",
    "(tries > 1 or !ready) == 1": "CAST(CASE WHEN (tries > 1 OR ready = 0) THEN 1 ELSE 0 END AS INTEGER) = 1",
    # states and constants
    "In('a')": "state = 'a%'",
    "IN('a', 'b')": "state = 'a%' AND state = 'b'",
    "In('nowhere')": "state IS NULL AND state IS NOT NULL",
    "In(3)": "state IS NULL AND state IS NOT NULL",
    "In()": "1 = 1",
    "In(ready)": "1 = 1",
    "3": "1 = 1",
    "''": "0 = 1",
    "1 < 2": "1 = 1",
    "1 == '1'": "0 = 1",
    "'a' < 3": "0 = 1",
}

UNTRANSLATED = {
    "own": "guard 'own' is Python on the machine",
    "ready and !own": "guard 'own' is Python on the machine",
    "slow": "guard 'slow' is Python on the machine",
    "amount > 2": "guard 'amount' is Python on the machine",
    "both": "guard 'both' is Python on the machine",
    "both == 'x'": "guard 'both' is Python on the machine",
    "name": "guard 'name' is Python on the machine",
    "history_values": "guard 'history_values' is Python on the machine",
    "go": "guard 'go' is Python on the machine",
    "method": "guard 'method' is not a column, hybrid_property or hybrid_method of Job",
    "metadata": "guard 'metadata' is not a column, hybrid_property or hybrid_method of Job",
    "odd": "hybrid 'odd' needs Python for 'bool(self.tries % 2)'",
    "stepwise": "hybrid 'stepwise' is more than one return",
    "worthwhile == True": "hybrid 'worthwhile' needs Python for",
    "any_of": "guard 'any_of' takes *owners: str",
    "told": "guard 'told' takes event: str",
    "keyed": "guard 'keyed' takes key: str",
    "payload": "the truth value of the SQL type JSON() is not Python's",
    "payload == 3": "values of the SQL type JSON() are not compared in SQL",
    "blob": "the truth value of the SQL type LargeBinary() is not Python's",
    "blob == b'x'": "values of the SQL type LargeBinary() are not compared in SQL",
    "price": "the truth value of the SQL type Numeric(precision=10, scale=2) is not Python's",
    "price < 3": "values of the SQL type Numeric(precision=10, scale=2) are not compared in SQL",
    "weight > 0.1": "values of the SQL type Double(",
    "code": "PostgreSQL pads CHAR with blanks",
    "code == 'abc'": "PostgreSQL pads CHAR with blanks",
    "handle": "PostgreSQL compares CITEXT without case",
    "handle == 'abc'": "PostgreSQL compares CITEXT without case",
    "tags == 'x'": "a SET of MariaDB's is no text in Python",
    "either == 'x'": "values of the SQL type Numeric() are not compared in SQL",
    "one == other": "it compares uuid with uuid as text",
    "one < one": "it orders UUIDs",
    "due < local": "it compares instant with local time",
    "large > ratio": "it compares big integer with float",
    "tone == word": "it compares enum",
    "tries == 1j": "it compares complex with integer",
    "typed == 'x'": "it compares text with truth",
    "tries < 9223372036854775808": "no database has an integer like 9223372036854775808",
    "tries < 1e999": "MariaDB has no number inf",
    "owner == 'a\\x00'": "PostgreSQL has no text 'a\\x00'",
    "owner == '\\ud800'": "PostgreSQL has no text '\\ud800'",
    "(held and ready) == True": "'held and ready' is used as a value",
}

UNLIKE = {
    "tries == 'x'": ["job.tries, of type Integer(), with 'x'"],
    "ready and (held or 1 < tries != 'x')": ["job.tries, of type Integer(), with 'x'"],
    "(ready == 'x') == True": ["job.ready, of type Boolean(), with 'x'"],
    "own and owner > 3": ["job.owner, of type Text(), with 3"],
    "attempts == b'x'": ["job.tries, of type Integer(), with b'x'"],
    "tries < 1j": ["job.tries, of type Integer(), with 1j"],
    "due == '2026'": ["job.due, of type UTCDateTime(), with '2026'"],
    "local < 2026": ["job.local, of type DateTime(), with 2026"],
    "one == 'x'": ["job.one, of type Uuid(), with 'x'"],
    "price > 'x'": ["job.price, of type Numeric(precision=10, scale=2), with 'x'"],
    "blob == 'x'": ["job.blob, of type LargeBinary(), with 'x'"],
    "code == 3": ["job.code, of type CHAR(length=6), with 3"],
    "tone == 3": ["job.tone, of type Enum('LOUD', 'SOFT', name='tone'), with 3"],
    "kind == 1": ["job.kind, of type Enum('ODD', name='kind'), with 1"],
    "kind < 'ODD'": ["job.kind, of type Enum('ODD', name='kind'), with 'ODD'"],
    "word == 3": ["job.word, of type Enum('yes', 'no', name='word'), with 3"],
    "large == 'x'": ["job.large, of type BigInteger(), with 'x'"],
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


@pytest.mark.parametrize(("expression", "parts"), UNLIKE.items())
def test_a_constant_of_another_type_is_refused(expression: str, parts: list[str]) -> None:
    """What Python cannot compare is told when the mapping is built: machine, transition, guard, column and constant."""
    with pytest.raises(ConfigurationError) as caught:
        mapping_of(expression)

    named = ["Machine, transition go from A to B", f"the guard {expression!r} compares", *parts]
    assert [part for part in named if part not in str(caught.value)] == []


def test_a_callable_is_python() -> None:
    """A guard that is a function is not looked into."""
    assert guard_of(lambda: True).reason == "guard '<lambda>' is a Python callable"


def small(model: Job) -> bool:
    """A guard that is a function."""
    return model.tries < 2


TWINNED: dict[str, tuple[Any, dict[str, object], str]] = {
    "a method of the machine": ("own", {"own": Job.tries > 3}, "tries > 3"),
    "a coroutine": ("!slow", {"slow": Job.tries > 3}, "tries <= 3"),
    "a method of the entity": ("ready and method", {"method": Job.held}, "ready = 1 AND coalesce(held, 0) = 1"),
    "a property, compared": ("1 < amount < 3", {"amount": Job.tries}, "1 < tries AND tries < 3"),
    "a property, compared with text": (
        "amount == 'x'",
        {"amount": Job.owner},
        "coalesce((owner COLLATE BINARY) = ('x' COLLATE BINARY), 0) = 1",
    ),
    "a value": ("amount", {"amount": Job.owner}, "coalesce((owner COLLATE BINARY) != ('' COLLATE BINARY), 0) = 1"),
    "both the machine's and the entity's": (
        "both",
        {"both": Job.held & Job.both},
        "coalesce(held = 1 AND both = 1, 0) = 1",
    ),
    "a hybrid without SQL": ("odd", {"odd": Job.tries % 2 == 1}, "coalesce(tries % 2 = 1, 0) = 1"),
    "a function": (small, {"small": Job.tries < 2}, "tries < 2"),
    "a property under cond": (Judging.amount, {"amount": Job.tries}, "coalesce(tries, 0) != 0"),
    "NULL in a list": ("own", {"own": Job.tries.in_([3, None])}, "coalesce(tries IN (3, NULL), 0) = 1"),
    "an operator of the user": ("own", {"own": Job.tries.bool_op("@@")(3)}, "coalesce(tries @@ 3, 0) = 1"),
    "a lambda": (lambda: True, {"<lambda>": Job.ready}, "ready = 1"),
    "no NULL": ("own", {"own": Job.ready & Job.both}, "ready = 1 AND both = 1"),
    "NULL": ("own", {"own": Job.most > 3}, "coalesce(most > 3, 0) = 1"),
    "negated NULL": ("!own", {"own": Job.most > 3}, "coalesce(most > 3, 0) = 0"),
}


@pytest.mark.parametrize("twinned", TWINNED)
def test_a_twin_is_the_sql_of_what_is_python(twinned: str) -> None:
    """A guard that is Python becomes its twin, in an expression too, with Python's truth rules."""
    cond, guards, expected = TWINNED[twinned]

    assert expected == sql_of(guard_of(cond, guards=guards))


def test_parameters_of_a_twin_are_event_parameters() -> None:
    """A bindparam of a twin is bound under the event's own name for it, and keeps its default."""
    least: BindParameter[int] = bindparam("least", 2)
    guard = guard_of("own", guards={"own": (Job.tries > least) & (Job.owner == bindparam("owner"))})
    assert guard.truth is not None

    assert guard.truth.holds.compile().params == {"event_least": 2, "event_owner": None}


def test_a_parameter_may_be_a_twin() -> None:
    """A twin that is nothing but a parameter is one of the event's, too."""
    guard = guard_of("own", guards={"own": bindparam("allowed", type_=Boolean())})
    assert guard.truth is not None

    assert guard.truth.holds.compile().params["event_allowed"] is None


def test_a_twin_whose_value_sql_cannot_judge_says_why() -> None:
    """A twin of a type without a truth value in SQL leaves its guard to Python."""
    assert "the truth value of the SQL type Numeric" in guard_of("own", guards={"own": Job.price}).reason


def test_a_name_that_a_listener_has_is_python() -> None:
    """What a listener answers to is ANDed with the column of that name; SQL alone would not know."""

    class Credit:
        held = False

    class Listening(Judging):
        listeners = [Credit]  # noqa: RUF012

    (guard,) = guards_of(mapping_of(unless="held", machine=Listening))

    assert guard.reason == "guard 'held' is Python on the machine"


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
