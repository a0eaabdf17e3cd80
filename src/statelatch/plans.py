"""PURE: the order of steps of each verb, as generators. The only file that orders.

A plan yields commands (`Execute`, `Fire`), is sent their replies and returns the verb's result; what went
wrong is thrown into it. It never sees a connection, so a test drives it with scripted replies, and sync and
async share it whole. See PEP 342 for the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from statelatch.commands import Execute, Fire, Plan, Reply, Row
from statelatch.errors import (
    ConnectionFailureError,
    OutcomeUnknownError,
    Reason,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    TransitionRefusedError,
)
from statelatch.faults import Contention, LostRace
from statelatch.interpreter import Fired, Firing, Refused, Step
from statelatch.records import Snapshot, Transitioned
from statelatch.requests import bound_parameters, check_changes, check_new, check_params, check_proof
from statelatch.statements import (
    AT_COLUMN,
    EXPECTED,
    STATE_COLUMN,
    TOKEN_COLUMN,
    VERSION_COLUMN,
    EventStatements,
    Statements,
    guard_column,
    raises_column,
    value_parameters,
)
from statelatch.tokens import mint, source_number, variants
from statelatch.writes import token_parameter

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Executable

__all__ = ["create", "load", "retried", "send"]

Result = TypeVar("Result")

TRIES = 3
"""How often a lost race, or a transaction that the database broke off, is begun anew."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """The row changed between reading and writing; nothing was written."""

    version: int
    state: Any


@dataclass(frozen=True, slots=True)
class _Sending:
    """One call of `send`: what stays the same through its tries."""

    statements: EventStatements
    key: Any
    key_values: Mapping[str, Any]
    expected_version: int | None
    token: UUID
    resent: bool
    params: Mapping[str, Any]

    @property
    def table(self) -> str:
        return self.statements.mapping.table

    def parameters(self, names: Mapping[str, bool], version: int | None) -> dict[str, Any]:
        """Everything that a statement of this event binds."""
        own = bound_parameters(self.statements.event, names, self.params)
        sources = len(self.statements.leaves)
        tokens = {token_parameter(n): variant for n, variant in enumerate(variants(self.token, sources))}
        at_version = {} if version is None else {EXPECTED: version}
        return {**own, **self.key_values, **tokens, **at_version}

    def transitioned(self, row: Row, source: Any) -> Transitioned:
        return Transitioned(
            key=self.key,
            event=self.statements.event,
            source=source,
            target=row[STATE_COLUMN],
            version=row[VERSION_COLUMN],
            token=row[TOKEN_COLUMN],
            at=row[AT_COLUMN],
        )

    def mine(self, row: Row) -> Transitioned | None:
        """The transition, if the row's token and state say that it was this call's."""
        leaves = self.statements.leaves
        number = source_number(self.token, row[TOKEN_COLUMN], len(leaves))
        if number is None or row[STATE_COLUMN] not in self.statements.reaches(leaves[number]):
            return None
        return self.transitioned(row, leaves[number])

    def stale(self, version: int, state: Any, expected: int | None) -> StaleVersionError:
        return StaleVersionError(
            table=self.table,
            key=self.key,
            event=self.statements.event,
            expected_version=expected,
            actual_version=version,
            state=state,
        )

    def refused(self, version: int, state: Any, guards: tuple[str, ...]) -> TransitionRefusedError:
        sources = self.statements.sources
        return TransitionRefusedError(
            table=self.table,
            key=self.key,
            event=self.statements.event,
            state=state,
            version=version,
            reason=Reason.GUARD if state in sources else Reason.STATE,
            guards=guards,
            sources=sources,
        )


def send(
    statements: Statements,
    key: Any,
    event: str,
    *,
    expected_version: int | None,
    token: UUID | None,
    params: Mapping[str, Any],
) -> Plan[Transitioned]:
    """Apply one event to one row: see `PersistenceAdapter.send`."""
    of_event = statements.event(event)
    check_params(event, params)
    check_proof(expected_version, token)
    sending = _Sending(
        of_event,
        key,
        statements.mapping.key_values(key),
        expected_version,
        token or mint(),
        token is not None,
        params,
    )
    sending.parameters(of_event.parameters, None)  # a missing parameter is told before anything is sent
    lost: _Lost | None = None
    for _ in range(TRIES):
        outcome = yield from retried(lambda: _attempt(sending))
        if isinstance(outcome, Transitioned):
            return outcome
        lost = outcome
    assert lost is not None, "the last try returns or raises"  # noqa: S101
    if lost.version == expected_version:  # a guard was false at each moment of writing, and true in between
        raise sending.refused(lost.version, lost.state, ())
    raise sending.stale(lost.version, lost.state, expected_version)


def retried(attempt: Callable[[], Plan[Result]]) -> Plan[Result]:
    """Begin a plan anew when the database broke its transaction off for the sake of another."""
    for _ in range(TRIES - 1):
        try:
            return (yield from attempt())
        except (Contention, LostRace):
            continue
    try:
        return (yield from attempt())
    except (Contention, LostRace) as busy:
        raise _unanswered(busy) from busy.__cause__


def _unanswered(error: ConnectionFailureError) -> ConnectionFailureError:
    """The error without the hint that it may be tried again."""
    return ConnectionFailureError(phase=error.phase, database=error.database, detail=error.detail)


def _attempt(sending: _Sending) -> Plan[Transitioned | _Lost]:
    """One try. A race that the database itself calls lost is diagnosed like an UPDATE that matched no row."""
    try:
        return (yield from (_compiled if sending.statements.compiled else _interpreted)(sending))
    except LostRace:
        return (yield from _diagnose(sending, None))


def _compiled(sending: _Sending) -> Plan[Transitioned | _Lost]:
    """One UPDATE; the database decides."""
    statements, version = sending.statements, sending.expected_version
    reply: Reply = yield _write(
        sending, statements.compiled_update(at_version=version is not None, resent=sending.resent), version
    )
    if reply.matched:
        row = reply.rows[0]
        number = source_number(sending.token, row[TOKEN_COLUMN], len(statements.leaves))
        return sending.transitioned(row, statements.leaves[number or 0])
    return (yield from _diagnose(sending, version))


def _interpreted(sending: _Sending) -> Plan[Transitioned | _Lost]:
    """Read, run the machine, and write on the version that was read."""
    mapping, statements = sending.statements.mapping, sending.statements
    snapshot, token = yield from _load(statements.of_mapping, sending.key, statements.event)
    if source_number(sending.token, token, len(statements.leaves)) is not None:
        return (yield from _diagnose(sending, sending.expected_version))
    if sending.expected_version not in {None, snapshot.version}:
        raise sending.stale(snapshot.version, snapshot.state, sending.expected_version)
    firing = Firing(mapping.machine, mapping.entity, mapping.state, snapshot.values, statements.event, sending.params)
    fired = yield from _fire(firing)
    if isinstance(fired, Refused):
        raise sending.refused(snapshot.version, snapshot.state, fired.guards)
    if fired.taken_back:  # the chart caught a callback's error as an event, and stayed where it was
        raise sending.refused(snapshot.version, snapshot.state, ())
    reply: Reply = yield _write_fired(sending, snapshot, fired)
    if reply.matched:
        return sending.transitioned(reply.rows[0], snapshot.state)
    return (yield from _diagnose(sending, snapshot.version))


def _fire(firing: Firing) -> Plan[Fired | Refused]:
    """Run the machine. What a callback's own database did is no reason to run the callbacks again."""
    try:
        return (yield Fire(firing))
    except (Contention, LostRace) as error:
        raise _unanswered(error) from error


