"""PURE: from an event to the UPDATE that carries it out, and the SELECT that tells why it did not.

Theory of operation. An event of a flat machine is a list of *edges* (source, guards, target), tried in order.
If SQL can decide which edge is taken, the whole event is one UPDATE:

    UPDATE t SET <assigns>, token, version = version + 1, state
    WHERE key AND (state = source AND guards OR ...)

- SET is ordered: MariaDB evaluates it from left to right, so a column is written after all that read it.
- The token tells which source state was left: each source writes its own variant (`statelatch.tokens`).
- The same predicates, selected as columns, are the diagnosis of an UPDATE that matched no row.

Otherwise the event is *interpreted*: Python chooses the edge for the version that it read, and the UPDATE
checks that version, the source and every guard that SQL can check.

How the outcome of an UPDATE comes back in the same round trip is told in `statelatch.outcomes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    exists,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql import visitors
from statemachine.transition import Transition

from statelatch.edges import Edge, edge_of, edges_of, reachable
from statelatch.errors import ConfigurationError
from statelatch.expressions import moment
from statelatch.outcomes import Packing, integer, pair_number, pairs_of
from statelatch.parameters import compared_in, parameters_of
from statelatch.prepared import Prepared
from statelatch.reasons import has_eventless, reasons_of
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

    from statelatch.batch_statements import BatchedEvent
    from statelatch.comparisons import Compared
    from statelatch.interpreter import Step

from statelatch.labels import AT_COLUMN, EXPECTED, guard_column, raises_column, value_parameter

if TYPE_CHECKING:
    from statelatch.statements import Statements

__all__ = ["TIME_ONLY", "Compiled", "EventStatements", "Interpreted"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled event's UPDATE, and how its outcome is packed; None if rows tell it."""

    update: Prepared
    packing: Packing | None


@dataclass(frozen=True, slots=True)
class Interpreted:
    """An UPDATE for what Python did, how its time is packed, and the event parameters that it binds."""

    update: Prepared
    packing: Packing | None
    parameters: Mapping[str, bool]


