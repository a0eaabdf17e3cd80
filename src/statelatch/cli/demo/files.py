"""The work of the demo: count and hash the files of a folder. Bounded, however large the folder is."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from statelatch.runs import current_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Files", "find_files", "hash_files"]

MOST_FILES = 2000
MOST_BYTES = 64 * 2**20
FIND_SECONDS = 1.0
HASH_SECONDS = 1.0
CHUNK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What there is to do.

    Attributes:
        paths: regular files.
        size: their bytes.
        cut: whether the folder has more.
    """

    paths: Sequence[Path]
    size: int
    cut: bool


def find_files(folder: Path, *, most: int = MOST_FILES) -> Files:
    """The files of a folder and those below it, up to a limit; without hidden folders and virtual environments."""
    deadline = time.monotonic() + FIND_SECONDS
    paths: list[Path] = []
    size = 0
    for path, length in _regular_files(folder):
        if len(paths) == most or size + length > MOST_BYTES or time.monotonic() > deadline:
            return Files(paths=paths, size=size, cut=True)
        paths.append(path)
        size += length
    return Files(paths=paths, size=size, cut=False)


def _regular_files(folder: Path) -> Iterator[tuple[Path, int]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_wanted(Path(parent, name)))
        for name in sorted(names):
            path = Path(parent, name)
            try:
                status = path.lstat()
            except OSError:  # gone meanwhile
                continue
            if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
                yield path, status.st_size


def _is_wanted(folder: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name in {"node_modules", "__pycache__"}
    return not hidden and not os.access(folder / "pyvenv.cfg", os.F_OK)


def hash_files(files: Files) -> dict[str, object]:
    """Hash the files as the current run, with progress; stop where the run is cancelled or time is up.

    Returns:
        How many files and bytes were hashed, and the SHA-256 of all their SHA-256s.
    """
    run = current_run()
    deadline = time.monotonic() + HASH_SECONDS
    total, done, size = hashlib.sha256(), 0, 0
    run.progress(0, len(files.paths))
    for path in files.paths:
        digest, length = _hashed(path, deadline)
        if time.monotonic() > deadline:
            break
        total.update(digest)
        done, size = done + 1, size + length
        run.progress(done, len(files.paths), path.name)
        run.raise_if_cancelled()
    return {"files": done, "bytes": size, "sha256": total.hexdigest()}


def _hashed(path: Path, deadline: float) -> tuple[bytes, int]:
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            while (chunk := file.read(CHUNK)) and time.monotonic() <= deadline:
                digest.update(chunk)
                size += len(chunk)
    except OSError:  # gone, or made unreadable, meanwhile: it counts as empty
        pass
    return digest.digest(), size


def _without_waiting(path: str, flags: int) -> int:
    """Some files of /proc and /sys have nothing to read yet."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
