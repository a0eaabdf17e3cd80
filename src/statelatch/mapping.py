"""`MachineMapping`: which machine, which entity, which columns. Everything is checked when it is built.

What is wrong is a `ConfigurationError` that says what to change, before any statement is sent. A mapping
knows no connection and no dialect; statements are made from it in `statelatch.statements`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import BindParameter, Column, ColumnElement, Integer, String, Uuid, bindparam, literal, types
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.exc import NoInspectionAvailable, SQLAlchemyError
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import visitors
from statemachine import State, StateChart

from statelatch import framework
from statelatch.errors import ConfigurationError, RequestError, UnknownStateError
from statelatch.guards import event_parameter
from statelatch.interpreter import detached

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MachineMapping"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MachineMapping:
    """A machine's states in the rows of an entity.

    Args:
        machine: a flat `StateMachine` or `StateChart` class.
        entity: the declarative class whose row holds the state.
        state: attribute of the entity that holds the state's value.
        version: integer attribute, NOT NULL; every applied transition adds exactly 1.
        token: UUID attribute; each UPDATE leaves its proof there.
        assigns: columns written when a state is entered or an event fires: `{state or event: {attribute:
            SQL expression, bindparam or constant}}`. A bindparam is filled from the event's parameters; one
            without a value of its own is required. Where both name a column, the state's entry wins.

    Raises:
        ConfigurationError: it cannot work; the message says what to change.
    """

    machine: type[StateChart[Any]]
    entity: type[Any]
    state: str = "state"
    version: str = "version"
    token: str = "transition_token"  # noqa: S105  an attribute's name
    assigns: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])

    def __post_init__(self) -> None:
        """Check everything that could fail later, in the order in which a reader would mend it."""
        _check_machine(self.machine)
        _check_entity(self.entity)
        _check_columns(self)
        _check_states(self)
        _check_assigns(self)
        _check_callbacks(self)

    @cached_property
    def mapper(self) -> Mapper[Any]:
        """The entity's mapper."""
        return cast("Mapper[Any]", inspect_entity(self.entity))

    @cached_property
    def columns(self) -> dict[str, Column[Any]]:
        """The entity's columns by attribute name."""
        return {prop.key: column for prop in self.mapper.column_attrs if isinstance(column := prop.columns[0], Column)}

    @cached_property
    def table(self) -> str:
        """Name of the entity's table, as messages give it."""
        return str(self.mapper.local_table)

    @cached_property
    def key_columns(self) -> tuple[Column[Any], ...]:
        """The primary key."""
        return tuple(cast("Column[Any]", column) for column in self.mapper.primary_key)

    @cached_property
    def states(self) -> dict[Any, State]:
        """The machine's states by value."""
        return dict(self.machine.states_map)

    @cached_property
    def states_by_id(self) -> dict[str, State]:
        """The machine's states by id."""
        return {state.id: state for state in self.states.values()}

    @cached_property
    def events(self) -> tuple[str, ...]:
        """The machine's events, in the order of their declaration."""
        return framework.event_ids(self.machine)

    @cached_property
    def initial(self) -> Any:
        """Value of the initial state."""
        return cast("State", self.machine.initial_state).value

    @cached_property
    def assigned_columns(self) -> dict[str, dict[Column[Any], ColumnElement[Any]]]:
        """`assigns` as SQL: for each state or event, the expression that each column is set to."""
        return {
            name: {self.columns[key]: _as_expression(self.columns[key], value) for key, value in values.items()}
            for name, values in self.assigns.items()
        }

    @cached_property
    def machine_names(self) -> frozenset[str]:
        """Attributes of the machine, its states' ids included: a guard of that name is Python."""
        return frozenset(dir(self.machine)) | frozenset(self.states_by_id)

    def in_state(self, *ids: str) -> ColumnElement[bool]:
        """A criterion for queries: the row is in one of these states.

        Args:
            ids: state ids, as the machine's class spells them.

        Raises:
            RequestError: the machine has no such state.
        """
        for state_id in ids:
            if state_id not in self.states_by_id:
                raise RequestError(
                    f"{self.machine.__name__} has no state {state_id!r}; it has {', '.join(self.states_by_id)}"
                )
        return self.columns[self.state].in_([self.states_by_id[state_id].value for state_id in ids])

    def terminal(self) -> ColumnElement[bool]:
        """A criterion for queries: the row has ended."""
        return self.in_state(*(state.id for state in self.states.values() if state.final))

    def is_python(self, name: str) -> bool:
        """Whether the machine has an attribute of this name, or a state with this id."""
        return name in self.machine_names

    def in_state_id(self, state_id: str) -> ColumnElement[bool]:
        """Where `In(state_id)` holds; a state that the machine lacks is one it is never in."""
        value = self.states_by_id[state_id].value if state_id in self.states_by_id else None
        column = self.columns[self.state]
        return column.is_(None) & column.is_not(None) if value is None else column == self.bound_state(value)

    def bound_state(self, value: object) -> ColumnElement[Any]:
        """A state's value as the state column takes it."""
        return literal(value, self.columns[self.state].type)

    def known_state(self, key: object, value: object) -> State:
        """The state with this value.

        Raises:
            UnknownStateError: the machine lacks it.
        """
        if value not in self.states:
            raise UnknownStateError(table=self.table, key=key, value=value, known=tuple(self.states))
        return self.states[value]

    def check_event(self, event: str) -> None:
        """Raise `RequestError` unless the machine has this event."""
        if event not in self.events:
            raise RequestError(
                f"{self.machine.__name__} has no event {event!r}; it has {', '.join(self.events)}; nothing was written"
            )

    def key_values(self, key: object) -> dict[str, object]:
        """The primary key as bound parameters.

        Raises:
            RequestError: the key has another number of columns.
        """
        values = cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)
        if len(values) != len(self.key_columns) or None in values:
            names = ", ".join(column.name for column in self.key_columns)
            raise RequestError(f"{self.table}: expected a key of ({names}), found {key!r}; nothing was written")
        return {f"latch_key_{n}": value for n, value in enumerate(values)}

    def key_of(self, values: Mapping[str, Any]) -> Any:
        """The primary key in a row's values; a tuple if it has several columns."""
        key = [values[self.attribute(column)] for column in self.key_columns]
        return tuple(key) if len(key) > 1 else key[0]

    def attribute(self, column: Column[Any]) -> str:
        """Name of the column's attribute."""
        return self.mapper.get_property_by_column(column).key

    def restored(self, values: Mapping[str, Any]) -> Any:
        """An instance of the entity with these column values, in no session, never written back."""
        return detached(self.entity, values)


