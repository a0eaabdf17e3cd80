"""A command's stderr on its way through: passed on byte by byte as it comes, its last lines kept.

Rules:

- What is passed on is what was written; nothing is decoded, buffered or held back on the way.
- What is kept is bounded, whatever the command writes.
- A reader who is gone stops nothing: the command goes on, and its last lines are kept all the same.
- A writer who never closes stops nothing: when the command is over, what has come so far is all.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from contextlib import suppress

from statelatch.runs.error_text import LONGEST, clean

__all__ = ["Relay", "last_lines"]

LINES = 20
KEPT = 4096
"""Bytes that are kept of what was written last."""

CHUNK = 65536
QUIET = 0.1
"""Seconds without a byte after which, the command being over, nothing more is awaited."""

LARGEST_PIPE = 2**20
"""Bytes that may be under way when the command is over; what exceeds them was written by somebody else."""


class Relay:
    """Passes bytes on from one file descriptor to another, in a thread of its own.

    Args:
        source: where they come from; closed when nothing more is read.
        sink: where they go.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._tail = b""
        self._length = 0
        self._over = threading.Event()
        self._allowed = LARGEST_PIPE
        self._thread = threading.Thread(target=self._relay, name="statelatch-stderr", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self, timeout: float | None) -> bool:
        """The command is over: pass on what it has written.

        Args:
            timeout: seconds for which the sink may take its time; None for as long as it takes.

        Returns:
            Whether all is done.
        """
        self._over.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def last_lines(self) -> str:
        """The last lines that came: see `last_lines`."""
        return last_lines(self._tail, cut=self._length > len(self._tail))

    def _relay(self) -> None:
        try:
            while data := self._read():
                self._length += len(data)
                self._tail = (self._tail + data)[-KEPT:]
                self._pass_on(data)
        finally:
            os.close(self._source)

    def _read(self) -> bytes:
        """What has come; empty at the end."""
        while not select.select([self._source], [], [], QUIET)[0]:
            if self._over.is_set():
                return b""
        if self._over.is_set():
            self._allowed -= CHUNK
        return os.read(self._source, CHUNK) if self._allowed >= 0 else b""

    def _pass_on(self, data: bytes) -> None:
        view = memoryview(data)
        with suppress(OSError):  # nobody reads any more; the command's business goes on
            while view:
                try:
                    view = view[os.write(self._sink, view) :]
                except BlockingIOError:
                    select.select([], [self._sink], [])


def last_lines(tail: bytes, *, cut: bool) -> str:
    """The last lines as an error text: cleaned, as many as fit into the column.

    Args:
        tail: what was written last.
        cut: there was more before it, so its first line is not whole.
    """
    decoded = tail.decode("utf-8", "replace")
    if cut:  # half a word could be half a password, which is not recognised as one
        decoded = decoded.partition("\n")[2] or decoded.partition(" ")[2]
    kept: deque[str] = deque()
    room = LONGEST
    for line in reversed(decoded.splitlines()[-LINES:]):
        said = clean(line)
        room -= len(said) + 1
        if kept and room < -1:
            break
        kept.appendleft(said)
    return "\n".join(line for line in kept if line)
