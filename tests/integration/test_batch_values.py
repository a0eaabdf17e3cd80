"""Parameters of every type, on each database: in a batch they arrive as they do by `send`."""

from __future__ import annotations

import enum
import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Date,
    Double,
    Engine,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Text,
    TypeDecorator,
    Uuid,
    bindparam,
    func,
    insert,
    select,
    type_coerce,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.mysql import VARBINARY
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.ext.hybrid import hybrid_method
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    MachineMapping,
    PersistenceAdapter,
    Request,
    RequestError,
    RowNotFoundError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.batch_requests import Batch
from statelatch.columns import TransitionColumns, UTCDateTime, from_now, state_text
from tests import databases


class Base(DeclarativeBase):
    """Base of the entities here."""


class Colour(enum.Enum):
    """An Enum whose members are stored by name."""

    RED = "r"
    BLUE = "b"


class Scrambled(TypeDecorator[str]):
    """Text that the database changes on its way in, as a type for encrypted columns does."""

    impl = Text
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> Any:
        return func.replace(bindparam, "a", "z")


class Sample(TransitionColumns, Base):
    """A column of each type."""

    __tablename__ = "samples"

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    whole: Mapped[int | None] = mapped_column(Integer())
    big: Mapped[int | None] = mapped_column(BigInteger())
    real: Mapped[float | None] = mapped_column(Double())
    single: Mapped[float | None] = mapped_column(Float())
    flag: Mapped[bool | None] = mapped_column(Boolean())
    words: Mapped[str | None] = mapped_column(state_text(200))
    raw: Mapped[bytes | None] = mapped_column(LargeBinary())
    exact: Mapped[Decimal | None] = mapped_column(Numeric(12, 4))
    moment: Mapped[datetime | None] = mapped_column(UTCDateTime())
    day: Mapped[date | None] = mapped_column(Date())
    colour: Mapped[Colour | None] = mapped_column(Enum(Colour))
    document: Mapped[Any | None] = mapped_column(JSON())
    sparse: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    other: Mapped[UUID | None] = mapped_column(Uuid())
    secret: Mapped[str | None] = mapped_column(Scrambled())
    expires: Mapped[datetime | None] = mapped_column(UTCDateTime())
    summed: Mapped[int | None] = mapped_column(BigInteger())
    coerced: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))

    @hybrid_method
    def above(self, least: float) -> bool:
        """A guard with a float that is sent."""
        return self.real is None or self.real > least

    @above.inplace.expression
    @classmethod
    def _above(cls, least: Any) -> Any:
        return cls.real.is_(None) | (cls.real > least)


class Flow(StateMachine):
    """Round and round."""

    idle = State(initial=True)
    busy = State()

    keep = idle.to(busy) | busy.to(idle)
    rise = idle.to(busy, cond="above")


VALUES: dict[str, list[Any]] = {
    "whole": [0, -(2**31), 2**31 - 1, None],
    "big": [2**63 - 1, -(2**63), 7, None],
    "real": [0.1, 1e300, -0.0, 2.5, 1 / 3, None],
    "single": [0.5, -1.25, None],
    "flag": [True, False, None],
    "words": ["", "a", "q\"'\\", "{NULL}", "NULL", "%s %(x)s ?", "ä\u2028\U0001f600", " b ", "a\nb\tc,d", None],
    "raw": [b"", b"\x00\xff'\"\\", None],
    "exact": [Decimal("1.5"), Decimal("-99999999.9999"), None],
    "moment": [
        datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
        datetime(1999, 1, 1, tzinfo=timezone(timedelta(hours=5))),
        None,
    ],
    "day": [date(2026, 2, 28), date(1, 1, 2), None],
    "colour": [Colour.RED, Colour.BLUE, None],
    "document": [{"a": [1, None, 'ä"\\']}, [], "text", 1.5, True, None],
    "sparse": [{"a": 'x"\\'}, None],
    "other": [UUID(int=2**128 - 1), None],
    "secret": ["banana", "", None],
    "summed": [2, -5, None],
    "coerced": [{"a": 1}, None],
}
ASSIGNS: dict[str, Any] = {name: bindparam(name, None) for name in VALUES if name != "summed"}
ASSIGNS["coerced"] = type_coerce(cast("Any", bindparam("coerced", None)), JSON(none_as_null=True))
ASSIGNS["expires"] = from_now(bindparam("seconds", 0))
ASSIGNS["summed"] = func.coalesce(cast("Any", bindparam("summed", 1)), 3)  # of no type but the value's


