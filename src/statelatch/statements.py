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
    BindParameter,
    Column,
    ColumnElement,
    Insert,
    Select,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.sql import visitors
from statemachine.transition import Transition

from statelatch import framework
from statelatch.expressions import now
from statelatch.guards import PARAMETER, Truth, Untranslatable, all_of, translate
from statelatch.records import Explanation

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from statemachine import State

    from statelatch.interpreter import Step
    from statelatch.mapping import MachineMapping

__all__ = ["Edge", "EventStatements", "Guard", "Statements"]

KEY, EXPECTED, TOKEN = "latch_key", "latch_expected_version", "latch_token"
STATE_COLUMN, VERSION_COLUMN, TOKEN_COLUMN, AT_COLUMN = (
    "latch_state",
    "latch_version",
    "latch_token",
    "latch_at",
)


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard of an edge: as the machine spells it, in SQL, or why it has no SQL."""

    label: str
    truth: Truth | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """One transition of a flat machine. `enters` is False where the target's entry is not run again."""

    transition: Transition
    source: Any
    target: Any
    enters: bool
    guards: tuple[Guard, ...]

    def truth(self) -> Truth:
        """All guards that SQL can check."""
        return all_of(guard.truth for guard in self.guards if guard.truth is not None)


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
        """The row with the key."""
        columns = enumerate(self.mapping.key_columns)
        return and_(*(column == bindparam(f"{KEY}_{n}", type_=column.type) for n, column in columns))

    @cached_property
    def outcome(self) -> tuple[ColumnElement[Any], ...]:
        """What is read back of a transition: state, version, token, and the database's time."""
        columns = self.mapping.columns
        return (
            columns[self.mapping.state].label(STATE_COLUMN),
            columns[self.mapping.version].label(VERSION_COLUMN),
            columns[self.mapping.token].label(TOKEN_COLUMN),
            now().label(AT_COLUMN),
        )

    @cached_property
    def row(self) -> tuple[ColumnElement[Any], ...]:
        """Every mapped column, labelled with its attribute's name."""
        return tuple(column.label(name) for name, column in self.mapping.columns.items())

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
        names = self.mapping.machine_names | frozenset(dir(self.mapping.entity))
        entry = self.mapping.states[self.mapping.initial].enter
        called = any(framework.would_call(spec, names) for spec in entry)
        return called or bool(list(_machine_reasons(self.mapping))) or bool(machine.start_configuration_values)

    def insert(self, attributes: Iterable[str], entered: str) -> Insert:
        """INSERT with these columns, each bound to a parameter, and what entering the state assigns."""
        columns = self.mapping.columns
        given = {columns[name]: bindparam(_value(name), type_=columns[name].type) for name in attributes}
        statement = insert(cast("Any", self.mapping.mapper.local_table))
        statement = statement.values(_assigned(self.mapping, entered) | given)
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
        self._interpreted: dict[tuple[Edge, tuple[str, ...], tuple[str, ...]], _Interpreted] = {}
        self.edges = tuple(_edges(self.mapping, event))
        self.sources = tuple(dict.fromkeys(edge.source for edge in self.edges))
        self.reasons = tuple(dict.fromkeys(_reasons(self)))

    @property
    def compiled(self) -> bool:
        """Whether the whole event is one UPDATE."""
        return not self.reasons

    @cached_property
    def update(self) -> Update:
        """The compiled UPDATE, whatever the version."""
        return self._finished(self._in_key(or_(*(when for when, _ in self.whens))), compiled_sets(self, self.whens))

    @cached_property
    def whens(self) -> list[tuple[ColumnElement[bool], Edge]]:
        """Where each edge may be taken; of two that may, the machine takes the first."""
        return [(and_(self._in(edge.source), truth.passes()), edge) for edge, truth in self._reached()]

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

    def interpreted(self, edge: Edge, steps: tuple[Step, ...], changed: tuple[str, ...]) -> _Interpreted:
        """The UPDATE of an edge that Python took, with the columns that callbacks changed."""
        entered = tuple(_assign_names(self.mapping, steps))
        cached = self._interpreted.get((edge, entered, changed))
        if cached is None:
            cached = self._interpreted[edge, entered, changed] = self._interpret(edge, entered, changed)
        return cached

    @cached_property
    def diagnosis(self) -> Select[Any]:
        """The outcome, and each guard that SQL can check as a column `latch_guard_<edge>_<guard>`."""
        guards = [
            guard.truth.passes().label(guard_column(n, m))
            for n, edge in enumerate(self.edges)
            for m, guard in enumerate(edge.guards)
            if guard.truth is not None
        ]
        return select(*self.of_mapping.outcome, *guards).where(self.of_mapping.at_key)

    def explained(self, dialect: Dialect) -> Explanation:
        """How this event is carried out, with the UPDATE as this dialect spells it."""
        update = self.update if self.compiled else self._sketch()
        sql = str(update.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))
        return Explanation(
            event=self.event, compiled=self.compiled, reasons=self.reasons, sql=sql, dialect=dialect.name
        )

    def _sketch(self) -> Update:
        """What is known beforehand of an interpreted event's UPDATE: the version, the sources, the SQL guards."""
        target: ColumnElement[Any] = bindparam(_value(self.mapping.state))
        wheres = [and_(self._in(edge.source), edge.truth().passes()) for edge in self.edges]
        return self._finished(self._in_key(or_(*wheres)), _bookkeeping(self, target)).where(self._at_version)

    @cached_property
    def parameters(self) -> Mapping[str, bool]:
        """The event's own parameters, and whether each is required."""
        return _parameters([self.update, self.diagnosis] if self.compiled else [self.diagnosis, *self._assigned()])

    def _interpret(self, edge: Edge, entered: tuple[str, ...], changed: tuple[str, ...]) -> _Interpreted:
        columns = self.mapping.columns
        sets = {columns[name]: bindparam(_value(name), type_=columns[name].type) for name in changed}
        for name in entered:
            sets |= _assigned(self.mapping, name)
        target = bindparam(_value(self.mapping.state), type_=columns[self.mapping.state].type)
        sets |= _bookkeeping(self, target)
        earlier = [
            not_(other.truth().holds)
            for other in self.edges[: self.edges.index(edge)]
            if other.source == edge.source and all(guard.truth for guard in other.guards)
        ]
        where = and_(self._in(edge.source), *earlier, edge.truth().passes())
        statement = self._finished(self._in_key(where), sets).where(self._at_version)
        return _Interpreted(statement, _parameters([statement]))

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

    def _in(self, source: object) -> ColumnElement[bool]:
        return self.mapping.columns[self.mapping.state] == self.mapping.bound_state(source)

    @cached_property
    def _at_version(self) -> ColumnElement[bool]:
        version = self.mapping.columns[self.mapping.version]
        return version == bindparam(EXPECTED, type_=version.type)

    @cached_property
    def _unwritten(self) -> ColumnElement[bool]:
        token = self.mapping.columns[self.mapping.token]
        mine = [bindparam(token_parameter(n), type_=token.type) for n in range(len(self.sources))]
        return or_(token.is_(None), token.not_in(mine))

    def _in_key(self, where: ColumnElement[bool]) -> Update:
        return update(cast("Any", self.mapping.mapper.local_table)).where(self.of_mapping.at_key, where)

    def _finished(self, statement: Update, sets: Mapping[Column[Any], ColumnElement[Any]]) -> Update:
        order = set_order(sets)
        assert order is not None, "checked by _reasons"  # noqa: S101
        statement = statement.ordered_values(*((column, sets[column]) for column in order))
        return statement.returning(*self.of_mapping.outcome) if self.of_mapping.update_returning else statement

    def _assigned(self) -> list[ColumnElement[Any]]:
        names = {self.event, *(edge.transition.target.id for edge in self.edges if edge.transition.target)}
        return [value for name in names for value in _assigned(self.mapping, name).values()]


