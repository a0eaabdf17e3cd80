"""PURE: operations, what clients asked and were told, and when. `Recorder` writes them, `check_history` judges them.

An operation has two times, of any one clock that all clients share: when it was called, and when it returned. Of two
operations that overlap either may have come first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["History", "Moves", "Operation", "Verb"]

Moves = Mapping[Any, frozenset[Any]]
"""From each state that an event may leave to the states in which it may leave the row."""


class Verb(StrEnum):
    """What was asked."""

    CREATE = "create"
    LOAD = "load"
    SEND = "send"  # alone, or as one request of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one client, and its answer.

    Attributes:
        verb: what was asked.
        key: primary key of the row; None if a `create` was not told it.
        called: when; a number that grows.
        returned: when; None if the client never came back.
        answer: the `Transitioned` or `Snapshot`, or what was raised; None if the client never came back.
        event: name of the event of a `send`.
        expected_version: as it was sent.
        token: as it was sent; None if the adapter made one.
        moves: what the event can do, if that is known: then answers are also compared with the machine.
        client: who called, for messages.
    """

    verb: Verb
    key: Any
    called: float
    returned: float | None = None
    answer: object = None
    event: str | None = None
    expected_version: int | None = None
    token: UUID | None = None
    moves: Moves | None = None
    client: str = ""

    def asked(self) -> str:
        """The call as a person reads it."""
        words = [self.verb if self.event is None else f"{self.verb} {self.event}"]
        if self.expected_version is not None:
            words.append(f"at version {self.expected_version}")
        if self.token is not None:
            words.append(f"with token {self.token}")
        return " ".join(words)


class History:
    """Operations of many threads on one clock. Iterate over it for what has been asked so far."""

    def __init__(self) -> None:
        self._operations: dict[int, Operation] = {}
        self._clock = itertools.count(1)  # its `next` is one step: no two threads get the same time

    def called(self, operation: Operation) -> int:
        """Note that it was called, now.

        Returns:
            The time, which is also its number here.
        """
        now = next(self._clock)
        self._operations[now] = replace(operation, called=now)
        return now

    def returned(self, number: int, answer: object, **known: Any) -> None:
        """Note that it has returned, now.

        Args:
            number: which one, as `called` has told.
            answer: what it was told.
            known: further attributes that the answer made known, the key of a new row for instance.
        """
        operation = self._operations[number]
        self._operations[number] = replace(operation, answer=answer, returned=next(self._clock), **known)

    def __iter__(self) -> Iterator[Operation]:
        """The operations in the order of their calls; those without an answer yet are among them."""
        return iter(list(self._operations.values()))

    def __len__(self) -> int:
        """How many have been called."""
        return len(self._operations)
