"""`Recorder`: an adapter that writes down what its clients ask and are told, for `check_history`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from statelatch.errors import BatchInterruptedError
from statelatch.testing.operations import History, Moves, Operation, Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from statelatch.batch import Answer
    from statelatch.records import Request, Snapshot, Transitioned
    from statelatch.statements import Statements

__all__ = ["Recorder"]

Reply = TypeVar("Reply")


class Adapter(Protocol):
    """What is recorded: a `PersistenceAdapter`, or something that behaves like one."""

    @property
    def statements(self) -> Statements:
        """What it sends."""
        ...

    def create(self, **columns: Any) -> Snapshot:
        """Insert a row."""
        ...

    def load(self, key: Any) -> Snapshot:
        """Read a row."""
        ...

    def send(
        self, key: Any, event: str, *, expected_version: int | None = None, token: UUID | None = None, **params: Any
    ) -> Transitioned:
        """Apply an event."""
        ...

    def send_batch(self, requests: Iterable[Request]) -> list[Answer]:
        """Apply many events."""
        ...


class Recorder:
    """An adapter's verbs, each call of which is noted in a history. Threads may share it.

    Args:
        adapter: the adapter that does the work.
        history: where to note it; by default a history of its own. Recorders of several adapters may share one.
        client: who calls, for messages; by default the name of the calling thread.
    """

    def __init__(self, adapter: Adapter, history: History | None = None, *, client: str | None = None) -> None:
        self.adapter = adapter
        self.history = History() if history is None else history
        self._client = client
        self._moves: dict[str, Moves | None] = {}

    def create(self, **columns: Any) -> Snapshot:
        """Insert a row: see `PersistenceAdapter.create`."""
        mapping = self.adapter.statements.mapping
        given = columns.keys() >= set(mapping.key_attributes)
        key = mapping.key_of(columns) if given else None
        number = self._called(Verb.CREATE, key, token=None)
        snapshot = self._answered(number, lambda: self.adapter.create(**columns))
        self.history.returned(number, snapshot, key=snapshot.key)
        return snapshot

    def load(self, key: Any) -> Snapshot:
        """Read one row: see `PersistenceAdapter.load`."""
        number = self._called(Verb.LOAD, key, token=None)
        snapshot = self._answered(number, lambda: self.adapter.load(key))
        self.history.returned(number, snapshot)
        return snapshot

    def send(
        self, key: Any, event: str, *, expected_version: int | None = None, token: UUID | None = None, **params: Any
    ) -> Transitioned:
        """Apply one event to one row: see `PersistenceAdapter.send`."""
        moves = self._moves_of(event)
        number = self._called(Verb.SEND, key, event=event, expected_version=expected_version, token=token, moves=moves)
        done = self._answered(
            number,
            lambda: self.adapter.send(key, event, expected_version=expected_version, token=token, **params),
        )
        self.history.returned(number, done)
        return done

    def send_batch(self, requests: Iterable[Request]) -> list[Answer]:
        """Apply many events: see `PersistenceAdapter.send_batch`. Each request is an operation of its own."""
        requests = list(requests)
        numbers = [
            self._called(
                Verb.SEND,
                each.key,
                event=each.event,
                expected_version=each.expected_version,
                token=each.token,
                moves=self._moves_of(each.event),
            )
            for each in requests
        ]
        try:
            answers = self.adapter.send_batch(requests)
        except BatchInterruptedError as error:
            self._interrupted(numbers, error)
            raise
        except Exception as error:
            for number in numbers:
                self.history.returned(number, error)
            raise
        for number, answer in zip(numbers, answers, strict=True):
            self.history.returned(number, answer)
        return answers

    def _interrupted(self, numbers: list[int], error: BatchInterruptedError) -> None:
        """Some have an answer; of the others only the token is known."""
        unanswered = iter(error.requests)
        for number, answer in zip(numbers, error.answers, strict=True):
            if answer is None:
                self.history.returned(number, error, token=next(unanswered).token)
            else:
                self.history.returned(number, answer)

    def _called(self, verb: Verb, key: Any, **asked: Any) -> int:
        client = self._client or threading.current_thread().name
        return self.history.called(Operation(verb=verb, key=key, called=0, client=client, **asked))

    def _answered(self, number: int, call: Callable[[], Reply]) -> Reply:
        """Call it. What it raises is its answer; a client that is interrupted has none."""
        try:
            return call()
        except Exception as error:
            self.history.returned(number, error)
            raise

    def _moves_of(self, event: str) -> Moves | None:
        """What the event can do; nothing is known where an eventless transition may come before it."""
        statements = self.adapter.statements
        if event not in self._moves and event in statements.mapping.events:
            of_event = statements.event(event)
            moves = {source: of_event.reaches(source) for source in of_event.leaves}
            self._moves[event] = moves if of_event.leaves == of_event.sources else None
        return self._moves.get(event)
