"""An order workflow of the tests' own: a composite key, attributes that are called otherwise than their columns.

`OrderFlow` is compiled wherever it can be; `WatchedOrderFlow` is the same machine with a callback, so that every
event needs Python. What holds of one must hold of the other.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, String, Text, bindparam, select
from sqlalchemy.ext.hybrid import hybrid_method
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, PersistenceAdapter
from statelatch.columns import TransitionColumns, UTCDateTime, now, state_text

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["PATHS", "Order", "OrderFlow", "WatchedOrderFlow", "order_adapter", "stored_order"]

KEY = ("acme", 7)


class Base(DeclarativeBase):
    """Base of the orders."""


class Order(TransitionColumns, Base):
    """An order of a tenant's."""

    __tablename__ = "orders"

    tenant: Mapped[str] = mapped_column("tenant_id", String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column("st", state_text(16))
    amount: Mapped[int] = mapped_column(default=0)
    paid: Mapped[bool | None]
    limit: Mapped[int | None] = mapped_column("limit_", default=None)
    owner: Mapped[str | None] = mapped_column(state_text(20))
    note: Mapped[str | None] = mapped_column(Text())
    data: Mapped[Any | None] = mapped_column(JSON())
    visits: Mapped[int] = mapped_column(default=0)
    sent_at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    updated_at: Mapped[datetime | None] = mapped_column(UTCDateTime(), onupdate=now())

    @hybrid_method
    def owned_by(self, owner: str, limit: int = 1) -> bool:
        """Parameters named like columns, one of them with a default."""
        return self.owner is not None and self.owner == owner and self.visits < limit

    @owned_by.inplace.expression
    @classmethod
    def _owned_by(cls, owner: Any, limit: Any = 1) -> Any:
        return (cls.owner == owner) & (cls.visits < limit)


class OrderFlow(StateMachine):
    """From a draft to one of two ends."""

    draft = State(initial=True)
    paid_for = State(value="paid 100%")
    held = State()
    sent = State(final=True)
    dropped = State(final=True)

    pay = draft.to(paid_for, cond="paid", unless="owner")
    ship = paid_for.to(sent, cond="amount <= limit") | paid_for.to(held, cond="limit != None")
    release = held.to(paid_for)
    drop = draft.to(dropped) | paid_for.to(dropped) | held.to(dropped)
    claim = draft.to(draft, cond="owned_by")
    touch = held.to(held, internal=True)
    visit = held.to(held)
    swap = draft.to(held)


class WatchedOrderFlow(OrderFlow):
    """The same, with Python in every transition."""

    def after_transition(self) -> None:
        """Look on."""


ASSIGNS: dict[str, dict[str, object]] = {
    "sent": {"sent_at": now(), "note": bindparam("note", None)},
    "held": {"visits": Order.visits + 1},
    "claim": {"note": Order.owner, "owner": bindparam("heir"), "visits": Order.visits + 1},
    "touch": {"note": "touched at 100%"},
    # the state and the amount as they were, on databases that write one column after the other, too
    "swap": {"amount": Order.amount + 1, "limit": Order.amount, "note": Order.stage},
}

PATHS: dict[str, type[StateMachine]] = {"compiled": OrderFlow, "interpreted": WatchedOrderFlow}


def order_adapter(engine: Engine, machine: type[StateMachine] = OrderFlow) -> PersistenceAdapter:
    """An adapter for orders; their table is made."""
    Base.metadata.create_all(engine)
    return PersistenceAdapter(engine, MachineMapping(machine=machine, entity=Order, state="stage", assigns=ASSIGNS))


def stored_order(engine: Engine, key: tuple[str, int] = KEY) -> dict[str, Any]:
    """The row as another connection sees it, by column."""
    orders: Any = Order.__table__
    row = select(orders).where(orders.c.tenant_id == key[0], orders.c.number == key[1])
    with engine.connect() as connection:
        return dict(connection.execute(row).mappings().one())
