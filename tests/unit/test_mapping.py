"""Mapping: what a sound one knows of its machine, its entity and their keys."""

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Integer, LargeBinary, String, TypeDecorator, Uuid, create_mock_engine, literal, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, RequestError, UnknownStateError
from statelatch.columns import TransitionColumns, UTCDateTime, state_text


class Base(DeclarativeBase):
    """Base of the entities here."""


class Flow(StateMachine):
    """A sound machine."""

    draft = State(initial=True)
    paid = State()
    done = State(final=True)

    pay = draft.to(paid)
    finish = paid.to(done)


class Named(TransitionColumns, Base):
    """Attributes that are called otherwise than their columns, and a key that the client makes."""

    __tablename__ = "named"

    ident: Mapped[UUID] = mapped_column("id", primary_key=True, default=uuid4)
    tenant: Mapped[str] = mapped_column("tenant_id", String(8), primary_key=True, default="main")
    status: Mapped[str] = mapped_column("st", String(8))


class Letters(StateMachine):
    """States that differ by case alone."""

    a = State(initial=True)
    upper = State(value="A", final=True)
    go = a.to(upper)


class NumberedFlow(StateMachine):
    """States that are numbers."""

    a = State(initial=True, value=1)
    b = State(value=2, final=True)
    go = a.to(b)


class Page(TypeDecorator[complex]):
    """A value that only its own type can judge."""

    impl = Integer
    cache_ok = True


class Stage(enum.Enum):
    """A key that SQLAlchemy takes by its member or by the member's name."""

    A = 1


class Folding(TransitionColumns, Base):
    """A state in a column that takes the database's collation, and keys of several types."""

    __tablename__ = "folding"

    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(8), primary_key=True)
    raw: Mapped[bytes] = mapped_column(LargeBinary(8), primary_key=True)
    ident: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime(), primary_key=True)
    page: Mapped[complex] = mapped_column(Page(), primary_key=True)
    stage: Mapped[Stage] = mapped_column(primary_key=True)
    weight: Mapped[float] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(8))


class Lettered(TransitionColumns, Base):
    """A state in a column that tells letters apart."""

    __tablename__ = "lettered"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


class Numbered(TransitionColumns, Base):
    """A state in a column of numbers."""

    __tablename__ = "numbered"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[int]


@pytest.fixture
def mapping() -> MachineMapping:
    """A mapping whose attributes, columns and key are all called differently."""
    return MachineMapping(machine=Flow, entity=Named, state="status")


def test_attributes_are_named_not_columns(mapping: MachineMapping) -> None:
    """Everything goes by the attribute's name; the column's name is the database's."""
    assert list(mapping.columns) == ["ident", "tenant", "status", "version", "transition_token"]
    assert mapping.key_attributes == ("ident", "tenant")
    assert mapping.kept == {"ident", "tenant", "version", "transition_token"}


def test_a_key_is_a_tuple_where_it_has_several_columns(mapping: MachineMapping) -> None:
    """A composite key goes in and comes out as a tuple."""
    key = (uuid4(), "main")

    assert mapping.key_values(key) == {"latch_key_0": key[0], "latch_key_1": "main"}
    assert key == mapping.key_of({"tenant": "main", "ident": key[0]})


@pytest.mark.parametrize("key", [3, (3,), (uuid4(), None), (uuid4(), "main", 1), (str(uuid4()), "main")])
def test_a_key_of_another_shape_is_refused(mapping: MachineMapping, key: object) -> None:
    """A key with too few or too many columns, with None, or with text for a UUID is a RequestError."""
    with pytest.raises(RequestError, match=r"expected a .*, found .*nothing was written"):
        mapping.key_values(key)


