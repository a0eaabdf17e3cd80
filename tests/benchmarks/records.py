"""What a case is, how much of it is measured, and what comes out: no behaviour beyond the median."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.place import Place

__all__ = ["FULL", "QUICK", "TIMES", "Case", "Effort", "Measurement", "Progress", "Results"]

TIMES = "\N{MULTIPLICATION SIGN}"

Progress = Callable[[float], None]
"""Is told the part that is done, 0 to 1, where nothing is under way; raises `KeyboardInterrupt` after Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: that a race takes at least.
        rounds: of a race, at least.
        calls: single calls in a block, of each thread where there are several: enough to hide the clock, few enough
            that all contestants see the same noise.
        batch: rows of a batch.
        bulk: rows of a bulk update.
        sizes: rows of the tables that show the growth.
        memory: the fewest and the most rows whose memory is compared.
    """

    seconds: float
    rounds: int
    calls: int
    batch: int
    bulk: int
    sizes: tuple[int, ...]
    memory: tuple[int, int]


FULL = Effort(
    seconds=20,
    rounds=5,
    calls=50,
    batch=1000,
    bulk=100_000,
    sizes=(1, 10, 100, 1000, 10_000, 100_000),
    memory=(1000, 1_000_000),
)
QUICK = Effort(seconds=0.2, rounds=2, calls=5, batch=100, bulk=1000, sizes=(1, 10, 100), memory=(100, 1000))


@dataclass(frozen=True)
class Measurement:
    """What one contestant was measured at.

    Attributes:
        name: of the contestant.
        rows: that it moved at once, or of its table; None where that is the same for all.
        samples: in the unit of the case, at least two.
    """

    name: str
    rows: int | None
    samples: Sequence[float]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile."""
        lower, median, upper = quantiles(self.samples, n=4, method="inclusive")
        return lower, median, upper

    @property
    def median(self) -> float:
        """The median."""
        return self.quartiles[1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A question with its answer in numbers.

    Attributes:
        name: by which the command line knows it.
        title: its heading.
        unit: of the samples.
        floor: name of the contestant that the others are compared with; None if there is none.
        rate: also told as transitions a second.
        measure: answers it on one database, or raises `UnprovenError`.
    """

    name: str
    title: str
    unit: str
    floor: str | None = None
    rate: bool = False
    measure: Callable[[Place, Effort, Progress], Sequence[Measurement]]


Results = Mapping[str, Mapping[str, Sequence[Measurement]]]
"""By the name of the case, then of the database, as `Place.dialect` spells it."""
