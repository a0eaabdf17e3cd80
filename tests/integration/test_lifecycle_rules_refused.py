"""Rules that would show nothing, or break down in the middle, are a `ConfigurationError` that says what to pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from sqlalchemy import CheckConstraint, Enum
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, PersistenceAdapter
from statelatch.columns import TransitionColumns, state_text
from statelatch.errors import ConfigurationError
from statelatch.testing import Fault, lifecycle_rules
from tests.databases import sqlite_file

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

QUICK = settings(
    max_examples=10, stateful_step_count=15, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
)


class Base(DeclarativeBase):
    """Base of the entities here."""


class Row(TransitionColumns, Base):
    """A row with a flag."""

    __tablename__ = "rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    flag: Mapped[bool] = mapped_column(default=False)


class Checked(TransitionColumns, Base):
    """A row whose flag is not free."""

    __tablename__ = "checked"
    __table_args__ = (CheckConstraint("flag = false"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    flag: Mapped[bool] = mapped_column(default=False)


class ColumnChecked(TransitionColumns, Base):
    """The same, where the condition stands with its column."""

    __tablename__ = "column_checked"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    flag: Mapped[bool] = mapped_column(CheckConstraint("not flag"), default=False)


class Coloured(TransitionColumns, Base):
    """A row whose key is one of few."""

    __tablename__ = "coloured"

    colour: Mapped[str] = mapped_column(Enum("red", "blue"), primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


class Animal(TransitionColumns, Base):
    """A row of two classes, told by a boolean."""

    __tablename__ = "animals"
    __mapper_args__ = {"polymorphic_on": "is_dog", "polymorphic_identity": False}  # noqa: RUF012  as SQLAlchemy has it

    id: Mapped[int] = mapped_column(primary_key=True)
    is_dog: Mapped[bool]
    state: Mapped[str] = mapped_column(state_text(8))


class Dog(Animal):
    """One of them."""

    __mapper_args__ = {"polymorphic_identity": True}  # noqa: RUF012


class Plain(StateMachine):
    """Two steps; their names are those of rules."""

    a = State(initial=True)
    b = State()
    c = State(final=True)
    create = a.to(b)
    send_batch = b.to(c)


class Guarded(StateMachine):
    """A guard in Python, which takes a parameter."""

    a = State(initial=True)
    b = State(final=True)
    go = a.to(b, cond="enough")

    def enough(self, amount: int, source: State, least: int = 1) -> bool:
        """Whether it is."""
        return amount > least and source.id == "a"


class Never(StateMachine):
    """A guard that is never true."""

    a = State(initial=True)
    b = State(final=True)
    go = a.to(b, cond="never")

    def never(self) -> bool:
        """No."""
        return False


class Alone(StateMachine):
    """No event."""

    only = State(initial=True, final=True)


def of(machine: type[StateMachine], entity: type[Any] = Row) -> MachineMapping:
    """A mapping."""
    return MachineMapping(machine=machine, entity=entity)


PLAIN = of(Plain)
WRONG: Any = {"say": 1}
NOTHING: Any = st.just(dict[str, Any]())


@pytest.mark.parametrize(
    ("mapping", "options", "message"),
    [
        (of(Alone), {}, "Alone has no event"),
        (of(Guarded), {}, r"the event 'go' needs amount; .*params={'go': st\.fixed_dictionaries\({'amount'"),
        (of(Plain, Coloured), {}, "coloured.colour: expected a key that is an integer, a text or a UUID, found Enum"),
        (of(Plain, Checked), {}, r"changes: .*'flag', because of CHECK \(flag = false\); pass a strategy"),
        (of(Plain, ColumnChecked), {}, r"changes: .*'flag', because of CHECK \(not flag\); pass a strategy"),
        (PLAIN, {"faults": ["nonsense"]}, "faults: expected some of Fault.REFUSE, .* found 'nonsense'"),
        (PLAIN, {"faults": Fault.LOCK}, "faults: expected several, found .* alone; pass a list"),
        (PLAIN, {"clients": 2.5}, "clients: expected a whole number, at least one, found 2.5"),
        (PLAIN, {"clients": True}, "found True"),
        (PLAIN, {"values": WRONG}, r"values: expected a strategy, found .* say st\.just"),
        (PLAIN, {"params": {"create": WRONG}}, r"params\['create'\]: expected a strategy"),
    ],
)
def test_what_could_not_work_is_refused_when_it_is_made(mapping: MachineMapping, options: Any, message: str) -> None:
    """It needs no adapter to be told."""
    with pytest.raises(ConfigurationError, match=message):
        lifecycle_rules(mapping, lambda: pytest.fail("no adapter is needed"), **options)


@pytest.fixture
def url(tmp_path: Path) -> URL:
    """A file with the tables."""
    url = sqlite_file(tmp_path)
    with PersistenceAdapter(url, PLAIN) as adapter:
        Base.metadata.create_all(adapter.engine)
    return url


@pytest.mark.parametrize(
    ("machine", "options", "message"),
    [
        (Guarded, {"params": {"go": NOTHING}}, r"params\['go'\]: expected a value for amount, found none"),
        (Plain, {"params": {"create": st.just({"token": 1})}}, "no event can have a parameter 'token'"),
        (Plain, {"changes": st.just({"nope": 1})}, "changes: expected columns of rows .*: flag; found 'nope'"),
        (Plain, {"changes": NOTHING}, "changes: .* found none"),
        (Plain, {"changes": st.just({"id": 1, "state": "c"})}, "changes: .* found 'id', 'state'"),
        (Plain, {"faults": [Fault.SERIALIZATION_FAILURE]}, "SERIALIZATION_FAILURE cannot happen on this engine of sql"),
        (Never, {}, r"none of the \d+ events that were sent to Never was applied"),
    ],
)
def test_what_shows_in_an_example_is_refused_there(
    url: URL, machine: type[StateMachine], options: Any, message: str
) -> None:
    """What a strategy draws, what the engine cannot do, and that nothing was shown."""
    mapping = of(machine)

    with pytest.raises(ConfigurationError, match=message):
        lifecycle_rules(mapping, lambda: PersistenceAdapter(url, mapping), **options).check(QUICK)


@pytest.mark.parametrize(
    ("mapping", "options"),
    [
        (of(Plain, Dog), {}),
        (of(Guarded), {"params": {"go": st.fixed_dictionaries({"amount": st.integers(0, 3)})}}),
        (PLAIN, {"faults": []}),
    ],
    ids=["a boolean discriminator is nobody's to change", "parameters", "no faults"],
)
def test_what_can_work_is_not(url: URL, mapping: MachineMapping, options: Any) -> None:
    """Each row goes its way."""
    lifecycle_rules(mapping, lambda: PersistenceAdapter(url, mapping), **options).check(QUICK)


def test_events_named_as_rules_take_nobodys_place(url: URL) -> None:
    """`create` and `send_batch` are rules, whatever the machine's events are called."""
    rules: Any = lifecycle_rules(PLAIN, lambda: PersistenceAdapter(url, PLAIN))
    names = {each.function.__name__ for each in rules.setup_state().rules}

    assert names >= {"advance", "stumble", "race", "send", "create", "load", "repeat", "send_batch", "change"}


def test_many_events_are_applied_and_the_dead_leave_nothing(url: URL) -> None:
    """A small budget makes more than one transition an example; an engine goes with its process."""
    rules = lifecycle_rules(PLAIN, lambda: PersistenceAdapter(url, PLAIN))
    left: list[int] = []
    teardown = rules.teardown

    def counted(self: Any) -> None:
        teardown(self)
        left.append(len(vars(rules.clients)["_injectors"]))

    rules.teardown = counted
    rules.check(QUICK)

    assert rules.tally.applied >= len(left)
    assert set(left) == {rules.count + 1}
