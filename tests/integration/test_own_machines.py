"""Machines and entities of all sorts, on each database: what a state may be, and how an entity may be made."""

import enum
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import ColumnElement, Engine, Enum, ForeignKey, String, Text, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship
from statemachine import Event, State, StateChart, StateMachine
from statemachine.states import States

from statelatch import (
    MachineMapping,
    PersistenceAdapter,
    RowNotFoundError,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.columns import TransitionColumns
from tests.databases import on


class Base(DeclarativeBase):
    """Base of the entities here."""


class Keyed(TransitionColumns):
    """A key that the database makes, and columns called like what a guard must not be taken for."""

    id: Mapped[int] = mapped_column(primary_key=True)
    selected: Mapped[bool] = mapped_column(default=True)
    v: Mapped[bool] = mapped_column(default=True)


class Plain(Keyed, Base):
    """A state in a text column of no special collation."""

    __tablename__ = "plain"
    state: Mapped[str] = mapped_column(String(20))
    note: Mapped[str | None] = mapped_column("note 100%", Text())


class Flow(StateMachine):
    """States whose values differ by case and by a blank."""

    a = State(initial=True)
    upper = State(value="A")
    padded = State(value="a ")
    z = State(final=True)

    go = a.to(upper) | upper.to(padded) | padded.to(z)
    guarded = a.to(z, cond=["selected", "v"])


class Watched(Flow):
    """The same in Python."""

    def after_transition(self) -> None:
        """Look on."""


PATHS = [Flow, Watched]


def adapter_of(engine: Engine, machine: type[StateChart[Any]], entity: Any, **mapping: Any) -> PersistenceAdapter:
    """An adapter of this machine and entity; the table is made."""
    entity.metadata.create_all(engine)
    return PersistenceAdapter(engine, MachineMapping(machine=machine, entity=entity, **mapping))


@pytest.mark.parametrize("machine", PATHS)
def test_states_differ_to_the_letter_whatever_the_collation(engine: Engine, machine: type[StateMachine]) -> None:
    """Where the column's collation takes `A`, `a` and `a ` for the same, statelatch does not."""
    adapter = adapter_of(engine, machine, Plain)
    key = adapter.create().key

    moves = [adapter.send(key, "go") for _ in range(3)]

    assert [(move.source, move.target) for move in moves] == [("a", "A"), ("A", "a "), ("a ", "z")]


@pytest.mark.parametrize("stored", ["Z", "z ", "ä"])
@pytest.mark.parametrize("machine", PATHS)
def test_a_foreign_state_is_no_state(engine: Engine, machine: type[StateMachine], stored: str) -> None:
    """What only the collation takes for a state of the machine is unknown, and stays."""
    adapter = adapter_of(engine, machine, Plain)
    key = adapter.create().key
    with engine.begin() as connection:
        connection.execute(text("UPDATE plain SET state = :stored"), {"stored": stored})

    with pytest.raises(UnknownStateError):
        adapter.send(key, "go")

    with engine.connect() as connection:
        assert connection.scalar(text("SELECT state FROM plain")) == stored


@pytest.mark.parametrize("machine", PATHS)
def test_columns_with_awkward_names(engine: Engine, machine: type[StateMachine]) -> None:
    """A percent sign in a column's name, columns called `selected` and `v`: all are as good as others."""
    adapter = adapter_of(engine, machine, Plain, assigns={"z": {"note": "50%"}})
    key = adapter.create(note="100%").key

    adapter.send(key, "guarded")

    assert adapter.load(key).values["note"] == "50%"
    refused = adapter.create(v=False).key
    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(refused, "guarded")
    assert caught.value.guards == ("v",)


def test_a_query_for_states_differs_to_the_letter(engine: Engine) -> None:
    """`in_state` and `terminal` find what statelatch takes for the state, not what the collation does."""
    adapter = adapter_of(engine, Flow, Plain)
    keys = {value: adapter.create().key for value in ("a", "A", "a ", "z", "Z")}
    with engine.begin() as connection:
        for value, key in keys.items():
            connection.execute(text("UPDATE plain SET state = :value WHERE id = :key"), {"value": value, "key": key})
    mapping = adapter.mapping

    def found(criterion: ColumnElement[bool]) -> set[str]:
        with engine.connect() as connection:
            return set(connection.scalars(select(Plain.state).where(criterion)))

    assert found(mapping.in_state("a")) == {"a"}
    assert found(mapping.in_state("upper", "padded")) == {"A", "a "}
    assert found(~mapping.in_state("a")) == {"A", "a ", "z", "Z"}
    assert found(mapping.terminal()) == {"z"}


@on("mariadb")
def test_a_query_for_states_uses_an_index(engine: Engine) -> None:
    """The exact comparison alone would read the whole table."""
    adapter = adapter_of(engine, Flow, Plain)
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX by_state ON plain (state)"))
        connection.execute(insert(Plain), [{"state": "z"}] * 200)
    query = select(Plain.id).where(adapter.mapping.in_state("a"))
    sql = query.compile(engine, compile_kwargs={"literal_binds": True})

    with engine.connect() as connection:
        assert connection.execute(text(f"EXPLAIN {sql}")).mappings().one()["type"] in {"ref", "range"}


@on("mariadb")
def test_guards_in_another_character_set(engine: Engine) -> None:
    """Text in latin1 is compared by character, not by byte."""

    class Accented(StateMachine):
        a = State(initial=True)
        z = State(final=True)
        go = a.to(z, cond="note == 'é'")

    adapter = adapter_of(engine, Accented, Plain)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE plain CONVERT TO CHARACTER SET latin1"))

    assert adapter.send(adapter.create(note="é").key, "go").target == "z"
    with pytest.raises(TransitionRefusedError):
        adapter.send(adapter.create(note="É").key, "go")


class Stage(enum.Enum):
    """States as an Enum, whose names are stored."""

    DRAFT = "d"
    DONE = "x"
    GONE = "g"


class Staged(Keyed, Base):
    """A state in an Enum column."""

    __tablename__ = "staged"
    state: Mapped[Stage] = mapped_column(Enum(Stage))
    paid: Mapped[bool] = mapped_column(default=False)


class StagedFlow(StateMachine):
    """Its states are the members."""

    of = States.from_enum(Stage, initial=Stage.DRAFT, final=[Stage.DONE, Stage.GONE], use_enum_instance=True)  # pyright: ignore[reportUnknownMemberType]
    go = of.DRAFT.to(of.DONE, cond="paid") | of.DRAFT.to(of.GONE)


class WatchedStagedFlow(StagedFlow):
    """The same in Python."""

    def after_transition(self) -> None:
        """Look on."""


@pytest.mark.parametrize("machine", [StagedFlow, WatchedStagedFlow])
@pytest.mark.parametrize(("paid", "target"), [(True, Stage.DONE), (False, Stage.GONE)])
def test_a_state_may_be_an_enum(engine: Engine, machine: type[StateMachine], paid: bool, target: Stage) -> None:
    """Members go in and come out; several targets are told apart."""
    adapter = adapter_of(engine, machine, Staged)
    key = adapter.create(paid=paid).key

    done = adapter.send(key, "go")

    assert (done.source, done.target, adapter.load(key).state) == (Stage.DRAFT, target, target)


class Numbered(Keyed, Base):
    """A state in a number column."""

    __tablename__ = "numbered"
    state: Mapped[int]


class NumberedFlow(StateMachine):
    """Zero is a state like any other."""

    draft = State(initial=True, value=0)
    held = State(value=-1)
    done = State(final=True, value=7)
    hold = draft.to(held)
    end = draft.to(done) | held.to(done)


class WatchedNumberedFlow(NumberedFlow):
    """The same in Python."""

    def after_transition(self) -> None:
        """Look on."""


@pytest.mark.parametrize("machine", [NumberedFlow, WatchedNumberedFlow])
def test_a_state_may_be_a_number(engine: Engine, machine: type[StateMachine]) -> None:
    """Numbers, zero among them, are states."""
    adapter = adapter_of(engine, machine, Numbered)
    key = adapter.create().key

    moves = [adapter.send(key, "hold"), adapter.send(key, "end")]

    assert [(move.source, move.target) for move in moves] == [(0, -1), (-1, 7)]


class Animal(Keyed, Base):
    """The class above, in whose table the others are."""

    __tablename__ = "animal"
    state: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(10))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012


