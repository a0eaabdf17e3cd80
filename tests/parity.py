"""What SQL moves is what Python moves: random guards and rows, on any database.

    python -m tests.parity --db postgresql+psycopg://root@127.0.0.1/test --guards 1000 --rows 150

For each drawn event python-statemachine judges every row, and the guarded UPDATE of the same event moves them; it is
rolled back, and the table, `statelatch_guarded`, is dropped at the end. A row that SQL moves, or moves elsewhere,
although Python does not, is a wrong move: the event and the row are printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from statelatch.statements import Statements
from tests.guard_agreement import SUBTLE, Judge, Verdict, by_predicates, by_update, events, mapping_of
from tests.guarded import Base, insert_rows, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Engine

    from tests.guard_agreement import Drawn

__all__ = ["Tally", "compare", "drawn_events", "main", "tally_of"]


Case = tuple["Drawn", str, "Mapping[str, Any]"]
"""An event, what was said of a row, and the row."""


@dataclass
class Tally:
    """What became of the rows.

    Attributes:
        moves: rows that both moved, to the same state.
        refusals: rows that Python refused, and SQL left alone.
        raises: rows for which a guard raised in Python, and which SQL left alone.
        wrong: rows that SQL moved otherwise than Python, each with its event.
        skipped: rows that Python moved and SQL did not, by reason.
        misjudged: rows of which the predicates, read as Python reads guards, say something else than Python.
        interpreted: events that are not one UPDATE, by reason; none of their rows is counted.
    """

    moves: int = 0
    refusals: int = 0
    raises: int = 0
    wrong: list[Case] = field(default_factory=list[Case])
    skipped: Counter[str] = field(default_factory=Counter[str])
    misjudged: list[Case] = field(default_factory=list[Case])
    interpreted: Counter[str] = field(default_factory=Counter[str])

    def count(self, drawn: Drawn, row: Mapping[str, Any], python: Verdict | str, sql: str | None, said: object) -> None:
        """Count one row: what Python said, where SQL moved it, and what its predicates said."""
        case = (drawn, f"Python: {python}, UPDATE: {sql}, predicates: {said}", row)
        if said != python:
            self.misjudged.append(case)
        if sql is not None and sql != python:
            self.wrong.append(case)
        elif sql is not None:
            self.moves += 1
        elif python is Verdict.REFUSED:
            self.refusals += 1
        elif python is Verdict.RAISED:
            self.raises += 1
        else:
            self.skipped["SQL holds that Python raises" if said is Verdict.RAISED else "a guard is false in SQL"] += 1


def drawn_events(count: int, start: int = 0) -> list[Drawn]:
    """That many different events, the subtle ones first; the same for the same start."""
    found = dict.fromkeys(SUBTLE)
    for number in range(start, start + 100):
        if len(found) >= count:
            break

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            deadline=None,
        )
        @given(drawn=events)
        def collect(drawn: Drawn) -> None:
            found[drawn] = None

        collect()
    return list(found)[:count]


def compare(tally: Tally, drawn: Drawn, engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
    """Judge one event on all rows, in Python and in SQL."""
    mapping = mapping_of(drawn)
    event = Statements(mapping, engine.dialect).event("go")
    if not event.compiled:
        tally.interpreted.update(event.reasons)
        return
    judge = Judge(mapping)
    for row, sql, said in zip(rows, by_update(event, engine), by_predicates(event, engine), strict=True):
        tally.count(drawn, row, judge.verdict(row), sql, said)


def tally_of(engine: Engine, drawn: Iterable[Drawn], rows: int) -> Tally:
    """Create the table, try the events on its rows, and drop it."""
    tally = Tally()
    Base.metadata.drop_all(engine)  # what a run that was killed has left
    try:
        insert_rows(engine, rows)
        restored = read_rows(engine)
        for each in drawn:
            compare(tally, each, engine, restored)
    finally:
        Base.metadata.drop_all(engine)
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--db", default="sqlite://", help="URL of the database; SQLite in memory if not given")
    parser.add_argument("--guards", type=int, default=1000, help="events to draw")
    parser.add_argument("--rows", type=int, default=150, help="rows on which each is tried")
    parser.add_argument("--seed", type=int, default=0, help="draw other events")
    options = parser.parse_args(arguments)
    console = Console()
    engine = create_engine(options.db, **({"poolclass": StaticPool} if options.db == "sqlite://" else {}))
    begun = time.perf_counter()
    drawn = drawn_events(options.guards, options.seed)
    tally = tally_of(engine, _tracked(drawn, console), options.rows)
    engine.dispose()
    _print(console, engine.dialect.name, options, tally, time.perf_counter() - begun)
    return 1 if tally.wrong else 0


def _tracked(drawn: Sequence[Drawn], console: Console) -> Iterator[Drawn]:
    yield from track(drawn, "comparing", console=console, transient=True)


def _print(console: Console, dialect: str, options: argparse.Namespace, tally: Tally, seconds: float) -> None:
    table = Table("what", "count", title=f"Python and SQL on {dialect}")
    lines = {
        "guards": options.guards,
        "rows": options.rows,
        "moves": tally.moves,
        "refusals": tally.refusals,
        "raises": tally.raises,
        "wrong moves": len(tally.wrong),
        "skipped by SQL though Python moves": tally.skipped.total(),
        **{f"  {reason}": number for reason, number in tally.skipped.items()},
        "misjudged by the predicates": len(tally.misjudged),
        "events that need Python": tally.interpreted.total(),
        **{f"  {reason}": number for reason, number in tally.interpreted.items()},
        "seconds": round(seconds, 1),
    }
    for name, value in lines.items():
        table.add_row(name, f"{value:,}")
    console.print(table)
    for each in (tally.wrong + tally.misjudged)[:5]:
        console.print(*each, sep="\n", markup=False, highlight=False)


if __name__ == "__main__":
    raise SystemExit(main())
