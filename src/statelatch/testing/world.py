"""The world of `lifecycle_rules`: rows, clients that work on them, and what must hold of each call.

It knows nothing of Hypothesis: each method is one step, whose arguments say everything that happens in it. The rows
are new ones in each world, so that no database has to be emptied.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from sqlalchemy.exc import IntegrityError

from statelatch.errors import (
    BatchInterruptedError,
    ConfigurationError,
    OutcomeUnknownError,
    Phase,
    RowNotFoundError,
    StaleVersionError,
)
from statelatch.records import Request, Snapshot, Transitioned
from statelatch.testing.batches import check_batch
from statelatch.testing.calls import Call, Span, Trouble, fail
from statelatch.testing.creations import check_created, check_snapshot, check_taken, is_failure
from statelatch.testing.crowd import Crowd, answer_of
from statelatch.testing.fault import ProcessDied
from statelatch.testing.keys import new_key, unused_key
from statelatch.testing.logs import check_history, check_log
from statelatch.testing.rows import Asked, Attempt, Row, Version
from statelatch.testing.verdicts import check_again, check_answer, check_unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from statelatch.adapter import PersistenceAdapter
    from statelatch.mapping import MachineMapping
    from statelatch.testing.clients import Clients
    from statelatch.testing.mishaps import Change, Mishap, Overtaking
    from statelatch.testing.stored import Stored

__all__ = ["World"]

TRIES = 5
"""How often a key may be taken already."""


class World:
    """Some rows, and clients that work on them.

    Args:
        mapping: the machine and the entity.
        clients: where clients come from.
        count: how many of them work here.
    """

    def __init__(self, mapping: MachineMapping, clients: Clients, count: int) -> None:
        self.mapping = mapping
        self.rows: list[Row] = []
        self._pool = clients
        self._table = clients.table
        self._crowd = Crowd(mapping, clients, count)

    def leave(self) -> None:
        """Let the next world have the clients."""
        self._crowd.leave()
        self._pool.close()

    def check(self) -> None:
        """No row is another than it was left.

        Raises:
            LifecycleError: one is.
        """
        found = {stored.key: stored for stored in self._table.rows([row.stored.key for row in self.rows])}
        for row in self.rows:
            stored = found.get(row.stored.key)
            if stored != row.stored:
                fail(f"the row {row.stored.key!r}, to which nobody sent anything", row.stored, stored)

    # -- steps ----------------------------------------------------------------------------------------------------

    def create(self, client: int, values: Mapping[str, Any], mishap: Mishap | None) -> Row | None:
        """A client inserts a row; None if a fault was in the way.

        Raises:
            ConfigurationError: a constraint was. To go on without a row is impossible: Hypothesis draws the same values
                again, and expects the same to be possible after them.
        """
        for _ in range(TRIES):
            columns = {**new_key(self.mapping, values), **values}
            has_key = columns.keys() >= set(self.mapping.key_attributes)
            key = self.mapping.key_of(columns) if has_key else None
            before = None if key is None else self._table.row(key)
            answer, trouble = self._crowd.told(client, mishap, partial(_create, columns))
            stored = self._made(key, answer)
            if before is not None:
                check_taken(before, stored, answer, trouble)
                continue
            check_created(self.mapping, columns, answer, stored, trouble)
            if isinstance(answer, IntegrityError):
                continue
            if isinstance(answer, OutcomeUnknownError) and stored is not None and answer.token is not None:
                landed = self._crowd.another.verify(answer.token, stored.key)
                if not landed:
                    fail("verify of create", "True: the row is there", landed)
            return None if stored is None else self._adopted(client, stored)
        raise ConfigurationError(
            f"values: no row could be inserted, because it breaks a constraint: {dict(values)}. Rows of earlier "
            "examples are still there, and Hypothesis draws simple values again and again: leave out the key, and make "
            "what is unique anew each time, by st.builds(uuid4), or st.builds(secrets.randbelow, st.just(2**31))."
        )

    def send(
        self,
        client: int,
        asked: Asked,
        *,
        own_token: bool = False,
        mishap: Mishap | None = None,
        overtaken_by: Overtaking | Change | None = None,
    ) -> Attempt | None:
        """A client sends an event; None if the call cannot be repeated."""
        row, call = asked.row, self._call(client, asked, own_token=own_token)
        answer, spans, trouble = self._crowd.sent(client, row.stored, call, mishap, overtaken_by)
        done = check_answer(self.mapping, call, answer, spans, trouble)
        row.becomes(*(stored for span in spans for stored in span))
        self._learn(client, row, answer)
        token = answer.token if isinstance(answer, OutcomeUnknownError) else call.token
        if token is None:
            return None
        attempt = Attempt(row, replace(call, token=token), done)
        if isinstance(answer, OutcomeUnknownError | ProcessDied):
            self._verify(attempt, answer)
            self.repeat(None, attempt)
        return attempt if own_token else None

    def send_to_nobody(self, client: int, event: str, params: Mapping[str, Any]) -> None:
        """A client sends an event to a row that is not there; nothing, if no key can be made up."""
        try:
            key = unused_key(self.mapping)
        except ConfigurationError:
            return
        if self._table.row(key) is not None:
            return
        answer, _ = self._crowd.told(client, None, lambda adapter: adapter.send(key, event, **params))
        if not isinstance(answer, RowNotFoundError) or answer.key != key:
            fail(f"{event!r} to {key!r}", "that there is no such row", repr(answer))
        if (stored := self._table.row(key)) is not None:
            fail(f"{event!r} to {key!r}", "no row, as before", stored)

    def repeat(self, client: int | None, attempt: Attempt) -> None:
        """A client repeats a call with its token; None is one that has done nothing else.

        Without a log nobody can tell, of a row that has moved on, whether a call on any version had been applied.
        """
        row, call, done = attempt.row, attempt.call, attempt.done
        has_moved_on = done is not None and row.stored.version != done.after.version
        if has_moved_on and self.mapping.log is None and call.expected_version is None:
            return
        answer, spans, _ = self._crowd.sent(client, row.stored, call)
        if done is None:
            attempt.done = check_answer(self.mapping, call, answer, spans)
            row.becomes(spans[-1].after)
            return
        if spans[-1].after != row.stored:
            fail(f"{call}, repeated with its token", "the row as it was: it had been applied", spans[-1].after)
        if not has_moved_on or self.mapping.log is not None:
            check_again(call, answer, done)
        elif not isinstance(answer, StaleVersionError | OutcomeUnknownError):
            fail(f"{call}, repeated with its token", f"stale, or unknown, at version {row.stored.version}", answer)

    def load(self, client: int, row: Row, mishap: Mishap | None) -> None:
        """A client reads a row, and its history."""
        key = row.stored.key
        answer, trouble = self._crowd.told(client, mishap, lambda adapter: adapter.load(key))
        if isinstance(answer, Snapshot):
            check_snapshot(answer, row.stored)
            row.seen[client] = answer.version
        elif not (trouble.struck and is_failure(answer)):
            fail(f"load of {key!r}", f"version {row.stored.version}", repr(answer))
        if self.mapping.log is not None:
            check_history(row.stored, self._crowd.adapter(client).history(key))

    def send_batch(self, client: int, requests: Sequence[Asked], mishap: Mishap | None) -> None:
        """A client sends many events at once, every other with a token; what was interrupted, another sends again.

        Events that need Python, which a batch refuses, are left out.
        """
        asked = [each for each in requests if self._is_compiled(each.event)]
        calls = [self._call(client, each, own_token=n % 2 == 0) for n, each in enumerate(asked)]
        if not calls:
            return
        batch = [_request(call) for call in calls]
        answer, trouble = self._crowd.told(client, mishap, lambda adapter: adapter.send_batch(batch))
        answers = self._answers(answer, len(calls), trouble)
        for row in dict.fromkeys(each.row for each in asked):
            told = [(call, each) for call, each in zip(calls, answers, strict=True) if call.key == row.stored.key]
            spans = check_batch(self.mapping, told, Span(row.stored, self._crowd.read(row.stored.key)), trouble)
            row.becomes(*(stored for span in spans for stored in span))
            self._send_again(row, told, spans)

    def change(self, row: Row, values: Mapping[str, Any]) -> None:
        """Somebody writes columns of a row, which is no transition."""
        self._table.change(row.stored.key, values)
        row.becomes(self._crowd.read(row.stored.key))

    # -- how they are done ----------------------------------------------------------------------------------------

    def _call(self, client: int, asked: Asked, *, own_token: bool) -> Call:
        row, current = asked.row, asked.row.stored.version
        versions = {
            Version.ANY: None,
            Version.CURRENT: current,
            Version.SEEN: row.seen.get(client, 1),
            Version.STALE: current - 1,
            Version.AHEAD: current + 1,
        }
        return Call(
            key=row.stored.key,
            event=asked.event,
            params=asked.params,
            expected_version=versions[asked.version],
            token=uuid4() if own_token else None,
            compiled=self._is_compiled(asked.event),
        )

    def _is_compiled(self, event: str) -> bool:
        return self._crowd.another.explain(event).compiled

    def _answers(self, answer: object, count: int, trouble: Trouble) -> list[object]:
        """An answer for each request: those that a fault has left without one are sent again, by another client."""
        if isinstance(answer, list):
            return cast("list[object]", answer)
        if not (trouble.struck and is_failure(answer)):
            fail("send_batch", f"{count} answers", repr(answer))
        if not isinstance(answer, BatchInterruptedError):
            return [answer] * count
        if answer.phase is Phase.COMMIT:
            check_unknown("send_batch", answer, trouble)
        rest = iter(_batched(self._crowd.another, answer.requests))
        return [next(rest) if told is None else told for told in answer.answers]

    def _send_again(self, row: Row, told: Sequence[tuple[Call, object]], spans: Sequence[Span]) -> None:
        """Requests with tokens that have been applied are not applied again, and have the same answer."""
        done = [
            (call, span)
            for (call, answer), span in zip(told, spans, strict=False)
            if call.token is not None and isinstance(answer, Transitioned)
            if self.mapping.log is not None or span.after.version == row.stored.version
        ]
        if not done:
            return
        answers = _batched(self._crowd.another, [_request(call) for call, _ in done])
        for (call, span), answer in zip(done, answers, strict=True):
            check_again(call, answer, span)
        if (stored := self._crowd.read(row.stored.key)) != row.stored:
            fail("send_batch, sent again with its tokens", row.stored, stored)

    def _verify(self, attempt: Attempt, answer: OutcomeUnknownError | ProcessDied) -> None:
        """Ask, over another connection, what became of a call: it must be the truth."""
        call, done = attempt.call, attempt.done
        assert call.token is not None, "an attempt has one"  # noqa: S101
        expected = answer.expected_version if isinstance(answer, OutcomeUnknownError) else call.expected_version
        try:
            landed = self._crowd.another.verify(call.token, call.key, event=call.event, expected_version=expected)
        except OutcomeUnknownError as error:
            is_last = done is not None and done.after.version == attempt.row.stored.version
            if self.mapping.log is not None or is_last or attempt.row.stored.version == 1:
                fail(f"verify of {call}", f"that it {'was' if done else 'was not'} applied", repr(error))
            return
        if landed != (done is not None):
            fail(f"verify of {call}", f"{not landed}: the row is at {attempt.row.stored}", landed)

    def _made(self, key: object, answer: object) -> Stored | None:
        """The row that a client's INSERT has left, as far as it can be found."""
        if isinstance(answer, Snapshot | OutcomeUnknownError) and answer.key is not None:
            key = answer.key
        if key is None and isinstance(answer, OutcomeUnknownError) and answer.token is not None:
            key = self._table.key_of(answer.token)
        return None if key is None else self._table.row(key)

    def _adopted(self, client: int, stored: Stored) -> Row:
        """A new row, which everybody knows to be at version 1."""
        row = Row(stored, {client: 1}, {stored.token})
        check_log(stored)
        self.rows.append(row)
        return row

    def _learn(self, client: int, row: Row, answer: object) -> None:
        """What a client has been told of the row's version."""
        if isinstance(answer, Transitioned):
            row.seen[client] = answer.version
        elif isinstance(answer, StaleVersionError):
            row.seen[client] = answer.actual_version


def _create(columns: Mapping[str, Any], adapter: PersistenceAdapter) -> Snapshot:
    return adapter.create(**columns)


def _request(call: Call) -> Request:
    return Request(call.key, call.event, call.expected_version, call.params, call.token)


def _batched(adapter: PersistenceAdapter, requests: Sequence[Request]) -> list[object]:
    """The answers to a batch that no fault strikes."""
    answer = answer_of(lambda: adapter.send_batch(requests))
    if not isinstance(answer, list):
        fail("send_batch, sent again without a fault", f"{len(requests)} answers", repr(answer))
    return cast("list[object]", answer)
