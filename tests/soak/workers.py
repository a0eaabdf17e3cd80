"""A process that finishes runs as fast as it can, and says of each what it was told.

Rules: what is said is on its way to the disk before the next thing is done, so that it outlives SIGKILL: a line of
JSON, written by one `write`. A process ends when a file appears; a lock in shared memory could die with its holder.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from statelatch import ConnectionFailureError, OutcomeUnknownError
from statelatch.runs import RunCancelled, RunHandle, RunManager

__all__ = ["OVER", "Report", "work"]

OVER = "over"
"""The name of the file that ends the processes."""

THREADS = 4
PAUSE = 0.01
"""Seconds after a run that could not be begun."""
PATIENCE = 60.0
"""Seconds in which a run must have ended."""


class Report:
    """What one process was told, in a file of its own."""

    def __init__(self, folder: Path, number: int) -> None:
        self._file = (folder / f"report {number}").open("ab", buffering=0)

    def say(self, **values: Any) -> None:
        """Write a line."""
        self._file.write(json.dumps(values, default=str).encode() + b"\n")

    @staticmethod
    def lines(folder: Path) -> list[dict[str, Any]]:
        """All lines of all processes; one that was killed may have left half a line."""
        found: list[dict[str, Any]] = []
        for path in sorted(folder.glob("report *")):
            found.extend(json.loads(line) for line in path.read_bytes().split(b"\n")[:-1])
        return found


def returning() -> None:
    """Complete."""


def failing() -> None:
    """Fail."""
    raise ValueError("as it should")


def stopping() -> None:
    """Stop as cancelled."""
    raise RunCancelled


FUNCTIONS: list[Callable[[], None]] = [returning, failing, stopping]


def work(url: str, folder: Path, number: int) -> None:
    """Finish runs in a few threads until it is over; each run's key is its name here."""
    logging.disable(logging.WARNING)
    report = Report(folder, number)
    with RunManager(url, spool=folder / f"spool {number}", heartbeat=0.1, time_limit=5.0) as manager:
        threads = [
            threading.Thread(target=_runs, args=(manager, report, folder, f"{number}.{n}")) for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _runs(manager: RunManager, report: Report, folder: Path, name: str) -> None:
    for number in count():
        if (folder / OVER).exists():
            return
        _run(manager, report, f"{name}.{number}", FUNCTIONS[number % len(FUNCTIONS)])


def _run(manager: RunManager, report: Report, key: str, function: Callable[[], None]) -> None:
    try:
        handle = manager.start(function, key=key)
    except OutcomeUnknownError:
        report.say(key=key, told="start unknown")
    except ConnectionFailureError:
        report.say(key=key, told="start failed")
        time.sleep(PAUSE)
    else:
        _tell_end(report, key, handle)


def _tell_end(report: Report, key: str, handle: RunHandle) -> None:
    try:
        end = handle.wait(PATIENCE)
    except TimeoutError:
        report.say(key=key, told="no end")
    else:
        report.say(
            key=key,
            told=end.outcome,
            target=end.target,
            state=end.state,
            version=end.version,
            via=end.via,
            run=handle.id,
        )
