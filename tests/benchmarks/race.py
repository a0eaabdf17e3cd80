"""Contestants side by side, in one run: what the clock says, and the proof that the work was done.

Rules: the contestants take turns in blocks of a few calls, in a new order each round, so that noise of the machine
hits all alike. What a block needs is made before the clock starts. A contestant cannot win by doing less: its moves
are known beforehand, and `Entry.lap` tells what its table must hold in the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter_ns
from typing import NamedTuple

from tests.benchmarks.ring import EVENTS, STATES

__all__ = ["Block", "Entry", "Move", "race", "timed"]

MANY = 1000
"""Moves of a block that leave something to tidy up."""

WARM_UP = 6
"""Blocks before the clock starts: psycopg prepares a statement when it has seen it five times."""


class Move(NamedTuple):
    """One transition that a contestant has to make durable: this row, from this state and version."""

    key: int
    event: str
    source: str
    target: str
    version: int


Block = Callable[[Sequence[Move]], int]
"""Makes the moves, and returns the nanoseconds that it took."""


def timed(move: Callable[[Move], object]) -> Block:
    """A block of single calls."""

    def block(moves: Sequence[Move]) -> int:
        start = perf_counter_ns()
        for each in moves:
            move(each)
        return perf_counter_ns() - start

    return block


@dataclass
class Entry:
    """A contestant in a race.

    Attributes:
        name: as the tables call it.
        block: makes the moves.
        rows: of its table; its keys are 1 to `rows`.
        calls: moves of one block.
        stride: between the keys of successive moves; it shares no factor with `rows`.
        tidy: called after a block of many moves, with the clock stopped.
        moves: made so far.
        samples: µs per move, one of each timed block.
    """

    name: str
    block: Block
    rows: int
    calls: int
    stride: int = 1
    tidy: Callable[[], None] = lambda: None
    moves: int = 0
    samples: list[float] = field(default_factory=list[float])

    def run(self) -> float:
        """Make the next block of moves; returns µs per move."""
        moves = [self._move(number) for number in range(self.moves, self.moves + self.calls)]
        nanoseconds = self.block(moves)
        self.moves += self.calls
        if self.calls >= MANY:
            self.tidy()
        return nanoseconds / self.calls / 1000

    def lap(self, key: int) -> int:
        """How often the row of this key has been moved."""
        laps, rest = divmod(self.moves, self.rows)
        return laps + ((key - 1) * pow(self.stride, -1, self.rows) % self.rows < rest)

    def _move(self, number: int) -> Move:
        lap, place = divmod(number, self.rows)
        source, target = STATES[lap % 2], STATES[(lap + 1) % 2]
        return Move(place * self.stride % self.rows + 1, EVENTS[source], source, target, lap + 1)


def race(entries: Sequence[Entry], *, seconds: float, rounds: int, progress: Callable[[float], None]) -> None:
    """Let the entries take turns until the time is up.

    Args:
        entries: each gets one sample a round.
        seconds: for which it runs at least, the warm-up aside.
        rounds: which it runs at least.
        progress: told after each block the part that is done, 0 to 1.
    """
    for entry in entries:
        for _ in range(1 if entry.calls > MANY else WARM_UP):
            entry.run()
            progress(0.0)
    order = random.Random(0)
    done, start = 0, monotonic()
    while done < rounds or monotonic() - start < seconds:
        for entry in order.sample(entries, len(entries)):
            entry.samples.append(entry.run())
            progress(min(1.0, done / rounds, (monotonic() - start) / seconds))
        done += 1
