"""The world of `lifecycle_rules`: rows, clients that work on them, and what must hold of each call.

It knows nothing of Hypothesis: each method is one step, whose arguments say everything that happens in it. The rows
are new ones in each world, so that no database has to be emptied.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from uuid import UUID, uuid4

from sqlalchemy.exc import DBAPIError, IntegrityError

from statelatch.errors import (
    BatchInterruptedError,
    ConfigurationError,
    ConnectionFailureError,
    OutcomeUnknownError,
    StaleVersionError,
)
from statelatch.reasons import has_eventless
from statelatch.records import Request, Snapshot, Transitioned
from statelatch.testing.fault import ProcessDied
from statelatch.testing.keys import new_key
from statelatch.testing.mishaps import Change, Mishap, Overtaking, overtaken
from statelatch.testing.rows import Asked, Attempt, Row, Version
from statelatch.testing.verdicts import Call, Span, check_answer, check_batch, check_log, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from statelatch.mapping import MachineMapping
    from statelatch.testing.clients import Clients
    from statelatch.testing.injected import Injected
    from statelatch.testing.stored import Stored

__all__ = ["World"]

TRIES = 5
"""How often a key may be taken already."""


class Outcome(NamedTuple):
    """What became of a call."""

    answer: object
    spans: list[Span]
    struck: bool


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
        self._clients = [clients.take() for _ in range(count)]
        self._another = clients.take()

    def leave(self) -> None:
        """Let the next world have the clients."""
        for client in (*self._clients, self._another):
            self._pool.give_back(client)
        self._clients.clear()
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
        """A client inserts a row; None if there is none in the end.

        Raises:
            ConfigurationError: the values have the key of a row that is there already.
        """
        for _ in range(TRIES):
            columns = {**new_key(self.mapping, values), **values}
            insert = partial(self._clients[client].adapter.create, **columns)
            answer, struck = self._struck(client, mishap, insert)
            if not isinstance(answer, IntegrityError):
                return self._created(client, columns, answer, struck=struck)
        raise ConfigurationError(
            f"values: no row could be inserted, because it breaks a constraint: {dict(values)}. Rows of earlier "
            "examples are still there: leave out the key, or draw what is unique from many values."
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
        row, call = asked.row, self._call(client, asked, uuid4() if own_token else None)
        answer, spans, struck = self._sent(client, row, call, mishap, overtaken_by)
        done = check_answer(self.mapping, call, answer, spans, struck=struck)
        row.becomes(*(stored for span in spans for stored in span))
        self._learn(client, row, answer)
        if isinstance(answer, ProcessDied):
            self._succeed(client)
        token = answer.token if isinstance(answer, OutcomeUnknownError) else call.token
        if token is None:
            return None
        attempt = Attempt(row, replace(call, token=token), done)
        if isinstance(answer, OutcomeUnknownError | ProcessDied):
            self._verify(attempt, answer)
            self.repeat(None, attempt)
        return attempt if own_token else None

    def repeat(self, client: int | None, attempt: Attempt) -> None:
        """A client repeats a call with its token; None is one that has done nothing else.

        Without a log nobody can tell, of a row that has moved on, whether a call on any version had been applied.
        """
        row, call, done = attempt.row, attempt.call, attempt.done
        has_moved_on = done is not None and row.stored.version != done.after.version
        if has_moved_on and self.mapping.log is None and call.expected_version is None:
            return
        answer, spans, _ = self._sent(client, row, call, None, None)
        if done is None:
            attempt.done = check_answer(self.mapping, call, answer, spans, struck=False)
            row.becomes(spans[-1].after)
            return
        if spans[-1].after != row.stored:
            fail(f"{call}, repeated with its token", "the row as it was: it had been applied", spans[-1].after)
        if not has_moved_on or self.mapping.log is not None:
            _check_again(call, answer, done)
        elif not isinstance(answer, StaleVersionError | OutcomeUnknownError):
            fail(f"{call}, repeated with its token", f"stale, or unknown, at version {row.stored.version}", answer)

    def load(self, client: int, row: Row, mishap: Mishap | None) -> None:
        """A client reads a row."""
        key = row.stored.key
        answer, struck = self._struck(client, mishap, lambda: self._clients[client].adapter.load(key))
        if isinstance(answer, Snapshot):
            _check_snapshot(answer, row.stored)
            row.seen[client] = answer.version
        elif not (struck and _is_failure(answer)):
            fail(f"load of {key!r}", f"version {row.stored.version}", repr(answer))
        if isinstance(answer, ProcessDied):
            self._succeed(client)

    def send_batch(self, client: int, requests: Sequence[Asked], mishap: Mishap | None) -> None:
        """A client sends many events at once; what was interrupted, another sends again.

        Events that need Python, which a batch refuses, are left out.
        """
        calls = [(asked.row, self._call(client, asked)) for asked in requests]
        calls = [(row, call) for row, call in calls if call.compiled]
        if not calls:
            return
        batch = [Request(call.key, call.event, call.expected_version, call.params) for _, call in calls]
        answer, struck = self._struck(client, mishap, lambda: self._clients[client].adapter.send_batch(batch))
        if isinstance(answer, ProcessDied):
            self._succeed(client)
        answers = self._answers(answer, len(calls), struck=struck)
        for row in dict.fromkeys(row for row, _ in calls):
            own = [(call, told) for (each, call), told in zip(calls, answers, strict=True) if each is row]
            span = Span(row.stored, self._read(row.stored.key))
            check_batch(self.mapping, own, span, struck=struck)
            row.becomes(span.after) if len(own) == 1 else row.jumps(span.after)

    def _answers(self, answer: object, count: int, *, struck: bool) -> list[object]:
        """An answer for each request: those that a fault has left without one are sent again, and not struck."""
        if isinstance(answer, list):
            return cast("list[object]", answer)
        if not (struck and _is_failure(answer)):
            fail("send_batch", f"{count} answers", repr(answer))
        if not isinstance(answer, BatchInterruptedError):
            return [answer] * count
        again = answer_of(lambda: self._another.adapter.send_batch(answer.requests))
        if not isinstance(again, list):
            fail("send_batch, sent again without a fault", f"{len(answer.requests)} answers", repr(again))
        rest = iter(cast("list[object]", again))
        return [next(rest) if told is None else told for told in answer.answers]

    def change(self, row: Row, values: Mapping[str, Any]) -> None:
        """Somebody writes columns of a row, which is no transition."""
        self._table.change(row.stored.key, values)
        row.becomes(self._read(row.stored.key))

    # -- how they are done ----------------------------------------------------------------------------------------

    def _call(self, client: int, asked: Asked, token: UUID | None = None) -> Call:
        row, current = asked.row, asked.row.stored.version
        versions = {
            Version.ANY: None,
            Version.SEEN: row.seen.get(client, 1),
            Version.STALE: current - 1,
            Version.AHEAD: current + 1,
        }
        return Call(
            key=row.stored.key,
            event=asked.event,
            params=asked.params,
            expected_version=versions[asked.version],
            token=token,
            compiled=self._another.adapter.explain(asked.event).compiled,
        )

    def _struck(self, client: int, mishap: Mishap | None, call: Callable[[], object]) -> tuple[object, bool]:
        """Call it, while this goes wrong; what it answers, and whether something went wrong."""
        with ExitStack() as stack:
            injector = self._clients[client].injector
            injected = stack.enter_context(mishap.strike(injector)) if mishap else []
            return answer_of(call), any(each.fired for each in injected)

    def _sent(
        self, client: int | None, row: Row, call: Call, mishap: Mishap | None, other: Overtaking | Change | None
    ) -> Outcome:
        """Send it, while this goes wrong and somebody is faster."""
        one = self._another if client is None else self._clients[client]
        between: list[Stored] = []
        errors: list[BaseException] = []

        def act() -> None:
            assert other is not None, "else nobody would act"  # noqa: S101
            try:
                between.extend(self._overtake(call.key, other))
            except BaseException as error:
                errors.append(error)
                raise

        injected: list[Injected] = []
        with ExitStack() as stack:
            if mishap:
                injected = stack.enter_context(mishap.strike(one.injector))
            if other:
                stack.enter_context(overtaken(one.injector, act, after=injected if mishap and mishap.cuts else None))
            answer = answer_of(
                lambda: one.adapter.send(
                    call.key, call.event, expected_version=call.expected_version, token=call.token, **call.params
                )
            )
        if errors:
            raise errors[0]  # the call may have made something else of it
        rows = [row.stored, *between, self._read(call.key)]
        spans = [Span(before, after) for before, after in zip(rows[::2], rows[1::2], strict=True)]
        return Outcome(answer, spans, any(each.fired for each in injected))

    def _overtake(self, key: object, other: Overtaking | Change) -> tuple[Stored, Stored]:
        """Somebody else is faster; the row before and after."""
        before = self._read(key)
        if isinstance(other, Change):
            self._table.change(key, other.values)
            return before, self._read(key)
        adapter = self._another.adapter
        call = Call(key=key, event=other.event, params=other.params, compiled=adapter.explain(other.event).compiled)
        answer = answer_of(lambda: adapter.send(key, other.event, **other.params))
        after = self._read(key)
        check_answer(self.mapping, call, answer, [Span(before, after)], struck=False)
        return before, after

    def _verify(self, attempt: Attempt, answer: OutcomeUnknownError | ProcessDied) -> None:
        """Ask, over another connection, what became of a call: it must be the truth."""
        call, done = attempt.call, attempt.done
        assert call.token is not None, "an attempt has one"  # noqa: S101
        expected = answer.expected_version if isinstance(answer, OutcomeUnknownError) else call.expected_version
        try:
            landed = self._another.adapter.verify(call.token, call.key, event=call.event, expected_version=expected)
        except OutcomeUnknownError as error:
            is_last = done is not None and done.after.version == attempt.row.stored.version
            if self.mapping.log is not None or is_last or attempt.row.stored.version == 1:
                fail(f"verify of {call}", f"that it {'was' if done else 'was not'} applied", repr(error))
            return
        if landed != (done is not None):
            fail(f"verify of {call}", f"{not landed}: the row is at {attempt.row.stored}", landed)

    def _created(self, client: int, columns: Mapping[str, Any], answer: object, *, struck: bool) -> Row | None:
        """The row that a client's INSERT has left, after a check of its answer."""
        mapping = self.mapping
        told = answer if isinstance(answer, Snapshot | OutcomeUnknownError) else None
        key = told.key if told else None
        if key is None and columns.keys() >= set(mapping.key_attributes):
            key = mapping.key_of(columns)
        if key is None and isinstance(answer, OutcomeUnknownError) and answer.token:
            key = self._table.key_of(answer.token)
        stored = None if key is None else self._table.row(key)
        if isinstance(answer, ProcessDied):
            self._succeed(client)
        elif isinstance(answer, Snapshot):
            if stored is None:
                fail("create", f"the row {answer.key!r}, as it was answered", "none")
            _check_snapshot(answer, stored)
        elif not (struck and _is_failure(answer)):
            if isinstance(answer, ConnectionFailureError):
                fail("create", "an answer: the database was there", repr(answer))
            raise ConfigurationError(f"values: create({columns}) raised {answer!r}") from _raised(answer)
        elif stored is not None and not isinstance(answer, OutcomeUnknownError):
            fail("create", f"no row: it was answered {type(answer).__name__}", stored)
        if isinstance(answer, OutcomeUnknownError) and key is not None and answer.token is not None:
            landed = self._another.adapter.verify(answer.token, key)
            if landed != (stored is not None):
                fail("verify of create", stored is not None, landed)
        return None if stored is None else self._adopted(client, stored)

    def _adopted(self, client: int, stored: Stored) -> Row:
        """A new row, which everybody knows to be at version 1."""
        initial = self.mapping.initial
        if stored.version != 1 or not (stored.state == initial or has_eventless(self.mapping)):
            fail("create", f"version 1 in state {initial!r}", f"version {stored.version} in state {stored.state!r}")
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

    def _succeed(self, client: int) -> None:
        """Another process takes the place of one that died."""
        self._pool.dead(self._clients[client])
        self._clients[client] = self._pool.born()

    def _read(self, key: object) -> Stored:
        stored = self._table.row(key)
        if stored is None:
            fail(f"the row {key!r}", "to be there", "none")
        return stored


