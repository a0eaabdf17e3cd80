"""The spool: last words that no connection would take, in a local SQLite file, until they are replayed.

Rules:

- A word that `append` has taken is on the disk: each write is synchronous, with a rollback journal.
- The file is opened for each use and held by nobody in between. Threads and processes may share it: whoever uses it
  holds the lock file beside it.
- A file that is not a spool as this version writes it, whole, is set aside: renamed, with its journal, and told by a
  warning. It is not read, not even in part, and not deleted.
- A word is removed by its token, and only one of those who try is told that it was.

Why no table in the runs' own database: it is the one that did not answer.
"""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from filelock import FileLock

from statelatch.errors import ConfigurationError, StatelatchError
from statelatch.runs.last_word import LastWord

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

__all__ = ["Spool", "SpoolError", "refuse_foreign"]

logger = logging.getLogger("statelatch.runs")

Result = TypeVar("Result")

MAGIC = b"SQLite format 3\0"
APPLICATION = 0x73744C61
"""`application_id` in the file's header, "stLa": whose file it is."""

VERSION = 1
"""`user_version` in the file's header."""

OF_VERSION, OF_APPLICATION = slice(60, 64), slice(68, 72)
"""Where they stand in the header (https://sqlite.org/fileformat2.html#the_database_header), big-endian."""

PATIENCE = 10.0
"""Seconds for which another process's use of the file is waited for."""

POLL = 0.005
"""Seconds between two looks at the lock: shorter than one use, so that a process with many threads starves nobody."""

TABLE = """
CREATE TABLE last_words (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL,
    event TEXT NOT NULL,
    worker TEXT,
    params TEXT NOT NULL,
    target TEXT NOT NULL,
    error TEXT
)
"""
NAME = "last_words"
COLUMNS = "token, run_id, event, worker, params, target, error"
APPEND = f"INSERT OR IGNORE INTO last_words ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constants of this file
ENTRIES = f"SELECT {COLUMNS} FROM last_words ORDER BY number"  # noqa: S608
REMOVE = "DELETE FROM last_words WHERE token = ?"
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"

UNFIT = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR")
"""What SQLite says of a file that is no database, no whole one, or lacks what our statements name; with their
extended codes."""

SIDES = ("", "-journal", "-wal", "-shm")
"""The file and what belongs to it. The file first: it must not be taken for a whole one without its journal."""


