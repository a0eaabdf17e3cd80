"""What the command line says to a person, and how: lines on stderr, tables on stdout, nothing a terminal obeys.

Rules:

- Text from the database or the user is shown through `printable`: a terminal sees no control character of it.
- Lines on stderr are written past Python's buffer. A stderr that is gone changes nothing, not even at exit.
- What cannot be written on standard output is an error that names it. A character that its encoding lacks is
  spelled out.
- On a terminal a table is as wide as the terminal; in a pipe or a file it is wide enough for whole values.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import sys
import time
from contextlib import suppress
from typing import TextIO

import typer
from rich.console import Console
from rich.text import Text

__all__ = [
    "STANDARD_OUTPUT",
    "console",
    "flush_output",
    "log_to_stderr",
    "open_standard_streams",
    "printable",
    "put",
    "say",
    "spell_out_what_has_no_code",
    "text",
]

PIPE_WIDTH = 200
"""Columns of a table that goes into a pipe or a file, unless the environment says COLUMNS."""

STANDARD_OUTPUT = "standard output"

REPEAT_SECONDS = 60.0
"""Seconds for which the same warning is not said again."""


def say(message: str, *, dim: bool = False, waits: bool = True) -> None:
    """Say one line on stderr.

    Args:
        message: the line.
        dim: less important than what the command says.
        waits: for a reader who takes his time; else the line is left out if it would have to wait.
    """
    line = f"statelatch: {printable(message)}"
    if dim and _has_colours():
        line = f"\x1b[2m{line}\x1b[0m"
    with suppress(OSError, ValueError):  # stderr is gone
        if not waits and not select.select([], [2], [], 0)[1]:
            return
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def printable(value: object) -> str:
    """The value's text in one line, with an escape sequence in place of each character that does not print."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def text(value: object, style: str = "") -> Text:
    """The value for a table: printable, and not read as markup. None is a dash."""
    return Text("-", "dim") if value is None else Text(printable(value), style)


def console() -> Console:
    """Standard output, for tables.

    Raises:
        OSError: it is closed.
    """
    output = _output()
    if output.isatty() or "COLUMNS" in os.environ:
        return Console(highlight=False)
    return Console(highlight=False, width=PIPE_WIDTH)


def put(written: str | bytes) -> None:
    """Write on standard output, without a line end of its own.

    Raises:
        OSError: it is closed, or full.
    """
    typer.echo(written, file=_output(), nl=False)


def flush_output() -> None:
    """Write what waits for standard output. If that fails it is dropped, lest the interpreter try again at its end.

    Raises:
        OSError: it is full; the error names it.
    """
    try:
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  None if it was closed at the start
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from error


def spell_out_what_has_no_code() -> None:
    """A character that the encoding of standard output lacks is written as its escape sequence."""
    output: object = sys.stdout
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(errors="backslashreplace")


def open_standard_streams() -> None:
    """Fill what of 0, 1 and 2 is closed: a database's file or socket in that place would be written to."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


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
            say(record.getMessage() + cause, waits=False)  # it comes from the heartbeat, which must go on


def _output() -> TextIO:
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  it was closed at the start
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), STANDARD_OUTPUT)
    return sys.stdout


def _has_colours() -> bool:
    return os.isatty(2) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
