"""Statements compiled once: what they bind and read is what SQLAlchemy binds and reads, or they are not direct."""

import enum
import sqlite3
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Enum,
    Executable,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    bindparam,
    create_engine,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.default import DefaultDialect

from statelatch.columns import UTCDateTime
from statelatch.prepared import Prepared


class Colour(enum.Enum):
    """Two values."""

    RED = "r"
    BLUE = "b"


metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", Uuid()),
    Column("at", UTCDateTime()),
    Column("colour", Enum(Colour)),
    Column("size", Float()),
    Column("data", JSON()),
    Column("odd name", String()),
    Column("stamp", Integer, onupdate=lambda: 7),
)
c = things.c
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW: dict[str, Any] = {
    "number": UUID(int=5),
    "at": NOON,
    "colour": Colour.BLUE,
    "size": 0.1,
    "data": {"a": [1, None]},
    "odd name": "x",
}
EVERYTHING = (
    update(things)
    .where(c.id == bindparam("key"))
    .values({c[name]: bindparam(f"v_{name}", type_=c[name].type) for name in ROW} | {c.stamp: 1})
)
READ = select(*(c[name].label(f"read_{name}") for name in ROW)).where(c.id == bindparam("key"))


@pytest.fixture
def engine() -> Any:
    """One row, and what SQLAlchemy knows of it."""
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(things.insert().values(id=1))
    yield engine
    engine.dispose()


def sent(engine: Engine, statement: Prepared, parameters: dict[str, Any]) -> sqlite3.Cursor:
    """What a cursor answers."""
    cursor: Any = engine.raw_connection().cursor()
    return cursor.execute(statement.sql, statement.bound(parameters))


def test_values_of_every_type_go_and_come_as_with_sqlalchemy(engine: Engine) -> None:
    """What is bound through a cursor is what SQLAlchemy reads, and the other way round."""
    write, read = Prepared(EVERYTHING, engine.dialect), Prepared(READ, engine.dialect)
    assert (write.direct, read.direct) == (True, True)
    given = {"key": 1, **{f"v_{name}": value for name, value in ROW.items()}}

    sent(engine, write, given).connection.commit()

    with engine.connect() as connection:
        expected = dict(connection.execute(READ, {"key": 1}).mappings().one())
    assert expected == {f"read_{name}": value for name, value in ROW.items()}
    assert read.rows(sent(engine, read, {"key": 1})) == [expected]  # pyright: ignore[reportArgumentType]


def test_what_is_not_given_has_its_default(engine: Engine) -> None:
    """A parameter with a value of its own may be left out; a required one may not; others are not looked at."""
    statement = Prepared(select(literal(1) + bindparam("more", 2) + bindparam("much", type_=Integer())), engine.dialect)

    assert statement.bound({"much": 10, "unknown": 0}) == [1, 2, 10]
    assert statement.bound({"much": 10, "more": 3}) == [1, 3, 10]
    with pytest.raises(KeyError, match="much"):
        statement.bound({"more": 3})


def test_a_driver_that_binds_by_name() -> None:
    """Psycopg is given a dictionary, under the names that the text has."""
    statement = Prepared(
        select(bindparam("a b", 2, type_=Integer()), bindparam("n", type_=Integer())), postgresql.psycopg.dialect()
    )

    bound = statement.bound({"n": 4})

    assert isinstance(bound, dict)
    assert (
        statement.sql % {name: f"<{value}>" for name, value in bound.items()}
        == "SELECT <2>::INTEGER AS anon_1, <4>::INTEGER AS anon_2"
    )


INDIRECT: dict[str, Executable] = {
    "a list": select(c.id).where(c.id.in_(bindparam("ids", expanding=True))),
    "a constant list": select(c.id).where(c.id.in_([1, 2])),
    "a Python default": update(things).values({c.size: 1.0}),
    "a callable value": select(bindparam("now", callable_=lambda: 1, type_=Integer())),
}


@pytest.mark.parametrize("case", INDIRECT)
def test_what_differs_from_call_to_call_is_left_to_sqlalchemy(case: str) -> None:
    """Such a statement is not direct."""
    assert not Prepared(INDIRECT[case], sqlite.dialect()).direct


def test_other_drivers_are_left_to_sqlalchemy() -> None:
    """Only of some drivers is it known that their cursor needs nothing else."""
    assert not Prepared(READ, DefaultDialect()).direct
