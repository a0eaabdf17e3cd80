"""PURE: what a `Batcher` writes next, and when. No threads and no clock: the time is told, in seconds.

Rules:

- First come, first written. What comes while a batch is being written waits for the next.
- The writer waits for as many as there were just now: those whom it has answered, who may come back, and those who
  came meanwhile; at most `max_delay` from the moment at which it could have written the first of them. So a lone caller
  waits for nobody, and callers who keep coming are written together (as by PostgreSQL's `commit_delay`).
- A batch has at most `max_size` items; it is written as soon as it is full, or somebody is in a hurry.
- At most `max_pending` items are unanswered: waiting, or being written.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from statelatch.errors import RequestError

__all__ = ["Collection", "Limits"]

Item = TypeVar("Item")

LONGEST_DELAY = 60.0
"""Seconds. Nobody who waits for an answer wants to wait longer for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is collected, and for how long.

    Attributes:
        max_size: items in one batch.
        max_delay: seconds.
        max_pending: items that may be unanswered.

    Raises:
        RequestError: no such limit.
    """

    max_size: int
    max_delay: float
    max_pending: int

    def __post_init__(self) -> None:
        """Refuse limits with which nothing could be written."""
        for name in ("max_size", "max_pending"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise RequestError(f"{name}: expected at least 1 request, found {count!r}")
        if not _is_delay(self.max_delay):
            raise RequestError(f"max_delay: expected 0 to {LONGEST_DELAY:g} seconds, found {self.max_delay!r}")


def _is_delay(seconds: object) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= LONGEST_DELAY


class Collection(Generic[Item]):
    """What waits to be written, and the batch that is being written. Whoever shares it holds a lock.

    Attributes:
        settled: how many items were ever answered.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[Item] = deque()
        self._writing: list[Item] = []
        self._expected = 1
        self._writable_since = 0.0
        self._hurried = False
        self.settled = 0

    @property
    def unanswered(self) -> int:
        """Items that wait or are being written."""
        return len(self._waiting) + len(self._writing)

    @property
    def has_room(self) -> bool:
        """Whether another item may come."""
        return self.unanswered < self._limits.max_pending

    @property
    def is_awaited(self) -> bool:
        """Whether a writer who waits has to look again at the next item: it is the first, or the last it waits for."""
        return not self._writing and len(self._waiting) + 1 in {1, self._wanted}

    def add(self, item: Item, now: float) -> None:
        """One more; the first one's time is told."""
        if not self._waiting:
            self._writable_since = now
        self._waiting.append(item)

    def hurry(self) -> None:
        """Write everything that waits now without waiting for more."""
        self._hurried = bool(self._waiting)

    def patience(self, now: float) -> float | None:
        """For how many seconds the writer waits for more; 0 is not at all, None until something comes."""
        if not self._waiting:
            return None
        if self._hurried or len(self._waiting) >= self._wanted:
            return 0.0
        return max(0.0, self._writable_since + self._limits.max_delay - now)

    def take(self) -> list[Item]:
        """The next batch, in the order in which its items came. It is being written until `settle`."""
        size = min(len(self._waiting), self._limits.max_size)
        self._writing = [self._waiting.popleft() for _ in range(size)]
        self._hurried = self._hurried and bool(self._waiting)
        return self._writing

    def settle(self, now: float) -> None:
        """The batch is answered; for what came meanwhile the waiting begins."""
        self._expected = self.unanswered
        self.settled += len(self._writing)
        self._writing = []
        self._writable_since = now

    def drain(self) -> list[Item]:
        """Everything that is unanswered; it counts as settled."""
        left = [*self._writing, *self._waiting]
        self.settled += len(left)
        self._writing = []
        self._waiting.clear()
        return left

    @property
    def _wanted(self) -> int:
        """How many must wait for a batch to be as large as it can be expected to be, or may be."""
        return min(self._expected, self._limits.max_size, self._limits.max_pending)
