"""`statelatch recover`: write the ends of runs that no database would take when they were due."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from statelatch.cli.database import DatabaseOption, existing
from statelatch.cli.listing import JsonOption
from statelatch.cli.spool import SpoolOption, spool_file
from statelatch.cli.tables import many_ends
from statelatch.cli.terminal import console, log_to_stderr, put, say
from statelatch.runs import Outcome, RunManager
from statelatch.runs.spool import Spool, refuse_foreign

if TYPE_CHECKING:
    from pathlib import Path

    from statelatch.runs import Finalized

__all__ = ["recover"]

NOT_ALL = 1


def recover(*, db: DatabaseOption = None, spool: SpoolOption = None, as_json: JsonOption = False) -> None:
    """Write the ends of runs that no database took when they were due.

    They are in a file, the spool. Each is written once, the oldest first, however often this is tried and by however
    many at the same time. A run that has ended otherwise meanwhile stays as it is. With --json, one object a line.

    \b
    Exit code:
      0  nothing is left in the spool
      1  something is: no database answered, or it has no such run, or could not write it now; or the file was damaged
         and is set aside; or there is no such file or database
      2  wrong usage; or the file is a database of another application
    """  # noqa: D301  a backspace: click keeps these lines as they are
    file = spool_file(spool)
    if not file.exists():
        if spool is None:
            say("nothing to recover")
            return
        say(f"{file}: there is no such spool; `statelatch run --spool FILE` makes one")
        raise typer.Exit(NOT_ALL)
    refuse_foreign(file)
    log_to_stderr()
    with existing(db) as adapter:
        aside = _set_aside(file)
        with RunManager(adapter, spool=file) as manager:
            told = manager.recover()
    if not aside:
        _show(told, as_json=as_json)
    for each in aside:
        say(f"{each}: what it holds could not be read and was not recovered; nothing of it is deleted")
    if aside or any(said.outcome is Outcome.SPOOLED for said in told):
        raise typer.Exit(NOT_ALL)


def _set_aside(file: Path) -> list[Path]:
    """Look at all of the spool; if it is damaged, or none, what it is called now."""
    spool = Spool(file)
    spool.entries()
    return spool.aside


def _show(told: list[Finalized], *, as_json: bool) -> None:
    if as_json:
        put("".join(f"{json.dumps(asdict(said), default=str)}\n" for said in told))
    elif told:
        terminal = console()
        terminal.print(many_ends(told, terminal.width))
    else:
        say("nothing to recover")
