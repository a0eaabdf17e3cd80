"""PURE: the order of steps of each verb, as generators. The only file that orders.

A plan yields commands (`Execute`, `Fire`), is sent their replies and returns the verb's result; what went
wrong is thrown into it. It never sees a connection, so a test drives it with scripted replies, and sync and
async share it whole. See PEP 342 for the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from statelatch.commands import Applied, Execute, Fire, Plan, Reply, Row
from statelatch.errors import (
    ConnectionFailureError,
    OutcomeUnknownError,
    Phase,
    RequestError,
    RowNotFoundError,
)
from statelatch.event_statements import Interpreted
from statelatch.faults import LostRace, Passing
from statelatch.interpreter import Fired, Firing, Refused, Step
from statelatch.labels import (
    AT_COLUMN,
    STATE_COLUMN,
    TOKEN_COLUMN,
    VERSION_COLUMN,
    value_parameters,
)
from statelatch.outcomes import Packed, Packing, Pair, instant
from statelatch.records import Snapshot, Transitioned
from statelatch.requests import bound_parameters, check_changes, check_compared, check_new, check_params, check_proof
from statelatch.retrying import TRIES, once, raise_final, retried
from statelatch.sending import Lost, Sending, explained
from statelatch.statements import Statements
from statelatch.tokens import mint, source_number, variants
from statelatch.verifying import created, logged, verified, verify

if TYPE_CHECKING:
    from statelatch.prepared import Prepared

__all__ = ["asked_time", "create", "load", "resumed", "send", "verify"]


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
    if params:
        check_params(event, params)
    check_proof(expected_version, token)
    proof = token or mint()
    sending = Sending(
        of_event,
        key,
        expected_version,
        proof,
        token is not None,
        params,
        variants(proof, len(of_event.leaves)),
        statements.mapping.key_values(key),
        statements.log.recorded(params) if statements.log is not None else {},
    )
    if of_event.parameters:  # a missing one is told before anything is sent
        bound_parameters(event, of_event.parameters, params)
    if of_event.compared:
        check_compared(event, of_event.compared, params)
    return (yield from _sent(sending))


def _sent(sending: Sending) -> Plan[Transitioned]:
    """Try until it is applied or refused, a few times."""
    lost: Lost | None = None
    for _ in range(TRIES):
        try:
            outcome = yield from retried(lambda: _attempt(sending))
        except OutcomeUnknownError:
            raise
        except ConnectionFailureError as error:
            if sending.lost is None:
                raise
            raise sending.unknown(error) from error
        if isinstance(outcome, Transitioned):
            yield Applied((outcome,))
            return outcome
        lost = outcome
        if sending.lost is not None:
            sending.pinned = lost.version
    assert lost is not None, "the last try returns or raises"  # noqa: S101
    if lost.unanswered is not None:
        raise sending.unknown(lost.unanswered) from lost.unanswered
    raise sending.given_up(lost)


def resumed(sending: Sending, lost: OutcomeUnknownError) -> Plan[Transitioned]:
    """The same for a call of which one try was not acknowledged."""
    outcome = yield from verified(sending, lost)
    if isinstance(outcome, Transitioned):
        yield Applied((outcome,))
        return outcome
    sending.pinned = outcome.version
    return (yield from _sent(sending))


def _attempt(sending: Sending) -> Plan[Transitioned | Lost]:
    """One try. A race that the database itself calls lost is diagnosed like an UPDATE that matched no row."""
    try:
        return (yield from (_compiled if sending.statements.compiled else _interpreted)(sending))
    except LostRace:
        return (yield from _diagnose(sending, None))


def _written(sending: Sending, transaction: Execute) -> Plan[Reply | Transitioned | Lost]:
    """What the UPDATE's transaction answers; if it does not, what has become of it."""
    try:
        return (yield transaction)
    except OutcomeUnknownError as lost:
        return (yield from verified(sending, lost))