@pytest.fixture
def samples(engine: Engine) -> PersistenceAdapter:
    """Samples, compiled."""
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Flow, entity=Sample, assigns={"keep": ASSIGNS}))
    assert adapter.explain("keep").compiled
    return adapter


def made(adapter: PersistenceAdapter, count: int) -> list[UUID]:
    """So many rows."""
    keys = [uuid4() for _ in range(count)]
    with adapter.engine.begin() as connection:
        connection.execute(insert(Sample), [{"id": key, "state": "idle", "version": 1} for key in keys])
    return keys


def stored(adapter: PersistenceAdapter, keys: list[UUID]) -> list[dict[str, Any]]:
    """The rows, with what each keeps of its parameters."""
    table: Any = Sample.__table__
    with adapter.engine.connect() as connection:
        rows = {row["id"]: row for row in connection.execute(select(table)).mappings()}
    return [{name: rows[key][name] for name in VALUES} for key in keys]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("first", [0, -1])
def test_values_arrive_as_by_send(samples: PersistenceAdapter, name: str, first: int) -> None:
    """Each type alone, NULL among its values or before all others, and rows that do not name the parameter."""
    params: list[dict[str, Any]] = [*({name: value} for value in VALUES[name]), {}]
    params = params[::-1] if first else params
    alone, together = made(samples, len(params)), made(samples, len(params))

    for key, each in zip(alone, params, strict=True):
        samples.send(key, "keep", **each)
    answers = samples.send_batch([Request(key, "keep", None, each) for key, each in zip(together, params, strict=True)])

    assert {type(each) for each in answers} == {Transitioned}
    assert stored(samples, alone) == stored(samples, together)


@pytest.mark.parametrize("name", VALUES)
def test_none_for_all_is_none(samples: PersistenceAdapter, name: str) -> None:
    """A parameter that is None for every request, of whatever type, or of none."""
    alone, together = made(samples, 1), made(samples, 2)

    samples.send(alone[0], "keep", **{name: None})
    answers = samples.send_batch([Request(key, "keep", None, {name: None}) for key in together])

    assert {type(each) for each in answers} == {Transitioned}
    assert stored(samples, alone) * 2 == stored(samples, together)


@pytest.mark.parametrize(("name", "values"), [("whole", [1.5, -2.5]), ("exact", [0.1, 1e7]), ("words", [1, 2])])
def test_values_of_another_type_arrive_as_by_send(samples: PersistenceAdapter, name: str, values: list[Any]) -> None:
    """Where the database converts what is not quite of the column's type, it does so in a batch as well."""
    alone, together = made(samples, len(values)), made(samples, len(values))
    expected: list[type] = []
    for key, value in zip(alone, values, strict=True):
        try:
            expected.append(type(samples.send(key, "keep", **{name: value})))
        except DBAPIError as error:
            expected.append(type(error))

    batch = [Request(key, "keep", None, {name: value}) for key, value in zip(together, values, strict=True)]
    assert [type(each) for each in samples.send_batch(batch)] == expected
    assert stored(samples, alone) == stored(samples, together)


def test_all_types_together(samples: PersistenceAdapter) -> None:
    """Every parameter differs from request to request at once."""
    count = max(map(len, VALUES.values()))
    params = [{name: values[n % len(values)] for name, values in VALUES.items()} for n in range(count)]
    alone, together = made(samples, count), made(samples, count)

    for key, each in zip(alone, params, strict=True):
        samples.send(key, "keep", **each)
    samples.send_batch([Request(key, "keep", None, each) for key, each in zip(together, params, strict=True)])

    assert stored(samples, alone) == stored(samples, together)


def test_a_float_in_a_guard_is_compared_as_by_send(samples: PersistenceAdapter) -> None:
    """0.1 + 0.2 is not 0.3, neither alone nor in a batch; the parameter is each request's own."""
    keys = made(samples, 4)
    samples.send_batch([Request(key, "keep", None, {"real": 0.1 + 0.2}) for key in keys])
    samples.send_batch([Request(key, "keep", None, {"real": 0.1 + 0.2}) for key in keys])

    answers = samples.send_batch(
        [
            Request(key, "rise", None, {"least": least})
            for key, least in zip(keys, [0.3, 0.1 + 0.2, 1, -1e300], strict=True)
        ]
    )

    assert [type(each) for each in answers] == [
        Transitioned,
        TransitionRefusedError,
        TransitionRefusedError,
        Transitioned,
    ]


