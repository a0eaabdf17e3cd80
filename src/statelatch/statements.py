"""PURE: from a mapping and an event to the UPDATE, SELECT and INSERT that carry it out.

Theory of operation. An event of a flat machine is a list of *edges* (source, guards, target), tried in order.
If SQL can decide which edge is taken, the whole event is one UPDATE:

    UPDATE t SET <assigns>, token, version = version + 1, state
    WHERE key AND (state = source AND guards OR ...)

- SET is ordered: MariaDB evaluates it from left to right, so a column is written after all that read it.
- The token tells which source state was left: each source writes its own variant (`statelatch.tokens`).
- The same predicates, selected as columns, are the diagnosis of an UPDATE that matched no row.

Otherwise the event is *interpreted*: Python chooses the edge for the version that it read, and the UPDATE
checks that version, the source and every guard that SQL can check.

This file knows no connection; of a dialect it knows only whether UPDATE and INSERT have RETURNING.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    Insert,
    Select,
    Update,
    and_,
    bindparam,
    func,
    insert,
    not_,
    or_,
    select,
    type_coerce,
    types,
    update,
)
from sqlalchemy.sql import visitors
from statemachine.transition import Transition

from statelatch import framework
from statelatch.edges import Edge, edge_of, edges_of
from statelatch.errors import ConfigurationError
from statelatch.expressions import StoredState, exact_name, now
from statelatch.parameters import parameters_of
from statelatch.reasons import has_eventless, machine_reasons, reasons_of
from statelatch.records import Explanation
from statelatch.truth import Truth
from statelatch.writes import (
    assign_names,
    assigned,
    bookkeeping,
    columns_read,
    compiled_sets,
    set_order,
    token_parameter,
)

if TYPE_CHECKING:
    from sqlalchemy import Dialect

    from statelatch.interpreter import Step
    from statelatch.mapping import MachineMapping

__all__ = ["EventStatements", "Statements"]

KEY, EXPECTED = "latch_key", "latch_expected_version"
STATE_COLUMN, VERSION_COLUMN, TOKEN_COLUMN, AT_COLUMN = (
    "latch_state",
    "latch_version",
    "latch_token",
    "latch_at",
)


class Statements:
    """Everything that a mapping sends, made once and kept.

    Args:
        mapping: what to make statements of.
        update_returning: the dialect has UPDATE ... RETURNING.
        insert_returning: the dialect has INSERT ... RETURNING.
    """

    def __init__(self, mapping: MachineMapping, *, update_returning: bool, insert_returning: bool) -> None:
        self.mapping = mapping
        self.update_returning = update_returning
        self.insert_returning = insert_returning
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

    @cached_property
    def at_key(self) -> ColumnElement[bool]:
        """The row with the key; of a table that several classes share, only if it is of the entity's class."""
        key: list[ColumnElement[bool]] = []
        for n, column in enumerate(self.mapping.key_columns):
            given = bindparam(f"{KEY}_{n}", type_=column.type)
            key.append(column == given)
            if isinstance(column.type, types.String):  # the first finds it by index, the second is exact
                key.append(exact_name(column) == exact_name(given))
        return and_(*key, *self.mapping.of_class)

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
    def load(self) -> Select[Any]:
        """The row with the key."""
        return select(*self.row).where(self.at_key)

    @cached_property
    def reread(self) -> Select[Any]:
        """The outcome of an UPDATE in the same transaction, for dialects without RETURNING."""
        return select(*self.outcome).where(self.at_key)

    @cached_property
    def initial_runs_python(self) -> bool:
        """Whether entering the initial state needs the machine: entry callbacks, listeners, eventless transitions."""
        machine = self.mapping.machine
        names = self.mapping.machine_names | self.mapping.model_names
        entry = self.mapping.states[self.mapping.initial].enter
        called = any(framework.would_call(spec, names) for spec in entry)
        return called or bool(list(machine_reasons(self.mapping))) or bool(machine.start_configuration_values)

    def insert(self, row: Iterable[str], steps: Iterable[Step], *, given: Iterable[str]) -> Insert:
        """INSERT with these columns, and what entering the initial state, and each that follows, assigns.

        Args:
            row: attributes with a parameter each.
            steps: transitions that the machine took from its initial state.
            given: those that the caller named; these are not assigned over.
        """
        columns = self.mapping.columns
        bound = {columns[name]: bindparam(_value(name), type_=columns[name].type) for name in row}
        entered = (self.mapping.states[self.mapping.initial].id, *assign_names(self.mapping, steps))
        assigns = {column: value for name in entered for column, value in assigned(self.mapping, name).items()}
        kept = {columns[name] for name in given}
        sets = bound | {column: value for column, value in assigns.items() if column not in kept}
        statement = insert(cast("Any", self.mapping.mapper.local_table)).values(sets)
        return statement.returning(*self.row) if self.insert_returning else statement

    def after_insert(self, values: Mapping[str, Any]) -> tuple[tuple[Select[Any], dict[str, Any]], ...]:
        """What reads the new row in the same transaction, for dialects without RETURNING."""
        if self.insert_returning:
            return ()
        if all(self.mapping.attribute(column) in values for column in self.mapping.key_columns):
            return ((self.load, self.mapping.key_values(self.mapping.key_of(values))),)
        made_by_the_database = self.mapping.key_columns[0] == func.last_insert_id()
        return ((select(*self.row).where(made_by_the_database), {}),)


