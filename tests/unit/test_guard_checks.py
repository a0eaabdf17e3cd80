"""Checks of guards and their SQL twins: what cannot mean what it says is told when the mapping is built."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import DateTime, String, bindparam, func, literal, select
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column
from statemachine import State, StateMachine

from statelatch import ConfigurationError, MachineMapping
from statelatch.columns import TransitionColumns


class Base(DeclarativeBase):
    """Base of the entities here."""


class Parent(Base):
    """Another table."""

    __tablename__ = "parent"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(8))


class Order(TransitionColumns, Base):
    """A sound entity."""

    __tablename__ = "order"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(8))
    note: Mapped[str | None]
    price: Mapped[int] = mapped_column(default=0)
    count: Mapped[int] = mapped_column(default=0)
    paid_at: Mapped[datetime | None] = mapped_column(DateTime())

    @hybrid_property
    def rich(self) -> bool:
        """A guard that is SQL by itself."""
        return self.price > 3


def guarded(cond: Any, unless: Any = None) -> type[StateMachine]:
    """A machine with these guards, and methods that they may name."""

    class Guarded(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=cond, unless=unless, validators="look")

        def vip(self) -> bool:
            return True

        def look(self) -> None:
            pass

    return Guarded


def twinned(cond: Any, **guards: object) -> Callable[[], MachineMapping]:
    """A mapping of a machine with this guard, and these twins."""
    return lambda: MachineMapping(machine=guarded(cond), entity=Order, guards=guards)


def alike(cond: Any, unless: Any = None) -> Callable[[], MachineMapping]:
    """A mapping of a machine with these guards."""
    return lambda: MachineMapping(machine=guarded(cond, unless), entity=Order)


def named(name: str) -> Callable[[], bool]:
    """Another function each time, all of one name."""

    def guard() -> bool:
        return True

    guard.__name__ = name
    return guard


WRONG: dict[str, tuple[Callable[[], MachineMapping], list[str]]] = {
    "a column and another type": (
        alike("price == 'x'"),
        ["Guarded, transition go from A to B", "\"price == 'x'\" compares order.price, of type Integer(), with 'x'"],
    ),
    "two guards that are one": (
        alike("price and count", "(price) ^ count"),
        ["takes 'price and count' and '!(price) ^ count' for one guard", "write the two as one expression"],
    ),
    "two guards that are one but for parentheses": (
        alike(["price or vip and count", "(price or vip) and count"]),
        ["for one guard"],
    ),
    "a twin of nothing": (
        twinned("vip", gold=Order.price > 3),
        ["guards['gold']", "no guard of Guarded has", "has vip"],
    ),
    "a twin without guards": (twinned(None, vip=Order.price > 3), ["guards['vip']", "it has none"]),
    "a twin of a validator": (twinned("vip", look=Order.price > 3), ["guards['look']", "Validators have no twins"]),
    "a twin of a column": (twinned("price", price=Order.count > 3), ["guards['price']", "Order.price is a column"]),
    "a twin of a hybrid": (
        twinned("rich", rich=Order.count > 3),
        ["guards['rich']", "Order.rich is a hybrid that is SQL already", "give a hybrid the SQL that you mean"],
    ),
    "one twin for two functions": (
        twinned([named("check"), named("check")], check=Order.price > 3),
        ["guards['check']", "several guards of Guarded have that name", "rename them"],
    ),
    "one twin for a function and a method": (
        twinned([named("vip"), "vip"], vip=Order.price > 3),
        ["guards['vip']", "several guards of Guarded have that name"],
    ),
    "a twin that is a constant": (
        twinned("vip", vip=True),
        ["guards['vip']: expected an SQL expression over Order, found True", "sqlalchemy.true"],
    ),
    "a twin that is a query": (twinned("vip", vip=select(Order.price)), ["guards['vip']", "scalar_subquery()"]),
    "a twin on another table": (
        twinned("vip", vip=Parent.state == "gold"),
        ["guards['vip']: it reads parent.state, which is no column of order", "sqlalchemy.exists"],
    ),
    "a twin on another row": (twinned("vip", vip=aliased(Order).price > 3), ["guards['vip']", "no column of order"]),
    "a twin of no type": (
        twinned("vip", vip=func.is_gold(Order.price)),
        ["guards['vip']: the type of", "is not known", "sqlalchemy.type_coerce"],
    ),
    "a naive datetime in a twin": (
        twinned("vip", vip=Order.paid_at > datetime(2026, 1, 1)),
        ["guards['vip']: naive datetime", "which zone it is in"],
    ),
    "a parameter of send in a twin": (
        twinned("vip", vip=Order.price > bindparam("key")),
        ["guards['vip']", "'key'", "rename it"],
    ),
    "a list of parameters in a twin": (
        twinned("vip", vip=Order.price.in_(bindparam("prices", expanding=True))),
        ["guards['vip']", "'prices' stands for a list"],
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_at_once(wrong: str) -> None:
    """Behaviour 8: a guard or twin that cannot work is a ConfigurationError that names it and what to change."""
    build, parts = WRONG[wrong]

    with pytest.raises(ConfigurationError) as caught:
        build()

    assert [part for part in parts if part not in str(caught.value)] == []


def same() -> bool:
    """One function, used twice."""
    return True


@pytest.mark.parametrize(
    ("cond", "guards"),
    [
        ("vip", {"vip": select(func.count()).select_from(Parent).scalar_subquery()}),
        ("vip", {"vip": select(Parent.id).where(Parent.id == Order.price).exists()}),
        ([same, "price"], {"same": Order.price > 3}),
        (["vip and price", "vip or count"], {"vip": literal(True)}),
        (["price == count", "count == price"], {}),
        ("note == 'x' and price > 2.5 and count == True", {}),
        ("vip == 'x'", {}),
    ],
)
def test_guards_that_fit_are_accepted(cond: Any, guards: dict[str, object]) -> None:
    """A twin may look into other tables by subqueries; guards that are alike in part are two."""
    assert MachineMapping(machine=guarded(cond), entity=Order, guards=guards).twins.keys() == guards.keys()