@dataclass(frozen=True, slots=True)
class _Interpreted:
    """An UPDATE for one edge that Python took, and the event parameters that it binds."""

    statement: Update
    parameters: Mapping[str, bool] = field(default_factory=dict[str, bool])


def _value(attribute: str) -> str:
    return f"latch_value_{attribute}"


def value_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Column values, by attribute name, as the parameters of an INSERT or an interpreted UPDATE."""
    return {_value(name): value for name, value in values.items()}


def guard_column(edge: int, guard: int) -> str:
    """Name of a guard's column in the diagnosis."""
    return f"latch_guard_{edge}_{guard}"


def token_parameter(source: int) -> str:
    """Name of the token's parameter for the event's n-th source state."""
    return f"{TOKEN}_{source}"


# -- edges ----------------------------------------------------------------------------------------


def _edges(mapping: MachineMapping, event: str) -> Iterable[Edge]:
    for state in mapping.states.values():
        for transition in state.transitions:
            if not transition.initial and transition.match(event):
                target: State = transition.target or state
                yield Edge(
                    transition,
                    state.value,
                    target.value,
                    _enters(mapping, transition),
                    _guards(mapping, transition),
                )


def _enters(mapping: MachineMapping, transition: Transition) -> bool:
    if transition.target is None or transition.internal:
        return False
    return not transition.is_self or mapping.machine.enable_self_transition_entries


def _guards(mapping: MachineMapping, transition: Transition) -> tuple[Guard, ...]:
    guards: list[Guard] = []
    for spec in transition.cond:
        try:
            guards.append(Guard(str(spec), translate(spec, mapping)))
        except Untranslatable as finding:
            guards.append(Guard(str(spec), None, str(finding)))
    return tuple(guards)


# -- why an event is interpreted --------------------------------------------------------------------


def _reasons(event: EventStatements) -> Iterable[str]:
    """Why this event needs Python, if it does."""
    mapping = event.mapping
    yield from _machine_reasons(mapping)
    for edge in event.edges:
        yield from (guard.reason for guard in edge.guards if guard.truth is None)
        yield from (f"action {name!r} is Python" for name in _actions(mapping, edge.transition))
        if edge.truth().raises is not None and mapping.machine.catch_errors_as_events:
            yield f"guards of {edge.transition} may raise, and the chart catches errors as events"
    translated = all(guard.truth for edge in event.edges for guard in edge.guards)
    if translated and set_order(compiled_sets(event, event.whens)) is None:
        yield "a guard reads a column that the event assigns, so that one UPDATE cannot order its writes"