def _write(sending: _Sending, update: Executable, version: int | None) -> Execute:
    parameters = sending.parameters(sending.statements.parameters, version)
    return _transaction(sending, update, parameters)


def _write_fired(sending: _Sending, snapshot: Snapshot, fired: Fired) -> Execute:
    mapping, statements = sending.statements.mapping, sending.statements
    touched = mapping.kept & set(fired.changes)
    if fired.target != fired.reached:
        touched |= {mapping.state}
    if touched:
        raise RequestError(
            f"{mapping.table} {sending.key}: a callback of {statements.event!r} changed {', '.join(sorted(touched))}, "
            "which callbacks do not write; nothing was written. Take that out of the callback."
        )
    check_changes(fired.changes)
    update = statements.interpreted(fired.steps, tuple(fired.changes))
    values = value_parameters({**fired.changes, mapping.state: fired.target})
    parameters = sending.parameters(update.parameters, snapshot.version) | values
    return _transaction(sending, update.statement, parameters)


def _transaction(sending: _Sending, update: Executable, parameters: Mapping[str, Any]) -> Execute:
    of_mapping = sending.statements.of_mapping
    reread = () if of_mapping.update_returning else ((of_mapping.reread, sending.key_values),)
    return Execute(((update, parameters), *reread), sending.token, sending.key)


