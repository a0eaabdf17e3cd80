"""PURE: the order of steps of `send_batch`.

Theory of operation. The requests of one event are carried by one UPDATE, in portions; each portion is a transaction of
its own. Those that moved no row are diagnosed together, in a new transaction, by the rules of `send`; what has changed
in between is tried again, three times.

- A portion that the database breaks off again and again is carried out in two halves, and so on down to a single
  request: one whose values the database refuses does not deny the others their answers.
- If an acknowledgement is lost, what has landed is asked on a new connection; the others are sent one by one, by the
  rules of `send`.
- If the database does not answer, what it has answered so far goes with the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from statelatch.batch_requests import Batch
from statelatch.batch_statements import NUMBER
from statelatch.commands import Applied, Execute, Plan, Reply
from statelatch.errors import (
    BatchInterruptedError,
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    OvertakenError,
    UnknownStateError,
)
from statelatch.event_requests import EventRequests, Portion
from statelatch.faults import Contention, LostRace, is_impossible
from statelatch.labels import AT_COLUMN, STATE_COLUMN, TOKEN_COLUMN, VERSION_COLUMN
from statelatch.outcomes import instant
from statelatch.plans import asked_time, resumed
from statelatch.records import Request, Transitioned, transitions
from statelatch.request_tables import Columns
from statelatch.retrying import TRIES, insisted, once, pauses, retried
from statelatch.sending import Lost, Sending, explained
from statelatch.sessions import Rest
from statelatch.tokens import variants
from statelatch.verifying import PATIENCE, logged, rest_of

if TYPE_CHECKING:
    from statelatch.prepared import Prepared
    from statelatch.statements import Statements

__all__ = ["Answer", "send_batch"]

Answer = Transitioned | NotAppliedError | UnknownStateError | Exception
"""What became of one request."""


def send_batch(statements: Statements, requests: Iterable[Request]) -> Plan[list[Answer]]:
    """Apply many events to many rows: see `PersistenceAdapter.send_batch`."""
    sent = _Sent(Batch(statements, requests))
    try:
        for portion in sent.batch.portions():
            yield from _answered(sent, portion)
    except ConnectionFailureError as error:
        raise sent.interrupted(error) from error.__cause__
    return cast("list[Answer]", sent.answers)


class _Sent:
    """A batch on its way.

    Attributes:
        batch: what is asked for.
        answers: to each request, in order; None to one that has none yet.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.answers: list[Answer | None] = [None] * len(batch.requests)

    def answer(self, requests: EventRequests, place: int, answer: Answer) -> None:
        """Note what became of one request; of an error without the frames of this plan, which would keep everything."""
        error: BaseException | None = answer if isinstance(answer, Exception) else None
        while error is not None and error.__traceback__ is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__
        self.answers[requests.numbers[place]] = answer

    def left(self, portion: Portion) -> Portion:
        """Those that have no answer yet."""
        numbers, answers = portion.of.numbers, self.answers
        return Portion(portion.of, [place for place in portion.places if answers[numbers[place]] is None])

    def interrupted(self, error: ConnectionFailureError) -> BatchInterruptedError:
        """The error, with all answers, and with the requests that have none."""
        left = [
            replace(request, token=UUID(int=token))
            for request, token, answer in zip(self.batch.requests, self.batch.tokens, self.answers, strict=True)
            if answer is None
        ]
        return BatchInterruptedError(
            phase=error.phase,
            database=error.database,
            detail=error.detail,
            answers=self.answers,
            requests=left,
            session=error.session if isinstance(error, OutcomeUnknownError) else None,
        )


class _FailedError(Exception):
    """The database, or its driver, refuses a statement; perhaps for the values of a single request in it."""

    def __init__(self, error: Exception, *, is_impossible: bool = False) -> None:
        super().__init__(error)
        self.error, self.is_impossible = error, is_impossible


