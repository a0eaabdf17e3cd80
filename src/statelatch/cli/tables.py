"""PURE: runs as tables for a person."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from statelatch.cli.terminal import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from statelatch.runs import Finalized, RunColumns

__all__ = ["STYLES", "duration", "many_ends", "many_runs", "one_run", "short_id"]

STYLES = {"pending": "yellow", "running": "cyan", "completed": "green", "failed": "red", "cancelled": "magenta"}
OUTCOME_STYLES = {"applied": "green", "no-op": "yellow", "spooled": "red"}

WIDE = 140
"""Columns from which on nothing needs to be shortened."""

LONGEST_NAME = {True: 40, False: 10}
"""Characters of a key or a name, in a wide table and in a narrow one."""

SHORTEST_ERROR = 8
HEADERS = {
    True: ("id", "key", "name", "state", "version", "attempt", "created", "duration", "progress", "error"),
    False: ("id", "key", "name", "state", "ver", "try", "created", "took", "done", "error"),
}
END_HEADERS = {
    True: ("id", "end", "outcome", "state", "version", "via", "error"),
    False: ("id", "end", "outcome", "state", "ver", "via", "error"),
}
NUMBERS = {"version", "ver", "attempt", "try", "duration", "took", "progress", "done"}
"""The columns that are set to the right."""


def many_runs(runs: Sequence[RunColumns], width: int) -> Table:
    """A table with one line a run; what does not fit is cut off the error.

    Args:
        runs: in the order in which they are shown.
        width: columns that there are; below `WIDE` ids and times are short.
    """
    wide, now = width >= WIDE, datetime.now(UTC)
    return _table(HEADERS[wide], [_row(run, now, wide=wide) for run in runs], width)


def many_ends(ends: Sequence[Finalized], width: int) -> Table:
    """A table with one line an end of a run: what it was to be, what became of it, and why.

    Args:
        ends: in the order in which they are shown.
        width: columns that there are; below `WIDE` ids are short.
    """
    wide = width >= WIDE
    return _table(END_HEADERS[wide], [_end_row(end, wide=wide) for end in ends], width)


def _table(names: Sequence[str], rows: Sequence[list[Text]], width: int) -> Table:
    """One line a row; what does not fit is cut off the last column."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    room = max(SHORTEST_ERROR, width - _taken([[text(name) for name in names], *rows]))
    for row in rows:
        row[-1].truncate(room, overflow="ellipsis")
        table.add_row(*row)
    return table


def _taken(rows: Sequence[Sequence[Text]]) -> int:
    """Columns that a table takes without the last of its own: each is as wide as its widest, and a gap of two."""
    return sum(max(cell.cell_len for cell in column) + 2 for column in list(zip(*rows, strict=True))[:-1])


def _row(run: RunColumns, now: datetime, *, wide: bool) -> list[Text]:
    key, name = text(run.key), text(run.name)
    for cell in (key, name):
        cell.truncate(LONGEST_NAME[wide], overflow="ellipsis")
    return [
        text(run.id if wide else short_id(run.id)),
        key,
        name,
        text(run.status, STYLES.get(run.status, "")),
        text(run.version),
        text(run.attempt),
        text(_when(run.created_at, None if wide else now)),
        text(duration(run, now)),
        text(_progress(run)),
        text(run.error or ""),
    ]


def _end_row(end: Finalized, *, wide: bool) -> list[Text]:
    return [
        text(end.run_id if wide else short_id(end.run_id)),
        text(end.target, STYLES.get(end.target, "")),
        text(end.outcome, OUTCOME_STYLES.get(end.outcome, "")),
        text(end.state, STYLES.get(end.state or "", "")),
        text(end.version),
        text(end.via),
        text(end.error or ""),
    ]


def one_run(run: RunColumns, values: Mapping[str, Any]) -> Table:
    """A table with one line a column of the run; columns without a value are left out.

    Args:
        run: the run.
        values: its columns, by name.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        if value is not None:
            style = STYLES.get(run.status, "") if name == "status" else ""
            table.add_row(text(name), text(_shown(value), style))
    now = datetime.now(UTC)
    table.add_row(text("duration"), text(duration(run, now)))
    if gone := _worker_gone(run, now):
        table.add_row(text("note"), text(gone, "red"))
    return table


def _worker_gone(run: RunColumns, now: datetime) -> str | None:
    if run.status != "running" or not run.lease_expired or run.lease_expires_at is None:
        return None
    ago = _seconds((now - run.lease_expires_at) / timedelta(seconds=1))
    return f"lease expired {ago} ago: its worker is gone"


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone().isoformat(" ", "milliseconds")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def short_id(run_id: UUID) -> str:
    """The end of a run's id: random, unlike its beginning, and enough for `statelatch show`."""
    return run_id.hex[-8:]


def duration(run: RunColumns, now: datetime) -> str | None:
    """How long a run ran, or has been running; None if it never started."""
    if run.started_at is None:
        return None
    return _seconds(((run.finished_at or now) - run.started_at) / timedelta(seconds=1))


def _seconds(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{max(0.0, seconds):.1f}s"
    minutes, hours = divmod(whole, 60), divmod(whole, 3600)
    if whole < 3600:
        return f"{minutes[0]}m{minutes[1]:02}s"
    return f"{hours[0]}h{hours[1] // 60:02}m" if whole < 360_000 else f"{whole // 86400}d"


def _when(moment: datetime, now: datetime | None) -> str:
    """Local time: all of it if `now` is None, else the time if it is today's, the date if it is not."""
    local = moment.astimezone()
    if now is None:
        return f"{local:%Y-%m-%d %H:%M:%S}"
    return f"{local:%H:%M}" if local.date() == now.astimezone().date() else f"{local:%m-%d}"


def _progress(run: RunColumns) -> str | None:
    if run.progress_current is None:
        return None
    return f"{run.progress_current}" if run.progress_total is None else f"{run.progress_current}/{run.progress_total}"
