"""Other processes on a test's database: each a Python of its own, which says what it does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.runs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL

__all__ = ["Process", "process"]

BEGINNING = """
import json, sys, threading, time
from statelatch.engines import open_engine
from statelatch.errors import ActiveRunExistsError
from statelatch.runs import RunManager, create_tables, current_run

def say(**values):
    print(json.dumps(values, default=str), flush=True)

url = sys.argv[1]
"""


class Process:
    """Another Python that says what it does, a line of JSON at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hear(self) -> dict[str, Any]:
        """The next that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it ended with {self._process.wait()}"
        return json.loads(line)

    def go(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self, code: int = 0) -> None:
        """Wait for its end, with this exit code."""
        assert self._process.wait(PATIENCE) == code


@contextmanager
def process(script: str, url: URL, *arguments: object) -> Generator[Process]:
    """Run this script in a process of its own, which does not outlive the test.

    `url` is the first of its arguments, `arguments` in `sys.argv[2:]` the others.
    """
    name = url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", BEGINNING + script, name, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield Process(started)
        finally:
            started.kill()