class EventStatements:
    """One event: its edges, whether it is compiled, and its statements."""

    def __init__(self, statements: Statements, event: str) -> None:
        self.mapping = statements.mapping
        self.event = event
        self.of_mapping = statements
        self._compiled: dict[tuple[bool, bool, bool], Compiled] = {}
        self._interpreted: dict[tuple[tuple[Transition, ...], tuple[str, ...], tuple[str, ...]], Interpreted] = {}
        self.edges = tuple(edges_of(self.mapping, event))
        self.pairs = pairs_of(self.edges)
        self.sources = tuple(dict.fromkeys(edge.source for edge in self.edges))
        # an eventless transition may come first, so that the state that is left is no source of the event
        self.leaves = tuple(self.mapping.states) if has_eventless(self.mapping) else self.sources
        self.token_parameters = tuple(token_parameter(n) for n in range(len(self.leaves)))
        self.reasons = tuple(dict.fromkeys(reasons_of(self)))

    def reaches(self, source: object) -> frozenset[object]:
        """The states in which the event, sent from this one, may leave the row; after callbacks, any."""
        if not self.compiled:
            return frozenset(self.mapping.states)
        return frozenset(edge.target for edge in self.edges if edge.source == source)

    @cached_property
    def onward(self) -> frozenset[object]:
        """The states in which the row may be when the event has been applied and others have followed."""
        left = reachable(self.mapping, self.leaves)
        landed = frozenset(edge.target for edge in self.edges) if self.compiled else left
        return reachable(self.mapping, landed)

    @cached_property
    def repeats(self) -> bool:
        """Whether the event may be taken again where it has led: then a statement that arrives late, must not be."""
        return any(edge.target in self.sources for edge in self.edges)

    @property
    def compiled(self) -> bool:
        """Whether the whole event is one UPDATE."""
        return not self.reasons

    @cached_property
    def update(self) -> Update:
        """The compiled UPDATE, whatever the version."""
        return self._updated(at_version=False, packed=True)[0]

    @cached_property
    def anywhere(self) -> ColumnElement[bool]:
        """Where the event may be taken: the source states and their guards."""
        return or_(*(when for when, _ in self.whens))

    @cached_property
    def sets(self) -> dict[Column[Any], ColumnElement[Any]]:
        """What the compiled UPDATE writes."""
        return compiled_sets(self.mapping, self.event, self.leaves, self.whens)

    @cached_property
    def whens(self) -> list[tuple[ColumnElement[bool], Edge]]:
        """Where each edge may be taken; of two that may, the machine takes the first."""
        return [(and_(self.mapping.is_in(edge.source), truth.passes()), edge) for edge, truth in self._reached()]

    def compiled_update(self, *, at_version: bool, resent: bool, packed: bool) -> Compiled:
        """The compiled UPDATE.

        Args:
            at_version: only of a row that still has the expected version.
            resent: only of a row that does not yet carry this call's token: it may have been sent before.
            packed: the outcome may come back in LAST_INSERT_ID; else, without RETURNING, the row is read again.
        """
        kind = (at_version, resent, packed)
        if kind not in self._compiled:
            update, packing = self._updated(at_version=at_version, packed=packed)
            update = update.where(self._unwritten, self.unlogged) if resent else update
            self._compiled[kind] = Compiled(self._prepared(self.logged(update)[0]), packing)
        return self._compiled[kind]

    def _updated(self, *, at_version: bool, packed: bool) -> tuple[Update, Packing | None]:
        where = and_(self.anywhere, self._at_version) if at_version else self._once()
        pair = pair_number(self.pairs, self.whens, self.mapping.is_in)
        packing = Packing(len(self.pairs), versioned=at_version)
        return self._written(where, self.sets, packing, pair, may_pack=packed)

    def interpreted(self, steps: tuple[Step, ...], changed: tuple[str, ...]) -> Interpreted:
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
    def batched(self) -> BatchedEvent:
        """The same for many requests at once."""
        from statelatch.batch_statements import BatchedEvent  # which is made of these

        return BatchedEvent(self)

    @cached_property
    def diagnosis(self) -> Prepared:
        """What is `diagnosed` of the row with the key."""
        return self.of_mapping.prepared(self.diagnosed.where(self.of_mapping.at_key))

    @cached_property
    def diagnosed(self) -> Select[Any]:
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
        return select(*self.of_mapping.outcome, *guards, *raising)

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
        target: ColumnElement[Any] = bindparam(value_parameter(self.mapping.state))
        wheres = [and_(self.mapping.is_in(edge.source), edge.truth().passes()) for edge in self.edges]
        sets = bookkeeping(self.mapping, self.leaves, target)
        return self._written(and_(or_(*wheres), self._at_version), sets, *TIME_ONLY)[0]

    @cached_property
    def parameters(self) -> Mapping[str, bool]:
        """The event's own parameters, and whether each is required."""
        return parameters_of([self.update, self.diagnosed] if self.compiled else [self.diagnosed, *self._assigned()])

    @cached_property
    def compared(self) -> Mapping[str, Sequence[Compared]]:
        """The event's own parameters that its guards compare in SQL."""
        return compared_in([self.diagnosed])

    def _interpret(
        self, transitions: tuple[Transition, ...], entered: tuple[str, ...], changed: tuple[str, ...]
    ) -> Interpreted:
        columns, first = self.mapping.columns, transitions[0]
        sets = {columns[name]: bindparam(value_parameter(name), type_=columns[name].type) for name in changed}
        for name in entered:
            sets |= assigned(self.mapping, name)
        target = bindparam(value_parameter(self.mapping.state), type_=columns[self.mapping.state].type)
        sets |= bookkeeping(self.mapping, self.leaves, target)
        held = [self._held(edge_of(self.mapping, each), changed) for each in transitions[1:]]
        where = and_(self._taken(first), *(clause for clause in held if clause is not None), self._at_version)
        update, packing = self._written(where, sets, *TIME_ONLY)
        return Interpreted(self._prepared(self.logged(update)[0]), packing, parameters_of([update]))

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
    def unlogged(self) -> ColumnElement[bool]:
        """No entry of the row has this call's token."""
        log = self.of_mapping.log
        if log is None:
            return true()
        same = [key == own for key, own in zip(log.keys, self.mapping.key_columns, strict=True)]
        return ~exists().where(*same, log.has_token(len(self.leaves)))

    @cached_property
    def logged_by_token(self) -> Prepared:
        """The entry of the row with the key that has this call's token."""
        return self.of_mapping.logged(len(self.leaves))

    def _once(self) -> ColumnElement[bool]:
        """Where the event may be taken, of any version: not where this very UPDATE has been taken before."""
        return and_(self.anywhere, self._unwritten) if self.repeats else self.anywhere

    @cached_property
    def _unwritten(self) -> ColumnElement[bool]:
        token = self.mapping.columns[self.mapping.token]
        mine = [bindparam(name, type_=token.type) for name in self.token_parameters]
        return or_(token.is_(None), token.not_in(mine))

    @cached_property
    def entry(self) -> Prepared | None:
        """What follows the UPDATE in its transaction: the INSERT of its entry, where no statement writes both."""
        log = self.of_mapping.log
        if log is None or self.of_mapping.logs_in_one:
            return None
        return self._prepared(log.appended(log.entry(self.event, self.leaves), self.of_mapping.at_key))

    def logged(self, moving: Update, *moved: ColumnElement[bool]) -> tuple[Update | Insert, ...]:
        """An UPDATE of this event by one call, with what enters it into the log: statements of one transaction.

        Args:
            moving: without RETURNING.
            moved: the rows that it has moved, when it is done.
        """
        log = self.of_mapping.log
        if log is None:
            return (moving,)
        entry = log.entry(self.event, self.leaves)
        if self.of_mapping.logs_in_one:
            return (log.in_one(moving, entry),)
        return moving, log.appended(entry, *moved)

    def _prepared(self, statement: Update | Insert) -> Prepared:
        """As it is sent for one row; entries return the outcome."""
        is_entry = isinstance(statement, Insert)
        return self.of_mapping.prepared(self.of_mapping.returning_logged(statement) if is_entry else statement)

    def _written(
        self,
        where: ColumnElement[bool],
        sets: Mapping[Column[Any], ColumnElement[Any]],
        packing: Packing,
        pair: ColumnElement[int],
        *,
        may_pack: bool = True,
    ) -> tuple[Update, Packing | None]:
        """The UPDATE of the row with the key that brings its outcome along, and how that is packed."""
        statement = update(cast("Any", self.mapping.mapper.local_table)).where(self.of_mapping.at_key, where)
        if self.of_mapping.log is not None:  # the entry tells the outcome
            return statement.ordered_values(*self._ordered(sets)), None
        if self.of_mapping.update_returning:
            return statement.ordered_values(*self._ordered(sets)).returning(*self._returned(packing)), None
        if may_pack and self.of_mapping.has_last_insert_id:
            version = self.mapping.columns[self.mapping.version]
            packed = {**sets, version: packing.column(version, pair)}
            if set_order(packed) is not None:
                return statement.ordered_values(*self._ordered(packed)), packing
        return statement.ordered_values(*self._ordered(sets)), None

    def _returned(self, packing: Packing) -> list[ColumnElement[Any]]:
        """Those columns of the outcome that the call does not know already."""
        state, version, token, _ = self.of_mapping.outcome
        several = packing.pairs > 1
        told = [(several, state), (not packing.versioned, version), (several, token)]
        return [*(column for is_needed, column in told if is_needed), moment().label(AT_COLUMN)]

    def _ordered(
        self, sets: Mapping[Column[Any], ColumnElement[Any]]
    ) -> Iterable[tuple[Column[Any], ColumnElement[Any]]]:
        order = set_order(sets)
        if order is None:
            names = ", ".join(column.name for column in sets)
            raise ConfigurationError(
                f"{self.mapping.table}: {self.event!r} writes {names}, which read each other in a circle, so that "
                "MariaDB could not write them in one UPDATE; compute one of them in a callback; nothing was written"
            )
        return [(column, sets[column]) for column in order]

    def _assigned(self) -> list[ColumnElement[Any]]:
        names = {self.event, *(edge.transition.target.id for edge in self.edges if edge.transition.target)}
        return [value for name in names for value in assigned(self.mapping, name).values()]


TIME_ONLY = (Packing(1, versioned=True), integer(0))
"""Of what Python did, all but the time is known."""


def _not_required(bound: Any) -> None:
    """To show the items of an IN, SQLAlchemy wants the value of every parameter."""
    bound.required = False
