"""Rows in a temporary file: they come back as they were, and leave nothing behind."""

from __future__ import annotations

import gc
import resource
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from statelatch import StatelatchError
from statelatch.spooled import IN_MEMORY, SpooledRows

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 50_000  # more than are kept in memory


def rows(count: int) -> list[tuple[int, str]]:
    """So many rows."""
    return [(number, f"row {number}") for number in range(count)]


def spooled(count: int, size: int = 1000) -> SpooledRows[tuple[int, str]]:
    """So many rows, written some at a time."""
    all_rows = rows(count)
    chunks = (all_rows[start : start + size] for start in range(0, count, size))
    return SpooledRows[tuple[int, str]].of(chunks, lambda row: row)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, for this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def open_files(folder: Path) -> int:
    """How many files in this folder this process has open; on Linux they have no name any more."""
    gc.collect()
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]  # reading it opens one
    return sum(str(link.readlink()).startswith(str(folder)) for link in links)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, MANY])
def test_rows_come_back(folder: Path, count: int) -> None:
    """As many as were written, in their order, as often as one reads; many of them lie on the disk."""
    kept = spooled(count)

    assert len(kept) == count
    assert list(kept) == list(kept) == rows(count)
    assert repr(kept) == f"<SpooledRows: {count}>"
    assert open_files(folder) == (count == MANY)


def test_values_come_back_as_they_were() -> None:
    """Keys are whatever a column's type makes of them."""
    values: list[tuple[Any, ...]] = [
        (UUID(int=7), datetime(2026, 3, 1, tzinfo=UTC), None),
        (Decimal("1.50"), b"\0", ("a", 1)),
    ]

    assert list(SpooledRows[Any].of([values], lambda row: row)) == values


def test_a_view_reads_the_same_file() -> None:
    """What a reader is given can be computed when it reads; `in` compares that."""
    kept = spooled(3)

    doubled = kept.mapped(lambda row: row[0] * 2)

    assert (list(doubled), len(doubled)) == ([0, 2, 4], 3)
    assert (4 in doubled, 5 in doubled, (1, "row 1") in kept) == (True, False, True)


def test_readers_do_not_meet() -> None:
    """Each reader has its own place in the file, in one thread and in several."""
    kept = spooled(MANY)

    def read(_: int) -> bool:
        return list(kept) == rows(MANY)

    assert list(zip(kept, kept, strict=True)) == [(row, row) for row in rows(MANY)]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_a_closed_file_is_gone(folder: Path) -> None:
    """`close`, or the end of a with block, deletes it; whoever reads on is told, and closing again is nothing."""
    with spooled(MANY) as kept:
        reader = iter(kept.mapped(lambda row: row[0]))
        next(reader)
        assert open_files(folder) == 1
    kept.close()

    assert (open_files(folder), list(folder.iterdir())) == (0, [])
    with pytest.raises(ValueError, match="closed"):
        list(reader)


def test_a_forgotten_file_is_gone(folder: Path) -> None:
    """Nobody has to close it: it goes with the last view of it, without a warning."""
    view = spooled(MANY).mapped(lambda row: row[0])
    assert open_files(folder) == 1

    with warnings.catch_warnings(record=True, action="always") as caught:
        del view
        assert (open_files(folder), list(folder.iterdir())) == (0, [])
    assert caught == []


def test_rows_that_break_off(folder: Path) -> None:
    """What the source of the rows raises is raised, and no file is left."""

    def chunks() -> Iterator[list[tuple[int, str]]]:
        yield rows(MANY)
        raise ConnectionError("in the middle")

    with pytest.raises(ConnectionError):
        SpooledRows[Any].of(chunks(), lambda row: row)

    assert (open_files(folder), list(folder.iterdir())) == (0, [])


def test_no_room(folder: Path) -> None:
    """A full disk is an error that names the folder, and says what to do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (IN_MEMORY // 2, hard))
    try:
        with pytest.raises(StatelatchError) as caught:
            spooled(MANY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert type(caught.value) is StatelatchError
    for words in (str(folder), "File too large", "Nothing was written", "TMPDIR"):
        assert words in str(caught.value)
    assert open_files(folder) == 0