class Dog(Animal):
    """One of the classes in the table."""

    tricks: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


class Puppy(Dog):
    """A dog too."""

    __mapper_args__ = {"polymorphic_identity": "puppy"}  # noqa: RUF012


@pytest.mark.parametrize("machine", PATHS)
def test_classes_that_share_a_table(engine: Engine, machine: type[StateMachine]) -> None:
    """A new row is of the entity's class; the rows of other classes are not found, those of its heirs are."""
    mappings = {entity: adapter_of(engine, machine, entity) for entity in (Animal, Dog, Puppy)}
    keys = {entity: adapter.create().key for entity, adapter in mappings.items()}

    assert mappings[Dog].load(keys[Dog]).values["kind"] == "dog"
    assert mappings[Dog].send(keys[Puppy], "go").target == "A"
    assert mappings[Animal].send(keys[Dog], "go").target == "A"
    for verb in (lambda: mappings[Dog].send(keys[Animal], "go"), lambda: mappings[Puppy].load(keys[Dog])):
        with pytest.raises(RowNotFoundError):
            verb()


class Owner(Base):
    """Who owns a thing."""

    __tablename__ = "owner"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)


class Possession(TransitionColumns, Base):
    """An entity with a relationship, an SQL expression, and a key that is another's."""

    __tablename__ = "possession"
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("owner.id"), primary_key=True)
    state: Mapped[str] = mapped_column(String(20))
    price: Mapped[int] = mapped_column(default=2)
    selected: Mapped[bool] = mapped_column(default=True)
    v: Mapped[bool] = mapped_column(default=True)
    owner: Mapped[Owner] = relationship()


Possession.double = column_property(Possession.price * 2)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("machine", PATHS)
def test_an_entity_with_relationships(engine: Engine, machine: type[StateMachine]) -> None:
    """What is no column of the table is left alone."""
    adapter = adapter_of(engine, machine, Possession)
    owner = uuid4()
    with engine.begin() as connection:
        connection.execute(insert(Owner).values(id=owner))
    snapshot = adapter.create(owner_id=owner)

    assert adapter.send(owner, "go").target == "A"
    assert "double" not in snapshot.values
    assert "owner" not in snapshot.values


class Dotted(StateChart[Any]):
    """A flat chart with events that are called as in SCXML."""

    a = State(initial=True)
    b = State()
    z = State(final=True)

    forward = Event(a.to(b), id="step.forward")
    end = a.to(z) | b.to(z)


def test_a_flat_chart_is_compiled(engine: Engine) -> None:
    """A chart without callbacks is one UPDATE an event, and its events may have dots in their names."""
    adapter = adapter_of(engine, Dotted, Plain)
    key = adapter.create().key

    assert adapter.explain("step.forward").compiled
    assert adapter.send(key, "step.forward").target == "b"
    assert adapter.send(key, "end").source == "b"
