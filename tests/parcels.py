"""Parcels by the hundred thousand: what `send_where` moves, and what it must leave alone.

Every combination of state, NULL and guard comes up in the rows that `fill` makes, again and again.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, bindparam, select, text
from sqlalchemy.ext.hybrid import hybrid_method
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateChart, StateMachine

from statelatch import MachineMapping, PersistenceAdapter
from statelatch.columns import TransitionColumns, UTCDateTime, now, state_text

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["ASSIGNS", "LoudFlow", "Parcel", "ParcelFlow", "fill", "parcel_adapter", "parcel_mapping", "parcels"]


class Base(DeclarativeBase):
    """Base of the parcels."""


class Parcel(TransitionColumns, Base):
    """A parcel."""

    __tablename__ = "parcels"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(state_text(8))
    weight: Mapped[int | None]
    most: Mapped[int | None]
    fragile: Mapped[bool | None]
    note: Mapped[str | None] = mapped_column(Text())
    sent_at: Mapped[datetime | None] = mapped_column(UTCDateTime())

    @hybrid_method
    def heavier(self, least: int) -> bool:
        """A guard with a parameter of the event."""
        return self.weight is not None and self.weight > least


class ParcelFlow(StateMachine):
    """Events that are one UPDATE, and some that are not."""

    packed = State(initial=True)
    held = State()
    sent = State(final=True)
    lost = State(final=True)

    ship = packed.to(sent, cond="weight <= most") | packed.to(held, cond="fragile") | held.to(sent, unless="fragile")
    lose = packed.to(lost) | held.to(lost)
    hold = packed.to(held, cond="heavier")
    again = packed.to(packed) | held.to(held)
    inspect = packed.to(held, cond="looks_bad")
    seal = packed.to(held, validators="well_wrapped", on="stick")
    mark = packed.to(held, on="stick", after="tell")

    def looks_bad(self) -> bool:
        """A guard that only Python knows."""
        return True

    def well_wrapped(self) -> None:
        """A validator."""

    def stick(self) -> None:
        """An action."""

    def tell(self) -> None:
        """Another."""


class LoudFlow(ParcelFlow):
    """The same, with callbacks that are found by their names."""

    def on_enter_sent(self) -> None:
        """Called on two of the three ways of `ship`."""

    def before_transition(self) -> None:
        """Called always."""


ASSIGNS: dict[str, dict[str, object]] = {
    "sent": {"sent_at": now(), "note": bindparam("note", None)},
    "held": {"note": "held back"},
    "lose": {"note": bindparam("reason")},
}

NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {0}) SELECT n FROM s)",
    "postgresql": "(SELECT generate_series(1, {0}) AS n)",
    "mariadb": "(SELECT seq AS n FROM seq_1_to_{0})",
}

FILL = """
    INSERT INTO parcels (id, state, version, weight, most, fragile)
    SELECT n,
        CASE n % 5 WHEN 0 THEN 'held' WHEN 1 THEN 'sent' WHEN 2 THEN 'lost' ELSE 'packed' END,
        1 + n % 3,
        CASE WHEN n % 7 = 0 THEN NULL ELSE n % 10 END,
        CASE WHEN n % 11 = 0 THEN NULL ELSE 5 END,
        CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN {true} ELSE {false} END
    FROM {numbers} AS numbers
"""


def parcel_mapping(machine: type[StateChart[Any]] = ParcelFlow) -> MachineMapping:
    """Parcels under this machine."""
    return MachineMapping(machine=machine, entity=Parcel, assigns=ASSIGNS)


def parcel_adapter(engine: Engine, count: int, machine: type[StateChart[Any]] = ParcelFlow) -> PersistenceAdapter:
    """An adapter for so many parcels."""
    fill(engine, count)
    return PersistenceAdapter(engine, parcel_mapping(machine))


def fill(engine: Engine, count: int) -> None:
    """Make the table, with so many parcels; their keys count from 1."""
    Base.metadata.create_all(engine)
    numbers = NUMBERS[engine.dialect.name].format(count)
    with engine.begin() as connection:
        connection.execute(text(FILL.format(numbers=numbers, true="(1 = 1)", false="(1 = 0)")))


def parcels(engine: Engine) -> dict[int, dict[str, Any]]:
    """Every parcel as another connection sees it, by key."""
    with engine.connect() as connection:
        rows = connection.execute(select(*Parcel.__table__.columns).order_by(Parcel.id)).mappings()
        return {row["id"]: dict(row) for row in rows}