def _answered(sent: _Sent, portion: Portion) -> Plan[None]:
    """Answer each request of a portion, if need be in halves."""
    try:
        yield from _tried(sent, portion)
    except _FailedError as failed:
        error, left = failed.error, sent.left(portion)
        if failed.is_impossible:
            if not any(sent.answers):
                raise error from None
            for place in left.places:
                sent.answer(left.of, place, error)
        elif len(left.places) == 1:
            sent.answer(left.of, left.places[0], error)
        else:
            yield from _halved(sent, left)
    except (Contention, LostRace):
        left = sent.left(portion)
        if len(left.places) == 1:
            raise
        yield from _halved(sent, left)


def _halved(sent: _Sent, portion: Portion) -> Plan[None]:
    half = len(portion.places) // 2
    yield from _answered(sent, Portion(portion.of, portion.places[:half]))
    yield from _answered(sent, Portion(portion.of, portion.places[half:]))


def _tried(sent: _Sent, portion: Portion) -> Plan[None]:
    """Try it, and those again whose row has changed meanwhile."""
    lost: Mapping[int, Lost] = {}
    race: LostRace | None = None
    for _ in range(TRIES):
        race = yield from _moved(sent, portion)
        portion = sent.left(portion)
        lost = (yield from _diagnosed(sent, portion)) if portion.places else {}
        if not lost:
            return
        portion = Portion(portion.of, list(lost))
    if race is not None and len(lost) > 1:  # one row has changed; the others may have nothing to do with it
        raise race
    for place, loss in lost.items():
        sent.answer(portion.of, place, _sending(sent, portion.of, place).given_up(loss))


def _moved(sent: _Sent, portion: Portion) -> Plan[LostRace | None]:
    """Send the UPDATE, and answer the requests that have moved their row. The race, if the database calls it lost."""
    requests = portion.of
    statements = tuple(requests.filled(each, portion.places) for each in requests.writing)
    try:
        reply = yield from _executed(*statements)
    except LostRace as race:
        return race
    except OutcomeUnknownError as lost:
        yield from _verified(sent, portion, lost)
        return None
    rows = Columns.of(reply.rows)
    packed: datetime | None = None
    if requests.packs_time and rows:
        packed = yield from _packed_time(requests.event.of_mapping, reply.number)
    applied = _transitioned(sent, portion, rows, packed) if rows else ()
    yield Applied(applied)
    return None


def _verified(sent: _Sent, portion: Portion, lost: OutcomeUnknownError) -> Plan[None]:
    """Answer the requests of a portion whose acknowledgement was lost: those that have landed at once."""
    requests = portion.of
    asked = Execute((requests.filled(requests.diagnosis, portion.places),), fresh=True, seconds=PATIENCE)
    try:
        if (yield from rest_of(requests.event.of_mapping, lost)) is Rest.STATEMENT:
            raise lost
        reply = yield from insisted(once(asked))
    except OutcomeUnknownError:
        raise
    except (ConnectionFailureError, DBAPIError) as error:
        raise lost from error
    for row in reply.rows:
        if mine := _sending(sent, requests, row[NUMBER]).mine(row):
            sent.answer(requests, row[NUMBER], mine)
            yield Applied((mine,))
    for place in sent.left(portion).places:
        try:
            sent.answer(requests, place, (yield from resumed(_whole(sent, requests, place), lost)))
        except OvertakenError as error:
            sent.answer(requests, place, error)
        except ConnectionFailureError:
            raise
        except Exception as error:  # noqa: BLE001  it is this request's alone: the others have their answers
            sent.answer(requests, place, error)


def _packed_time(statements: Statements, number: int | None) -> Plan[datetime]:
    """When the UPDATE was, which is durable already; if a trigger hides its number, when that was found."""
    if number:
        return instant(number)
    statements.pack_no_more()
    try:
        return (yield from asked_time(statements))
    except ConnectionFailureError:
        return datetime.now(UTC)


