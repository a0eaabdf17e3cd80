"""Soaks, by hand.

    python -m tests.soak kill --db postgresql --rounds 20
    python -m tests.soak rules --db mariadb --minutes 10
    python -m tests.soak history --db mariadb+pymysql://root@127.0.0.1/test --minutes 10

`kill`: eight processes finish runs, one of them or the server is killed at a random moment, and what was told is
compared with what is written. `rules`: `lifecycle_rules` on the machines of the tests. `history`: threads, faults and
conflicts on a few rows, judged by `check_history`. `spool`: last words that no connection took, replayed.

The exit status is 1 if something is wrong; then it is printed, with the seed.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.soak.history import Episodes, soak_history
from tests.soak.kill import kill_rounds
from tests.soak.machines import MACHINES
from tests.soak.places import SERVERS, database, server
from tests.soak.rules import Examples, soak_rules
from tests.soak.spool import replay_spools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import URL

    from tests.soak.kill import Round

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak, print its figures, and return the exit status."""
    options = _parser().parse_args(arguments)
    options.seed = random.randrange(2**32) if options.seed is None else options.seed
    console = Console()
    console.print(f"{options.soak} on {options.db}, seed {options.seed}")
    logging.disable(logging.WARNING)  # what faults are warned of is no news here
    try:
        return {"kill": _kill, "rules": _rules, "history": _history, "spool": _spool}[options.soak](options, console)
    finally:
        logging.disable(logging.NOTSET)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    soaks = parser.add_subparsers(required=True, dest="soak")
    kill = soaks.add_parser("kill", help="kill processes and servers while runs are finished")
    kill.add_argument("--db", choices=["sqlite", *SERVERS], default="sqlite", help="which server")
    kill.add_argument("--rounds", type=int, default=20, help="how often something is killed")
    rules = soaks.add_parser("rules", help="lifecycle_rules on the machines of the tests")
    rules.add_argument("--quick", action="store_true", help="tell the first mistake, not the smallest program")
    rules.add_argument("--machine", action="append", choices=MACHINES, help="only this one; may be repeated")
    history = soaks.add_parser("history", help="threads, faults and conflicts on a few rows")
    spool = soaks.add_parser("spool", help="last words that no connection took, replayed")
    for each in (rules, history, spool):
        each.add_argument("--db", default="sqlite", help=f"sqlite, {', '.join(SERVERS)}, or the URL of a database")
        each.add_argument("--minutes", type=float, default=10.0, help="how long")
    for each in (kill, rules, history, spool):
        each.add_argument("--seed", type=int, default=None, help="draw the same random numbers again")
    return parser


def _kill(options: argparse.Namespace, console: Console) -> int:
    figures, wrong, begun = Counter[str](), list[str](), time.perf_counter()
    with server(options.db) as running:
        for number, done in enumerate(kill_rounds(running, options.rounds, options.seed), start=1):
            console.print(_line(number, done), highlight=False)
            figures += done.account.figures
            wrong += done.account.wrong
    _print(
        console,
        f"{options.rounds} rounds, {time.perf_counter() - begun:.0f} s",
        dict(sorted(figures.items())),
        len(wrong),
    )
    for sentence in wrong[:20]:
        console.print(sentence, markup=False, highlight=False)
    return 1 if wrong else 0


def _rules(options: argparse.Namespace, console: Console) -> int:
    done, machines = Examples(), options.machine or list(MACHINES)

    def soak(url: URL, seconds: float) -> None:
        soak_rules(url, seconds, options.seed, machines, done, quick=options.quick)

    def figures() -> dict[str, int]:
        examples = {f"examples of {name}": count for name, count in sorted(done.machines.items())}
        return examples | {"steps": done.steps} | _told(done.answers, done.faults)

    return _soak(options, console, soak, figures)


def _history(options: argparse.Namespace, console: Console) -> int:
    done = Episodes()

    def soak(url: URL, seconds: float) -> None:
        soak_history(url, seconds, options.seed, done)

    def figures() -> dict[str, int]:
        return {"episodes": done.count, "operations": done.operations} | _told(done.answers, done.faults)

    return _soak(options, console, soak, figures)


def _spool(options: argparse.Namespace, console: Console) -> int:
    figures = Counter[str]()

    def soak(url: URL, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end or not figures:
            with TemporaryDirectory() as folder:
                figures["last words"] += replay_spools(url, Path(folder))

    return _soak(options, console, soak, lambda: figures)


def _soak(
    options: argparse.Namespace,
    console: Console,
    soak: Callable[[URL, float], None],
    figures: Callable[[], Mapping[str, int]],
) -> int:
    """Soak until the time is over or something is wrong; print what was found, and the figures."""
    begun, wrong = time.perf_counter(), 0
    with database(options.db) as url:
        try:
            soak(url, options.minutes * 60)
        except AssertionError as error:
            wrong = 1
            console.print(error, *getattr(error, "__notes__", ()), sep="\n", markup=False, highlight=False)
    _print(console, f"{time.perf_counter() - begun:.0f} s", figures(), wrong)
    return wrong


def _told(answers: Mapping[str, int], faults: Mapping[str, int]) -> dict[str, int]:
    told = {f"answered {name}": count for name, count in sorted(answers.items())}
    return told | {f"fault: {name}": count for name, count in sorted(faults.items())}


def _line(number: int, done: Round) -> str:
    figures = ", ".join(f"{name} {count:,}" for name, count in sorted(done.account.figures.items()))
    when = f"at {done.moment:.2f} s" + (f" for {done.away:.2f} s" if done.away else "")
    return f"round {number:2}: {done.victim} {when}: {figures}; wrong {len(done.account.wrong)}"


def _print(console: Console, title: str, figures: Mapping[str, int], wrong: int) -> None:
    table = Table("what", "count", title=title)
    for name, count in figures.items():
        table.add_row(name, f"{count:,}")
    table.add_row("wrong", f"{wrong:,}")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
