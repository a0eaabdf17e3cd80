"""The database of a command: the one that `--db` or STATELATCH_DB names, else a file of the user's. Never a server.

Rules:

- Only `statelatch run` makes a database or a table. A command that looks at runs leaves none where none was.
- A URL that cannot be right is refused in words of ours: a driver's own would show a Python error, or a password.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import platformdirs
import typer
from sqlalchemy import URL, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SAWarning

from statelatch import faults
from statelatch.adapter import PersistenceAdapter
from statelatch.cli.terminal import say
from statelatch.errors import ConfigurationError, Phase, RequestError, StatelatchError
from statelatch.runs import create_tables, run_mapping
from statelatch.runs.connections import file_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["DatabaseOption", "existing", "is_named", "opened"]

Result = TypeVar("Result")

VARIABLE = "STATELATCH_DB"
ABSENT = 1
SYNCHRONOUS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}

DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        envvar=VARIABLE,
        show_default=False,
        help="SQLAlchemy URL of the database, for instance sqlite:///runs.db. Default: a file in your state folder.",
    ),
]


def is_named(given: str | None) -> bool:
    """Whether the user has named a database.

    Raises:
        RequestError: the name is empty, as that of a variable which somebody forgot to set.
    """
    if given is None and os.environ.get(VARIABLE) is None:
        return False
    if not (given or "").strip():
        raise RequestError(f"--db, or {VARIABLE}: expected a URL, found an empty text; leave it out for your own file")
    return True


@contextmanager
def opened(given: str | None) -> Generator[PersistenceAdapter]:
    """The runs of a database; file, folder and table are made where they are missing.

    Args:
        given: a URL of SQLAlchemy's; None for the user's own file.

    Raises:
        RequestError: the name is empty.
        ConfigurationError: it names no database that can be opened here.
        ConnectionFailureError: the database did not answer.
        sqlalchemy.exc.DBAPIError: it answered and refused, as the driver raised it.
    """
    url = _url(given)
    if not is_named(given):
        _make_folder()
    with _adapter(url) as adapter:
        _first_word(adapter, create_tables)
        yield adapter


@contextmanager
def existing(given: str | None) -> Generator[PersistenceAdapter]:
    """The runs of a database that is there. If it is not, say so, and end; nothing is made.

    Args:
        given: a URL of SQLAlchemy's; None for the user's own file.

    Raises:
        Exit: there is no such database, or no run was ever started in it.
        Exception: as `opened`.
    """
    url = _url(given)
    file = file_of(url)
    if file is not None and not os.path.lexists(file):  # a link to nowhere is an error, not an absence
        _absent(f"{file}: there is no such database; `statelatch run` makes one")
    with _adapter(url) as adapter:
        if not _first_word(adapter, _has_table):
            shown = adapter.engine.url.render_as_string(hide_password=True)
            _absent(f"{shown}: no run was ever started in this database; `statelatch run` starts one")
        yield adapter


def _absent(message: str) -> None:
    say(message)
    raise typer.Exit(ABSENT)


# -- the URL ----------------------------------------------------------------------------------------------


def _url(given: str | None) -> URL:
    """The URL to open.

    Raises:
        ConfigurationError: it is none, or needs a driver that is asynchronous.
    """
    if not is_named(given) or given is None:
        return URL.create("sqlite", database=str(_folder() / "runs.db"))
    try:
        url = make_url(given)
        dialect = url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(f"database URL: {error}; expected for instance sqlite:///runs.db") from error
    except ValueError as error:  # what Python says of it could be a part of the password
        raise ConfigurationError(
            "database URL: expected a number as port; write /, : and @ in a password as %2F, %3A and %40"
        ) from error
    if dialect.is_async:
        raise ConfigurationError(
            f"database URL: {url.drivername} is asynchronous, and statelatch needs a synchronous driver; "
            f"expected for instance {SYNCHRONOUS.get(url.get_backend_name(), url.get_backend_name())}://"
        )
    return url


def _folder() -> Path:
    return platformdirs.user_state_path("statelatch")


def _make_folder() -> None:
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be made: {error.strerror}; name a database with --db") from error


# -- the first word with it ---------------------------------------------------------------------------------


def _adapter(url: URL) -> PersistenceAdapter:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SAWarning)
            return PersistenceAdapter(url, run_mapping())
    except StatelatchError:
        raise
    except (SAWarning, TypeError, ValueError) as error:
        raise _not_understood(error) from error


def _first_word(adapter: PersistenceAdapter, ask: Callable[[PersistenceAdapter], Result]) -> Result:
    try:
        return ask(adapter)
    except DBAPIError as error:
        judged = faults.judge(error, Phase.CONNECT, adapter.engine)
        if judged is error:
            raise
        raise judged from error
    except StatelatchError:
        raise
    except (TypeError, ValueError) as error:  # the driver's, on an argument that it does not know
        raise _not_understood(error) from error


def _has_table(adapter: PersistenceAdapter) -> bool:
    return inspect(adapter.engine).has_table(adapter.mapping.table)


def _not_understood(error: Exception) -> ConfigurationError:
    reason = str(error).partition(" (Background on")[0]
    return ConfigurationError(f"database URL: its parameters are not understood: {reason}")