class SpoolError(StatelatchError):
    """The spool's file could not be used; what was to be done was not done.

    Make room on its disk, or let others finish with it, and try again.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, reason: object) -> None:
        self.path = path
        super().__init__(f"spool {path}: {reason}")


class _UnfitError(Exception):
    """The file is damaged, or no spool of this version."""


class Spool:
    """Last words in a file. Threads and processes may share it; a file that is missing is made.

    Args:
        path: of the file; its folder must exist. Nothing else may use the file: a database that it finds there is
            set aside.

    Attributes:
        aside: what this object has set aside, by its new name.

    Raises:
        ConfigurationError: the file cannot be made or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self.aside: list[Path] = []
        self._lock = threading.Lock()  # threads need not poll for one another
        try:
            self._use(_nothing)
        except SpoolError as error:
            raise ConfigurationError(
                f"{error}; expected a file that can be made and written, in a folder that exists"
            ) from error

    def append(self, word: LastWord) -> None:
        """Keep a word, once, whoever else has kept it. When this returns it is on the disk.

        Raises:
            SpoolError: the file did not take it.
        """
        row = _row(word)
        self._use(lambda connection: connection.execute(APPEND, row))

    def entries(self) -> list[LastWord]:
        """What is kept, oldest first.

        Raises:
            SpoolError: the file cannot be read now.
        """
        return self._use(_entries)

    def remove(self, word: LastWord) -> bool:
        """Drop a word that needs to be kept no longer.

        Returns:
            Whether it was there: of several who drop it, one is told so.

        Raises:
            SpoolError: the file cannot be written now; the word is kept.
        """
        return self._use(lambda connection: connection.execute(REMOVE, (str(word.token),)).rowcount == 1)

    def _use(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do this in one transaction; if the file is unfit, with a new one in its place."""
        try:
            if not self.path.parent.is_dir():  # the lock would make it
                raise FileNotFoundError(errno.ENOENT, "no such folder", str(self.path.parent))
            with self._lock, FileLock(f"{self.path}.lock", timeout=PATIENCE, poll_interval=POLL):
                try:
                    return self._transaction(work)
                except _UnfitError as fault:
                    self._set_aside(fault)
                    return self._transaction(work)
        except (sqlite3.Error, OSError, _UnfitError) as error:
            raise SpoolError(self.path, error) from error

    def _transaction(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        self._check_header()
        try:
            with closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as connection:
                connection.text_factory = bytes.decode  # strictly: what is not UTF-8 was not written here
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("BEGIN IMMEDIATE")
                if _is_blank(connection):
                    _make(connection)
                _check_tables(connection)
                result = work(connection)
                connection.execute("COMMIT")
                return result
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(UNFIT):
                raise _UnfitError(error) from error
            raise

    def _check_header(self) -> None:
        """Look at what is there, if anything is. SQLite is not asked: it might change another's file.

        Raises:
            _UnfitError: it is somebody else's, or of another version.
        """
        try:
            with self.path.open("rb") as file:
                header = file.read(100)
        except FileNotFoundError:
            return
        if not header:
            return
        if not header.startswith(MAGIC):
            raise _UnfitError("expected an SQLite file, found another")
        version, application = int.from_bytes(header[OF_VERSION]), int.from_bytes(header[OF_APPLICATION])
        if application != APPLICATION:
            raise _UnfitError(f"expected the application_id {APPLICATION:#x}, found {application:#x}")
        if version != VERSION:
            raise _UnfitError(f"expected a spool of version {VERSION}, found version {version}")

    def _set_aside(self, fault: _UnfitError) -> None:
        """Rename what is there. We hold the lock, so it is not the new file of another who set it aside."""
        number = 1
        while any(Path(f"{self.path}.aside-{number}{side}").exists() for side in SIDES):
            number += 1
        for side in SIDES:
            file = Path(f"{self.path}{side}")
            if file.exists():
                file.rename(f"{self.path}.aside-{number}{side}")
        self.aside.append(Path(f"{self.path}.aside-{number}"))
        logger.warning("spool %s: %s; set aside, unread, as %s", self.path, fault, self.aside[-1])


def refuse_foreign(path: Path) -> None:
    """Refuse a database of another application: who named it has erred. It is not changed.

    One that is damaged is not refused: it may have been a spool.

    Raises:
        ConfigurationError: it is one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(100)
    application = int.from_bytes(header[OF_APPLICATION])
    if not header.startswith(MAGIC) or application == APPLICATION:
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as read:
        if read.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
            raise ConfigurationError(
                f"spool {path}: expected a spool, found an SQLite database of another application "
                f"(application_id {application:#x}); name the file that `statelatch run --spool` was given"
            )


def _nothing(_: sqlite3.Connection) -> None:
    """To open the file is all that is wanted."""


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Whether it is still to be made. Asked when SQLite has rolled back what was interrupted, the making perhaps."""
    return connection.execute("PRAGMA application_id").fetchone() == (0,)


def _make(connection: sqlite3.Connection) -> None:
    connection.execute(TABLE)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _check_tables(connection: sqlite3.Connection) -> None:
    """Refuse a file with tables of somebody else.

    Raises:
        _UnfitError: it has some, or lacks ours.
    """
    tables = {name for (name,) in connection.execute(TABLES)}
    if tables != {NAME}:
        raise _UnfitError(f"expected the table {NAME} alone, found {', '.join(sorted(tables)) or 'none'}")


def _entries(connection: sqlite3.Connection) -> list[LastWord]:
    """All of them.

    Raises:
        _UnfitError: not all of the file is what was written.
    """
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise _UnfitError(f"it is damaged ({found})")
    try:
        return [_word(row) for row in connection.execute(ENTRIES)]
    except (TypeError, ValueError) as error:
        raise _UnfitError(f"an entry cannot be read ({error})") from error


def _row(word: LastWord) -> tuple[str | None, ...]:
    params = json.dumps(dict(word.params), allow_nan=False)
    return (str(word.token), str(word.run_id), word.event, word.worker, params, word.target, word.error)


def _word(row: Sequence[Any]) -> LastWord:
    token, run_id, event, worker, params, target, error = row
    values: Any = json.loads(params)
    if not isinstance(values, dict):
        raise TypeError(f"expected parameters, found {params[:40]!r}")
    return LastWord(
        run_id=UUID(run_id),
        event=event,
        token=UUID(token),
        worker=worker,
        params=cast("dict[str, Any]", values),
        target=target,
        error=error,
    )