def _diagnosed(sent: _Sent, portion: Portion) -> Plan[Mapping[int, Lost]]:
    """Ask why these requests have moved no row, and answer those that know; the others, with what was found."""
    requests = portion.of
    reply = yield from retried(lambda: _executed(requests.filled(requests.diagnosis, portion.places)))
    found = {row[NUMBER]: row for row in reply.rows}
    lost: dict[int, Lost] = {}
    for place in portion.places:
        sending = _sending(sent, requests, place)
        try:
            answer = (yield from _logged(sent, requests, place)) or explained(
                sending, found.get(place), sending.expected_version
            )
        except (NotAppliedError, UnknownStateError) as error:
            sent.answer(requests, place, error)
            continue
        if isinstance(answer, Lost):
            lost[place] = answer
        else:
            sent.answer(requests, place, answer)
            yield Applied((answer,))
    return lost


def _logged(sent: _Sent, requests: EventRequests, place: int) -> Plan[Transitioned | None]:
    """The request's transition, if it was sent before, and the log has it."""
    if requests.event.of_mapping.log is None or sent.batch.requests[requests.numbers[place]].token is None:
        return None
    return (yield from logged(_whole(sent, requests, place)))


def _executed(*statements: tuple[Prepared, Mapping[str, Any]]) -> Plan[Reply]:
    """One transaction, begun anew a few times if the database breaks it off for the sake of another."""
    waits = pauses()
    while True:
        try:
            return (yield Execute(statements))
        except Contention as error:
            pause = next(waits, None)
            if pause is None:
                final = error.final(error.__cause__)
                if isinstance(final, Exception) and not isinstance(final, ConnectionFailureError):
                    raise _FailedError(final, is_impossible=True) from error  # it would be so for fewer rows, too
                raise
        except ConnectionFailureError:
            raise
        except Exception as error:
            raise _FailedError(error, is_impossible=is_impossible(error)) from error
        yield pause


def _sending(sent: _Sent, requests: EventRequests, place: int) -> Sending:
    """The request as `send` has it."""
    request, token = sent.batch.requests[requests.numbers[place]], UUID(int=requests.tokens[place])
    event = requests.event
    return Sending(
        statements=event,
        key=request.key,
        expected_version=request.expected_version,
        token=token,
        resent=request.token is not None,
        params=request.params,
        variants=variants(token, len(event.leaves)),
        key_values={},
        recorded={},
        base=request.expected_version,
    )


def _whole(sent: _Sent, requests: EventRequests, place: int) -> Sending:
    """The same, with what its own statements bind."""
    request, of_mapping = sent.batch.requests[requests.numbers[place]], requests.event.of_mapping
    return replace(
        _sending(sent, requests, place),
        key_values=of_mapping.mapping.key_values(request.key),
        recorded=of_mapping.log.recorded(request.params) if of_mapping.log is not None else {},
    )


def _transitioned(sent: _Sent, portion: Portion, rows: Columns, packed: datetime | None) -> Sequence[Transitioned]:
    """The outcomes that were read, each put where its request is: its token tells. Others' rows may be among them."""
    requests = portion.of
    event, numbers = requests.event, requests.numbers
    found = list(map(requests.owners(portion.places).get, map(_integer, rows[TOKEN_COLUMN])))
    if None in found:
        rows = rows.where([owner is not None for owner in found])
    owners = [owner for owner in found if owner is not None]
    if not owners:
        return ()
    several = len(event.leaves)
    places = owners if several == 1 else [owner // several for owner in owners]
    sources: Iterable[Any] = repeat(event.leaves[0]) if several == 1 else [event.leaves[n % several] for n in owners]
    targets: Iterable[Any] = rows[STATE_COLUMN] if requests.tells_target else repeat(event.pairs[0][1])
    at = [numbers[place] for place in places]
    asked = sent.batch.requests
    made = transitions(
        keys=[asked[number].key for number in at],
        event=event.event,
        sources=sources,
        targets=targets,
        versions=rows[VERSION_COLUMN],
        tokens=rows[TOKEN_COLUMN],
        at=packed or rows[AT_COLUMN][0],
    )
    for number, transition in zip(at, made, strict=True):
        sent.answers[number] = transition
    return made


_integer = attrgetter("int")
