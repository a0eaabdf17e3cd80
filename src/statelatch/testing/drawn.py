"""What is drawn for `lifecycle_rules`, and what must be: parameters of events, and columns that others may write.

What a strategy draws shows only when it is drawn; so it is checked there, before it can fail in the middle of a call.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, CheckConstraint, Column
from sqlalchemy.dialects import sqlite

from statelatch import framework
from statelatch.errors import ConfigurationError
from statelatch.guards import NOT_PARAMETERS
from statelatch.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from statelatch.mapping import MachineMapping

__all__ = ["check_changes", "check_params", "flags", "needed_parameters"]

Drawn = dict[str, Any]


def needed_parameters(mapping: MachineMapping) -> dict[str, list[str]]:
    """The parameters that each event needs: for `assigns` and guards in SQL, and for callbacks and guards in Python."""
    statements = Statements(mapping, sqlite.dialect())
    found: dict[str, list[str]] = {}
    for event in mapping.events:
        bound = [name for name, is_required in statements.event(event).parameters.items() if is_required]
        found[event] = list(dict.fromkeys([*bound, *_taken_by_callbacks(mapping, event)]))
    return found


def _taken_by_callbacks(mapping: MachineMapping, event: str) -> Iterator[str]:
    """Arguments without a default that python-statemachine does not bring itself."""
    if framework.is_fired_by_the_engine(event):
        return  # it brings others then
    for transition in chain.from_iterable(state.transitions for state in mapping.states.values()):
        if transition.initial or not transition.match(event):
            continue
        groups = [transition.validators, transition.cond, transition.before, transition.on, transition.after]
        groups += [mapping.machine.prepare, transition.source.exit]
        if transition.target is not None and framework.enters(mapping.machine, transition):
            groups.append(transition.target.enter)
        for spec in chain.from_iterable(groups):
            arguments = framework.arguments_of(spec, mapping.machine, mapping.entity)
            yield from (each.name for each in arguments if each.default is each.empty)


def check_params(event: str, needed: Sequence[str]) -> Callable[[Drawn], Drawn]:
    """Make the function that refuses parameters which the event could not be sent with, and returns all others."""

    def check(drawn: Drawn) -> Drawn:
        if lacking := [name for name in needed if name not in drawn]:
            raise ConfigurationError(
                f"params[{event!r}]: expected a value for {', '.join(lacking)}, found {', '.join(drawn) or 'none'}; "
                f"draw it, for instance st.fixed_dictionaries({{{lacking[0]!r}: ...}})"
            )
        if reserved := sorted(NOT_PARAMETERS & drawn.keys()):
            raise ConfigurationError(
                f"params[{event!r}]: no event can have a parameter {reserved[0]!r}: `send` or python-statemachine has "
                "an argument of that name; leave it out"
            )
        return drawn

    return check


def check_changes(mapping: MachineMapping) -> Callable[[Drawn], Drawn]:
    """Make the function that refuses columns which nobody but statelatch may write, and returns all others."""
    own = {mapping.state, *mapping.kept, _discriminator(mapping)}
    others = [name for name in mapping.columns if name not in own]

    def check(drawn: Drawn) -> Drawn:
        wrong = [repr(name) for name in drawn if name not in others]
        if wrong or not drawn:
            raise ConfigurationError(
                f"changes: expected columns of {mapping.table} that are neither its state, version or token nor key, "
                f"generated or discriminator: {', '.join(others) or 'it has none'}; found {', '.join(wrong) or 'none'}"
            )
        return drawn

    return check


def flags(mapping: MachineMapping) -> dict[str, list[bool | None]]:
    """The boolean columns that anybody may write, and what.

    Raises:
        ConfigurationError: not all of that may be written to one of them.
    """
    found: dict[str, list[bool | None]] = {}
    for name, column in mapping.columns.items():
        if not isinstance(column.type, Boolean) or name in {*mapping.kept, _discriminator(mapping)}:
            continue
        if condition := _checked_by(mapping, column):
            raise ConfigurationError(
                f"changes: not every row may have every {name!r}, because of CHECK ({condition}); pass a strategy of "
                f"what others may write, for instance changes=st.fixed_dictionaries({{{name!r}: ...}})"
            )
        found[name] = [False, True, None] if column.nullable else [False, True]
    return found


def _discriminator(mapping: MachineMapping) -> str | None:
    """The column that tells the class of a row: who writes it makes it a row of another entity."""
    column = mapping.mapper.polymorphic_on
    return mapping.attribute(column) if isinstance(column, Column) else None


def _checked_by(mapping: MachineMapping, column: Column[Any]) -> str | None:
    """A condition of the table's that has the column's name in it; not that a boolean is one."""
    table: Any = mapping.mapper.local_table
    conditions = (
        str(each.sqltext)
        for each in chain(table.constraints, *(column.constraints for column in table.columns))
        if isinstance(each, CheckConstraint) and not getattr(each, "_type_bound", False)
    )
    return next((each for each in conditions if re.search(rf"(?<!\w){re.escape(column.name)}(?!\w)", each)), None)
