"""SQL twins: a guard that is Python, checked by the UPDATE."""

from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, bindparam, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from statemachine import State, StateMachine

from statelatch import MachineMapping, PersistenceAdapter, TransitionRefusedError
from statelatch.columns import TransitionColumns, state_text


class Base(DeclarativeBase):
    """Base of the entities here."""


class Customer(Base):
    """Who orders."""

    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    tier: Mapped[str] = mapped_column(String(8))


class Order(TransitionColumns, Base):
    """What is ordered."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    price: Mapped[int | None]
    held: Mapped[bool] = mapped_column(default=False)
    customer_id: Mapped[int | None] = mapped_column(ForeignKey(Customer.id))
    customer: Mapped[Customer | None] = relationship()


class Shop(StateMachine):
    """Guards that no column is."""

    draft = State(initial=True)
    paid = State(final=True)
    sent = State(final=True)

    pay = draft.to(sent, cond="is_vip and affordable") | draft.to(paid, cond="affordable")

    def is_vip(self, model: Order) -> bool:
        """In another table, which is not read with the row."""
        return model.customer is not None and model.customer.tier == "gold"

    def affordable(self, model: Order, budget: int) -> bool:
        """With a parameter of the event's."""
        return model.price is not None and model.price <= budget


def shop(engine: Engine) -> PersistenceAdapter:
    """The adapter, with two customers in the database."""
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([Customer(id=1, tier="gold"), Customer(id=2, tier="tin")])
    twins = {"is_vip": Order.customer.has(Customer.tier == "gold"), "affordable": Order.price <= bindparam("budget")}
    return PersistenceAdapter(engine, MachineMapping(machine=Shop, entity=Order, guards=twins))


@pytest.mark.parametrize(("customer", "price", "target"), [(1, 3, "sent"), (2, 3, "paid"), (None, 3, "paid")])
def test_a_twin_compiles_what_is_python(engine: Engine, customer: int | None, price: int, target: str) -> None:
    """With a twin for each Python guard the event is one UPDATE, which may look into other tables."""
    adapter = shop(engine)
    row = adapter.create(customer_id=customer, price=price)

    assert adapter.explain("pay").compiled
    assert target == adapter.send(row.key, "pay", budget=3).target


@pytest.mark.parametrize(("price", "budget"), [(4, 3), (None, 3)])
def test_a_twin_refuses(engine: Engine, price: int | None, budget: int) -> None:
    """Where a twin is false or NULL the event is refused, by the names of the Python guards."""
    adapter = shop(engine)
    row = adapter.create(customer_id=1, price=price)

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(row.key, "pay", budget=budget)

    assert caught.value.guards == ("is_vip and affordable", "affordable")


def test_a_twin_is_checked_where_python_decides(engine: Engine) -> None:
    """Behaviour 11: what the Python guard read has changed meanwhile, without a version: the UPDATE refuses."""

    class Holding(StateMachine):
        draft = State(initial=True)
        paid = State(final=True)
        pay = draft.to(paid, cond="is_free")

        def is_free(self, model: Order) -> bool:
            return not model.held

        def on_pay(self, model: Order) -> None:
            with engine.begin() as other:
                other.execute(update(Order).values(held=True))

    guards: dict[str, Any] = {"is_free": Order.held.is_(False)}
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Holding, entity=Order, guards=guards))
    row = adapter.create()

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(row.key, "pay")

    assert caught.value.guards == ("is_free",)
    assert adapter.load(row.key).state == "draft"
