"""The spool of a command: the file that `--spool` names, else one of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer

from statelatch.cli.terminal import say
from statelatch.errors import ConfigurationError
from statelatch.runs import RunManager

if TYPE_CHECKING:
    from statelatch.adapter import PersistenceAdapter

__all__ = ["SpoolOption", "manager_with", "spool_file"]

SpoolOption = Annotated[
    Path | None,
    typer.Option(
        "--spool",
        metavar="FILE",
        show_default=False,
        help="Where the end of a run is kept that no database took. Default: a file in your state folder.",
    ),
]


def spool_file(given: Path | None) -> Path:
    """The file to use."""
    return platformdirs.user_state_path("statelatch") / "spool.db" if given is None else given


def manager_with(adapter: PersistenceAdapter, given: Path | None) -> RunManager:
    """A manager with this spool. Without one, and with a warning, if it is the user's own that cannot be made.

    Raises:
        ConfigurationError: the file that was named cannot be made or written.
    """
    if given is not None:
        return RunManager(adapter, spool=given)
    file = spool_file(None)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return RunManager(adapter, spool=file)
    except (OSError, ConfigurationError) as error:
        say(f"{error}; without it, the end of a run that no database takes is not kept; name another with --spool")
        return RunManager(adapter)
