"""What is moved: a machine that goes round for ever, and tables of rows for it, one a contestant.

The tables are all alike, so that none has less to write. Their names begin with `PREFIX`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Integer, MetaData, Table, Uuid, insert, select
from sqlalchemy.orm import DeclarativeBase
from statemachine import State, StateMachine

from statelatch import MachineMapping
from statelatch.columns import state_text

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["EVENTS", "PREFIX", "STATES", "Ring", "WatchedRing", "entity_of", "fill", "mapping_of", "table_of"]

PREFIX = "statelatch_bench_"
STATES = ("a", "b")
EVENTS = {"a": "there", "b": "back"}
"""The event that leaves each state."""


class Ring(StateMachine):
    """There and back again."""

    a = State(initial=True)
    b = State()

    there = a.to(b)
    back = b.to(a)


class WatchedRing(Ring):
    """The same with a callback, so that each event needs Python."""

    def on_there(self) -> None:
        """Do nothing: what is measured is that it is called."""

    def on_back(self) -> None:
        """Do nothing, too."""


def table_of(name: str) -> Table:
    """A table of rows of the ring."""
    return Table(
        PREFIX + name,
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("state", state_text(16), nullable=False),
        Column("version", Integer, nullable=False),
        Column("transition_token", Uuid),
    )


def entity_of(table: Table, **mapper: Any) -> type[Any]:
    """A new declarative class for this table; `mapper` are arguments of its mapper."""

    class Base(DeclarativeBase):
        pass

    return type("Row", (Base,), {"__table__": table, "__mapper_args__": mapper})


def mapping_of(table: Table, machine: type[Ring] = Ring) -> MachineMapping:
    """The machine on this table."""
    return MachineMapping(machine=machine, entity=entity_of(table))


def fill(connection: Connection, table: Table, rows: int) -> None:
    """Fill an empty table with rows in the first state, at version 1, with the keys 1 to `rows`."""
    connection.execute(insert(table), {"id": 1, "state": STATES[0], "version": 1})
    names, filled = ["id", "state", "version"], 1
    while filled < rows:  # by doubling: the same few statements on every database
        more = min(filled, rows - filled)
        copies = select(table.c.id + filled, table.c.state, table.c.version).where(table.c.id <= more)
        connection.execute(insert(table).from_select(names, copies))
        filled += more
