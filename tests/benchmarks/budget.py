"""PURE: the budget: what was promised, as a literal table, and whether what was measured keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.benchmarks.memory import WITH_KEYS, WITHOUT_KEYS
from tests.benchmarks.records import TIMES

if TYPE_CHECKING:
    from tests.benchmarks.records import Measurement, Results

__all__ = ["BUDGET", "Promise", "Verdict", "verdicts"]

EVERYWHERE = ("sqlite", "postgresql", "mariadb")

Found = Callable[[Sequence["Measurement"]], float | None]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A line of the budget.

    Attributes:
        what: is promised.
        case: that measures it.
        found: the number, from the case's measurements; None if they are too few to tell.
        unit: of the number.
        most: by dialect, what it may be at most.
        least: by dialect, what it must be at least.
    """

    what: str
    case: str
    found: Found
    unit: str
    most: Mapping[str, float] = field(default_factory=dict[str, float])
    least: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Verdict:
    """A promise on one database: what was found, and whether it is kept; None where nothing was promised."""

    promise: Promise
    dialect: str
    found: float
    kept: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Each promise on each database where it was measured."""
    return [
        Verdict(promise, dialect, found, _kept(promise, dialect, found))
        for promise in BUDGET
        for dialect, measurements in results.get(promise.case, {}).items()
        if (found := promise.found(measurements)) is not None
    ]


def _kept(promise: Promise, dialect: str, found: float) -> bool | None:
    if dialect in promise.most:
        return found <= promise.most[dialect]
    return found >= promise.least[dialect] if dialect in promise.least else None


def _ratio(above: str, below: str) -> Found:
    """How many times the one's median is the other's."""
    return lambda found: _of(found, above).median / _of(found, below).median


def _rate(name: str) -> Found:
    """Transitions a second, from µs."""
    return lambda found: 1e6 / _of(found, name).median


def _growth(name: str) -> Found:
    """The time per row of the most rows, as a multiple of that of 1,000."""

    def found(measurements: Sequence[Measurement]) -> float | None:
        medians = {each.rows: each.median for each in measurements if each.name == name and each.rows}
        return medians[max(medians)] / medians[1000] if 1000 in medians and max(medians) > 1000 else None

    return found


def _more(name: str) -> Found:
    """What the most rows take beyond the fewest."""

    def found(measurements: Sequence[Measurement]) -> float:
        few, many = sorted((each for each in measurements if each.name == name), key=lambda each: each.rows or 0)
        return many.median - few.median

    return found


def _of(measurements: Sequence[Measurement], name: str) -> Measurement:
    (found,) = (each for each in measurements if each.name == name)
    return found


BUDGET = (
    Promise(
        what="compiled `send`, against the raw driver",
        case="transition",
        found=_ratio("statelatch, compiled", "raw driver"),
        unit=TIMES,
        most={"sqlite": 2.5, "postgresql": 1.25, "mariadb": 1.25},
    ),
    Promise(
        what="compiled `send`, times faster than python-statemachine + ORM",
        case="transition",
        found=_ratio("python-statemachine + ORM", "statelatch, compiled"),
        unit=TIMES,
        least={"sqlite": 15, "postgresql": 3, "mariadb": 3},
    ),
    Promise(
        what="`send_batch` of 1,000, against one hand-written UPDATE",
        case="batch",
        found=_ratio("send_batch", "hand-written"),
        unit=TIMES,
        most={"postgresql": 1.5},
    ),
    Promise(
        what="`send_batch` of 1,000, transitions a second",
        case="batch",
        found=_rate("send_batch"),
        unit="/s",
        least={"postgresql": 100_000},
    ),
    Promise(
        what="`send_where` of 100,000 rows, against one hand-written UPDATE",
        case="bulk",
        found=_ratio("send_where", "hand-written"),
        unit=TIMES,
        most=dict.fromkeys(EVERYWHERE, 1.1),
    ),
    Promise(
        what="`send_batch`, time per row at 100,000 against 1,000",
        case="growth",
        found=_growth("send_batch"),
        unit=TIMES,
        most=dict.fromkeys(EVERYWHERE, 1.25),
    ),
    Promise(
        what="`send_where`, time per row at 100,000 against 1,000",
        case="growth",
        found=_growth("send_where"),
        unit=TIMES,
        most=dict.fromkeys(EVERYWHERE, 1.25),
    ),
    Promise(
        what="`send_where` of 1,000,000 rows, more memory than for 1,000",
        case="memory",
        found=_more(WITHOUT_KEYS),
        unit="MB",
        most={"sqlite": 20, "postgresql": 20},
    ),
    Promise(
        what="the same with `keys=True`, read one by one",
        case="memory",
        found=_more(WITH_KEYS),
        unit="MB",
        most={"sqlite": 20, "postgresql": 20},
    ),
)
