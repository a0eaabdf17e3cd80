"""The command line as its user runs it: in a process of its own, with signals, pipes and a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from sqlalchemy import create_engine

from statelatch.runs import create_tables
from tests.runs import PATIENCE, everything

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from sqlalchemy import URL

    from statelatch.runs import Run

COMMAND = (sys.executable, "-m", "statelatch")
NONE: Mapping[str, str] = MappingProxyType({})

Process = subprocess.Popen[bytes]

FAMILY = "sleep 100 & echo $$ $!; wait"
"""A command with a child of its own; says both their ids, then waits."""

STUBBORN = "trap '' TERM INT HUP; sleep 100 & echo $$ $!; while true; do sleep 0.05; done"
"""The same, and neither minds any signal that can be ignored."""


@contextmanager
def launched(
    *arguments: str, environment: Mapping[str, str] = NONE, stderr: int | IO[bytes] = subprocess.PIPE
) -> Generator[Process]:
    """`statelatch` with these arguments and additions to the environment; killed at the end if it still runs."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def completed(*arguments: str, environment: Mapping[str, str] = NONE, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """`statelatch` with these arguments, run to its end: exit code, stdout, stderr."""
    with launched(*arguments, environment=environment) as process:
        out, err = process.communicate(stdin, timeout=PATIENCE)
        return process.returncode, out, err


def ended(process: Process) -> tuple[int, bytes, bytes]:
    """Wait for its end: exit code, what is left of stdout, stderr."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def line_of(process: Process) -> str:
    """The next line of its stdout."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def told(process: Process, text: str) -> None:
    """Read its stderr up to a line with this text; fail with all of it if it ends without."""
    assert process.stderr is not None
    lines: list[bytes] = []
    while text.encode() not in (line := process.stderr.readline()):
        lines.append(line)
        assert line, f"no {text!r} in {b''.join(lines).decode()!r}; the command ended with {ended(process)}"


@contextmanager
def in_terminal(*arguments: str, columns: int = 80) -> Generator[tuple[Process, int]]:
    """`statelatch` in the foreground of a terminal of its own, and the file descriptor of who sits at it."""
    person, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  no thread holds a lock that it needs
    ) as process:
        os.close(terminal)
        try:
            yield process, person
        finally:
            process.kill()
            os.close(person)


def seen(person: int, *, lines: int | None = None) -> str:
    """What the terminal shows until there are so many lines, however they come, or until the end."""
    shown = b""
    while lines is None or shown.count(b"\n") < lines:
        assert select.select([person], [], [], PATIENCE)[0], f"nothing more after {shown!r}"
        try:
            read = os.read(person, 4096)
        except OSError:  # EIO: nobody has the terminal open any more
            read = b""
        if not read:
            break
        shown += read
    return shown.decode()


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes to hold."""
    deadline = time.monotonic() + PATIENCE
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds


def is_alive(pid: int) -> bool:
    """Whether there is such a process, dead but not buried included."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def catches(process: Process, number: int) -> bool:
    """Whether the process has a handler for this signal; Linux only."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def rows(url: URL | str) -> list[Run]:
    """All runs of a database, oldest first, read by nobody's product."""
    engine = create_engine(url)
    try:
        return everything(engine)
    finally:
        engine.dispose()


def make(url: str) -> None:
    """Make the database with its table."""
    engine = create_engine(url)
    create_tables(engine)
    engine.dispose()


def only(url: str | URL) -> Run:
    """The one run there is."""
    (run,) = rows(url)
    return run


def pids(line: str) -> list[int]:
    """The ids of processes in a line."""
    return [int(word) for word in line.split()]


def is_running(url: str | URL) -> bool:
    """Whether the one run there is is running."""
    return only(url).status == "running"
