"""Lights that go round, and their log: a workflow of the tests' own.

`Crossing` is compiled; `WatchedCrossing` is the same machine with a callback, so that every event needs Python.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import String, Text, UniqueConstraint, bindparam, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import LogEntry, MachineMapping, PersistenceAdapter
from statelatch.columns import TransitionColumns, TransitionLogColumns, UTCDateTime, now, state_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Engine

    from statelatch import Transitioned

__all__ = [
    "PATHS",
    "CountedLog",
    "Crossing",
    "Light",
    "LightLog",
    "WatchedCrossing",
    "entry_of",
    "light_adapter",
    "write_entry",
]


class Base(DeclarativeBase):
    """Base of the entities here."""


class Light(TransitionColumns, Base):
    """A light; its key is given, or made by the database."""

    __tablename__ = "light"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    broken: Mapped[bool] = mapped_column(default=False)
    by: Mapped[str | None] = mapped_column(Text())
    stopped_at: Mapped[datetime | None] = mapped_column(UTCDateTime())


class LightLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "light_log"

    key: Mapped[int] = mapped_column(primary_key=True)


class CountedLog(TransitionLogColumns, Base):
    """A log with a number of its own for each entry, which the database makes, and a column that it fills."""

    __tablename__ = "counted_log"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[int]
    version: Mapped[int] = mapped_column()
    place: Mapped[str] = mapped_column(String(8), server_default="here")
    __table_args__ = (UniqueConstraint("key", "version"),)


class Crossing(StateMachine):
    """Lights that go round, until they are switched off."""

    green = State(initial=True)
    yellow = State()
    red = State()
    off = State(final=True)

    step = green.to(yellow, unless="broken") | yellow.to(red) | red.to(green)
    stop = green.to(red) | yellow.to(red)
    blink = yellow.to(yellow)
    end = green.to(off) | yellow.to(off) | red.to(off)


class WatchedCrossing(Crossing):
    """The same, with Python in every transition."""

    def after_transition(self) -> None:
        """Look on."""


ASSIGNS: dict[str, dict[str, object]] = {"red": {"stopped_at": now()}, "stop": {"by": bindparam("actor", None)}}
PATHS: dict[str, type[StateMachine]] = {"compiled": Crossing, "interpreted": WatchedCrossing}


def light_adapter(
    engine: Engine, machine: type[StateMachine] = Crossing, entity: Any = Light, log: Any = LightLog
) -> PersistenceAdapter:
    """An adapter with a log; the tables are made."""
    Base.metadata.create_all(engine)
    assigns = ASSIGNS if entity is Light else {}
    return PersistenceAdapter(engine, MachineMapping(machine=machine, entity=entity, log=log, assigns=assigns))


def entry_of(done: Transitioned, actor: str | None = None, data: Any = None) -> LogEntry:
    """The entry that a transition must have."""
    return LogEntry(
        key=done.key,
        version=done.version,
        event=done.event,
        source=done.source,
        target=done.target,
        token=done.token,
        at=done.at,
        actor=actor,
        data=data,
    )


def write_entry(engine: Engine, values: Mapping[str, Any], log: Any = LightLog) -> None:
    """Write an entry by hand."""
    entry = {"target": "green", "token": uuid4(), "at": now(), **values}
    with engine.begin() as connection:
        connection.execute(insert(log).values(entry))
