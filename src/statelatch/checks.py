"""What must hold of a mapping, checked when it is built; what is wrong is a `ConfigurationError`.

It says what to change, before any statement is sent.
The order is the one in which a reader would mend it: machine, entity, columns, states, assigns, callbacks, guards.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnDefault,
    DefaultClause,
    Integer,
    SmallInteger,
    String,
    Table,
    Uuid,
    types,
)
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.exc import NoInspectionAvailable, SQLAlchemyError
from sqlalchemy.orm import Mapper
from statemachine import StateChart

from statelatch import framework
from statelatch.errors import ConfigurationError
from statelatch.expressions import has_cte
from statelatch.guard_checks import check_guards, columns_of_row
from statelatch.parameters import bound_in, check_bound
from statelatch.writes import clause_of, set_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Column
    from statemachine import State

    from statelatch.mapping import MachineMapping

__all__ = ["bits", "check", "check_entity", "misfit"]


def check(mapping: MachineMapping) -> None:
    """Raise `ConfigurationError` for what could fail later."""
    _check_machine(mapping.machine)
    check_entity(mapping.entity, "entity")
    _check_columns(mapping)
    _check_states(mapping)
    _check_assigns(mapping)
    _check_callbacks(mapping)
    check_guards(mapping)


def _check_machine(machine: object) -> None:
    if not (isinstance(machine, type) and issubclass(machine, StateChart)):
        raise ConfigurationError(f"machine: expected a StateMachine or StateChart class, found {machine!r}")
    machine = cast("type[StateChart[Any]]", machine)
    if not machine.states_map:
        raise ConfigurationError(f"{machine.__name__} has no states; pass a machine that declares them")
    for state in machine.states_map.values():
        _check_flat(machine, state)
    if deferred := framework.deferred_events(machine):
        raise ConfigurationError(
            f"{machine.__name__}: the event {deferred[0]!r} is declared with a delay, or internal; this version keeps "
            "no queue of events: remove that from its declaration"
        )
    if problem := framework.cannot_be_built(machine):
        raise ConfigurationError(
            f"{machine.__name__}.__init__ cannot be called as {machine.__name__}(model, state_field=..., "
            f"listeners=[...]): {problem}; give its other arguments defaults, and pass these on"
        )
    lost = {state.id for state in machine.states} - {state.id for state in machine.states_map.values()}
    if lost:
        raise ConfigurationError(
            f"{machine.__name__}: the state{'s' * (len(lost) > 1)} {', '.join(sorted(lost))} and another have the same "
            "value; give each state a value of its own"
        )


def _check_flat(machine: type[StateChart[Any]], state: State) -> None:
    if not state.is_atomic or state.parent is not None or list(state.history):
        raise ConfigurationError(
            f"{machine.__name__}.{state.id}: compound, parallel and history states are not persisted by this "
            "version; flatten the machine"
        )
    for transition in state.transitions:
        if len(transition.targets) > 1:
            raise ConfigurationError(
                f"{machine.__name__}, {transition}: it enters several states at once; give it one target"
            )


def check_entity(entity: type[Any], role: str) -> None:
    """Raise `ConfigurationError` for a class whose rows are not of one table."""
    try:
        mapper: object = inspect_entity(entity)
    except (NoInspectionAvailable, SQLAlchemyError) as error:
        raise ConfigurationError(f"{role}: expected a declarative class, found {entity!r} ({error})") from error
    if not isinstance(mapper, Mapper):
        raise ConfigurationError(f"{role}: expected a declarative class, found {entity!r}; pass the class itself")
    if mapper.version_id_col is not None:
        raise ConfigurationError(
            f"{entity.__name__} sets version_id_col: a flush would count as a transition; "
            "remove it from __mapper_args__, statelatch keeps the version"
        )
    if not isinstance(mapper.local_table, Table):
        raise ConfigurationError(f"{entity.__name__} is mapped to {mapper.local_table!r}; map it to a table")
    if len(mapper.tables) > 1:
        raise ConfigurationError(
            f"{entity.__name__} spans the tables {', '.join(map(str, mapper.tables))}; "
            "one UPDATE writes one table: map the class that holds the state to a single table"
        )


def _check_columns(mapping: MachineMapping) -> None:
    roles = {"state": mapping.state, "version": mapping.version, "token": mapping.token}
    for role, attribute in roles.items():
        _check_attribute(mapping, attribute, f"{role}={attribute!r}")
    if len(set(roles.values())) < len(roles):
        raise ConfigurationError(f"state, version and token must be three attributes, found {roles}")
    if moving := [name for name in roles.values() if name in mapping.key_attributes]:
        raise ConfigurationError(f"{moving[0]!r} is in the primary key; each transition writes it: give the row an id")
    version, token = mapping.columns[mapping.version], mapping.columns[mapping.token]
    if not isinstance(version.type, Integer):
        raise ConfigurationError(f"{version}: the version must be an Integer column, found {version.type!r}")
    if version.nullable:
        raise ConfigurationError(f"{version}: the version is nullable; declare it Mapped[int] (NOT NULL)")
    for value in _first_values(version):
        if value != "1":
            raise ConfigurationError(f"{version}: its default is {value}, but a row begins at version 1: say default=1")
    if not (isinstance(token.type, Uuid) and token.type.as_uuid):
        raise ConfigurationError(f"{token}: the token must be a Uuid column, as_uuid, found {token.type!r}")


def _first_values(column: Column[Any]) -> Iterator[str]:
    """What new rows get, as far as it is declared as a plain value."""
    if isinstance(column.default, ColumnDefault) and column.default.is_scalar:
        yield str(column.default.arg)
    if isinstance(column.server_default, DefaultClause):
        yield str(column.server_default.arg).strip("'")


def _check_attribute(mapping: MachineMapping, attribute: str, where: str) -> None:
    if attribute not in mapping.columns:
        name = mapping.entity.__name__
        raise ConfigurationError(f"{where}: {name} has no such column; it has {', '.join(mapping.columns)}")


def _check_states(mapping: MachineMapping) -> None:
    column = mapping.columns[mapping.state]
    for value in mapping.states:
        problem = misfit(column.type, value)
        if problem:
            raise ConfigurationError(f"{column}: the state value {value!r} does not fit: {problem}")


def misfit(kind: types.TypeEngine[Any], value: object) -> str | None:
    """What keeps a column of this type from holding this value."""
    match kind:
        case types.Enum(enum_class=type() as members):
            return None if isinstance(value, members) else f"the column holds members of {members.__name__}"
        case types.Enum():
            return None if value in kind.enums else f"the column's Enum has {', '.join(kind.enums)}"
        case types.CHAR() | types.NCHAR() if isinstance(value, str) and len(value) != (kind.length or 1):
            return f"it has {len(value)} characters, CHAR pads it to {kind.length or 1}; make the column a String"
        case String(length=length):
            if not isinstance(value, str):
                return f"the column is text, the value {type(value).__name__}"
            if length is not None and len(value) > length:
                return f"it has {len(value)} characters, the column {length}; lengthen the column"
            return None
        case Integer():
            if not isinstance(value, int):
                return f"the column is an Integer, the value {type(value).__name__}"
            fits = -(1 << bits(kind) - 1) <= value < 1 << bits(kind) - 1
            return None if fits else f"the column has {bits(kind)} bits; make it a larger Integer"
        case other:
            return f"the state column must be text, Enum or Integer, found {other!r}"


def bits(kind: Integer) -> int:
    """How wide an Integer column is."""
    return 16 if isinstance(kind, SmallInteger) else 64 if isinstance(kind, BigInteger) else 32


def _check_assigns(mapping: MachineMapping) -> None:
    for name, columns in mapping.assigns.items():
        is_state, is_event = name in mapping.states_by_id, name in mapping.events
        if is_state == is_event:
            problem = "both a state and an event" if is_state else "neither a state nor an event"
            raise ConfigurationError(f"assigns[{name!r}]: {problem} of {mapping.machine.__name__} has that name")
        fired = framework.fired_as(name)
        if is_event and fired != name and fired in mapping.events:
            raise ConfigurationError(f"assigns[{name!r}]: python-statemachine fires it as {fired!r}; write that")
        for attribute, value in columns.items():
            _check_attribute(mapping, attribute, f"assigns[{name!r}][{attribute!r}]")
            if attribute == mapping.state or attribute in mapping.kept:
                raise ConfigurationError(
                    f"assigns[{name!r}][{attribute!r}]: state, version, token, key and generated columns "
                    "are not assigned; remove it"
                )
            _check_assigned(f"assigns[{name!r}][{attribute!r}]", value)
    _check_initial(mapping)
    _check_order(mapping)


def _check_assigned(where: str, value: object) -> None:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ConfigurationError(f"{where}: naive datetime {value!r}; say which zone it is in")
    clause = clause_of(value)
    if clause is not None and has_cte(clause):
        raise ConfigurationError(
            f"{where}: it has a CTE, which an UPDATE does not have on every database; write it as a subquery"
        )
    if clause is None and isinstance(value, ClauseElement):
        raise ConfigurationError(
            f"{where}: expected an SQL expression, a bindparam or a constant, found {value!r}; "
            "of text, make an expression with sqlalchemy.literal_column"
        )
    check_bound(where, clause)


def _check_initial(mapping: MachineMapping) -> None:
    """`create` enters the initial state without an event, and before there is a row."""
    initial = mapping.states[mapping.initial].id
    for attribute, value in mapping.assigns.get(initial, {}).items():
        clause = clause_of(value)
        required = [parameter.key for parameter in bound_in(clause) if parameter.required]
        if clause is not None and (required or list(columns_of_row(clause))):
            needed = f"the parameter {required[0]!r}" if required else "a column of the row"
            raise ConfigurationError(
                f"assigns[{initial!r}][{attribute!r}]: it needs {needed}, and a new row enters {initial!r} with "
                "neither; assign it under the events that come back to that state"
            )


def _check_order(mapping: MachineMapping) -> None:
    """MariaDB writes one column after the other: no two may read each other."""
    for event in mapping.events:
        for state in mapping.states.values():
            sets = {**mapping.assigned_columns.get(event, {}), **mapping.assigned_columns.get(state.id, {})}
            if set_order(sets) is None:
                names = ", ".join(column.name for column in sets)
                raise ConfigurationError(
                    f"assigns: {event!r} and {state.id!r} write {names}, which read each other in a circle; "
                    "compute one of them in a callback"
                )


def _check_callbacks(mapping: MachineMapping) -> None:
    """Resolve every name that a callback or guard has, without evaluating any of them."""
    known = mapping.machine_names | mapping.model_names
    _check_invoke(mapping, known)
    # these may bring a name that no class shows
    may_bring = framework.has_listeners(mapping.machine) or framework.has_own_init(mapping.machine)
    name, entity = mapping.machine.__name__, mapping.entity.__name__
    for state in mapping.states.values():
        for owner in (state, *state.transitions):
            for spec in framework.callbacks_of(owner):
                try:
                    names = framework.names_in(spec)
                except ValueError as error:
                    raise ConfigurationError(f"{name}, {owner}: {error}") from error
                if may_bring:
                    continue
                missing = names - known
                if computed := names & _column_properties(mapping):
                    raise ConfigurationError(
                        f"{name}, {owner}: it refers to {', '.join(computed)}, a column_property, which is not read "
                        "with the row; make it a hybrid_property"
                    )
                if mapping.state in missing:
                    raise ConfigurationError(
                        f"{name}, {owner}: it refers to {mapping.state}, which python-statemachine hides from guards; "
                        "write In('...') with the id of a state"
                    )
                if missing and not spec.is_convention:
                    raise ConfigurationError(
                        f"{name}, {owner}: it refers to {', '.join(sorted(missing))}, which neither the machine nor "
                        f"{entity} has; add a column, a hybrid or a method of that name"
                    )


def _check_invoke(mapping: MachineMapping, names: frozenset[str]) -> None:
    for state in mapping.states.values():
        if any(framework.would_call(spec, names) for spec in state.invoke):
            raise ConfigurationError(
                f"{mapping.machine.__name__}.{state.id}: its `invoke` would run in a thread that outlives the write; "
                "do that work after `send` has returned, and send its result as an event"
            )


def _column_properties(mapping: MachineMapping) -> set[str]:
    """Attributes that are SQL expressions: not written, and not loaded."""
    return {prop.key for prop in mapping.mapper.column_attrs} - mapping.columns.keys()
