"""PURE: the order of steps after a lost acknowledgement: what was written is asked, never guessed.

Theory of operation. A transaction whose COMMIT was not acknowledged has landed, or not, or is still on its way. So its
session is ended, if the server still has it, and a *new* connection reads the row and locks it (FOR UPDATE): whoever is
still writing it is waited for, in a time limit.

- The row has our token: it has landed.
- The row is at the version that we asked for, or one further with another's token: it has not, and cannot any more.
- The row is in a state that cannot be reached from where we would have left it: it has not. So for terminal states the
  answer is always exact: no token there is ever overwritten.
- Otherwise our token may have been written and overwritten: the log tells. Without one, nobody can: `OvertakenError`.

What has not landed is sent again with the same token, to the version that was read: whichever of the two arrives
first, the other finds the row moved. Where the session was hidden (`sessions.Rest.UNSEEN`) the first may still land: a
row that is found more than one version further then is `OvertakenError`, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from statelatch.commands import Execute, Plan, Reply, Row
from statelatch.errors import ConnectionFailureError, OutcomeUnknownError, OvertakenError, Phase
from statelatch.faults import is_duplicate
from statelatch.labels import STATE_COLUMN, TOKEN_COLUMN, VERSION_COLUMN
from statelatch.retrying import TRIES, insisted, once, retried
from statelatch.sending import GONE, OVERTAKEN, Lost, Sending
from statelatch.sessions import Rest, ended
from statelatch.tokens import source_number, variants
from statelatch.writes import token_parameter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from statelatch.prepared import Prepared
    from statelatch.records import Transitioned
    from statelatch.sessions import Session
    from statelatch.statements import Statements

__all__ = ["PATIENCE", "created", "logged", "rest_of", "settled", "verified", "verify"]

PATIENCE = 10.0
"""Seconds for which the row may be locked by a lost session, or nobody answer."""

GOES_ON = "the server still carries out a statement of the session that was lost"


def verified(sending: Sending, lost: OutcomeUnknownError) -> Plan[Transitioned | Lost]:
    """What became of an UPDATE whose acknowledgement was lost: the transition, or that it did not land.

    Raises:
        OutcomeUnknownError: nobody answers, or the row has moved on.
        RowNotFoundError: the row is gone, and the log knows nothing.
    """
    sending.resent, sending.lost = True, lost
    statements, of_mapping = sending.statements, sending.statements.of_mapping
    try:
        rest = yield from rest_of(of_mapping, lost)
        if rest is Rest.STATEMENT:
            raise sending.unknown(lost, detail=GOES_ON)
        row = yield from _read(of_mapping.reread_locked, sending.key_values)
        mine = (sending.mine(row) if row is not None else None) or (yield from logged(sending))
    except OutcomeUnknownError:
        raise
    except ConnectionFailureError as error:
        raise sending.unknown(error) from error
    except DBAPIError as error:  # it could not be asked, whatever the reason
        raise sending.unknown(lost) from error
    if mine:
        return mine
    if row is None:
        raise sending.missing()
    is_told = of_mapping.log is not None or _is_before(row, sending.base) or row[STATE_COLUMN] not in statements.onward
    if not is_told:
        raise sending.overtaken(lost)
    sending.may_follow = rest is Rest.UNSEEN
    return Lost(row[VERSION_COLUMN], row[STATE_COLUMN], lost)


def rest_of(statements: Statements, lost: OutcomeUnknownError) -> Plan[Rest]:
    """End the session that was lost, if it is known; what may still come of it.

    Raises:
        ConnectionFailureError: nobody answers.
    """
    if lost.session is None:
        return Rest.NOTHING if statements.dialect.name == "sqlite" else Rest.UNSEEN
    return (yield from ended(statements.dialect, lost.session))


def settled(statements: Statements, lost: OutcomeUnknownError) -> Plan[None]:
    """The same as far as can be: what is counted afterwards, of many rows, stays so."""
    with suppress(ConnectionFailureError, DBAPIError):
        yield from rest_of(statements, lost)


def logged(sending: Sending) -> Plan[Transitioned | None]:
    """The transition, if the log has an entry with this call's token."""
    log = sending.statements.of_mapping.log
    if log is None:
        return None
    transaction = Execute(((sending.statements.logged_by_token, sending.parameters({}, None)),))
    reply = yield from (insisted if sending.lost else retried)(once(transaction))
    return next((sending.entered(log.entry_of(sending.key, each)) for each in reply.rows), None)


