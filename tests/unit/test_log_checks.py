"""What a mapping must give its log: what is wrong is told when the mapping is built."""

import enum
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Enum,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm import declarative_base as new_base
from statemachine import State, StateMachine
from statemachine.states import States

from statelatch import ConfigurationError, MachineMapping
from statelatch.columns import TransitionColumns, TransitionLogColumns, state_text
from tests.unit.test_log import Article, ArticleLog, Base, Flow, Order, OrderLog


class Sourced(TransitionColumns, Base):
    """A row with a key that has the name of a log's column."""

    __tablename__ = "sourced"

    source: Mapped[str] = mapped_column(String(8), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


class NumberFlow(StateMachine):
    """States that are numbers, one of them large."""

    a = State(initial=True, value=0)
    b = State(final=True, value=70_000)
    go = a.to(b)


class Stage(enum.Enum):
    """States as an Enum."""

    A = "a"
    B = "b"


class StageFlow(StateMachine):
    """A machine whose values are members."""

    of = States.from_enum(Stage, initial=Stage.A, final=Stage.B, use_enum_instance=True)  # pyright: ignore[reportUnknownMemberType]
    go = of.A.to(of.B)


class Numbered(TransitionColumns, Base):
    """A row whose state is a number."""

    __tablename__ = "numbered"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[int]


class Staged(TransitionColumns, Base):
    """A row whose state is a member."""

    __tablename__ = "staged"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[Stage]


def log_of(**attributes: Any) -> type[Any]:
    """A log of orders with these attributes in place of a sound log's."""
    key = {"key": mapped_column(Integer(), primary_key=True)}
    body = {"__tablename__": "other_log", **key, **attributes}
    body = {name: value for name, value in body.items() if value is not None}
    return type("OtherLog", (TransitionLogColumns, new_base()), body)


def mapped(log: object, machine: type[StateMachine] = Flow, entity: type[Any] = Order) -> MachineMapping:
    """A mapping with this log."""
    return MachineMapping(machine=machine, entity=entity, log=log)  # pyright: ignore[reportArgumentType]


# -- what a mapping must give its log ------------------------------------------------------------------


class Bare(new_base()):
    """No mixin: a key alone."""

    __tablename__ = "bare"

    key: Mapped[int] = mapped_column(primary_key=True)


class Keyless(TransitionLogColumns, new_base()):
    """The mixin alone."""

    __tablename__ = "keyless"


class Loose(TransitionLogColumns, new_base()):
    """Key and version are in a primary key with more."""

    __tablename__ = "loose"

    key: Mapped[int] = mapped_column(primary_key=True)
    copy: Mapped[int] = mapped_column(primary_key=True, server_default="0")


def unique_over(*arguments: Any, key: Any = None) -> type[Any]:
    """A log with a primary key of its own and these table arguments."""
    return log_of(
        id=mapped_column(Integer(), primary_key=True),
        key=key if key is not None else mapped_column(Integer()),
        version=mapped_column(Integer()),
        __table_args__=arguments,
    )


UNFIT: dict[str, tuple[Callable[[], MachineMapping], str]] = {
    "no entity": (lambda: mapped(object()), "log: expected a declarative class, found <object"),
    "no class": (lambda: mapped(OrderLog()), "log: expected a declarative class, found .*pass the class itself"),
    "no mixin": (lambda: mapped(Bare), "log: Bare has no column 'version'; the mixin `TransitionLogColumns` brings it"),
    "no key": (lambda: mapped(Keyless), "log: Keyless has no column 'key'; declare it like orders.id"),
    "a key of the row's, of two columns": (
        lambda: mapped(OrderLog, entity=Article),
        "OrderLog has no column 'tenant'; declare it like article.tenant_id",
    ),
    "a key named like a column of the log": (
        lambda: mapped(ArticleLog, entity=Sourced),
        "Sourced: source in its primary key, and a log has a column of that name",
    ),
    "key of another type": (
        lambda: mapped(log_of(key=mapped_column(String(9), primary_key=True))),
        r"other_log.key: expected Integer\(\), found String\(length=9\); declare it like orders.id",
    ),
    "narrow key": (
        lambda: mapped(log_of(key=mapped_column(SmallInteger(), primary_key=True))),
        r"SmallInteger\(\) is narrower than Integer\(\); declare it like orders.id",
    ),
    "short key": (
        lambda: mapped(two_keys(String(19)), entity=Article),
        r"other_log.tenant: .* is shorter than .*; declare it like article.tenant_id",
    ),
    "key of another collation": (
        lambda: mapped(two_keys(state_text(20)), entity=Article),
        "other_log.tenant: .* has another collation than ",
    ),
    "key that is an Enum": (
        lambda: mapped(two_keys(Enum("a", "b", length=20)), entity=Article),
        "other_log.tenant: expected String",
    ),
    "narrow version": (
        lambda: mapped(log_of(version=mapped_column(SmallInteger(), primary_key=True))),
        "other_log.version: .* is narrower than .*; declare it like orders.version",
    ),
    "version that is text": (
        lambda: mapped(log_of(version=mapped_column(String(8), primary_key=True))),
        "other_log.version: expected Integer",
    ),
    "nothing unique": (lambda: mapped(unique_over()), r"other_log: \(key, version\) are not unique together"),
    "unique with more": (lambda: mapped(Loose), r"loose: \(key, version\) are not unique together"),
    "version unique by itself": (
        lambda: mapped(unique_over(UniqueConstraint("version"))),
        r"\(key, version\) are not unique together",
    ),
    "index that is not unique": (
        lambda: mapped(unique_over(Index("i", "key", "version"))),
        r"\(key, version\) are not unique together",
    ),
    "unique over some of the rows": (
        lambda: mapped(unique_over(Index("i", "key", "version", unique=True, postgresql_where=text("version > 1")))),
        r"\(key, version\) are not unique together",
    ),
    "event too short": (
        lambda: mapped(log_of(event=mapped_column(String(7), nullable=True))),
        "other_log.event: the event 'send_off' does not fit: it has 8 characters, the column 7; lengthen",
    ),
    "event that is no text": (
        lambda: mapped(log_of(event=mapped_column(Integer(), nullable=True))),
        "other_log.event: expected text",
    ),
    "NOT NULL event": (
        lambda: mapped(log_of(event=mapped_column(String(9), nullable=False))),
        "other_log.event: it is NOT NULL, .* Make it nullable",
    ),
    "NOT NULL source": (
        lambda: mapped(log_of(source=mapped_column(String(9), nullable=False))),
        "other_log.source: it is NOT NULL",
    ),
    "NOT NULL actor": (
        lambda: mapped(log_of(actor=mapped_column(String(9), nullable=False))),
        "other_log.actor: it is NOT NULL",
    ),
    "NOT NULL data": (
        lambda: mapped(log_of(data=mapped_column(JSON(), nullable=False))),
        "other_log.data: it is NOT NULL",
    ),
    "source too short": (
        lambda: mapped(log_of(source=mapped_column(String(4), nullable=True))),
        "other_log.source: the state value 'draft' does not fit: .* Declare it with a mapped_column like orders.state",
    ),
    "target too short": (
        lambda: mapped(log_of(target=mapped_column(String(4)))),
        "other_log.target: the state value 'draft' does not fit",
    ),
    "numbers in text": (
        lambda: mapped(OrderLog, NumberFlow, Numbered),
        "order_log.source: the state value 0 does not fit: the column is text, .* like numbered.state",
    ),
    "numbers too large": (
        lambda: mapped(
            log_of(
                source=mapped_column(Integer(), nullable=True),
                target=mapped_column(SmallInteger()),
            ),
            NumberFlow,
            Numbered,
        ),
        "other_log.target: the state value 70000 does not fit: the column has 16 bits",
    ),
    "members in text": (
        lambda: mapped(OrderLog, StageFlow, Staged),
        "order_log.source: the state value <Stage.A: 'a'> does not fit",
    ),
    "members stored otherwise": (
        lambda: mapped(staged_log(Enum(Stage, values_callable=values_of)), StageFlow, Staged),
        "other_log.source: it is another Enum than staged.state; give both the same type",
    ),
    "members in another type": (
        lambda: mapped(staged_log(Enum(Stage, name="stages")), StageFlow, Staged),
        "other_log.source: it is another Enum than staged.state",
    ),
    "token as text": (
        lambda: mapped(log_of(token=mapped_column(Uuid(as_uuid=False)))),
        "other_log.token: expected Uuid",
    ),
    "at without a zone": (lambda: mapped(log_of(at=mapped_column(DateTime()))), "other_log.at: expected UTCDateTime"),
    "at with a zone on one database": (
        lambda: mapped(log_of(at=mapped_column(DateTime(timezone=True)))),
        "other_log.at: expected UTCDateTime, which keeps zone and microseconds",
    ),
    "actor that is a number": (
        lambda: mapped(log_of(actor=mapped_column(Integer(), nullable=True))),
        "other_log.actor: expected text",
    ),
    "data that is text": (
        lambda: mapped(log_of(data=mapped_column(Text(), nullable=True))),
        "other_log.data: expected JSON",
    ),
    "a column that nobody fills": (
        lambda: mapped(log_of(place=mapped_column(String(9), nullable=False))),
        "other_log.place: an entry is written by the database, without this column; give it a server_default",
    ),
    "a column that Python fills": (
        lambda: mapped(log_of(place=mapped_column(String(9), nullable=True, default="here"))),
        "other_log.place: an entry is written by the database",
    ),
}


def two_keys(kind: Any) -> type[Any]:
    """A log of articles whose tenant has this type."""
    number = mapped_column(Integer(), primary_key=True)
    return log_of(key=None, tenant=mapped_column(kind, primary_key=True), number=number)


def staged_log(kind: Any) -> type[Any]:
    """A log whose states have this type."""
    return log_of(source=mapped_column(kind, nullable=True), target=mapped_column(kind))


def values_of(members: type[Stage]) -> list[str]:
    """How an Enum stores its members by value."""
    return [member.value for member in members]


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_log_is_told_when_the_mapping_is_built(case: str) -> None:
    """What the log could not keep is a ConfigurationError that names the column and says what to change."""
    build, message = UNFIT[case]

    with pytest.raises(ConfigurationError, match=message):
        build()


def test_fit_logs() -> None:
    """A wider key, another way to be unique, states of their own type, and columns that the database fills."""
    wide = log_of(key=mapped_column(BigInteger(), primary_key=True))
    filled = log_of(place=mapped_column(String(9), server_default="here"), note=mapped_column(Text(), nullable=True))
    numbers = log_of(source=mapped_column(Integer(), nullable=True), target=mapped_column(Integer()))
    index = unique_over(Index("i", "key", "version", unique=True))

    assert [mapped(log).log for log in (wide, filled, index)] == [wide, filled, index]
    assert mapped(unique_over(UniqueConstraint("key", "version"))).log is not None
    assert mapped(two_keys(String(20)), entity=Article).log is not None
    assert mapped(numbers, NumberFlow, Numbered).log is numbers
    assert mapped(staged_log(Enum(Stage)), StageFlow, Staged).log is not None


def test_the_key_leads_the_primary_key() -> None:
    """A row's history is read by the index of the primary key, which begins with the key."""
    names = [[column.key for column in log.__table__.primary_key] for log in (OrderLog, ArticleLog)]

    assert names == [["key", "version"], ["tenant", "number", "version"]]