def _compiled(sending: Sending) -> Plan[Transitioned | Lost]:
    """One UPDATE; the database decides."""
    statements = sending.statements
    version = sending.base = sending.pinned if sending.expected_version is None else sending.expected_version
    packs, clock = statements.of_mapping.has_last_insert_id, statements.of_mapping.clock
    may_pack = packs and (version is not None or clock.is_set)
    compiled = statements.compiled_update(at_version=version is not None, resent=sending.resent, packed=may_pack)
    parameters = sending.parameters(statements.parameters, version)
    transaction = _transaction(sending, compiled.update, parameters, compiled.packing)
    reply = yield from _written(sending, transaction)
    if not isinstance(reply, Reply):
        return reply
    if not reply.matched:
        return (yield from _diagnose(sending, version))
    if compiled.packing is None:
        (row,) = reply.rows
        if packs:
            clock.tell(row[AT_COLUMN])
        source, target = _pair(sending, row)
        after = row[VERSION_COLUMN] if version is None else version + 1
        return sending.transitioned(source, target, after, row[AT_COLUMN])
    if not reply.number:
        return (yield from _hidden(sending))
    packed = compiled.packing.unpacked(reply.number)
    source, target = statements.pairs[packed.pair]
    after = packed.version if version is None else version + 1
    assert after is not None, "it is packed unless it is known"  # noqa: S101
    return sending.transitioned(source, target, after, (yield from _time(statements.of_mapping, packed)))


def _pair(sending: Sending, row: Row) -> Pair:
    """Source and target of the UPDATE that returned this row."""
    statements = sending.statements
    if len(statements.pairs) == 1:
        return statements.pairs[0]
    number = source_number(sending.token, row[TOKEN_COLUMN], len(statements.leaves))
    assert number is not None, "the row has the token that was written"  # noqa: S101
    return statements.leaves[number], row[STATE_COLUMN]


def _hidden(sending: Sending) -> Plan[Transitioned | Lost]:
    """The outcome of an UPDATE that is durable, and whose packed number did not come back: a trigger takes it away.

    From now on the row is read again in the same transaction. Here that is too late, but rarely too late to find it.
    """
    sending.statements.of_mapping.pack_no_more()
    detail = "a trigger hid the outcome"
    hidden = ConnectionFailureError(phase=Phase.COMMIT, database=sending.table, detail=detail)
    return (yield from verified(sending, sending.unknown(hidden)))


def _time(statements: Statements, packed: Packed) -> Plan[datetime]:
    """When the UPDATE was, which is durable already."""
    if packed.microseconds is None:
        try:
            return (yield from asked_time(statements))
        except ConnectionFailureError:  # it must not look as if nothing had been written
            return instant(statements.clock.now)
    if packed.version is None:
        return instant(packed.microseconds)
    return instant(statements.clock.completed(packed.microseconds))


def asked_time(statements: Statements) -> Plan[datetime]:
    """The database's time now."""
    reply: Reply = yield Execute(((statements.time, {}),))
    (row,) = reply.rows
    statements.clock.tell(row[AT_COLUMN])
    return row[AT_COLUMN]


def _interpreted(sending: Sending) -> Plan[Transitioned | Lost]:
    """Read, run the machine, and write on the version that was read."""
    mapping, statements = sending.statements.mapping, sending.statements
    try:
        snapshot, token = yield from _load(statements.of_mapping, sending.key, statements.event)
    except RowNotFoundError:
        if not sending.resent:
            raise
        return (yield from _diagnose(sending, None))
    if source_number(sending.token, token, len(statements.leaves)) is not None:
        return (yield from _diagnose(sending, sending.expected_version))
    if sending.resent and (mine := (yield from logged(sending))):
        return mine
    sending.check_followed(snapshot.version, snapshot.state)
    if sending.expected_version not in {None, snapshot.version}:
        raise sending.stale(snapshot.version, snapshot.state, sending.expected_version)
    sending.base = snapshot.version
    firing = Firing(mapping.machine, mapping.entity, mapping.state, snapshot.values, statements.event, sending.params)
    fired = yield from _fire(firing)
    if isinstance(fired, Refused):
        raise sending.refused(snapshot.version, snapshot.state, fired.guards)
    if fired.taken_back:  # the chart caught a callback's error as an event, and stayed where it was
        raise sending.refused(snapshot.version, snapshot.state, ())
    update, parameters = _update_fired(sending, snapshot, fired)
    reply = yield from _written(sending, _transaction(sending, update.update, parameters, update.packing))
    if not isinstance(reply, Reply):
        return reply
    if not reply.matched:
        return (yield from _diagnose(sending, snapshot.version))
    if update.packing is None:
        (row,) = reply.rows
        at = row[AT_COLUMN]
    elif reply.number:
        at = yield from _time(statements.of_mapping, update.packing.unpacked(reply.number))
    else:
        return (yield from _hidden(sending))
    return sending.transitioned(snapshot.state, fired.target, snapshot.version + 1, at)


