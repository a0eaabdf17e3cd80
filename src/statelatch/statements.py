"""PURE: what a mapping sends whatever the event: the row with a key, a new row, the outcome of a transition.

Those of one event are in `statelatch.event_statements`. Nothing here knows a connection; of a dialect it knows whether
UPDATE and INSERT have RETURNING, and LAST_INSERT_ID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Update,
    and_,
    bindparam,
    insert,
    select,
    type_coerce,
    types,
)

from statelatch import framework
from statelatch.clock import DatabaseClock
from statelatch.expressions import StoredState, last_number, now
from statelatch.log import CREATED, TransitionLog, key_is
from statelatch.prepared import Prepared
from statelatch.reasons import machine_reasons
from statelatch.writes import (
    assign_names,
    assigned,
    token_parameter,
)

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Executable, Table

    from statelatch.interpreter import Step
    from statelatch.mapping import MachineMapping

from statelatch.event_statements import EventStatements
from statelatch.labels import AT_COLUMN, STATE_COLUMN, TOKEN_COLUMN, VERSION_COLUMN, value_parameter

__all__ = ["Statements"]


class Statements:
    """Everything that a mapping sends, made once and kept.

    Args:
        mapping: what to make statements of.
        dialect: of the engine that will send them.

    Attributes:
        clock: what is known of the database's time.
    """

    def __init__(self, mapping: MachineMapping, dialect: Dialect) -> None:
        self.mapping = mapping
        self.dialect = dialect
        self.update_returning = dialect.update_returning
        self.insert_returning = dialect.insert_returning
        self.has_last_insert_id = getattr(dialect, "driver", "") in {"pymysql", "mysqldb"}
        self.clock = DatabaseClock()
        self._events: dict[str, EventStatements] = {}

    def event(self, name: str) -> EventStatements:
        """The statements of one event.

        Raises:
            RequestError: the machine has no such event.
        """
        if name not in self._events:
            self.mapping.check_event(name)
            self._events[name] = EventStatements(self, name)
        return self._events[name]

    def pack_no_more(self) -> None:
        """Make all statements of events anew, without LAST_INSERT_ID: on this table it does not come back."""
        self.has_last_insert_id = False
        self._events.clear()

    @cached_property
    def at_key(self) -> ColumnElement[bool]:
        """The row with the key; of a table that several classes share, only if it is of the entity's class."""
        return and_(*key_is(self.mapping.key_columns), *self.mapping.of_class)

    @cached_property
    def outcome(self) -> tuple[ColumnElement[Any], ...]:
        """What is read back of a transition: state, version, token, and the database's time."""
        columns = self.mapping.columns
        return (
            self._as_stored(self.mapping.state).label(STATE_COLUMN),
            columns[self.mapping.version].label(VERSION_COLUMN),
            columns[self.mapping.token].label(TOKEN_COLUMN),
            now().label(AT_COLUMN),
        )

    @cached_property
    def log(self) -> TransitionLog | None:
        """The transition log, if the mapping has one."""
        return TransitionLog(self.mapping) if self.mapping.log is not None else None

    @cached_property
    def logs_in_one(self) -> bool:
        """Whether a row and its entry are written by one statement: PostgreSQL has DML in a CTE."""
        return self.log is not None and self.dialect.name == "postgresql"

    @cached_property
    def tells_outcome(self) -> bool:
        """Whether what writes a transition returns its outcome: the UPDATE, or the INSERT of its entry."""
        return self.update_returning if self.log is None else self.insert_returning

    def returning_logged(self, entries: Insert) -> Insert:
        """The INSERT of entries, returning the outcome that they tell, where the dialect can."""
        if self.log is None or not self.insert_returning:
            return entries
        pairs = zip(self.log.outcome, self.outcome, strict=True)
        return cast("Insert", entries.returning(*(column.label(told.name) for column, told in pairs)))

    @cached_property
    def row(self) -> tuple[ColumnElement[Any], ...]:
        """Every mapped column, labelled with its attribute's name."""
        return tuple(self._as_stored(name).label(name) for name in self.mapping.columns)

    def _as_stored(self, attribute: str) -> ColumnElement[Any]:
        """The column; a state that its Enum does not know is read as it is, and told by name later."""
        column = self.mapping.columns[attribute]
        if attribute != self.mapping.state or not isinstance(column.type, types.Enum):
            return column
        return type_coerce(column, StoredState(column.type, tuple(self.mapping.states)))

    @cached_property
    def load(self) -> Prepared:
        """The row with the key."""
        return self.prepared(select(*self.row).where(self.at_key))

    @cached_property
    def reread(self) -> Prepared:
        """The outcome of an UPDATE, in the same transaction."""
        return self.prepared(select(*self.outcome).where(self.at_key))

    @cached_property
    def load_locked(self) -> Prepared:
        """The row with the key, when whoever is writing it has ended."""
        return self.prepared(select(*self.row).where(self.at_key).with_for_update())

    @cached_property
    def reread_locked(self) -> Prepared:
        """Its outcome, likewise."""
        return self.prepared(select(*self.outcome).where(self.at_key).with_for_update())

    @cached_property
    def by_token(self) -> Prepared:
        """The row that has a token, whatever its key."""
        token = self.mapping.columns[self.mapping.token]
        mine = token == bindparam(token_parameter(0), type_=token.type)
        return self.prepared(select(*self.row).where(mine, *self.mapping.of_class))

    def logged(self, sources: int) -> Prepared:
        """The entry of the row with the key that has one of so many variants of a token.

        Raises:
            AssertionError: the mapping keeps no log.
        """
        assert self.log is not None, "only with a log is it asked for"  # noqa: S101
        return self.prepared(self.log.history.where(self.log.has_token(sources)))

    @cached_property
    def time(self) -> Prepared:
        """The database's time."""
        return self.prepared(select(now().label(AT_COLUMN)))

    def prepared(self, statement: Select[Any] | Update | Insert) -> Prepared:
        """The statement, compiled once for this dialect."""
        return Prepared(statement, self.dialect)

    @cached_property
    def initial_runs_python(self) -> bool:
        """Whether entering the initial state needs the machine: entry callbacks, listeners, eventless transitions."""
        machine = self.mapping.machine
        names = self.mapping.machine_names | self.mapping.model_names
        entry = self.mapping.states[self.mapping.initial].enter
        called = any(framework.would_call(spec, names) for spec in entry)
        return called or bool(list(machine_reasons(self.mapping))) or bool(machine.start_configuration_values)

    def insert(self, row: Iterable[str], steps: Iterable[Step], *, given: Iterable[str]) -> Executable:
        """INSERT with these columns, and what entering the initial state, and each that follows, assigns.

        Args:
            row: attributes with a parameter each.
            steps: transitions that the machine took from its initial state.
            given: those that the caller named; these are not assigned over.
        """
        columns = self.mapping.columns
        bound = {columns[name]: bindparam(value_parameter(name), type_=columns[name].type) for name in row}
        entered = (self.mapping.states[self.mapping.initial].id, *assign_names(self.mapping, steps))
        assigns = {column: value for name in entered for column, value in assigned(self.mapping, name).items()}
        kept = {columns[name] for name in given}
        sets = bound | {column: value for column, value in assigns.items() if column not in kept}
        statement = insert(cast("Any", self.mapping.mapper.local_table)).values(sets)
        if self.log is not None and self.logs_in_one:
            return self.log.created_in_one(statement, self.row)
        return statement.returning(*self.row) if self.insert_returning else statement

    def after_insert(self, values: Mapping[str, Any]) -> tuple[tuple[Executable, dict[str, Any]], ...]:
        """What follows the INSERT in its transaction: what reads the new row without RETURNING, and its first entry.

        In this order: the INSERT of the entry may leave another number than the row's to be the last.

        Args:
            values: what was inserted, by attribute name.
        """
        is_new, parameters = self._is_new(values)
        following: list[Executable] = []
        if not self.insert_returning:
            following.append(select(*self.row).where(is_new))
        if self.log is not None and not self.logs_in_one:
            following.append(self.log.appended(CREATED, is_new))
        return tuple((statement, parameters) for statement in following)

    def _is_new(self, values: Mapping[str, Any]) -> tuple[ColumnElement[bool], dict[str, Any]]:
        """A criterion for the row that was inserted just now, and its parameters."""
        mapping = self.mapping
        if values.keys() >= set(mapping.key_attributes):
            return self.at_key, mapping.key_values(mapping.key_of(values))
        key, *others = mapping.key_columns
        counted = key is cast("Table", mapping.mapper.local_table).autoincrement_column
        if counted and not others:
            return key == last_number(), {}
        token = mapping.columns[mapping.token]
        return token == bindparam(token_parameter(0), type_=token.type), {token_parameter(0): values[mapping.token]}