def answer_of(call: Callable[[], object]) -> object:
    """What is returned, or raised."""
    try:
        return call()
    except (Exception, ProcessDied) as error:  # noqa: BLE001  it is the answer
        return error


def _is_failure(answer: object) -> bool:
    """Whether a call failed as it may after a fault: a driver's error is none that another connection would mend."""
    return isinstance(answer, ConnectionFailureError | ProcessDied | DBAPIError)


def _raised(answer: object) -> BaseException | None:
    return answer if isinstance(answer, BaseException) else None


def _check_snapshot(snapshot: Snapshot, stored: Stored) -> None:
    told = snapshot.key, snapshot.state, snapshot.version, dict(snapshot.values)
    if told != (stored.key, stored.state, stored.version, dict(stored.values)):
        fail(f"the snapshot of {stored.key!r}", stored, snapshot)


def _check_again(call: Call, answer: object, done: Span) -> None:
    """A repeated call is told what the first has done."""
    expected = done.before.state, done.after.state, done.after.version, done.after.token
    if not isinstance(answer, Transitioned):
        fail(f"{call}, repeated with its token", f"what it had done, {expected}", repr(answer))
    told = answer.source, answer.target, answer.version, answer.token
    if told != expected:
        fail(f"{call}, repeated with its token", f"what it had done, {expected}", told)
