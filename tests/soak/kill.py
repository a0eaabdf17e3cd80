"""Processes finish runs as fast as they can; one of them, or the server, is killed; then everything is compared.

A round: eight processes, each with threads that start runs and wait for their ends, on a database of their own. When
all are busy, at a random moment, SIGKILL strikes one process, the server, or the server after it has acknowledged
nothing for a while, so that much is written that nobody has heard of. The server is started again after a random time.
In the end the spools are replayed, and what the processes were told is compared with the rows.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, create_engine, select
from sqlalchemy.pool import NullPool

from statelatch.runs import Run, RunManager, create_tables
from tests.databases import administrator, fresh_database, sqlite_file
from tests.servers import within
from tests.soak.account import Account, Row, account
from tests.soak.workers import OVER, Report, work

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from multiprocessing.context import ForkServerProcess

    from tests.servers import Server

__all__ = ["VICTIMS", "Round", "kill_rounds"]

VICTIMS = ("worker", "server", "server, unheard")
PROCESSES = 8
PATIENCE = 60.0
"""Seconds in which all processes must be busy, and in which they must have ended."""
HELD = 0.1
"""Seconds for which the server acknowledges nothing before it is killed."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Attributes:
        victim: what was killed.
        moment: seconds after all processes had begun to work.
        away: seconds for which the server was away.
        account: what was found in the end.
    """

    victim: str
    moment: float
    away: float
    account: Account


def kill_rounds(server: Server | None, rounds: int, seed: int, victims: Sequence[str] = VICTIMS) -> Generator[Round]:
    """So many rounds; the same seed draws the same victims and moments.

    Args:
        server: a running one, which may be killed; None for SQLite, where only processes can be.
        rounds: how many.
        seed: of the random numbers.
        victims: some of `VICTIMS`.

    Raises:
        TimeoutError: a process hangs.
    """
    draw = random.Random(seed)
    for _ in range(rounds):
        with TemporaryDirectory(prefix="statelatch-soak-") as folder, _database(server, Path(folder)) as url:
            victim = draw.choice(victims if server else VICTIMS[:1])
            yield _round(server, url, Path(folder), draw, victim)


@contextmanager
def _database(server: Server | None, folder: Path) -> Generator[URL]:
    if server is None:
        yield sqlite_file(folder)
        return
    with administrator(server.url) as engine, fresh_database(engine) as url:
        engine.dispose()  # its connection would not outlive the server
        yield url


def _round(server: Server | None, url: URL, folder: Path, draw: random.Random, victim: str) -> Round:
    engine = create_engine(url, poolclass=NullPool)
    create_tables(engine)
    processes = _processes(url, folder)
    try:
        if not within(PATIENCE, lambda: len(_busy(folder)) == PROCESSES):
            raise TimeoutError(f"only {len(_busy(folder))} of {PROCESSES} processes are at work after {PATIENCE} s")
        moment, away = draw.uniform(0, 0.6), draw.uniform(0, 0.4)
        time.sleep(moment)
        if server is None or victim == "worker":
            draw.choice(processes).kill()
        else:
            _kill_server(server, away, unheard=victim == "server, unheard")
        time.sleep(draw.uniform(0.2, 0.4))
        (folder / OVER).touch()
        _join(processes)
    finally:
        for process in processes:
            process.kill()
    _replay(url, folder)
    found = account(Report.lines(folder), _rows(engine))
    return Round(victim, moment, 0.0 if victim == "worker" else away, found)


def _processes(url: URL, folder: Path) -> list[ForkServerProcess]:
    """Forked from a process that has imported everything, and has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.soak.workers"])
    arguments = (url.render_as_string(hide_password=False), folder)
    processes = [context.Process(target=work, args=(*arguments, number)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    return processes


def _busy(folder: Path) -> set[str]:
    """The processes that have finished a run."""
    return {line["key"].split(".")[0] for line in Report.lines(folder)}


def _kill_server(server: Server, away: float, *, unheard: bool) -> None:
    if unheard:
        server.hold_acknowledgements()
        time.sleep(HELD)
    server.kill()
    time.sleep(away)
    server.start()


def _join(processes: list[ForkServerProcess]) -> None:
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            raise TimeoutError(f"{process.name} has not ended {PATIENCE} s after it was told to")


def _replay(url: URL, folder: Path) -> None:
    """Write what the spools keep, those of killed processes, too."""
    for path in sorted(folder.glob("spool *")):
        if not path.suffix:
            with RunManager(url, spool=path) as manager:
                manager.recover()


def _rows(engine: Any) -> dict[str, Row]:
    columns = select(Run.key, Run.status, Run.version, Run.started_at)
    with engine.connect() as connection:
        return {key: Row(state, version, at is not None) for key, state, version, at in connection.execute(columns)}
