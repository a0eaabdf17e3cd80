"""`MachineMapping`: which machine, which entity, which columns. Everything is checked when it is built.

What is wrong is a `ConfigurationError` that says what to change, before any statement is sent. A mapping
knows no connection and no dialect; statements are made from it in `statelatch.statements`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Column, ColumnElement, Integer, LargeBinary, String, Uuid, literal, types
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.orm import Mapper
from statemachine import State, StateChart

from statelatch import framework
from statelatch.checks import check
from statelatch.errors import RequestError, UnknownStateError
from statelatch.expressions import exact_name, name_in
from statelatch.log_checks import check_log
from statelatch.machines import detached
from statelatch.writes import as_expression, clause_of, with_event_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MachineMapping"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MachineMapping:
    """A machine's states in the rows of an entity.

    Args:
        machine: a flat `StateMachine` or `StateChart` class.
        entity: the declarative class whose row holds the state.
        state: attribute of the entity that holds the state's value.
        version: integer attribute, NOT NULL; 1 in a new row, and every applied transition adds exactly 1. What became
            of a lost write is told by it.
        token: UUID attribute; each UPDATE leaves its proof there.
        assigns: columns written when a state is entered or an event fires: `{state or event: {attribute:
            SQL expression, bindparam or constant}}`. A bindparam is filled from the event's parameters; one
            without a value of its own is required. Where both name a column, the state's entry wins.
        log: entity that keeps an entry of each applied transition, made with `TransitionLogColumns`; None keeps none.
        guards: SQL twins of guards that are Python: `{name: SQL expression}`. The name is the one that the machine
            uses: of a method or property of the machine or of the entity, or of a callable under `cond`. A twin is
            a condition or a value, of this entity's columns, or of others in a subquery; its bindparams are event
            parameters. It is taken at its word, with Python's truth rules (NULL is false): it must say what the Python
            guard says, where MariaDB folds letters too. Where the machine itself is run, Python decides, and the
            UPDATE checks the twin. Columns, and hybrids that are SQL already, have none.

    Raises:
        ConfigurationError: it cannot work; the message says what to change.
    """

    machine: type[StateChart[Any]]
    entity: type[Any]
    state: str = "state"
    version: str = "version"
    token: str = "transition_token"  # noqa: S105  an attribute's name
    assigns: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    log: type[Any] | None = None
    guards: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        """Check everything that could fail later, in the order in which a reader would mend it."""
        check(self)
        check_log(self)

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
    def key_attributes(self) -> tuple[str, ...]:
        """The primary key's attributes."""
        return tuple(self.attribute(column) for column in self.key_columns)

    @cached_property
    def kept(self) -> frozenset[str]:
        """Attributes that neither `assigns` nor callbacks write: version, token, key and generated columns."""
        generated = (name for name, column in self.columns.items() if column.computed is not None)
        return frozenset({self.version, self.token, *self.key_attributes, *generated})

    @cached_property
    def of_class(self) -> tuple[ColumnElement[bool], ...]:
        """Criteria that tell the entity's rows from others, where classes share a table (single-table inheritance)."""
        discriminator = self.mapper.polymorphic_on
        if discriminator is None or not self.mapper.single:
            return ()
        return (discriminator.in_([mapper.polymorphic_identity for mapper in self.mapper.self_and_descendants]),)

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
            name: {self.columns[key]: as_expression(self.columns[key], value) for key, value in values.items()}
            for name, values in self.assigns.items()
        }

    @cached_property
    def twins(self) -> dict[str, ColumnElement[Any]]:
        """`guards` as SQL, by the guard's name."""
        clauses = {name: clause_of(value) for name, value in self.guards.items()}
        return {name: with_event_parameters(clause) for name, clause in clauses.items() if clause is not None}

    @cached_property
    def machine_names(self) -> frozenset[str]:
        """Attributes of the machine by which callbacks and guards are found: a guard of that name is Python."""
        return framework.names_on(self.machine)

    @cached_property
    def model_names(self) -> frozenset[str]:
        """Attributes of the entity by which callbacks and guards are found: python-statemachine skips the state's."""
        return frozenset(dir(self.entity)) - {self.state}

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
        column, values = self.columns[self.state], [self.states_by_id[state_id].value for state_id in ids]
        return name_in(column, values) if self._is_text else column.in_(values)

    def terminal(self) -> ColumnElement[bool]:
        """A criterion for queries: the row has ended."""
        return self.in_state(*(state.id for state in self.states.values() if state.final))

    def is_python(self, name: str) -> bool:
        """Whether the machine, or a listener that its class declares, has an attribute of this name."""
        return name in self.machine_names or name in framework.listener_names(self.machine)

    def twin(self, name: str) -> ColumnElement[Any] | None:
        """The SQL twin of a guard that is Python."""
        return self.twins.get(name)

    def in_state_id(self, state_id: object) -> ColumnElement[bool]:
        """Where `In(state_id)` holds; a state that the machine lacks is one it is never in."""
        state = self.states_by_id.get(cast("str", state_id))
        column = self.columns[self.state]
        return column.is_(None) & column.is_not(None) if state is None else self.is_in(state.value)

    def is_in(self, value: object) -> ColumnElement[bool]:
        """Where the row is in the state with this value, to the letter."""
        column = self.columns[self.state]
        return (exact_name(column) if self._is_text else column) == self.bound_state(value)

    @property
    def _is_text(self) -> bool:
        kind = self.columns[self.state].type
        return isinstance(kind, String) and not isinstance(kind, types.Enum)

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
            RequestError: the key has another number of columns, or a value of another type: a database may take
                one for another's.
        """
        values = cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)
        if len(values) != len(self.key_columns) or None in values:
            names = ", ".join(column.name for column in self.key_columns)
            raise RequestError(f"{self.table}: expected a key of ({names}), found {key!r}; nothing was written")
        bound: dict[str, object] = {}
        for (parameter, column, kind), value in zip(self._key_parameters, values, strict=True):
            if kind is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise RequestError(
                    f"{column}: expected a key of type {kind.__name__}, found {value!r}; nothing was written"
                )
            bound[parameter] = value
        return bound

    @cached_property
    def _key_parameters(self) -> list[tuple[str, Column[Any], type | None]]:
        return [(f"latch_key_{n}", column, _key_type(column)) for n, column in enumerate(self.key_columns)]

    def key_of(self, values: Mapping[str, Any]) -> Any:
        """The primary key in a row's values; a tuple if it has several columns."""
        key = [values[name] for name in self.key_attributes]
        return tuple(key) if len(key) > 1 else key[0]

    def made_by_client(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a new row needs and these values lack: the key, so that it is known whatever happens, and the class."""
        missing: dict[str, Any] = {
            name: default()
            for name, column in zip(self.key_attributes, self.key_columns, strict=True)
            if name not in values and (default := _python_default(column))
        }
        discriminator, identity = self.mapper.polymorphic_on, self.mapper.polymorphic_identity
        if identity is not None and isinstance(discriminator, Column):
            missing[self.attribute(discriminator)] = identity
        return missing

    def attribute(self, column: Column[Any]) -> str:
        """Name of the column's attribute."""
        return self.mapper.get_property_by_column(column).key

    def restored(self, values: Mapping[str, Any]) -> Any:
        """An instance of the entity with these column values, in no session, never written back."""
        return detached(self.entity, values)


def _python_default(column: Column[Any]) -> Callable[[], Any] | None:
    """What makes a value for the column in Python, if something does: a function, or a constant."""
    default: Any = column.default
    if default is None or not (default.is_callable or default.is_scalar):
        return None
    return (lambda: default.arg(None)) if default.is_callable else (lambda: default.arg)


def _key_type(column: Column[Any]) -> type | None:
    """What Python's values of this key column are; None if that is up to the column's type, or to the driver."""
    if not isinstance(column.type, Integer | String | LargeBinary | Uuid) or isinstance(column.type, types.Enum):
        return None
    return column.type.python_type
