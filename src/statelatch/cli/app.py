"""The command line: its commands, and what becomes of an error: one line on stderr and an exit code.

| exit code | what happened |
|---|---|
| 0 | done |
| 1 | the database said no, or did not answer |
| 2 | wrong usage: correct the call |

`statelatch run` passes its command's exit code on instead, and has codes of its own.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from statelatch.cli.demo import demo
from statelatch.cli.diagram import diagram
from statelatch.cli.listing import cancel, runs, show
from statelatch.cli.run import run
from statelatch.cli.terminal import say
from statelatch.errors import ConnectionFailureError, NotAppliedError, StatelatchError

__all__ = ["app", "run_app"]

REFUSED = 1
WRONG_USAGE = 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

app.command(context_settings={"allow_interspersed_args": False})(run)
for command in (runs, show, cancel, demo, diagram):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"statelatch {version('statelatch')}")
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
    try:
        app()
    except (NotAppliedError, ConnectionFailureError) as error:
        _end(error, REFUSED)
    except StatelatchError as error:
        _end(error, WRONG_USAGE)
    except SQLAlchemyError as error:
        _end(getattr(error, "orig", None) or error, REFUSED)


def _end(error: object, code: int) -> None:
    say(" ".join(str(error).split()) or type(error).__name__)
    sys.exit(code)
