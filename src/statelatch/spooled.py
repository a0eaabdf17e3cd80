"""Rows kept in a temporary file: as many as there are, in the memory of one chunk.

Written once, when made; read as often as one likes, by several readers at once. A few rows never come to the disk.
The file has no name where the system allows that, and is gone when it is closed, collected, or its process ends.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from tempfile import SpooledTemporaryFile, gettempdir
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import finalize

from statelatch.closing import Closing
from statelatch.errors import StatelatchError

__all__ = ["CHUNK", "SpooledRows"]

CHUNK = 1000
"""Rows that are read from the database, written to the file and read back at a time."""

IN_MEMORY = 256 * 1024
"""Bytes up to which there is no file."""

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


class SpooledRows(Closing, Collection[T_co], Generic[T_co]):
    """A collection in a temporary file. `in` reads it from the start.

    A context manager; it is also closed when nothing refers to it any more. Threads may share it.
    """

    def __init__(self, file: _File, read: Callable[[Any], T_co]) -> None:
        self._file = file
        self._read = read

    @classmethod
    def of(cls, chunks: Iterable[Sequence[Any]], read: Callable[[Any], T_co]) -> SpooledRows[T_co]:
        """Write rows into a new file.

        Args:
            chunks: the rows, some at a time: what Python can pickle.
            read: what a reader is given instead of a row.

        Raises:
            StatelatchError: the temporary folder does not take them.
        """
        return cls(_File(chunks), read)

    def mapped(self, read: Callable[[T_co], U]) -> SpooledRows[U]:
        """The same file, read in another way; it is closed with either."""
        own = self._read
        return SpooledRows(self._file, lambda row: read(own(row)))

    def close(self) -> None:
        """Delete the file; whoever reads it further gets a ValueError."""
        self._file.close()

    def __iter__(self) -> Iterator[T_co]:
        """From the first row to the last."""
        return map(self._read, self._file.rows())

    def __len__(self) -> int:
        """How many rows there are."""
        return self._file.count

    def __contains__(self, item: object) -> bool:
        """Whether one of them equals this."""
        return any(item == each for each in self)

    def __repr__(self) -> str:
        """How many rows there are; they may be too many to be shown."""
        return f"<SpooledRows: {len(self)}>"


class _File:
    """Pickled chunks, one after the other; each reader knows where it is."""

    def __init__(self, chunks: Iterable[Sequence[Any]]) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY, prefix="statelatch-")  # noqa: SIM115  `close` closes it
        self._lock = Lock()
        self.count = 0
        self.close = finalize(self, self._file.close)
        try:
            for chunk in chunks:
                self._append(chunk)
        except BaseException:
            self.close()
            raise
        self._end = self._file.tell()

    def _append(self, chunk: Sequence[Any]) -> None:
        rows = [tuple(row) for row in chunk]
        try:
            pickle.dump(rows, self._file, pickle.HIGHEST_PROTOCOL)
        except OSError as error:
            raise StatelatchError(
                f"temporary folder {gettempdir()}: {error}, after {self.count} rows. Nothing was written to the "
                "database; make room there, or name another folder in TMPDIR"
            ) from error
        self.count += len(rows)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        position = 0
        while position < self._end:
            chunk, position = self._chunk(position)
            yield from chunk

    def _chunk(self, position: int) -> tuple[list[tuple[Any, ...]], int]:
        """One chunk, and where the next begins."""
        with self._lock:
            self._file.seek(position)
            return pickle.load(self._file), self._file.tell()  # noqa: S301  no one else can write to it