def test_the_clock_is_moved_by_each_requests_own_seconds(samples: PersistenceAdapter) -> None:
    """An expression around a parameter, here the database's time and an interval, has each request's value."""
    keys = made(samples, 3)

    answers = samples.send_batch(
        [Request(key, "keep", None, {"seconds": seconds}) for key, seconds in zip(keys, [60, -1.5, 0], strict=True)]
    )

    done = [each for each in answers if isinstance(each, Transitioned)]
    expected = [each.at + timedelta(seconds=seconds) for each, seconds in zip(done, [60, -1.5, 0], strict=True)]
    found = [samples.load(key).values["expires"] for key in keys]
    assert all(abs(one - other) < timedelta(seconds=1) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("moment", datetime(2026, 1, 1), "naive"),
        ("colour", 5, "is not among"),
        ("document", {1, 2}, "not JSON serializable"),
    ],
)
def test_a_value_that_its_type_refuses_is_told_before_anything_is_sent(
    samples: PersistenceAdapter, name: str, value: object, found: str
) -> None:
    """With the number of its request; no row is written, not even that of a request before it."""
    keys = made(samples, 2)

    with pytest.raises(RequestError, match=f"request 1: .*{found}.*nothing was written"):
        samples.send_batch([Request(keys[0], "keep"), Request(keys[1], "keep", None, {name: value})])

    assert [samples.load(key).version for key in keys] == [1, 1]


@pytest.mark.parametrize("value", ["nul \0", "half \ud800"])
@databases.on("postgresql")
def test_a_text_that_the_driver_refuses_is_its_requests_own(samples: PersistenceAdapter, value: str) -> None:
    """What `send` raises is the answer of that request; the others are applied."""
    keys = made(samples, 5)
    with pytest.raises((DataError, UnicodeEncodeError)) as alone:
        samples.send(keys[3], "keep", words=value)

    answers = samples.send_batch(
        [Request(key, "keep", None, {"words": value if n == 3 else "ok"}) for n, key in enumerate(keys)]
    )

    assert [type(each) for each in answers] == [Transitioned] * 3 + [alone.type, Transitioned]


# -- PostgreSQL's arrays ----------------------------------------------------------------------------------


class Round(StateMachine):
    """Round and round."""

    idle = State(initial=True)
    busy = State()

    keep = idle.to(busy) | busy.to(idle)


class Listed(TransitionColumns, Base):
    """A column that is an array itself."""

    __tablename__ = "listed"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    numbers: Mapped[list[int] | None] = mapped_column(JSON().with_variant(postgresql.ARRAY(Integer()), "postgresql"))
    texts: Mapped[list[str] | None] = mapped_column(JSON().with_variant(postgresql.ARRAY(String(9)), "postgresql"))
    bag: Mapped[Any | None] = mapped_column(JSON().with_variant(postgresql.JSONB(), "postgresql"))


def test_lists_of_different_lengths(engine: Engine) -> None:
    """An array for each row, of any length, empty or NULL, is none of PostgreSQL's arrays of arrays."""
    Base.metadata.create_all(engine)
    names = ("numbers", "texts", "bag")
    assigns: dict[str, Any] = {name: bindparam(name, None) for name in names}
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Round, entity=Listed, assigns={"keep": assigns}))
    values: list[dict[str, Any]] = [
        {"numbers": [1, 2, 3], "texts": ['q"\\', "{}", ""], "bag": {"a": [1]}},
        {"numbers": [], "texts": ["a,b", "NULL"], "bag": [None]},
        {"numbers": [7]},
    ]
    with engine.begin() as connection:
        connection.execute(insert(Listed), [{"id": n, "state": "idle", "version": 1} for n in range(1, 4)])

    answers = adapter.send_batch([Request(n, "keep", None, each) for n, each in enumerate(values, 1)])

    assert {type(each) for each in answers} == {Transitioned}
    found = [adapter.load(n).values for n in range(1, 4)]
    assert [{name: row[name] for name in names} for row in found] == [
        {**dict.fromkeys(names), **each} for each in values
    ]


# -- keys -------------------------------------------------------------------------------------------------

