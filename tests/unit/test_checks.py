"""Checks: what is wrong with a mapping is told when it is built, with what to change."""

import enum
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    CHAR,
    BigInteger,
    Computed,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    SmallInteger,
    String,
    Uuid,
    bindparam,
    case,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, declared_attr, mapped_column
from statemachine import Event, State, StateChart, StateMachine
from statemachine.states import States

from statelatch import ConfigurationError, MachineMapping
from statelatch.columns import TransitionColumns
from statelatch.runs import run_mapping


class Base(DeclarativeBase):
    """Base of the entities here."""


class OrderColumns(TransitionColumns):
    """What every order has."""

    id: Mapped[int] = mapped_column(primary_key=True)

    @declared_attr.directive
    @classmethod
    def __tablename__(cls) -> str:
        """Named like its class."""
        return cls.__name__.lower()


class Order(OrderColumns, Base):
    """A sound entity."""

    state: Mapped[str] = mapped_column(String(8))
    note: Mapped[str | None]
    price: Mapped[int] = mapped_column(default=0)
    count: Mapped[int] = mapped_column(default=0)
    paid_at: Mapped[datetime | None] = mapped_column(DateTime())
    shout: Mapped[str] = mapped_column(Computed("upper(note)"))
    double = column_property(price * 2)


class Flow(StateMachine):
    """A sound machine."""

    draft = State(initial=True)
    paid = State()
    done = State(final=True)

    pay = draft.to(paid)
    finish = paid.to(done)


class Stage(enum.Enum):
    """States as an Enum."""

    A = "a"
    B = "b"


class StageFlow(StateMachine):
    """A machine whose values are members."""

    of = States.from_enum(Stage, initial=Stage.A, final=Stage.B, use_enum_instance=True)  # pyright: ignore[reportUnknownMemberType]
    go = of.A.to(of.B)


class NumberFlow(StateMachine):
    """A machine whose values are numbers, zero among them."""

    a = State(initial=True, value=0)
    b = State(final=True, value=1)
    go = a.to(b)


class Twins(StateMachine):
    """Two states of one value."""

    a = State(initial=True)
    b = State(value="same")
    c = State(value="same", final=True)
    go = a.to(b)
    on = a.to(c) | b.to(c)


class Nested(StateChart[Any]):
    """A compound state."""

    class outer(State.Compound):  # noqa: N801
        """It has states inside."""

        a = State(initial=True)
        b = State()
        go = a.to(b)

    done = State(final=True)
    finish = outer.to(done)  # pyright: ignore[reportUnknownMemberType]


class Fork(StateChart[Any]):
    """A transition with two targets."""

    a = State(initial=True)
    b = State(final=True)
    c = State(final=True)
    go = a.to([b, c])  # pyright: ignore[reportArgumentType]
    on = a.to(c)


class Long(StateMachine):
    """A state whose value is longer than the column."""

    a = State(initial=True)
    b = State(value="ninechars", final=True)
    go = a.to(b)


class HugeFlow(StateMachine):
    """A value that needs more than 32 bits."""

    a = State(initial=True, value=0)
    b = State(final=True, value=2**31)
    go = a.to(b)


class ShortFlow(StateMachine):
    """Values that need more than 16 bits, by one."""

    a = State(initial=True, value=-(2**15) - 1)
    b = State(final=True, value=2**15 - 1)
    go = a.to(b)


class CatchingFlow(StateChart[Any]):
    """An event that the engine fires itself."""

    a = State(initial=True)
    b = State(final=True)
    error_execution = a.to(b)
    error_reported = a.to(b)


class InvokingFlow(StateChart[Any]):
    """Work in the background of a state."""

    a = State(initial=True)
    b = State(invoke=lambda: None)
    c = State(final=True)
    go = a.to(b)
    end = b.to(c)


class NamedInvokingFlow(StateChart[Any]):
    """The same, found by its name."""

    a = State(initial=True)
    b = State(final=True)
    go = a.to(b)

    def on_invoke_b(self) -> None:
        """Work."""


