"""The database of a command: the one that `--db` or STATELATCH_DB names, else a file of the user's. Never a server."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import platformdirs
import typer
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from statelatch import faults
from statelatch.adapter import PersistenceAdapter
from statelatch.errors import ConfigurationError, Phase
from statelatch.runs import create_tables, run_mapping

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["DatabaseOption", "default_url", "opened"]

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        envvar="STATELATCH_DB",
        show_default=False,
        help="SQLAlchemy URL of the database, for instance sqlite:///runs.db. Default: a file in your state folder.",
    ),
]


def default_url() -> URL:
    """An SQLite file in the user's state folder, which is made if it is missing.

    Raises:
        ConfigurationError: the folder cannot be made.
    """
    folder = platformdirs.user_state_path("statelatch")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be made: {error.strerror}; name a database with --db") from error
    return URL.create("sqlite", database=str(folder / "runs.db"))


@contextmanager
def opened(url: str | None) -> Generator[PersistenceAdapter]:
    """The runs of a database; their table is created if it is missing.

    Args:
        url: a URL of SQLAlchemy's; None for the default.

    Raises:
        ConfigurationError: the URL names no database that can be opened here.
        ConnectionFailureError: the database did not answer.
        sqlalchemy.exc.DBAPIError: it answered and refused, as the driver raised it.
    """
    with PersistenceAdapter(url or default_url(), run_mapping()) as adapter:
        _create_tables(adapter)
        yield adapter


def _create_tables(adapter: PersistenceAdapter) -> None:
    try:
        create_tables(adapter)
    except DBAPIError as error:
        judged = faults.judge(error, Phase.CONNECT, adapter.engine)
        if judged is error:
            raise
        raise judged from error