SOUND = (7, "x", b"x", str(uuid4()), datetime(2026, 1, 1, tzinfo=UTC), 1 + 2j, "A", 3)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (0, "7x", "folding.number: expected a key of type int, found '7x'"),
        (0, True, "folding.number: expected a key of type int, found True"),
        (0, 7.0, "folding.number: expected a key of type int, found 7.0"),
        (1, 0, "folding.name: expected a key of type str, found 0"),
        (2, "x", "folding.raw: expected a key of type bytes, found 'x'"),
        (3, uuid4(), "folding.ident: expected a key of type str, found UUID"),
    ],
)
def test_a_key_of_another_type_is_refused(place: int, value: object, expected: str) -> None:
    """MariaDB would take `7x` for 7, and 0 for any text: what is no value of the column's is never sent."""
    mapping = MachineMapping(machine=Letters, entity=Folding)
    key = tuple(value if n == place else sound for n, sound in enumerate(SOUND))

    assert list(mapping.key_values(SOUND).values()) == list(SOUND)
    with pytest.raises(RequestError) as caught:
        mapping.key_values(key)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("given", "made"),
    [({}, {"ident", "tenant"}), ({"tenant": "x"}, {"ident"}), ({"ident": uuid4(), "tenant": "x"}, set[str]())],
)
def test_the_client_makes_the_key(mapping: MachineMapping, given: Mapping[str, Any], made: set[str]) -> None:
    """A key with a default of its own is made before anything is sent, so that a lost INSERT can be looked up."""
    assert made == set(mapping.made_by_client(given))


@pytest.mark.parametrize(("value", "found"), [("Draft", "'Draft'"), (None, "None"), (0, "0")])
def test_an_unknown_state_is_named(mapping: MachineMapping, value: object, found: str) -> None:
    """A stored value that the machine lacks, or NULL, is an UnknownStateError with what it knows."""
    with pytest.raises(UnknownStateError, match=f"holds the state {found}.*'draft', 'paid', 'done'") as caught:
        mapping.known_state(7, value)

    assert (caught.value.key, caught.value.value, caught.value.known) == (7, value, ("draft", "paid", "done"))


def test_criteria_for_queries(mapping: MachineMapping) -> None:
    """`in_state` and `terminal` are criteria on the state column."""

    def sql(criterion: Any) -> str:
        return str(criterion.compile(compile_kwargs={"literal_binds": True}))

    assert sql(mapping.in_state("draft", "paid")) == "named.st IN ('draft', 'paid')"
    assert sql(mapping.terminal()) == "named.st IN ('done')"


TWICE = "(folding.state IN ('a') AND CAST(CONVERT(folding.state USING utf8mb4) AS BINARY) IN ('a'))"


@pytest.mark.parametrize(
    ("dialect", "entity", "expected"),
    [
        ("mysql", Folding, TWICE),
        ("mariadb", Folding, TWICE),
        ("postgresql", Folding, "folding.state IN ('a')"),
        ("sqlite", Folding, "folding.state IN ('a')"),
        ("mysql", Lettered, "lettered.state IN ('a')"),
        ("mariadb", Lettered, "lettered.state IN ('a')"),
        ("mariadb", Numbered, "numbered.state IN (1)"),
    ],
)
def test_a_criterion_is_exact_on_mariadb_and_uses_the_index(dialect: str, entity: Any, expected: str) -> None:
    """Where a collation may fold letters the text is compared once more; the plain IN is there for the index."""
    machine = NumberedFlow if entity is Numbered else Letters
    query = select(literal(1)).where(MachineMapping(machine=machine, entity=entity).in_state("a"))
    compiler = create_mock_engine(f"{dialect}://", lambda: None).dialect

    sql = str(query.compile(dialect=compiler, compile_kwargs={"literal_binds": True}))
    assert expected == sql.partition("WHERE ")[2]


def test_a_criterion_on_an_unknown_state_is_refused(mapping: MachineMapping) -> None:
    """A misspelt state would match nothing for ever."""
    with pytest.raises(RequestError, match="no state 'drafted'; it has draft, paid, done"):
        mapping.in_state("drafted")


def test_an_unknown_event_is_refused(mapping: MachineMapping) -> None:
    """An event that the machine lacks is a RequestError that names those it has."""
    with pytest.raises(RequestError, match="Flow has no event 'ship'; it has pay, finish; nothing was written"):
        mapping.check_event("ship")
