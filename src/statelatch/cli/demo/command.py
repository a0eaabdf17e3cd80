"""`statelatch demo`: plays the scenes, shows how they came out, and fails if one did not come out as it must."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from statelatch.cli.demo.files import Files, find_files
from statelatch.cli.demo.scenes import SCENES, Follow, Told, faults
from statelatch.cli.demo.stage import counter_works, overwritten, set_up
from statelatch.cli.tables import STYLES, short_id
from statelatch.cli.terminal import console, printable, say, text
from statelatch.runs import Finalized, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from statelatch.runs import RunHandle

__all__ = ["demo"]

FAILED = 1


def demo(
    *,
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", exists=True, file_okay=False, help="Whose files are hashed.")
    ] = Path(),
) -> None:
    """Show how runs end, on the files of the current folder.

    Each run hashes the folder's files: one succeeds, one fails, one is cancelled, one is cancelled by another
    process before it can say that it is done, one loses its connection at the end, and one is started although
    its key is busy. The database is an SQLite file in a temporary folder; nothing is kept.

    Exit code: 1 if a run did not end as it must, or if one that had ended was overwritten; else 0.
    """
    logging.getLogger("statelatch").addHandler(logging.NullHandler())  # its warnings are part of the play
    terminal = console()
    files = find_files(folder)
    terminal.print(text(_introduction(folder, files)))
    terminal.print()
    with set_up() as stage:
        with _bars(terminal) as bars:
            told = [scene.play(stage, files, _follower(bars, scene.title, len(files.paths))) for scene in SCENES]
        count, counts = overwritten(stage.direct.engine), counter_works(stage.direct.engine)
    terminal.print(_table(told))
    terminal.print()
    terminal.print(text(f"Terminal states overwritten: {count}", "bold"), "(counted by a trigger in the database)")
    wrong = faults(told, count, counts=counts)
    for line in wrong:
        say(line)
    if wrong:
        raise typer.Exit(FAILED)


def _introduction(folder: Path, files: Files) -> str:
    more = "; the folder has more, this is enough for a demo" if files.cut else ""
    return f"Hashing {len(files.paths)} files, {files.size / 1e6:.1f} MB, of {folder.resolve()}{more}."


def _bars(terminal: Console) -> Bars:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[step]}", markup=False),
    )
    return Bars(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def _follower(bars: Bars, title: str, total: int) -> Follow:
    def follow(handle: RunHandle) -> Finalized:
        task = bars.add_task(title, total=total, step="")
        for event in handle.events():
            if isinstance(event, Progress):
                step = printable(event.step or "")[:30]
                bars.update(task, completed=event.current, step=step)
        return handle.wait()

    return follow


def _table(told: Sequence[Told]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for name in ("run", "state", "version", "outcome", "written by"):
        table.add_column(name, justify="right" if name == "version" else "left")
    for scene, came in zip(SCENES, told, strict=True):
        written_by = f"held by {short_id(came.holder)}" if came.holder else came.via
        style = STYLES.get(came.state, "")
        table.add_row(
            text(scene.title), text(came.state, style), text(came.version), text(came.outcome), text(written_by)
        )
    return table
