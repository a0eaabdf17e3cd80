"""PURE: `send_where`: what a call may ask for, and the order of its steps.

What one UPDATE cannot do for a row (guards in Python, callbacks) is refused before it is sent. Whoever wants to know
the moved rows, the caller or a hook, has them read before COMMIT into a temporary file: no lock waits for a reader, and
nobody sees a key that is rolled back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from statelatch.commands import Applied, Execute, Plan, Row
from statelatch.criteria import checked
from statelatch.errors import OutcomeUnknownError, RequestError
from statelatch.event_statements import EventStatements
from statelatch.labels import AT_COLUMN, STATE_COLUMN, TOKEN_COLUMN, VERSION_COLUMN
from statelatch.records import BulkResult, Transitioned
from statelatch.requests import bound_parameters, check_compared, check_params
from statelatch.retrying import once, retried
from statelatch.spooled import SpooledRows
from statelatch.tokens import mint, source_number, variants
from statelatch.verifying import settled

if TYPE_CHECKING:
    from uuid import UUID

    from statelatch.bulk_statements import BulkStatements, EventInBulk
    from statelatch.mapping import MachineMapping

__all__ = ["send_where"]


def send_where(
    statements: BulkStatements,
    event: str,
    criteria: Collection[object],
    *,
    limit: int | None,
    keys: bool,
    waive: Collection[str],
    params: Mapping[str, Any],
    hooked: bool,
) -> Plan[BulkResult]:
    """Apply one event to many rows: see `PersistenceAdapter.send_where`.

    `hooked` says whether anybody wants to be told of each row.
    """
    bulk = statements.event(event)
    check_params(event, params)
    _check_limit(limit)
    _check_sendable(bulk, waive)
    _check_reserved(bulk, {"limit": limit is not None, "keys": keys, "waive": bool(waive)})
    token, of_event = mint(), bulk.event
    check_compared(event, of_event.compared, params)
    tokens = dict(zip(of_event.token_parameters, variants(token, len(of_event.leaves)), strict=True))
    log = statements.of_mapping.log
    parameters = bound_parameters(event, bulk.parameters, params) | tokens | (log.recorded(params) if log else {})
    moving = [(each, parameters) for each in bulk.moving(checked(of_event.mapping, criteria), limit)]
    reading = [(bulk.outcomes if hooked else bulk.keys, tokens)] if keys or hooked else []
    try:
        reply = yield from retried(once(Execute((*moving, *reading), token)))
    except OutcomeUnknownError as lost:
        yield from settled(statements.of_mapping, lost)
        raise
    if hooked:
        yield Applied(_transitioned(of_event, token, row) for row in reply.rows)
    found = _keys(of_event.mapping, reply.rows) if keys else None
    return BulkResult(event=event, count=reply.matched, token=token, keys=found)


def _keys(mapping: MachineMapping, rows: Collection[Row]) -> SpooledRows[Any]:
    """The keys in the rows that `drive` has kept; it has none if none were moved."""
    return rows.mapped(mapping.key_of) if isinstance(rows, SpooledRows) else SpooledRows[Any].of((), mapping.key_of)


def _transitioned(event: EventStatements, token: UUID, row: Row) -> Transitioned:
    number = source_number(token, row[TOKEN_COLUMN], len(event.leaves))
    return Transitioned(
        key=event.mapping.key_of(row),
        event=event.event,
        source=event.leaves[number or 0],
        target=row[STATE_COLUMN],
        version=row[VERSION_COLUMN],
        token=row[TOKEN_COLUMN],
        at=row[AT_COLUMN],
    )


def _check_limit(limit: object) -> None:
    if limit is not None and (type(limit) is not int or not 0 < limit < 2**63):
        raise RequestError(f"limit: expected a number of rows, at least 1, found {limit!r}; nothing was written")


def _check_sendable(bulk: EventInBulk, waive: object) -> None:
    """Refuse what an UPDATE cannot honour, and waivers of what nobody would call."""
    event, actions = bulk.event.event, bulk.actions
    if isinstance(waive, str) or not isinstance(waive, Collection):
        raise RequestError(f"waive: expected names, as ({str(waive)!r},), found {waive!r}; nothing was written")
    waived = cast("Collection[object]", waive)
    if unknown := [name for name in waived if name not in actions]:
        raise RequestError(
            f"waive: {event!r} would not call {', '.join(map(repr, unknown))}; it would call "
            f"{', '.join(map(repr, actions)) or 'nothing'}; nothing was written"
        )
    if reasons := bulk.reasons(frozenset(map(str, waived))):
        skipped = tuple(name for name in actions if name not in waived)
        hint = f", or say that it may do without the actions: waive={skipped}" if skipped else ""
        raise RequestError(
            f"{event!r} cannot be sent to many rows by one UPDATE: {'; '.join(reasons)}; nothing was written. "
            f"Send it row by row{hint}."
        )


def _check_reserved(bulk: EventInBulk, given: Mapping[str, bool]) -> None:
    """Refuse an event whose parameter is called like an argument of the verb, where it is not clear which is meant."""
    names = bulk.parameters
    clash = [name for name, is_given in given.items() if name in names and (is_given or names[name])]
    if clash:
        raise RequestError(
            f"{bulk.event.event!r} has a parameter {', '.join(map(repr, clash))}, which send_where takes for itself; "
            "nothing was written. Give the parameter another name, or send the event row by row."
        )