def declared(**event: Any) -> type[StateMachine]:
    """A machine with an event declared so."""

    class Declared(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = Event(a.to(b), **event)

    return Declared


class WiredFlow(Flow):
    """It needs what statelatch has not got."""

    def __init__(self, model: Any, mailer: Any, **arguments: Any) -> None:
        self.mailer = mailer
        super().__init__(model, **arguments)  # pyright: ignore[reportUnknownMemberType]


class BareFlow(Flow):
    """It takes no model."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]


def guarded(cond: str) -> type[StateMachine]:
    """A machine with this guard."""

    class Guarded(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=cond)

    return Guarded


def calling(**callbacks: str) -> type[StateMachine]:
    """A machine with these callbacks."""

    class Calling(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, **callbacks)

    return Calling


class LooseVersion(OrderColumns, Base):
    """The version may be NULL."""

    state: Mapped[str] = mapped_column(String(8))
    version: Mapped[int] = mapped_column(nullable=True)


def version_with(**declared: Any) -> type[Any]:
    """An entity whose version is declared so."""

    class Begun(OrderColumns, type("Bare", (DeclarativeBase,), {})):
        state: Mapped[str] = mapped_column(String(8))
        version: Mapped[int] = mapped_column(**declared)

    return Begun


class TextVersion(OrderColumns, Base):
    """The version is text."""

    state: Mapped[str] = mapped_column(String(8))
    version: Mapped[int] = mapped_column(String(8))


class TextToken(OrderColumns, Base):
    """The token is text."""

    state: Mapped[str] = mapped_column(String(8))
    transition_token: Mapped[UUID | None] = mapped_column(String(32))


class StringToken(OrderColumns, Base):
    """The token is a UUID that is read as text."""

    state: Mapped[str] = mapped_column(String(8))
    transition_token: Mapped[UUID | None] = mapped_column(Uuid(as_uuid=False))


class FloatState(OrderColumns, Base):
    """The state is a float."""

    state: Mapped[float] = mapped_column(Float())


class WordState(OrderColumns, Base):
    """The state is an Enum of other words."""

    state: Mapped[str] = mapped_column(Enum("draft", "paid", name="words"))


class StageState(OrderColumns, Base):
    """The state is a Python Enum."""

    state: Mapped[Stage]


class NumberState(OrderColumns, Base):
    """The state is a number."""

    state: Mapped[int]


class SmallState(OrderColumns, Base):
    """The state is a number of 16 bits."""

    state: Mapped[int] = mapped_column(SmallInteger())


class BigState(OrderColumns, Base):
    """The state is a number of 64 bits."""

    state: Mapped[int] = mapped_column(BigInteger())


class PaddedState(OrderColumns, Base):
    """The state is text of five characters, always."""

    state: Mapped[str] = mapped_column(CHAR(5))


class LetterState(OrderColumns, Base):
    """The state is one letter."""

    state: Mapped[str] = mapped_column(CHAR())


class Counted(OrderColumns, Base):
    """SQLAlchemy keeps the version."""

    state: Mapped[str] = mapped_column(String(8))
    __mapper_args__ = {"version_id_col": OrderColumns.version}  # noqa: RUF012


class Parent(OrderColumns, Base):
    """The upper half of two tables."""

    state: Mapped[str] = mapped_column(String(8))


class Child(Parent):
    """The lower half."""

    __tablename__ = "child"  # pyright: ignore
    id: Mapped[int] = mapped_column(ForeignKey("parent.id"), primary_key=True)


class View(Base):
    """A query instead of a table."""

    __table__ = select(Order.__table__).subquery()
    __mapper_args__ = {"primary_key": [__table__.c.id]}  # noqa: RUF012


def assigning(name: str, **values: object) -> Callable[[], MachineMapping]:
    """A mapping of the sound machine and entity with one entry in `assigns`."""
    return lambda: MachineMapping(machine=Flow, entity=Order, assigns={name: values})


def mapped(machine: Any, entity: Any = Order, **attributes: Any) -> Callable[[], MachineMapping]:
    """A mapping of these two."""
    return lambda: MachineMapping(machine=machine, entity=entity, **attributes)


WRONG: dict[str, tuple[Callable[[], MachineMapping], list[str]]] = {
    "a machine's instance": (mapped(Flow()), ["machine: expected a StateMachine or StateChart class", "Flow("]),
    "no machine": (mapped(Order), ["machine: expected a StateMachine or StateChart class", "Order"]),
    "no states": (mapped(StateMachine), ["StateMachine has no states"]),
    "a compound state": (mapped(Nested), ["Nested.outer", "flatten the machine"]),
    "two targets": (mapped(Fork), ["Fork", "go from A to B", "give it one target"]),
    "two states of one value": (mapped(Twins), ["Twins: the state b", "give each state a value of its own"]),
    "a delayed event": (mapped(declared(delay=300)), ["Declared", "'go'", "with a delay", "remove that"]),
    "an internal event": (mapped(declared(internal=True)), ["Declared", "'go'", "or internal"]),
    "an __init__ with more arguments": (
        mapped(WiredFlow),
        ["WiredFlow.__init__ cannot be called as", "'mailer'", "give its other arguments defaults"],
    ),
    "an __init__ with fewer arguments": (mapped(BareFlow), ["BareFlow.__init__ cannot be called as", "pass these on"]),
    "no entity": (mapped(Flow, Flow), ["entity: expected a declarative class", "Flow"]),
    "an entity's instance": (mapped(Flow, Order()), ["entity: expected a declarative class", "pass the class itself"]),
    "version_id_col": (mapped(Flow, Counted), ["Counted sets version_id_col", "remove it from __mapper_args__"]),
    "two tables": (mapped(Flow, Child), ["Child spans the tables", "to a single table"]),
    "no run": (lambda: run_mapping(Order), ["expected a declarative class with the mixin RunColumns", "Order"]),
    "no table": (mapped(Flow, View), ["View is mapped to", "map it to a table"]),
    "no state column": (
        mapped(Flow, state="status"),
        ["state='status'", "Order has no such column", "it has state, note"],
    ),
    "no version column": (mapped(Flow, version="v"), ["version='v'", "Order has no such column"]),
    "no token column": (mapped(Flow, token="t"), ["token='t'", "Order has no such column"]),
    "one column, two roles": (mapped(Flow, version="state"), ["must be three attributes", "'version': 'state'"]),
    "version in the key": (mapped(Flow, version="id"), ["'id' is in the primary key", "give the row an id"]),
    "nullable version": (mapped(Flow, LooseVersion), ["looseversion.version", "nullable", "Mapped[int] (NOT NULL)"]),
    "version that begins at 0": (mapped(Flow, version_with(default=0)), ["its default is 0", "default=1"]),
    "version that was added with 0": (mapped(Flow, version_with(server_default="0")), ["its default is 0"]),
    "version of text": (mapped(Flow, TextVersion), ["textversion.version", "must be an Integer", "String"]),
    "token of text": (mapped(Flow, TextToken), ["texttoken.transition_token", "must be a Uuid column", "String"]),
    "token read as text": (mapped(Flow, StringToken), ["stringtoken.transition_token", "as_uuid"]),
    "value too long": (
        mapped(Long),
        ["order.state", "'ninechars'", "9 characters, the column 8", "lengthen the column"],
    ),
    "number in text": (
        mapped(NumberFlow),
        ["order.state", "value 0 does not fit", "the column is text, the value int"],
    ),
    "text in numbers": (mapped(Flow, NumberState), ["numberstate.state", "'draft'", "is an Integer, the value str"]),
    "text in members": (mapped(Flow, StageState), ["stagestate.state", "'draft'", "holds members of Stage"]),
    "a word that the Enum lacks": (mapped(Flow, WordState), ["wordstate.state", "'done'", "Enum has draft, paid"]),
    "number too large": (mapped(HugeFlow, NumberState), ["numberstate.state", "2147483648", "the column has 32 bits"]),
    "number too small": (mapped(ShortFlow, SmallState), ["smallstate.state", "-32769", "16 bits", "a larger Integer"]),
    "padded text": (mapped(Flow, PaddedState), ["paddedstate.state", "'paid'", "4 characters, CHAR pads it to 5"]),
    "state of another type": (mapped(Flow, FloatState), ["floatstate.state", "must be text, Enum or Integer", "Float"]),
    "assigns of nothing": (
        assigning("paying", note="x"),
        ["assigns['paying']", "neither a state nor an event of Flow"],
    ),
    "unknown column": (
        assigning("pay", amount=1),
        ["assigns['pay']['amount']", "Order has no such column", "it has state"],
    ),
    "the state": (assigning("pay", state="done"), ["assigns['pay']['state']", "are not assigned", "remove it"]),
    "the version": (assigning("pay", version=3), ["assigns['pay']['version']", "are not assigned"]),
    "the token": (assigning("pay", transition_token=None), ["assigns['pay']['transition_token']", "are not assigned"]),
    "the key": (assigning("pay", id=3), ["assigns['pay']['id']", "are not assigned"]),
    "a generated column": (assigning("pay", shout="X"), ["assigns['pay']['shout']", "are not assigned"]),
    "a naive datetime": (assigning("pay", paid_at=datetime(2026, 1, 1)), ["naive datetime", "which zone it is in"]),
    "text instead of an expression": (
        assigning("pay", count=text("count + 1")),
        ["assigns['pay']['count']", "expected an SQL expression", "sqlalchemy.literal_column"],
    ),
    "an event as nobody fires it": (
        mapped(CatchingFlow, assigns={"error_execution": {"note": "x"}}),
        ["assigns['error_execution']", "fires it as 'error.execution'", "write that"],
    ),
    "a parameter of the initial state": (
        assigning("draft", note=func.lower(bindparam("why"))),
        ["assigns['draft']['note']", "it needs the parameter 'why'", "under the events that come back"],
    ),
    "the row before there is one": (
        assigning("draft", count=Order.count + 1),
        ["assigns['draft']['count']", "it needs a column of the row"],
    ),
    "a list of parameters": (
        assigning("pay", note=case((Order.id.in_(bindparam("ids", expanding=True)), "x"))),
        ["assigns['pay']['note']", "'ids' stands for a list", "compute the value in a callback"],
    ),
    "a parameter of send": (
        assigning("pay", note=func.lower(bindparam("key"))),
        ["assigns['pay']['note']", "'key'", "rename it"],
    ),
    "a parameter of the engine": (
        assigning("paid", note=bindparam("source", type_=String())),
        ["'source'", "rename it"],
    ),
    "a circle": (
        assigning("pay", price=Order.count, count=Order.price),
        ["'pay'", "price, count", "read each other in a circle", "compute one of them in a callback"],
    ),
    "a guard nobody has": (
        mapped(guarded("funded")),
        ["Guarded", "go from A to B", "refers to funded", "add a column"],
    ),
    "a guard in part": (mapped(guarded("price > limit")), ["refers to limit"]),
    "no guard expression": (mapped(guarded("price + 1")), ["'price + 1' is not a guard expression"]),
    "a guard on the state": (mapped(guarded("state == 'a'")), ["refers to state", "write In('...')"]),
    "a guard that is a state's id": (mapped(guarded("b")), ["refers to b,", "neither the machine nor Order has"]),
    "a guard on a column_property": (
        mapped(guarded("double > 3")),
        ["Guarded", "refers to double, a column_property", "make it a hybrid_property"],
    ),
    "work in the background": (mapped(InvokingFlow), ["InvokingFlow.b", "`invoke`", "send its result as an event"]),
    "work found by its name": (mapped(NamedInvokingFlow), ["NamedInvokingFlow.b", "`invoke`"]),
    "a callback nobody has": (mapped(calling(on="book")), ["go from A to B", "refers to book", "Order has"]),
    "a validator nobody has": (mapped(calling(validators="check")), ["refers to check"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_at_once(wrong: str) -> None:
    """Behaviour 8: a mapping that cannot work is a ConfigurationError that names the place and what to change."""
    build, parts = WRONG[wrong]

    with pytest.raises(ConfigurationError) as caught:
        build()

    assert [part for part in parts if part not in str(caught.value)] == []


def test_one_name_for_a_state_and_an_event() -> None:
    """An entry of `assigns` that could mean either is refused."""

    class Both(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b)

    Both.states_map["b"]._id = "go"  # pyright: ignore[reportPrivateUsage]  the framework warns, and allows it
    with pytest.raises(ConfigurationError, match="both a state and an event"):
        MachineMapping(machine=Both, entity=Order, assigns={"go": {"note": "x"}})


@pytest.mark.parametrize(
    ("machine", "entity", "initial"),
    [
        (Flow, Order, "draft"),
        (StageFlow, StageState, Stage.A),
        (NumberFlow, NumberState, 0),
        (NumberFlow, SmallState, 0),
        (HugeFlow, BigState, 0),
        (ShortFlow, NumberState, -(2**15) - 1),
        (guarded("In('a')"), LetterState, "a"),
    ],
)
def test_what_fits_is_accepted(machine: Any, entity: Any, initial: object) -> None:
    """Text, members of an Enum and numbers are states; the initial one is where a row begins."""
    assert initial == MachineMapping(machine=machine, entity=entity).initial


@pytest.mark.parametrize("listener", [None, object])
def test_what_is_no_guard_expression_is_told_of_any_machine(listener: Any) -> None:
    """A machine whose listeners may bring names is still read: its guards must be expressions."""

    class Flowing(StateMachine):
        listeners = [listener] if listener else []
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond="price + 1")

    with pytest.raises(ConfigurationError, match="'price \\+ 1' is not a guard expression"):
        MachineMapping(machine=Flowing, entity=Order)


def test_a_guard_of_a_listener_is_not_missed() -> None:
    """A machine with listeners may get its guards from them, so that no name is refused."""

    class Credit:
        def funded(self) -> bool:
            return True

    class Flowing(StateMachine):
        listeners = [Credit()]  # noqa: RUF012
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond="funded")

    assert MachineMapping(machine=Flowing, entity=Order).events == ("go",)


def test_a_guard_that_an_init_brings_is_not_missed() -> None:
    """An `__init__` may add listeners and attributes, so that no name is refused."""

    class Flowing(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond="funded")

        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.funded = True
            super().__init__(*arguments, **named)  # pyright: ignore[reportUnknownMemberType]

    assert MachineMapping(machine=Flowing, entity=Order).events == ("go",)


def test_what_a_new_row_can_be_given() -> None:
    """A parameter with a default, a subquery and a list of constants need neither an event nor a row."""
    highest = select(func.max(Order.count)).scalar_subquery()
    chosen = case((literal("a").in_(["a", "b"]), "x"))
    assigns: dict[str, dict[str, object]] = {
        "draft": {"note": bindparam("why", None), "count": highest, "price": chosen}
    }

    assert MachineMapping(machine=Flow, entity=Order, assigns=assigns).initial == "draft"


@pytest.mark.parametrize("name", ["error.execution", "error_reported"])
def test_an_event_may_be_called_as_it_is_fired(name: str) -> None:
    """What the engine fires has dots; an event of the user's own may begin like one of the engine's."""
    assert MachineMapping(machine=CatchingFlow, entity=Order, assigns={name: {"note": "x"}}).assigns
