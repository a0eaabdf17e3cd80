"""Peers on SQLAlchemy's ORM: a session per transition, which loads the row, changes its state and commits.

Each is used as its documentation says. The mapper checks and counts the version (`version_id_col`): the peers' own
protection against a lost race. None of them writes a token. For django-fsm-2 see its own file.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from transitions import Machine

from tests.benchmarks.race import Block, Move, timed
from tests.benchmarks.ring import EVENTS, STATES, Ring, entity_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from sqlalchemy import Table
    from sqlalchemy.orm import Session

    from tests.benchmarks.place import Place

__all__ = ["orm", "python_statemachine", "transitions"]


@contextmanager
def _orm(place: Place, table: Table, fire: Callable[[Any, Move], object]) -> Generator[Block]:
    entity = entity_of(table, version_id_col=table.c.version)
    engine = create_engine(place.url)
    session_of: Callable[[], Session] = sessionmaker(engine)

    def move(each: Move) -> None:
        with session_of() as session:
            fire(session.get_one(entity, each.key), each)
            session.commit()

    try:
        yield timed(move)
    finally:
        engine.dispose()


def orm(place: Place, table: Table) -> AbstractContextManager[Block]:
    """The ORM alone, which knows no machine."""

    def fire(row: Any, each: Move) -> None:
        row.state = each.target

    return _orm(place, table, fire)


def python_statemachine(place: Place, table: Table) -> AbstractContextManager[Block]:
    """The machine on the row."""
    machine: Any = Ring
    return _orm(place, table, lambda row, each: machine(row, state_field="state").send(each.event))


def transitions(place: Place, table: Table) -> AbstractContextManager[Block]:
    """One machine, to which each row is added and from which it is removed: faster than a machine a row."""
    a, b = STATES
    edges = [{"trigger": EVENTS[a], "source": a, "dest": b}, {"trigger": EVENTS[b], "source": b, "dest": a}]
    machine: Any = Machine(model=None, states=list(STATES), transitions=edges, initial=a, auto_transitions=False)

    def fire(row: Any, each: Move) -> None:
        machine.add_model(row, initial=row.state)
        row.trigger(each.event)
        machine.remove_model(row)

    return _orm(place, table, fire)