class EventStatements:
    """One event: its edges, whether it is compiled, and its statements."""

    def __init__(self, statements: Statements, event: str) -> None:
        self.mapping = statements.mapping
        self.event = event
        self.of_mapping = statements
        self._compiled: dict[tuple[bool, bool], Update] = {}
        self._interpreted: dict[tuple[tuple[Transition, ...], tuple[str, ...], tuple[str, ...]], _Interpreted] = {}
        self.edges = tuple(edges_of(self.mapping, event))
        self.sources = tuple(dict.fromkeys(edge.source for edge in self.edges))
        # an eventless transition may come first, so that the state that is left is no source of the event
        self.leaves = tuple(self.mapping.states) if has_eventless(self.mapping) else self.sources
        self.reasons = tuple(dict.fromkeys(reasons_of(self)))

    def reaches(self, source: object) -> frozenset[object]:
        """The states in which the event, sent from this one, may leave the row; after callbacks, any."""
        if not self.compiled:
            return frozenset(self.mapping.states)
        return frozenset(edge.target for edge in self.edges if edge.source == source)

    @property
    def compiled(self) -> bool:
        """Whether the whole event is one UPDATE."""
        return not self.reasons

    @cached_property
    def update(self) -> Update:
        """The compiled UPDATE, whatever the version."""
        return self._finished(self._in_key(or_(*(when for when, _ in self.whens))), self.sets)

    @cached_property
    def sets(self) -> dict[Column[Any], ColumnElement[Any]]:
        """What the compiled UPDATE writes."""
        return compiled_sets(self.mapping, self.event, self.leaves, self.whens)

    @cached_property
    def whens(self) -> list[tuple[ColumnElement[bool], Edge]]:
        """Where each edge may be taken; of two that may, the machine takes the first."""
        return [(and_(self.mapping.is_in(edge.source), truth.passes()), edge) for edge, truth in self._reached()]

    def compiled_update(self, *, at_version: bool, resent: bool) -> Update:
        """The compiled UPDATE.

        Args:
            at_version: only of a row that still has the expected version.
            resent: only of a row that does not yet carry this call's token: it may have been sent before.
        """
        kind = (at_version, resent)
        if kind not in self._compiled:
            update = self.update.where(self._at_version) if at_version else self.update
            self._compiled[kind] = update.where(self._unwritten) if resent else update
        return self._compiled[kind]

    def interpreted(self, steps: tuple[Step, ...], changed: tuple[str, ...]) -> _Interpreted:
        """The UPDATE of the steps that Python took, with the columns that callbacks changed.

        Raises:
            ConfigurationError: what is assigned reads other columns that are assigned, in a circle.
        """
        transitions, entered = tuple(step.transition for step in steps), tuple(assign_names(self.mapping, steps))
        cached = self._interpreted.get((transitions, entered, changed))
        if cached is None:
            made = self._interpret(transitions, entered, changed)
            cached = self._interpreted[transitions, entered, changed] = made
        return cached

    @cached_property
    def diagnosis(self) -> Select[Any]:
        """The outcome, each guard that SQL can check, and where Python would raise instead of trying the next edge."""
        guards = [
            guard.truth.passes().label(guard_column(n, m))
            for n, edge in enumerate(self.edges)
            for m, guard in enumerate(edge.guards)
            if guard.truth is not None
        ]
        raising = [
            raises.label(raises_column(n))
            for n, edge in enumerate(self.edges)
            if (raises := edge.truth().raises) is not None
        ]
        return select(*self.of_mapping.outcome, *guards, *raising).where(self.of_mapping.at_key)

    def explained(self, dialect: Dialect) -> Explanation:
        """How this event is carried out, with the UPDATE as this dialect spells it."""
        update = self.update if self.compiled else self._sketch()
        shown = visitors.cloned_traverse(update, {}, {"bindparam": _not_required})
        sql = str(shown.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))
        return Explanation(
            event=self.event, compiled=self.compiled, reasons=self.reasons, sql=sql, dialect=dialect.name
        )

    def _sketch(self) -> Update:
        """What is known beforehand of an interpreted event's UPDATE: the version, the sources, the SQL guards."""
        target: ColumnElement[Any] = bindparam(_value(self.mapping.state))
        wheres = [and_(self.mapping.is_in(edge.source), edge.truth().passes()) for edge in self.edges]
        return self._finished(self._in_key(or_(*wheres)), bookkeeping(self.mapping, self.leaves, target)).where(
            self._at_version
        )

    @cached_property
    def parameters(self) -> Mapping[str, bool]:
        """The event's own parameters, and whether each is required."""
        return parameters_of([self.update, self.diagnosis] if self.compiled else [self.diagnosis, *self._assigned()])

    def _interpret(
        self, transitions: tuple[Transition, ...], entered: tuple[str, ...], changed: tuple[str, ...]
    ) -> _Interpreted:
        columns, first = self.mapping.columns, transitions[0]
        sets = {columns[name]: bindparam(_value(name), type_=columns[name].type) for name in changed}
        for name in entered:
            sets |= assigned(self.mapping, name)
        target = bindparam(_value(self.mapping.state), type_=columns[self.mapping.state].type)
        sets |= bookkeeping(self.mapping, self.leaves, target)
        held = [self._held(edge_of(self.mapping, each), changed) for each in transitions[1:]]
        where = and_(self._taken(first), *(clause for clause in held if clause is not None))
        statement = self._finished(self._in_key(where), sets).where(self._at_version)
        return _Interpreted(statement, parameters_of([statement]))

    def _taken(self, first: Transition) -> ColumnElement[bool]:
        """Where the machine would take this transition: its source, its guards, and none before it."""
        edge = edge_of(self.mapping, first)
        leaving = [other.transition for other in self.edges if other.source == edge.source]
        before = leaving.index(first) if first in leaving else 0  # else it is eventless, or of an error
        earlier = [
            not_(other.truth().holds)
            for other in self.edges
            if other.transition in leaving[:before] and all(guard.truth for guard in other.guards)
        ]
        return and_(self.mapping.is_in(edge.source), *earlier, edge.truth().passes())

    def _held(self, edge: Edge, changed: tuple[str, ...]) -> ColumnElement[bool] | None:
        """The guards of a later step, if they read what the row holds when the UPDATE comes to it."""
        if edge.transition not in [other.transition for other in self.edges]:
            return None
        now_other = {self.mapping.columns[name] for name in (self.mapping.state, *changed)}
        clause = edge.truth().passes()
        return None if columns_read(clause) & now_other else clause

    def _reached(self) -> list[tuple[Edge, Truth]]:
        """Each edge with its guards, where no earlier guard of the same source would have raised."""
        reached: list[tuple[Edge, Truth]] = []
        for edge in self.edges:
            truth = edge.truth()
            for other, before in reached:
                if other.source == edge.source and before.raises is not None:
                    truth = Truth(and_(not_(before.raises), truth.holds), truth.raises)
            reached.append((edge, truth))
        return reached

    @cached_property
    def _at_version(self) -> ColumnElement[bool]:
        version = self.mapping.columns[self.mapping.version]
        return version == bindparam(EXPECTED, type_=version.type)

    @cached_property
    def _unwritten(self) -> ColumnElement[bool]:
        token = self.mapping.columns[self.mapping.token]
        mine = [bindparam(token_parameter(n), type_=token.type) for n in range(len(self.leaves))]
        return or_(token.is_(None), token.not_in(mine))

    def _in_key(self, where: ColumnElement[bool]) -> Update:
        return update(cast("Any", self.mapping.mapper.local_table)).where(self.of_mapping.at_key, where)

    def _finished(self, statement: Update, sets: Mapping[Column[Any], ColumnElement[Any]]) -> Update:
        order = set_order(sets)
        if order is None:
            names = ", ".join(column.name for column in sets)
            raise ConfigurationError(
                f"{self.mapping.table}: {self.event!r} writes {names}, which read each other in a circle, so that "
                "MariaDB could not write them in one UPDATE; compute one of them in a callback; nothing was written"
            )
        statement = statement.ordered_values(*((column, sets[column]) for column in order))
        return statement.returning(*self.of_mapping.outcome) if self.of_mapping.update_returning else statement

    def _assigned(self) -> list[ColumnElement[Any]]:
        names = {self.event, *(edge.transition.target.id for edge in self.edges if edge.transition.target)}
        return [value for name in names for value in assigned(self.mapping, name).values()]


@dataclass(frozen=True, slots=True)
class _Interpreted:
    """An UPDATE for one edge that Python took, and the event parameters that it binds."""

    statement: Update
    parameters: Mapping[str, bool] = field(default_factory=dict[str, bool])


def _not_required(bound: Any) -> None:
    """To show the items of an IN, SQLAlchemy wants the value of every parameter."""
    bound.required = False


def _value(attribute: str) -> str:
    return f"latch_value_{attribute}"


def value_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Column values, by attribute name, as the parameters of an INSERT or an interpreted UPDATE."""
    return {_value(name): value for name, value in values.items()}


def guard_column(edge: int, guard: int) -> str:
    """Name of a guard's column in the diagnosis."""
    return f"latch_guard_{edge}_{guard}"


def raises_column(edge: int) -> str:
    """Name of the column that says, in the diagnosis, whether evaluating the edge's guards raises in Python."""
    return f"latch_raises_{edge}"