def _machine_reasons(mapping: MachineMapping) -> Iterable[str]:
    """Why every event of this machine needs Python, if it does."""
    if any(transition.is_eventless for state in mapping.states.values() for transition in state.transitions):
        yield f"{mapping.machine.__name__} has eventless transitions"
    if framework.has_listeners(mapping.machine):
        yield f"{mapping.machine.__name__} has listeners"


def _actions(mapping: MachineMapping, transition: Transition) -> Iterable[str]:
    """Callbacks that a compiled UPDATE would skip."""
    names = mapping.machine_names | frozenset(dir(mapping.entity))
    target = transition.target or transition.source
    groups = [transition.validators, transition.before, transition.on, transition.after]
    groups += [transition.source.exit, target.enter, target.invoke, mapping.machine.prepare]
    for group in groups:
        for spec in group:
            if framework.would_call(spec, names):
                yield str(spec)


# -- what is written ----------------------------------------------------------------------------------


def compiled_sets(
    event: EventStatements, whens: list[tuple[ColumnElement[bool], Edge]]
) -> dict[Column[Any], ColumnElement[Any]]:
    """What a compiled UPDATE writes; a CASE only where the edges differ."""
    mapping = event.mapping
    state = mapping.columns[mapping.state]
    per_edge = [_edge_sets(event, edge) for _, edge in whens]
    sets: dict[Column[Any], ColumnElement[Any]] = {}
    for column in dict.fromkeys(column for writes in per_edge for column in writes):
        if all(writes.get(column) is per_edge[0].get(column) for writes in per_edge):
            sets[column] = per_edge[0][column]
        else:
            cases = [(when, writes.get(column, column)) for (when, _), writes in zip(whens, per_edge, strict=True)]
            sets[column] = case(*cases, else_=column)
    targets = list(dict.fromkeys(edge.target for _, edge in whens))
    if len(targets) == 1:
        target = mapping.bound_state(targets[0])
    else:
        target = case(*((when, mapping.bound_state(edge.target)) for when, edge in whens), else_=state)
    return sets | _bookkeeping(event, target)


def _edge_sets(event: EventStatements, edge: Edge) -> dict[Column[Any], ColumnElement[Any]]:
    sets = dict(_assigned(event.mapping, event.event))
    if edge.enters:
        sets |= _assigned(event.mapping, event.mapping.states[edge.target].id)
    return sets


def _assigned(mapping: MachineMapping, name: str) -> dict[Column[Any], ColumnElement[Any]]:
    """The columns that a state or an event assigns; the same objects each time."""
    return mapping.assigned_columns.get(name, {})


def _assign_names(mapping: MachineMapping, steps: tuple[Step, ...]) -> Iterable[str]:
    """The events that fired and the states that were entered, in order."""
    for step in steps:
        if step.event is not None and step.event in mapping.assigns:
            yield step.event
        target = step.transition.target
        if target is not None and target.id in mapping.assigns and _enters(mapping, step.transition):
            yield target.id


def _bookkeeping(event: EventStatements, target: ColumnElement[Any]) -> dict[Column[Any], ColumnElement[Any]]:
    """Token, version and state."""
    mapping = event.mapping
    state, version = mapping.columns[mapping.state], mapping.columns[mapping.version]
    tokens = [bindparam(token_parameter(n), type_=Uuid()) for n in range(len(event.sources))]
    first, *others = tokens
    sources = [(state == mapping.bound_state(source)) for source in event.sources[1:]]
    token = case(*zip(sources, others, strict=True), else_=first) if others else first
    return {mapping.columns[mapping.token]: token, version: version + literal(1), state: target}


def set_order(sets: Mapping[Column[Any], ColumnElement[Any]]) -> list[Column[Any]] | None:
    """The columns, each written after all that read it; None if there is no such order.

    MariaDB evaluates SET from left to right (https://mariadb.com/kb/en/update/), the others all at once.
    """
    reads = {column: _columns_read(value) - {column} for column, value in sets.items()}
    order: list[Column[Any]] = []
    left = list(sets)
    while left:
        free = next((c for c in left if not any(c in reads[other] for other in left if other is not c)), None)
        if free is None:
            return None
        order.append(free)
        left.remove(free)
    return order


def _columns_read(value: ColumnElement[Any]) -> set[Column[Any]]:
    return {cast("Column[Any]", node) for node in visitors.iterate(value) if isinstance(node, Column)}


def _parameters(clauses: Iterable[Any]) -> dict[str, bool]:
    """Names of the event parameters that these clauses bind, and whether each is required."""
    found: dict[str, bool] = {}
    for clause in clauses:
        for node in visitors.iterate(clause):
            if isinstance(node, BindParameter) and str(node.key).startswith(PARAMETER):
                name = str(node.key).removeprefix(PARAMETER)
                found[name] = found.get(name, False) or bool(node.required)
    return found
