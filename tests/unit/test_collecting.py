"""When a batcher writes, and what: the rule alone, with a clock that the test moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelatch.collecting import Collection, Limits
from statelatch.errors import RequestError

DELAY = 2.0


def collecting(*, max_size: int = 100, max_delay: float = DELAY, max_pending: int = 1000) -> Collection[int]:
    """A collection of numbers."""
    return Collection(Limits(max_size=max_size, max_delay=max_delay, max_pending=max_pending))


def written(collection: Collection[int], size: int, now: float = 0.0) -> None:
    """Write a batch of this size, so that the next one is expected to have it, too."""
    for number in range(size):
        collection.add(number, now)
    assert collection.take() == list(range(size))
    collection.settle(now)


def test_nothing_is_written_until_something_comes() -> None:
    """An idle writer waits without end, and is woken by the first that comes."""
    collection = collecting()

    assert (collection.patience(5.0), collection.is_awaited) == (None, True)


def test_a_lone_caller_waits_for_nobody() -> None:
    """One at a time, each is written at once, however long the delay."""
    collection = collecting()
    for now in (0.0, 1.0, 1.1, 50.0):
        collection.add(7, now)
        assert collection.patience(now) == 0.0
        assert collection.take() == [7]
        collection.settle(now)


def test_callers_who_come_together_are_written_together() -> None:
    """After a batch of three the writer waits for three, and no longer than the delay from the first on."""
    collection = collecting()
    written(collection, 3, now=10.0)
    collection.add(1, 20.0)
    assert (collection.patience(20.0), collection.is_awaited) == (DELAY, False)
    collection.add(2, 21.0)
    assert (collection.patience(21.5), collection.is_awaited) == (0.5, True)
    collection.add(3, 21.5)
    assert collection.patience(21.5) == 0.0
    assert collection.take() == [1, 2, 3]


def test_the_wait_for_more_ends_with_the_delay() -> None:
    """Fewer came than last time: they are written all the same, and the next batch is expected to be as small."""
    collection = collecting()
    written(collection, 3)
    collection.add(1, 1.0)
    assert collection.patience(1.0 + DELAY) == 0.0
    assert collection.take() == [1]
    collection.settle(4.0)
    collection.add(2, 5.0)
    assert collection.patience(5.0) == 0.0


def test_what_comes_meanwhile_is_the_next_batch() -> None:
    """While one batch is being written nobody is woken; what came meanwhile waits from the moment it is answered."""
    collection = collecting()
    for number in range(4):
        collection.add(number, 0.0)
    collection.take()
    collection.add(4, 1.0)
    assert (collection.is_awaited, collection.unanswered) == (False, 5)
    collection.settle(10.0)
    assert (collection.patience(10.0), collection.settled) == (DELAY, 4)
    assert collection.take() == [4]


def test_two_crowds_become_one() -> None:
    """Whoever came while others were written waits for these to come back, so that they do not take turns for ever."""
    collection = collecting()
    for number in range(2):
        collection.add(number, 0.0)
    collection.take()
    for number in range(2, 4):
        collection.add(number, 0.0)
    collection.settle(1.0)
    assert collection.patience(1.0) == DELAY
    for number in range(2):
        collection.add(number, 1.5)

    assert collection.patience(1.5) == 0.0
    assert collection.take() == [2, 3, 0, 1]


def test_a_full_batch_is_written_at_once() -> None:
    """No batch is larger than it may be, and what is over comes in the next one."""
    collection = collecting(max_size=2)
    written(collection, 2)
    for number in range(5):
        collection.add(number, 0.0)
    batches: list[list[int]] = []
    while collection.patience(0.0) == 0.0:
        batches.append(collection.take())
        collection.settle(0.0)

    assert batches == [[0, 1], [2, 3]]
    assert collection.patience(0.0) == DELAY


def test_nobody_waits_for_more_than_there_may_be() -> None:
    """Where only two may be unanswered, two are all that can come."""
    collection = collecting(max_pending=2)
    written(collection, 3)
    collection.add(1, 0.0)
    assert collection.has_room
    collection.add(2, 0.0)

    assert (collection.has_room, collection.patience(0.0)) == (False, 0.0)


def test_what_is_being_written_takes_room() -> None:
    """Room is there again when a batch is answered, not when it is taken."""
    collection = collecting(max_pending=1)
    collection.add(1, 0.0)
    collection.take()
    assert not collection.has_room
    collection.settle(0.0)

    assert collection.has_room


def test_a_flush_waits_for_nobody() -> None:
    """What waits when somebody is in a hurry is written at once; what comes after it waits again."""
    collection = collecting()
    written(collection, 3)
    collection.add(1, 0.0)
    collection.hurry()
    assert collection.patience(0.0) == 0.0
    assert collection.take() == [1]
    collection.settle(0.0)
    written(collection, 3)
    collection.hurry()  # of nothing
    collection.add(2, 0.0)

    assert collection.patience(0.0) == DELAY


def test_what_is_left_at_the_end_is_given_back() -> None:
    """What is being written, and what waits, in order; it counts as settled, so that nobody waits for it."""
    collection = collecting(max_size=2)
    for number in range(3):
        collection.add(number, 0.0)
    collection.take()

    assert collection.drain() == [0, 1, 2]
    assert (collection.unanswered, collection.settled) == (0, 3)


WRONG: list[dict[str, Any]] = [
    *({name: value} for name in ("max_size", "max_pending") for value in (0, -1, 1.0, True, "1", None)),
    *({"max_delay": value} for value in (-0.001, 61, float("nan"), float("inf"), True, "1", None)),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_limits_that_let_nothing_through_are_refused(wrong: dict[str, Any]) -> None:
    """With the name of the argument, and what was found."""
    (found,) = wrong.items()
    with pytest.raises(RequestError, match=f"^{found[0]}: expected .*, found {found[1]!r}$"):
        collecting(**wrong)


# -- any order of events ------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """A thread, played by the test: it writes when its patience is at an end, and does not look unless it is woken.

    Attributes:
        busy_for: how long a batch takes.
        looks: when it looks again by itself.
        settles: when its batch is answered.
        free_since: since when it could have written.
    """

    collection: Collection[int]
    busy_for: float
    now: float = 0.0
    looks: float | None = None
    settles: float | None = None
    free_since: float = 0.0
    came: dict[int, float] = field(default_factory=dict[int, float])
    batches: list[list[int]] = field(default_factory=list[list[int]])

    def arrive(self, number: int) -> None:
        """A caller comes, if there is room."""
        if self.collection.has_room:
            awaited = self.collection.is_awaited
            self.collection.add(number, self.now)
            self.came[number] = self.now
            if awaited:
                self.look()

    def until(self, moment: float) -> None:
        """Let time pass."""
        while (due := min(time for time in (self.looks, self.settles, moment) if time is not None)) < moment:
            self.now = due
            if self.settles == due:
                self.settles, self.free_since = None, due
                self.collection.settle(due)
            self.look()
        self.now = moment

    def look(self) -> None:
        """What the thread does when it wakes up."""
        patience = self.collection.patience(self.now)
        self.looks = None if patience is None else self.now + patience
        if patience == 0.0:
            batch = self.collection.take()
            assert self.now <= max(self.free_since, self.came[batch[0]]) + DELAY + 1e-9
            self.batches.append(batch)
            self.looks, self.settles = None, self.now + self.busy_for


@given(
    gaps=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.9, 2.0, 2.1, 7.0]), max_size=60),
    busy_for=st.sampled_from([0.01, 0.3, 1.0, 5.0]),
    max_size=st.integers(1, 6),
    max_pending=st.integers(1, 8),
)
def test_whatever_comes_is_written_once_in_order_and_in_time(
    gaps: list[float], busy_for: float, max_size: int, max_pending: int
) -> None:
    """Of any arrivals: each is written once, in order, in batches that are not too large, and none waits too long."""
    collection = collecting(max_size=max_size, max_pending=max_pending)
    writer = Writer(collection, busy_for)
    for number, gap in enumerate(gaps):
        writer.until(writer.now + gap)
        writer.arrive(number)
        assert collection.unanswered <= max_pending
    writer.until(writer.now + (max_pending + 1) * (busy_for + DELAY))

    assert [number for batch in writer.batches for number in batch] == list(writer.came)
    assert Counter(map(len, writer.batches)).keys() <= set(range(1, max_size + 1))
    assert (collection.unanswered, collection.settled) == (0, len(writer.came))