def _check_machine(machine: object) -> None:
    if not (isinstance(machine, type) and issubclass(machine, StateChart)):
        raise ConfigurationError(f"machine: expected a StateMachine or StateChart class, found {machine!r}")
    if machine.initial_state is None:
        raise ConfigurationError(f"{machine.__name__} has no states; pass a machine that declares them")
    for state in cast("Iterator[State]", machine.states_map.values()):
        if not state.is_atomic or state.parent is not None or list(state.history):
            raise ConfigurationError(
                f"{machine.__name__}.{state.id}: compound, parallel and history states are not persisted by this "
                "version; flatten the machine"
            )


def _check_entity(entity: type[Any]) -> None:
    try:
        mapper: object = inspect_entity(entity)
    except (NoInspectionAvailable, SQLAlchemyError) as error:
        raise ConfigurationError(f"entity: expected a declarative class, found {entity!r} ({error})") from error
    if not isinstance(mapper, Mapper):
        raise ConfigurationError(f"entity: expected a declarative class, found {entity!r}; pass the class itself")
    if mapper.version_id_col is not None:
        raise ConfigurationError(
            f"{entity.__name__} sets version_id_col: a flush would count as a transition; "
            "remove it from __mapper_args__, statelatch keeps the version"
        )
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
    version, token = mapping.columns[mapping.version], mapping.columns[mapping.token]
    if not isinstance(version.type, Integer):
        raise ConfigurationError(f"{version}: the version must be an Integer column, found {version.type!r}")
    if version.nullable:
        raise ConfigurationError(f"{version}: the version is nullable; declare it Mapped[int] (NOT NULL)")
    if not isinstance(token.type, Uuid):
        raise ConfigurationError(f"{token}: the token must be a Uuid column, found {token.type!r}")


