"""PURE: measurements as tables of text, for the terminal and for the page alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.budget import BUDGET, Promise, Verdict, verdicts
from tests.benchmarks.records import TIMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.benchmarks.records import Case, Measurement, Results

__all__ = ["DATABASES", "Grid", "budget_grid", "case_grid", "number"]

DASH = "\N{EN DASH}"

DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB", "mysql": "MySQL"}


@dataclass(frozen=True)
class Grid:
    """A table: a header and rows of as many cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table as Markdown, without its title."""
        lines: list[tuple[str, ...]] = [self.header, ("---", *["---:"] * (len(self.header) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def case_grid(case: Case, found: Mapping[str, Sequence[Measurement]]) -> Grid:
    """A case: a row for each contestant, and for each database the median with the quartiles, and the ratio.

    The ratio is that of the median to the floor's, where the case has a floor.
    """
    rows = [_label(each) for each in next(iter(found.values()))]
    columns = [column for measurements in found.values() for column in _columns(case, measurements)]
    per_database = ("", TIMES) if case.floor else ("",)
    header = (case.unit, *(mark or name for name in _names(found) for mark in per_database))
    cells = list(zip(rows, *columns, strict=True))
    if case.rate:
        cells += [
            (f"{row}, a second", *(cell for measurements in found.values() for cell in (_rate(measurements[n]), "")))
            for n, row in enumerate(rows)
        ]
    return Grid(case.title, header, tuple(cells))


def _columns(case: Case, measurements: Sequence[Measurement]) -> list[list[str]]:
    floor = next((each.median for each in measurements if each.name == case.floor), None)
    spreads = [_spread(each) for each in measurements]
    return [spreads, [number(each.median / floor) for each in measurements]] if floor else [spreads]


def budget_grid(results: Results) -> Grid:
    """The budget: a row for each promise that was measured."""
    judged = {(verdict.promise.what, verdict.dialect): verdict for verdict in verdicts(results)}
    dialects = list(dict.fromkeys(dialect for found in results.values() for dialect in found))
    rows = tuple(
        (promise.what, *(_judged(judged.get((promise.what, dialect))) for dialect in dialects))
        for promise in BUDGET
        if any((promise.what, dialect) in judged for dialect in dialects)
    )
    return Grid("Budget", ("what", *_names(dialects)), rows)


def number(value: float) -> str:
    """Three digits that count."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _names(dialects: Iterable[str]) -> Iterable[str]:
    return (DATABASES.get(dialect, dialect) for dialect in dialects)


def _label(measurement: Measurement) -> str:
    if measurement.rows is None:
        return measurement.name
    return f"{measurement.name}, {measurement.rows:,} row{'s' * (measurement.rows != 1)}"


def _spread(measurement: Measurement) -> str:
    lower, median, upper = measurement.quartiles
    return f"{number(median)} ({number(lower)}{DASH}{number(upper)})"


def _rate(measurement: Measurement) -> str:
    return f"{1e6 / measurement.median:,.0f}"


def _judged(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    found = f"{number(verdict.found)} {verdict.promise.unit}"
    if verdict.kept is None:
        return found
    return f"{found} ({_wanted(verdict.promise, verdict.dialect)}) {'met' if verdict.kept else 'missed'}"


def _wanted(promise: Promise, dialect: str) -> str:
    if dialect in promise.most:
        return f"≤ {promise.most[dialect]:,g}"
    return f"≥ {promise.least[dialect]:,g}"
