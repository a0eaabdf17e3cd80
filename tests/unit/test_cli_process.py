"""A command as a child process, and its stderr on the way through; without what it leaves behind."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from statelatch.cli.process import ChildProcess, Exit
from statelatch.cli.stderr import Relay, last_lines
from statelatch.runs.error_text import LONGEST
from tests.command_line import eventually
from tests.runs import PATIENCE


@contextmanager
def collected() -> Generator[tuple[int, Callable[[], bytes]]]:
    """The writing end of a pipe, and a function that closes it and returns all that went through."""
    read, write = os.pipe()
    with ThreadPoolExecutor(1) as threads, os.fdopen(read, "rb") as file:
        everything = threads.submit(file.read)

        def close() -> bytes:
            os.close(write)
            return everything.result(PATIENCE)

        yield write, close


def run(script: str, child: ChildProcess | None = None) -> Exit | None:
    """Run a shell script; what it says on stderr goes nowhere unless the child says otherwise."""
    if child is not None:
        return child.run(["sh", "-c", script])
    with Path(os.devnull).open("wb") as nowhere:
        return ChildProcess(stderr=nowhere.fileno()).run(["sh", "-c", script])


# -- the last lines ------------------------------------------------------------------------------------------

LAST_LINES = [
    (b"", False, ""),
    (b"  \n \n", False, ""),
    (b"one\n\n  two\r\n", False, "one\ntwo"),
    (b"10%\r50%\rlost", False, "10%\n50%\nlost"),
    (b"".join(b"%d\n" % n for n in range(30)), False, "\n".join(map(str, range(10, 30)))),
    (b"ret@host/\nwhole", True, "whole"),
    (b"ret@host the rest", True, "the rest"),
    (b"nothingelse", True, ""),
    (b"\xff\x00\x1b[31mred\x1b[0m", False, "�red"),
    (b"at /etc/passwd", False, "at <path>"),
]


@pytest.mark.parametrize(("tail", "cut", "text"), LAST_LINES)
def test_last_lines(tail: bytes, cut: bool, text: str) -> None:
    """At most 20 lines, cleaned, none of which began before what was kept."""
    assert last_lines(tail, cut=cut) == text


def test_last_lines_fit() -> None:
    """As many whole lines as fit into the column, counted from the end; a line that is too long alone is cut."""
    line = "x" * 300
    assert last_lines(f"{line}\n{line}\n{line}\n{line}\nend".encode(), cut=False) == "\n".join([line] * 3 + ["end"])
    assert len(last_lines(b"x" * 4096, cut=False)) == LONGEST


# -- the relay -------------------------------------------------------------------------------------------------


def relayed(data: bytes, sink: int) -> Relay:
    """Send data through a relay until it is finished."""
    read, write = os.pipe()
    relay = Relay(read, sink)
    relay.start()
    with os.fdopen(write, "wb") as file:
        file.write(data)
    assert relay.finish(PATIENCE)
    return relay


def test_relay_is_byte_exact() -> None:
    """Whatever bytes come → the same bytes go on, and the last of them are kept."""
    data = os.urandom(3_000_000) + b"\nthe end"
    with collected() as (sink, close):
        relay = relayed(data, sink)
        assert close() == data

    assert relay.last_lines().endswith("the end")


def test_relay_to_a_slow_reader() -> None:
    """A sink that takes nothing for a while, and does not block → all bytes arrive all the same."""
    data = os.urandom(300_000)
    with collected() as (sink, close):
        os.set_blocking(sink, False)
        relayed(data, sink)
        assert close() == data


def test_relay_to_nobody() -> None:
    """A sink that nobody reads → the last lines are kept all the same."""
    read, sink = os.pipe()
    os.close(read)
    assert relayed(b"first\nlast\n", sink).last_lines() == "first\nlast"
    os.close(sink)


def test_relay_of_an_endless_writer() -> None:
    """The command is over, and somebody who holds its stderr writes on and on → the relay ends."""
    read, write = os.pipe()
    over = threading.Event()

    def write_on() -> None:
        with os.fdopen(write, "wb", buffering=0) as file:
            while not over.is_set():
                file.write(b"again and again\n" * 1000)

    with ThreadPoolExecutor(1) as threads, Path(os.devnull).open("wb") as nowhere:
        relay = Relay(read, nowhere.fileno())
        relay.start()
        writing = threads.submit(write_on)
        try:
            assert relay.finish(PATIENCE)
            assert isinstance(writing.exception(PATIENCE), BrokenPipeError)  # it was still writing
        finally:
            over.set()


# -- the process -----------------------------------------------------------------------------------------------

EXITS = [
    ("exit 0", Exit(code=0, stopped_by=None, text="exit code 0")),
    ("exit 3", Exit(code=3, stopped_by=None, text="exit code 3")),
    ("echo why >&2; exit 255", Exit(code=255, stopped_by=None, text="why")),
    ("exec 2>&-; exit 4", Exit(code=4, stopped_by=None, text="exit code 4")),
    ("kill -TERM $$", Exit(code=143, stopped_by=None, text="killed by SIGTERM")),
    ("kill -40 $$", Exit(code=168, stopped_by=None, text="killed by signal 40")),
]


@pytest.mark.parametrize(("script", "expected"), EXITS)
def test_exit(script: str, expected: Exit) -> None:
    """A command's end → its code as a shell reports it, and its last lines, else the code in words."""
    assert run(script) == expected


