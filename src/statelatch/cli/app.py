"""The command line: its commands, and what becomes of an error: one line on stderr and an exit code.

| exit code | what happened |
|---|---|
| 0 | done |
| 1 | the database said no, or did not answer; a file or standard output could not be read or written |
| 2 | wrong usage: correct the call |
| 130 | Ctrl-C |

`statelatch run` passes its command's exit code on instead, and has codes of its own.
"""

from __future__ import annotations

import errno
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from statelatch.cli.demo import demo
from statelatch.cli.diagram import diagram
from statelatch.cli.listing import cancel, runs, show
from statelatch.cli.recover import recover
from statelatch.cli.run import run
from statelatch.cli.terminal import (
    STANDARD_OUTPUT,
    flush_output,
    open_standard_streams,
    put,
    say,
    spell_out_what_has_no_code,
)
from statelatch.errors import ConnectionFailureError, NotAppliedError, StatelatchError
from statelatch.runs import SpoolError

__all__ = ["app", "run_app"]

REFUSED = 1
WRONG_USAGE = 2
INTERRUPTED = 130

OF_WRITING = {errno.ENOSPC, errno.EFBIG, errno.EIO}
"""Errors that name no file here only if it is standard output that they are about."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

app.command(context_settings={"allow_interspersed_args": False})(run)
for command in (runs, show, cancel, recover, demo, diagram):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        put(f"statelatch {version('statelatch')}\n")
        raise typer.Exit


@app.callback()
def statelatch(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Runs that are persisted: each one's last word is written once, and holds."""


def run_app() -> None:
    """Run the command line and end the process."""
    open_standard_streams()
    spell_out_what_has_no_code()
    try:
        try:
            app()
        finally:
            flush_output()
    except (NotAppliedError, ConnectionFailureError, SpoolError) as error:
        _end(error, REFUSED)
    except StatelatchError as error:
        _end(error, WRONG_USAGE)
    except SQLAlchemyError as error:
        _end(getattr(error, "orig", None) or error, REFUSED)
    except OSError as error:
        _end(_in_words(error), REFUSED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _in_words(error: OSError) -> str:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    named = error.filename or (STANDARD_OUTPUT if error.errno in OF_WRITING else None)
    if named is not None:
        return f"{named}: {reason}"
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder is gone; change to another"
    return reason


def _end(error: object, code: int) -> None:
    say(" ".join(str(error).split()) or type(error).__name__)
    sys.exit(code)
