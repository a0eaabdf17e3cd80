"""A desk at which orders are worked on: machines that write down how often they are built.

`run` sends an event on this thread, where machines wait for their next row; `fresh` in a thread of its own, where
none does: what a reused machine does is what that one does.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import JSON, ForeignKey, Text
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, mapped_column, relationship
from statemachine import State, StateChart, StateMachine
from statemachine.factory import StateMachineMetaclass
from statemachine.utils import _cached_loop  # pyright: ignore[reportPrivateUsage]

from statelatch.columns import TransitionColumns
from statelatch.interpreter import Firing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from statelatch.interpreter import Fired, Refused

__all__ = ["OTHER", "ROW", "Counting", "Customer", "Desk", "Machine", "Order", "built", "fresh", "nothing", "run"]

Machine = type[StateChart[Any]]


class Base(DeclarativeBase):
    """Base of the entities here."""


class Customer(Base):
    """Whom orders are of."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(TransitionColumns, Base):
    """An order."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(Text())
    amount: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(Text())
    data: Mapped[Any | None] = mapped_column(JSON())
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customers.id"))
    customer: Mapped[Customer | None] = relationship(back_populates="orders")

    @hybrid_property
    def rich(self) -> bool:
        """Computed from the row each time; without an amount it raises."""
        return cast("int", self.amount) > 100

    @property
    def many(self) -> Callable[[], bool] | bool:
        """A callback in some rows, a value in others."""
        amount = self.amount or 0
        return (lambda: amount > 500) if amount > 200 else amount > 100


configure_mappers()  # as a mapping does

ROW: Mapping[str, Any] = {
    "id": 7,
    "stage": "draft",
    "amount": 3,
    "note": None,
    "data": {"tags": ["a"]},
    "customer_id": None,
    "version": 1,
    "transition_token": None,
}
OTHER: Mapping[str, Any] = {**ROW, "id": 8, "amount": 4, "note": "other", "data": None}

BUILT: list[type[Any]] = []


class Counting(StateMachineMetaclass):
    """Writes down each machine that is built."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Build a machine."""
        BUILT.append(self)
        return super().__call__(*arguments, **named)


def built(machine: Machine) -> int:
    """How many machines of this class, not of its subclasses, were built."""
    return BUILT.count(machine)


class Desk(StateMachine, metaclass=Counting):
    """A machine whose event `act` does what its parameter says, and whose event `look` tells what is there."""

    draft = State(initial=True)
    sent = State(final=True)

    act = draft.to(draft)
    look = draft.to(draft, on="tell")
    end = draft.to(sent)
    again = draft.to(draft)
    check = draft.to(draft, cond="paid")

    def on_act(self, model: Order, do: Callable[[Any, Order], object]) -> None:
        """Do it."""
        do(self, model)

    def on_end(self, model: Order, do: Callable[[Any, Order], object]) -> None:
        """Do it while the machine ends."""
        do(self, model)

    def paid(self, model: Order) -> bool:
        """A guard."""
        return model.note == "paid"

    def tell(self, model: Order, seen: dict[str, object], **arguments: object) -> None:
        """All that a callback finds."""
        state, engine = inspect_entity(model), cast("Any", self)._engine
        seen.update(
            machine=set(vars(self)),
            switches=(self.catch_errors_as_events, self.allow_event_without_transition, self.is_terminated),
            start=(self.state_field, self.history_values, self.start_configuration_values),
            states=[(view.name, hasattr(view, "visited")) for view in (self.draft, self.sent)],
            listeners=len(self.active_listeners),
            queued=(engine.external_queue.is_empty(), engine.internal_queue.is_empty()),
            arguments=set(arguments),
            model={name: value for name, value in vars(model).items() if not name.startswith("_sa_")},
            flags=(state.modified, state.expired, state.detached, state.session_id, state.identity, state.info),
            unloaded=state.unloaded,
            history=tuple(map(tuple, state.attrs["note"].history)),
        )


def nothing(_machine: Any, _model: Order) -> None:
    """Leave the row alone."""


def run(machine: Machine, event: str | None, row: Mapping[str, Any] = ROW, **params: Any) -> Fired | Refused:
    """Send an event to a row, on this thread."""
    return Firing(machine, Order, "stage", row, event, params).run()


def fresh(machine: Machine, event: str | None, row: Mapping[str, Any] = ROW, **params: Any) -> Fired | Refused:
    """The same on a machine that has run nothing."""

    def once() -> Fired | Refused:
        try:
            return run(machine, event, row, **params)
        finally:
            if loop := vars(_cached_loop).get("loop"):  # python-statemachine leaves that to the garbage collector
                loop.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(once).result()