NOT_BEGUN = [
    ("no-such-command", Exit(code=127, stopped_by=None, text="no-such-command: command not found", began=False)),
    (os.curdir, Exit(code=126, stopped_by=None, text=".: permission denied", began=False)),
]


@pytest.mark.parametrize(("command", "expected"), NOT_BEGUN)
def test_not_begun(command: str, expected: Exit) -> None:
    """A command that cannot be started → the shell's code for it, and the cause."""
    assert ChildProcess().run([command]) == expected


def test_stderr_is_live(tmp_path: Path) -> None:
    """A line on stderr is passed on while the command still runs."""
    read, write = os.pipe()
    child = ChildProcess(stderr=write)
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(run, f"echo now >&2; until test -e {tmp_path}/go; do sleep 0.01; done", child)
        assert os.read(read, 100) == b"now\n"
        assert not ending.done()
        (tmp_path / "go").touch()
        assert ending.result(PATIENCE) == Exit(code=0, stopped_by=None, text="now")
    os.close(read)
    os.close(write)


def test_stopped_before_it_began(tmp_path: Path) -> None:
    """Told to stop before it began → it never begins."""
    child = ChildProcess()
    assert child.stop(signal.SIGINT) is False
    assert run(f"touch {tmp_path}/begun", child) is None
    assert (child.exit, child.stopped_by, (tmp_path / "begun").exists()) == (None, signal.SIGINT, False)


def stopped(tmp_path: Path, script: str, child: ChildProcess, *numbers: int) -> Exit | None:
    """Run a script that makes the file `ready`, and send it these signals when it has; after SEEN, the next."""
    touched = script.replace("READY", f"touch {tmp_path}/ready").replace("SEEN", f"touch {tmp_path}/seen")
    with ThreadPoolExecutor(1) as threads:
        ending = threads.submit(run, touched, child)
        assert eventually((tmp_path / "ready").exists)
        for number in numbers:
            assert child.stop(number)
            assert "SEEN" not in script or eventually((tmp_path / "seen").exists)
        return ending.result(PATIENCE)


def test_stop(tmp_path: Path) -> None:
    """The first signal is the one that stopped it, and the command gets each of them."""
    script = "trap 'echo int >&2; SEEN' INT; trap 'echo term >&2; exit 5' TERM; READY; while :; do :; done"
    with Path(os.devnull).open("wb") as nowhere:
        child = ChildProcess(stderr=nowhere.fileno())
        ended = stopped(tmp_path, script, child, signal.SIGINT, signal.SIGTERM)

    assert ended == Exit(code=5, stopped_by=signal.SIGINT, text="int\nterm")


def test_kill_after_grace(tmp_path: Path) -> None:
    """A command that minds no signal → SIGKILL when the grace period is over, not before."""
    begun = time.monotonic()
    ended = stopped(tmp_path, "trap '' TERM; READY; while :; do :; done", ChildProcess(grace=0.3), 15)

    assert ended == Exit(code=137, stopped_by=signal.SIGTERM, text="killed by SIGKILL")
    assert time.monotonic() - begun >= 0.3


def test_stop_after_the_end(tmp_path: Path) -> None:
    """A signal that comes when the command is over → nobody is there, and it has not been stopped."""
    child = ChildProcess()
    assert run("exit 0", child) == Exit(code=0, stopped_by=None, text="exit code 0")
    assert child.stop(signal.SIGTERM) is False
    child.kill()
    assert child.exit == Exit(code=0, stopped_by=None, text="exit code 0")
