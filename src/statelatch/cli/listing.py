"""`statelatch runs`, `show` and `cancel`: look at runs, and end them, from any terminal."""

from __future__ import annotations

import json
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statelatch.cli.database import DatabaseOption, existing
from statelatch.cli.identity import find_run
from statelatch.cli.tables import many_runs, one_run
from statelatch.cli.terminal import console, put, say
from statelatch.errors import RowNotFoundError, TransitionRefusedError
from statelatch.runs import RunManager

if TYPE_CHECKING:
    from collections.abc import Generator

    from statelatch.mapping import MachineMapping
    from statelatch.runs import RunColumns

__all__ = ["Status", "cancel", "runs", "show"]

NOTHING_DONE = 1
MOST = 2**31 - 1  # rows that every database can be asked for


class Status(StrEnum):
    """The states of a run."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


RunArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The run's id, or at least 4 characters of its beginning or end.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines: every column, nothing shortened.")]


def runs(
    *,
    db: DatabaseOption = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Only runs with this key.", show_default=False)] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs with this name.", show_default=False)
    ] = None,
    status: Annotated[Status | None, typer.Option(help="Only runs in this state.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=MOST, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List runs, the newest first. With --json, one object a line."""
    with existing(db) as adapter, RunManager(adapter) as manager:
        found = manager.runs(key=key, name=name, status=status, limit=limit)
        if as_json:
            put("".join(f"{_as_json(run, adapter.mapping)}\n" for run in found))
        elif found:
            terminal = console()
            terminal.print(many_runs(found, terminal.width))
        else:
            say("no runs" if not (key or name or status) else "no such runs")


def show(run: RunArgument, *, db: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show everything about one run."""
    with existing(db) as adapter, RunManager(adapter) as manager, _known(run):
        found = manager.get(find_run(adapter, run))
        if as_json:
            put(f"{_as_json(found, adapter.mapping)}\n")
        else:
            console().print(one_run(found, _values(found, adapter.mapping)))


def cancel(
    run: RunArgument,
    *,
    db: DatabaseOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write `cancelled` at once, without waiting for the run to stop.")
    ] = False,
) -> None:
    """Cancel a run, of this machine or another.

    A run that waits is cancelled at once. A running one is asked to stop: its process sees that within a second,
    and the run is cancelled when it has stopped. If it finishes its work instead, it has completed.

    \b
    Exit code:
      0  it is cancelled, or was asked to stop
      1  it had ended already, there is no such run or database, or the database did not answer
      2  wrong usage, or several runs have such an id
    """  # noqa: D301  a backspace: click keeps these lines as they are
    with existing(db) as adapter, RunManager(adapter) as manager, _known(run):
        run_id = find_run(adapter, run)
        try:
            done = manager.cancel(run_id, force=force)
        except TransitionRefusedError as refused:
            say(f"run {run_id} had ended already, as {refused.state}; nothing was written")
            raise typer.Exit(NOTHING_DONE) from None
    asked = "asked to stop; --force would end it at once"
    put(f"run {run_id}: {'cancelled' if done.written else asked}\n")


@contextmanager
def _known(run: str) -> Generator[None]:
    """Say it shortly if there is no such run."""
    try:
        yield
    except RowNotFoundError:
        say(f"there is no run {run}; `statelatch runs` lists those that there are")
        raise typer.Exit(NOTHING_DONE) from None


def _values(run: RunColumns, mapping: MachineMapping) -> dict[str, Any]:
    return {name: getattr(run, name) for name in mapping.columns}


def _as_json(run: RunColumns, mapping: MachineMapping) -> str:
    """One line of ASCII; times in ISO 8601, ids as text."""
    return json.dumps(_values(run, mapping), default=lambda value: getattr(value, "isoformat", value.__str__)())