KEYS: dict[str, tuple[Any, list[Any]]] = {
    "uuid": (Uuid(), [UUID(int=n << 64) for n in (3, 1, 2)]),
    "text": (String(9), ["b", "B", "ä"]),
    "exact text": (state_text(9), ["b", "B", "b "]),
    "number": (Numeric(6, 2), [Decimal("1.5"), Decimal("1.50") + 1, Decimal("-3")]),
    "date": (Date(), [date(2026, 1, 2), date(2026, 1, 1), date(1, 1, 1)]),
    "instant": (UTCDateTime(), [datetime(2026, 1, n, 1, 2, 3, 4, tzinfo=UTC) for n in (3, 1, 2)]),
    "enum": (Enum(Colour), [Colour.RED, Colour.BLUE]),
    "bytes": (LargeBinary(9).with_variant(VARBINARY(9), "mysql", "mariadb"), [b"b", b"a\x00", b""]),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type(engine: Engine, kind: str) -> None:
    """Each request finds its row and no other, and its answer has the key as it was given."""
    of_key, keys = KEYS[kind]
    table: dict[str, Any] = {
        "__tablename__": "keyed",
        "id": mapped_column(of_key, primary_key=True),
        "state": mapped_column(state_text(8)),
    }
    base = type("Base", (DeclarativeBase,), {})
    entity = type("Keyed", (TransitionColumns, base), table)
    base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Round, entity=entity))
    there = keys[:-1]
    if kind == "text" and engine.dialect.name == "mariadb":  # whose primary key takes "b" and "B" for the same
        there = keys[:1]
    with engine.begin() as connection:
        connection.execute(insert(entity), [{"id": key, "state": "idle", "version": 1} for key in there])

    answers = adapter.send_batch([Request(key, "keep", 1) for key in keys])

    assert [(each.key, type(each)) for each in answers if isinstance(each, Transitioned | RowNotFoundError)] == [
        (key, Transitioned if key in there else RowNotFoundError) for key in keys
    ]
    assert [adapter.load(key).version for key in there] == [2] * len(there)


class Vehicle(TransitionColumns, Base):
    """Classes that share a table."""

    __tablename__ = "vehicles"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    state: Mapped[str] = mapped_column(state_text(8))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}  # noqa: RUF012  as SQLAlchemy has it


class Bus(Vehicle):
    """One of them."""

    __mapper_args__ = {"polymorphic_identity": "bus"}  # noqa: RUF012  as SQLAlchemy has it


def test_rows_of_other_classes_are_not_there(engine: Engine) -> None:
    """Of a table that several classes share, a batch moves only the entity's rows."""
    Base.metadata.create_all(engine)
    buses = PersistenceAdapter(engine, MachineMapping(machine=Round, entity=Bus))
    with engine.begin() as connection:
        rows = [{"id": 1, "kind": "vehicle"}, {"id": 2, "kind": "bus"}]
        connection.execute(
            insert(cast("Any", Vehicle.__table__)), [{**row, "state": "idle", "version": 1} for row in rows]
        )

    answers = buses.send_batch([Request(1, "keep"), Request(2, "keep")])

    assert [type(each) for each in answers] == [RowNotFoundError, Transitioned]


# -- how rows are found -----------------------------------------------------------------------------------

EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN ", "mariadb": "EXPLAIN "}
WHOLE_TABLE = {"sqlite": r"SCAN listed|BLOOM", "postgresql": "Seq Scan on listed", "mariadb": "'listed', 'ALL'"}


@pytest.mark.parametrize("count", [1, 1000])
def test_rows_are_found_by_their_keys(engine: Engine, count: int) -> None:
    """However many rows there are, and whatever the database knows of them, it does not read them all for a batch."""
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Round, entity=Listed))
    dialect = engine.dialect.name
    with engine.begin() as connection:
        connection.execute(insert(Listed), [{"id": n, "state": "idle", "version": 1} for n in range(1, 20_001)])
        connection.exec_driver_sql("ANALYZE TABLE listed" if dialect == "mariadb" else "ANALYZE listed")
    batch = Batch(adapter.statements, [Request(n, "keep", 1) for n in range(1, count + 1)])
    (portion,) = batch.portions()

    plans: list[str] = []
    with engine.connect() as connection:
        for each in (*portion.of.writing, portion.of.diagnosis):
            prepared, parameters = portion.of.filled(each, portion.places)
            cursor = connection.connection.cursor()
            cursor.execute(EXPLAIN[dialect] + prepared.sql, prepared.bound(parameters))
            plans.append(str(cursor.fetchall()))

    assert len(plans) == (3 if dialect == "mariadb" else 2)
    assert [plan for plan in plans if re.search(WHOLE_TABLE[dialect], plan)] == []
