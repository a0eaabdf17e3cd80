"""Case `memory`: the peak memory of a process that moves few rows, and of one that moves many.

    python -m tests.benchmarks.memory

reads one line of JSON (the database's URL, the table's name, the event, the number of rows, whether to ask for the
keys), moves that many rows with `send_where`, reads the keys one by one, and answers with its peak in MB.

On Linux the peak is VmHWM, that of this program alone. `getrusage` would start with what the parent had in memory
when it made the child (its own peak, if that was larger, would hide what the child used), so it is asked elsewhere.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from statelatch import PersistenceAdapter
from tests.benchmarks.place import UnprovenError, opened
from tests.benchmarks.records import Effort, Measurement, Progress
from tests.benchmarks.ring import EVENTS, PREFIX, STATES, mapping_of, table_of

if TYPE_CHECKING:
    from sqlalchemy import Table

    from tests.benchmarks.place import Place

__all__ = ["WITH_KEYS", "measure", "peak"]

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.benchmarks.memory")
STATUS = Path("/proc/self/status")
WITHOUT_KEYS, WITH_KEYS = "count only", "with keys"


def peak() -> float:
    """The peak of this process so far, in MB (10⁶ bytes)."""
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found / 1e6 if sys.platform == "darwin" else found * 1024 / 1e6


def measure(place: Place, effort: Effort, progress: Progress) -> list[Measurement]:
    """One process for each try; the rows go there and back, each time in another one."""
    found: list[Measurement] = []
    most, moves = max(effort.memory), 0
    with place.table("memory", most) as table:
        for name, keys in ((WITHOUT_KEYS, False), (WITH_KEYS, True)):
            for rows in effort.memory:
                samples: list[float] = []
                for state in STATES:
                    progress(len(found) / 4)
                    samples.append(_child(place, table, EVENTS[state], rows, keys=keys))
                    place.tidy(table)
                moves += 2 * rows
                found.append(Measurement(name, rows, samples))
        with place.engine.connect() as connection:
            moved = connection.scalar(select(func.sum(table.c.version - 1)).where(table.c.state == STATES[0]))
        if moved != moves:
            raise UnprovenError(f"memory: expected {moves} moves, found {moved}")
    return found


def _child(place: Place, table: Table, event: str, rows: int, *, keys: bool) -> float:
    name = table.name.removeprefix(PREFIX)
    request = json.dumps([place.url.render_as_string(hide_password=False), name, event, rows, keys])
    done = subprocess.run(
        COMMAND, input=request, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True, start_new_session=True
    )
    return float(done.stdout)


def main() -> None:
    """Move the rows that the line asks for, and answer."""
    url, name, event, rows, keys = json.loads(sys.stdin.readline())
    mapping = mapping_of(table_of(name))
    with opened(url) as place, PersistenceAdapter(place.url, mapping) as adapter:
        result = adapter.send_where(event, mapping.entity.id <= rows, keys=keys)
        counted = sum(1 for _ in result.keys or ()) if keys else result.count
    if (result.count, counted) != (rows, rows):
        raise UnprovenError(f"send_where: expected {rows} rows, moved {result.count} and named {counted} keys")
    sys.stdout.write(f"{peak()}\n")


if __name__ == "__main__":
    main()
