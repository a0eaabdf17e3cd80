"""What the command line says to a person, and how: lines on stderr, tables on stdout, nothing a terminal obeys.

Rules:

- Text from the database or the user is shown through `printable`: a terminal sees no control character of it.
- Lines on stderr are written past Python's buffer. A stderr that is gone changes nothing, not even at exit.
- On a terminal a table is as wide as the terminal; in a pipe or a file it is wide enough for whole values.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress

from rich.console import Console
from rich.text import Text

__all__ = ["console", "log_to_stderr", "printable", "say", "text"]

PIPE_WIDTH = 200
"""Columns of a table that goes into a pipe or a file, unless the environment says COLUMNS."""

REPEAT_SECONDS = 60.0
"""Seconds for which the same warning is not said again."""


def say(message: str, *, dim: bool = False) -> None:
    """Say one line on stderr."""
    line = f"statelatch: {printable(message)}"
    if dim and _has_colours():
        line = f"\x1b[2m{line}\x1b[0m"
    with suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def printable(value: object) -> str:
    """The value's text in one line, with an escape sequence in place of each character that does not print."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def text(value: object, style: str = "") -> Text:
    """The value for a table: printable, and not read as markup. None is a dash."""
    return Text("-", "dim") if value is None else Text(printable(value), style)


def console() -> Console:
    """Standard output."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console(highlight=False)
    return Console(highlight=False, width=PIPE_WIDTH)


def log_to_stderr() -> None:
    """Show statelatch's own warnings as lines on stderr."""
    logger = logging.getLogger("statelatch")
    logger.addHandler(_Lines(logging.WARNING))
    logger.propagate = False


class _Lines(logging.Handler):
    """One line a warning; the same kind of warning once in a while, not with every heartbeat."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now, kind = time.monotonic(), str(record.msg)
        if now - self._said.get(kind, -REPEAT_SECONDS) >= REPEAT_SECONDS:
            self._said[kind] = now
            cause = f": {record.exc_info[1]}" if record.exc_info else ""
            say(record.getMessage() + cause)


def _has_colours() -> bool:
    return os.isatty(2) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