def created(statements: Statements, transaction: Execute, lost: OutcomeUnknownError, *, own_key: bool) -> Plan[Row]:
    """The row of an INSERT whose acknowledgement was lost; inserted again with the same key if it did not land.

    Args:
        statements: of the mapping.
        transaction: the INSERT.
        lost: the error.
        own_key: the key was made for this call: nobody else has it.

    Raises:
        OutcomeUnknownError: nobody answers; or the database would have made the key, and the row is not to be found.
    """
    mapping, token = statements.mapping, transaction.token
    by_key = transaction.key is not None
    asked = (
        (statements.load_locked, mapping.key_values(transaction.key))
        if by_key
        else (statements.by_token, {token_parameter(0): token})
    )
    failure: BaseException = lost
    for _ in range(TRIES):
        yield from _let_end(statements, lost)
        row = yield from _found(asked, lost)
        if row is not None and (own_key or row[mapping.token] == token):
            return row
        if not by_key:
            raise lost
        if row is not None and not (yield from _is_other(statements, transaction, row, lost)):
            return row
        if row is not None and is_duplicate(failure):
            raise failure
        try:
            reply: Reply = yield transaction
            return next(iter(reply.rows))
        except OutcomeUnknownError as error:
            lost = failure = error
        except ConnectionFailureError as error:
            raise lost from error
        except Exception as error:
            if not is_duplicate(error):
                raise
            failure = error
    raise failure


def _let_end(statements: Statements, lost: OutcomeUnknownError) -> Plan[None]:
    try:
        if (yield from rest_of(statements, lost)) is Rest.STATEMENT:
            raise lost
    except OutcomeUnknownError:
        raise
    except (ConnectionFailureError, DBAPIError) as error:
        raise lost from error


def _found(asked: tuple[Prepared, Mapping[str, Any]], lost: OutcomeUnknownError) -> Plan[Row | None]:
    try:
        return (yield from _read(*asked))
    except (ConnectionFailureError, DBAPIError) as error:
        raise lost from error


def _is_other(statements: Statements, transaction: Execute, row: Row, lost: OutcomeUnknownError) -> Plan[bool]:
    """Whether the row with our key was created by somebody else.

    Raises:
        OutcomeUnknownError: it has moved on since, and no log tells.
    """
    mapping, log = statements.mapping, statements.log
    if row[mapping.version] == 1:
        return True
    if log is None:
        raise OvertakenError(
            phase=lost.phase, database=lost.database, detail=OVERTAKEN, token=lost.token, key=lost.key
        ) from lost
    parameters = {**mapping.key_values(transaction.key), token_parameter(0): transaction.token}
    return not (yield from _asked(statements.logged(1), parameters))


def verify(
    statements: Statements,
    token: UUID,
    key: Any,
    *,
    event: str | None,
    expected_version: int | None,
    session: Session | None = None,
) -> Plan[bool]:
    """Whether a write has landed: see `PersistenceAdapter.verify`."""
    mapping, log = statements.mapping, statements.log

    def untold(kind: type[OutcomeUnknownError], detail: str) -> OutcomeUnknownError:
        return kind(
            phase=Phase.COMMIT,
            database=mapping.table,
            detail=detail,
            token=token,
            key=key,
            event=event,
            expected_version=expected_version,
            session=session,
        )

    if session is not None and (yield from ended(statements.dialect, session)) is Rest.STATEMENT:
        raise untold(OutcomeUnknownError, GOES_ON)
    events = [statements.event(each) for each in ([event] if event else mapping.events)]
    sources = max((len(each.leaves) for each in events), default=1)
    key_values = mapping.key_values(key)
    row = yield from _read(statements.reread_locked, key_values)
    if row is not None and source_number(token, row[TOKEN_COLUMN], sources) is not None:
        return True
    if log is not None:
        tokens = {token_parameter(n): each for n, each in enumerate(variants(token, sources))}
        return bool((yield from _asked(statements.logged(sources), {**key_values, **tokens})))
    if row is None:
        if event is None:  # it was to be created
            return False
        raise untold(OvertakenError, GONE)
    if _is_before(row, 0 if event is None and expected_version is None else expected_version):
        return False
    if not any(row[STATE_COLUMN] in each.onward for each in events):
        return False
    raise untold(OvertakenError, OVERTAKEN)


def _is_before(row: Row, base: int | None) -> bool:
    """Whether the row is where a write on this version would have found it, or one further by another's.

    Every row has begun at version 1.
    """
    return row[VERSION_COLUMN] <= (1 if base is None else base) + 1


def _read(statement: Prepared, parameters: Mapping[str, Any]) -> Plan[Row | None]:
    """The row, as a new connection sees it when whoever was writing it has ended."""
    return next(iter((yield from _asked(statement, parameters))), None)


def _asked(statement: Prepared, parameters: Mapping[str, Any]) -> Plan[Iterable[Row]]:
    reply = yield from insisted(once(Execute(((statement, parameters),), fresh=True, seconds=PATIENCE)))
    return reply.rows