def _diagnose(sending: _Sending, version: int | None) -> Plan[Transitioned | _Lost]:
    """Why an UPDATE matched no row, asked in a new transaction: an old snapshot would not tell.

    `version` is the one that the UPDATE asked for. The token comes first: a repeated statement may have met
    its own earlier write.
    """
    statements = sending.statements
    reply = yield from _asked(sending)
    if not reply.rows:
        raise RowNotFoundError(table=sending.table, key=sending.key, event=statements.event)
    row = reply.rows[0]
    if mine := sending.mine(row):
        return mine
    state, actual = row[STATE_COLUMN], row[VERSION_COLUMN]
    statements.mapping.known_state(sending.key, state)
    if sending.expected_version not in {None, actual}:
        raise sending.stale(actual, state, sending.expected_version)
    if version not in {None, actual}:
        return _Lost(actual, state)
    false_guards = _false_guards(statements, row, state)
    if false_guards is not None:
        raise sending.refused(actual, state, false_guards)
    return _Lost(actual, state)


def _asked(sending: _Sending) -> Plan[Reply]:
    """The diagnosis. If it fails, a call that was sent before may still have been written."""
    parameters = sending.parameters(sending.statements.parameters, None)
    try:
        return (yield Execute(((sending.statements.diagnosis, parameters),)))
    except (Contention, LostRace):
        raise
    except ConnectionFailureError as error:
        if not sending.resent:
            raise
        raise OutcomeUnknownError(
            phase=error.phase, database=error.database, detail=error.detail, token=sending.token, key=sending.key
        ) from error


def _false_guards(statements: EventStatements, row: Row, state: object) -> tuple[str, ...] | None:
    """The guards that the diagnosis found false, one for each edge of the state; None if an edge may be taken.

    After an edge whose guards raise in Python, the machine does not come to the next.
    """
    found: list[str] = []
    for number, edge in enumerate(statements.edges):
        if edge.source == state:
            guard = _false_guard(statements, row, number)
            if guard is None:
                return None
            found.append(guard)
            if row.get(raises_column(number)):
                break
    return tuple(found)


def _false_guard(statements: EventStatements, row: Row, number: int) -> str | None:
    """The first guard of an edge that the diagnosis found false."""
    guards = enumerate(statements.edges[number].guards)
    return next(
        (guard.label for m, guard in guards if guard.truth is not None and not row[guard_column(number, m)]),
        None,
    )


def load(statements: Statements, key: Any) -> Plan[Snapshot]:
    """Read one row: see `PersistenceAdapter.load`."""
    snapshot, _ = yield from retried(lambda: _load(statements, key, "load"))
    return snapshot


def _load(statements: Statements, key: Any, event: str) -> Plan[tuple[Snapshot, UUID | None]]:
    mapping = statements.mapping
    reply: Reply = yield Execute(((statements.load, mapping.key_values(key)),))
    if not reply.rows:
        raise RowNotFoundError(table=mapping.table, key=key, event=event)
    values = dict(reply.rows[0])
    return snapshot_of(statements, values), values[mapping.token]


def create(statements: Statements, values: Mapping[str, Any]) -> Plan[Snapshot]:
    """Insert a row in the initial state: see `PersistenceAdapter.create`."""
    mapping = statements.mapping
    check_new(mapping, values)
    values, initial = {**mapping.made_by_client(values), **values}, mapping.initial
    changes: Mapping[str, Any] = {}
    steps: tuple[Step, ...] = ()
    if statements.initial_runs_python:
        blank = {**dict.fromkeys(mapping.columns), **values}
        fired: Any = yield from _fire(Firing(mapping.machine, mapping.entity, mapping.state, blank, None, {}))
        check_changes(fired.changes)
        changes, steps, initial = fired.changes, fired.steps, fired.target
    token = mint()
    row = {**changes, **values, mapping.state: initial, mapping.version: 1, mapping.token: token}
    mapping.known_state(None, initial)
    insert, parameters = statements.insert(row, steps, given=values), value_parameters(row)
    key = mapping.key_of(values) if values.keys() >= set(mapping.key_attributes) else None
    transaction = Execute(((insert, parameters), *statements.after_insert(values)), token, key)
    reply: Reply = yield from retried(lambda: _once(transaction))
    return snapshot_of(statements, dict(reply.rows[0]))


def _once(transaction: Execute) -> Plan[Reply]:
    return (yield transaction)


def snapshot_of(statements: Statements, values: Mapping[str, Any]) -> Snapshot:
    """A row as a snapshot.

    Raises:
        UnknownStateError: the machine lacks the stored state.
    """
    mapping = statements.mapping
    key, state = mapping.key_of(values), values[mapping.state]
    mapping.known_state(key, state)
    return Snapshot(key=key, state=state, version=values[mapping.version], values=values)
