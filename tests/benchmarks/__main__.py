"""Measure statelatch beside hand-written SQL and its peers, in one run; docs/benchmarks.md tells how and why.

    python -m tests.benchmarks --db URL [--db URL ...] [--only CASE ...] [--seconds N] [--quick] [--write]

The databases are left as they were: the program makes and drops tables of its own, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from statelatch import ConfigurationError
from tests.benchmarks import page, surroundings
from tests.benchmarks.cases import CASES
from tests.benchmarks.interruption import interruptible
from tests.benchmarks.place import UnprovenError, opened
from tests.benchmarks.records import FULL, QUICK
from tests.benchmarks.tables import DATABASES, budget_grid, case_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.records import Case, Effort, Measurement
    from tests.benchmarks.tables import Grid

__all__ = ["main"]

INTERRUPTED = 130

WIDTH = 140
"""Of the tables where they do not go to a terminal, in characters."""

Found = dict[str, dict[str, "Sequence[Measurement]"]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=str(__doc__).partition("\n")[0])
    names = [case.name for case in CASES]
    found.add_argument("--db", action="append", required=True, metavar="URL", help="a database; repeat it for more")
    found.add_argument("--only", nargs="+", choices=names, default=names, metavar="CASE", help=f"of {', '.join(names)}")
    found.add_argument("--seconds", type=float, metavar="N", help="that each race takes at least (20)")
    found.add_argument("--quick", action="store_true", help="few rows and little time: to see that it works")
    found.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its pictures")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and perhaps write; returns the exit code."""
    options = parser().parse_args(arguments)
    cases = [case for case in CASES if case.name in options.only]
    if options.write and (options.quick or len(cases) < len(CASES)):
        parser().error("--write tells of one full run: leave --only and --quick away")
    effort = QUICK if options.quick else FULL
    if options.seconds is not None:
        effort = replace(effort, seconds=options.seconds)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    results, lines, code = Found(), [surroundings.machine()], 0
    try:
        for url in options.db:
            measure(url, cases, effort, results, lines)
    except KeyboardInterrupt:
        console.print("Interrupted; what was measured until then:")
        code = INTERRUPTED
    except (ConfigurationError, UnprovenError, ValueError) as error:
        console.print(f"{type(error).__name__}: {error}", markup=False)
        code = 1
    except Exception:
        console.print_exception()
        code = 1
    grids = [case_grid(case, results[case.name]) for case in cases if case.name in results]
    if not options.quick:
        grids.append(budget_grid(results))
    for grid in grids:
        console.print(shown(grid))
    console.print("\n".join(lines), markup=False)
    if options.write and not code:
        command = surroundings.shown_command(list(results[cases[0].name]), seconds=options.seconds)
        page.write(page.PAGE, results, command, lines)
    return code


def measure(url: str, cases: Sequence[Case], effort: Effort, results: Found, lines: list[str]) -> None:
    """Measure the cases on one database, and add what was found to the results."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        interruptible() as check,
        opened(url) as place,
        Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bars,
    ):
        if any(place.dialect in found for found in results.values()):
            raise ValueError(
                f"two databases of one kind, {DATABASES[place.dialect]}: the tables have a column for each kind"
            )
        lines.append(surroundings.shown_database(place))
        for case in cases:
            bar = bars.add_task(f"{DATABASES[place.dialect]}: {case.title.lower()}", total=1.0)

            def progress(part: float, bar: TaskID = bar) -> None:
                bars.update(bar, completed=part, refresh=True)
                check()

            results.setdefault(case.name, {})[place.dialect] = case.measure(place, effort, progress)
            progress(1.0)


def shown(grid: Grid) -> Table:
    """The table for a terminal."""
    table = Table(title=grid.title, title_justify="left", title_style="bold")
    for number, name in enumerate(grid.header):
        table.add_column(name, justify="right" if number else "left")
    for row in grid.rows:
        table.add_row(*row, style="bold" if row[0].startswith("statelatch") else None)
    return table


if __name__ == "__main__":
    sys.exit(main())