def _check_attribute(mapping: MachineMapping, attribute: str, where: str) -> None:
    if attribute not in mapping.columns:
        name = mapping.entity.__name__
        raise ConfigurationError(f"{where}: {name} has no such column; it has {', '.join(mapping.columns)}")


def _check_states(mapping: MachineMapping) -> None:
    column = mapping.columns[mapping.state]
    for value in mapping.states:
        problem = _misfit(column.type, value)
        if problem:
            raise ConfigurationError(f"{column}: the state value {value!r} does not fit: {problem}")


def _misfit(kind: types.TypeEngine[Any], value: object) -> str | None:
    """What keeps a column of this type from holding this value."""
    match kind:
        case types.Enum(enum_class=type() as members):
            return None if isinstance(value, members) else f"the column holds members of {members.__name__}"
        case types.Enum():
            return None if value in kind.enums else f"the column's Enum has {', '.join(kind.enums)}"
        case String(length=length):
            if not isinstance(value, str):
                return f"the column is text, the value {type(value).__name__}"
            if length is not None and len(value) > length:
                return f"it has {len(value)} characters, the column {length}; lengthen the column"
            return None
        case Integer():
            return None if isinstance(value, int) else f"the column is an Integer, the value {type(value).__name__}"
        case other:
            return f"the state column must be text, Enum or Integer, found {other!r}"


def _check_assigns(mapping: MachineMapping) -> None:
    keep = {mapping.state, mapping.version, mapping.token, *(column.key for column in mapping.key_columns)}
    for name, columns in mapping.assigns.items():
        is_state, is_event = name in mapping.states_by_id, name in mapping.events
        if is_state == is_event:
            problem = "both a state and an event" if is_state else "neither a state nor an event"
            raise ConfigurationError(f"assigns[{name!r}]: {problem} of {mapping.machine.__name__} has that name")
        for attribute, value in columns.items():
            _check_attribute(mapping, attribute, f"assigns[{name!r}][{attribute!r}]")
            if attribute in keep or mapping.columns[attribute].computed is not None:
                raise ConfigurationError(
                    f"assigns[{name!r}][{attribute!r}]: state, version, token, key and generated columns "
                    "are not assigned; remove it"
                )
            _check_assigned(f"assigns[{name!r}][{attribute!r}]", value)


def _check_assigned(where: str, value: object) -> None:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ConfigurationError(f"{where}: naive datetime {value!r}; say which zone it is in")


def _as_expression(column: Column[Any], value: object) -> ColumnElement[Any]:
    """A value of `assigns` as the column takes it; a bindparam of no type gets the column's."""
    if isinstance(value, BindParameter):
        return _as_event_parameter(cast("BindParameter[Any]", value), column.type)
    if not isinstance(value, ColumnElement):
        return literal(value, column.type)

    def rename(element: object, **_: object) -> ColumnElement[Any] | None:
        bound = isinstance(element, BindParameter) and not cast("BindParameter[Any]", element).unique
        return _as_event_parameter(cast("BindParameter[Any]", element)) if bound else None

    return cast("ColumnElement[Any]", visitors.replacement_traverse(cast("Any", value), {}, rename))


def _as_event_parameter(bound: BindParameter[Any], kind: types.TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """The user's bindparam under the name by which event parameters are bound."""
    use = kind if isinstance(bound.type, types.NullType) else bound.type
    name = event_parameter(bound.key)
    return bindparam(name, type_=use) if bound.required else bindparam(name, bound.value, type_=use)


def _check_callbacks(mapping: MachineMapping) -> None:
    """Resolve every name that a callback or guard has, without evaluating any of them."""
    if framework.has_listeners(mapping.machine):  # a listener may bring the name
        return
    known = mapping.machine_names | frozenset(dir(mapping.entity))
    name, entity = mapping.machine.__name__, mapping.entity.__name__
    for state in mapping.states.values():
        for owner in (state, *state.transitions):
            for spec in framework.callbacks_of(owner):
                try:
                    missing = framework.names_in(spec) - known
                except ValueError as error:
                    raise ConfigurationError(f"{name}, {owner}: {error}") from error
                if missing and not spec.is_convention:
                    raise ConfigurationError(
                        f"{name}, {owner}: it refers to {', '.join(sorted(missing))}, which neither the machine nor "
                        f"{entity} has; add a column, a hybrid or a method of that name"
                    )