def _fire(firing: Firing) -> Plan[Fired | Refused]:
    """Run the machine. What a callback's own database did is no reason to run the callbacks again."""
    try:
        return (yield Fire(firing))
    except Passing as error:
        raise_final(error)


def _update_fired(sending: Sending, snapshot: Snapshot, fired: Fired) -> tuple[Interpreted, Mapping[str, Any]]:
    """The UPDATE for what the machine did, and its parameters."""
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
    return update, sending.parameters(update.parameters, snapshot.version) | values


def _transaction(sending: Sending, update: Prepared, parameters: Mapping[str, Any], packing: Packing | None) -> Execute:
    """The UPDATE, its entry in the log, and, where nothing else tells its outcome, what reads the row again."""
    of_mapping, entry = sending.statements.of_mapping, sending.statements.entry
    entered = () if entry is None else ((entry, parameters),)
    told = of_mapping.tells_outcome or packing is not None
    reread = () if told else ((of_mapping.reread, sending.key_values),)
    return Execute(((update, parameters), *entered, *reread), sending.token, sending.key)


def _diagnose(sending: Sending, version: int | None) -> Plan[Transitioned | Lost]:
    """Why an UPDATE matched no row, asked in a new transaction: an old snapshot would not tell.

    `version` is the one that the UPDATE asked for. The token comes first: a repeated statement may have met
    its own earlier write.
    """
    if sending.resent and (mine := (yield from logged(sending))):
        return mine
    parameters = sending.parameters(sending.statements.parameters, None)
    try:
        reply: Reply = yield Execute(((sending.statements.diagnosis, parameters),))
    except Passing:
        raise
    except ConnectionFailureError as error:
        if not sending.resent:
            raise
        return (yield from verified(sending, sending.unknown(error)))  # an earlier call may have written it
    return explained(sending, next(iter(reply.rows), None), version)


def load(statements: Statements, key: Any) -> Plan[Snapshot]:
    """Read one row: see `PersistenceAdapter.load`."""
    snapshot, _ = yield from retried(lambda: _load(statements, key, "load"))
    return snapshot


def _load(statements: Statements, key: Any, event: str) -> Plan[tuple[Snapshot, UUID | None]]:
    mapping = statements.mapping
    reply: Reply = yield Execute(((statements.load, mapping.key_values(key)),))
    if not reply.rows:
        raise RowNotFoundError(table=mapping.table, key=key, event=event)
    (row,) = reply.rows
    values = dict(row)
    return snapshot_of(statements, values), values[mapping.token]


def create(statements: Statements, values: Mapping[str, Any]) -> Plan[Snapshot]:
    """Insert a row in the initial state: see `PersistenceAdapter.create`."""
    mapping = statements.mapping
    check_new(mapping, values)
    given, initial = values, mapping.initial
    values = {**mapping.made_by_client(given), **given}
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
    transaction = Execute(((insert, parameters), *statements.after_insert(row)), token, key, whole=True)
    try:
        reply = yield from retried(once(transaction))
        (found,) = reply.rows
    except OutcomeUnknownError as lost:
        own = any(isinstance(values.get(name), UUID) for name in mapping.key_attributes if name not in given)
        found = yield from created(statements, transaction, lost, own_key=key is not None and own)
    return snapshot_of(statements, dict(found))


def snapshot_of(statements: Statements, values: Mapping[str, Any]) -> Snapshot:
    """A row as a snapshot.

    Raises:
        UnknownStateError: the machine lacks the stored state.
    """
    mapping = statements.mapping
    key, state = mapping.key_of(values), values[mapping.state]
    mapping.known_state(key, state)
    return Snapshot(key=key, state=state, version=values[mapping.version], values=values)
