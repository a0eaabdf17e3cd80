"""What became of each request that was written together with others: what `send` would have told its caller.

Rules:

- What can be refused beforehand is refused before the request is one of many.
- Every caller gets an exception object of its own: one that is raised in many threads has the tracebacks of all.
- What a batch leaves open is found out by token, never guessed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from statelatch.batch_checks import check_bytes, check_no_lists
from statelatch.errors import (
    BatchInterruptedError,
    ConnectionFailureError,
    OutcomeUnknownError,
    Phase,
    RequestError,
)
from statelatch.records import Request, Transitioned
from statelatch.requests import bound_parameters, check_compared, check_params, check_proof
from statelatch.tokens import mint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statelatch.adapter import PersistenceAdapter
    from statelatch.statements import Statements

__all__ = ["Outcome", "check", "outcomes", "sent"]

Outcome = Transitioned | BaseException


def check(statements: Statements, request: Request) -> None:
    """Refuse what `send` would refuse, and what is not compiled, before it is one of many.

    Raises:
        RequestError: which it is.
    """
    event = statements.event(request.event)
    if event.reasons:
        raise RequestError(
            f"{request.event!r} needs the Python machine for each row, which a batch does not run: "
            f"{'; '.join(event.reasons)}; nothing was written. Use the adapter's `send`."
        )
    check_no_lists(event)
    check_params(request.event, request.params)
    check_bytes(statements.dialect, request.params)
    check_proof(request.expected_version, request.token)
    statements.mapping.key_values(request.key)
    bound_parameters(request.event, event.parameters, request.params)
    check_compared(request.event, event.compared, request.params)
    if statements.log is not None:
        statements.log.recorded(request.params)


def outcomes(adapter: PersistenceAdapter, requests: Sequence[Request]) -> Sequence[Outcome]:
    """What became of each request.

    Each of a batch has its token beforehand: whatever of it had been written is recognised when it is sent again. That
    happens to those who would share one error, of a missing table for instance, which says nothing about single ones.
    """
    if len(requests) < 2:
        return [_outcome(adapter, request) for request in requests]
    sealed = [request if request.token else replace(request, token=mint()) for request in requests]
    answers = _answers(adapter, sealed)
    found = Counter(map(id, answers))
    return [
        answer if answer is not None and found[id(answer)] == 1 else _outcome(adapter, request)
        for request, answer in zip(sealed, answers, strict=True)
    ]


def _answers(adapter: PersistenceAdapter, requests: Sequence[Request]) -> Sequence[Outcome | None]:
    """What the batch answered to each; nothing, if it raised what no connection is to blame for."""
    try:
        return adapter.send_batch(requests)
    except BatchInterruptedError as interrupted:
        known = zip(interrupted.answers, requests, strict=True)
        return [_unanswered(interrupted, request) if answer is None else answer for answer, request in known]
    except BaseException:  # noqa: BLE001  each gets it again, for itself
        return [None] * len(requests)


def _unanswered(interrupted: BatchInterruptedError, request: Request) -> ConnectionFailureError:
    """What `send` would have raised: an exception for this caller alone."""
    phase, database, detail = interrupted.phase, interrupted.database, interrupted.detail
    if phase is Phase.COMMIT:
        error: ConnectionFailureError = OutcomeUnknownError(
            phase=phase,
            database=database,
            detail=detail,
            token=request.token,
            key=request.key,
            event=request.event,
            expected_version=request.expected_version,
            session=interrupted.session,
        )
    else:
        error = ConnectionFailureError(phase=phase, database=database, detail=detail)
    error.__cause__ = interrupted.__cause__
    return error


def _outcome(adapter: PersistenceAdapter, request: Request) -> Outcome:
    try:
        return sent(adapter, request)
    except BaseException as error:  # noqa: BLE001  whatever it is, it is the caller's
        return error


def sent(adapter: PersistenceAdapter, request: Request) -> Transitioned:
    """One request, by itself."""
    return adapter.send(
        request.key,
        request.event,
        expected_version=request.expected_version,
        token=request.token,
        **request.params,
    )
