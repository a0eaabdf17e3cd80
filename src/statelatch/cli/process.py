"""A command as a child process that leads a session of its own. When it is over, nothing of it is left.

Rules:

- stdin and stdout are the command's own; stderr passes through `stderr.Relay`. Whatever else this process was
  given open, the command is given, too; what this process opens itself is not inherited (PEP 446).
- A signal goes to the whole process group. Who is still there after the grace period is killed.
- When the command itself has ended, what it left in its group is ended, too, by SIGTERM and then SIGKILL: a run
  that is over does no more work, and the next one of its key does not meet the last one's.
- A command that was told to stop before it began never begins.
- What was left to us while it runs is buried when it dies. The command's own death is waited for by one thread.

It is not told to die with us (prctl PR_SET_PDEATHSIG): only the command's process itself could ask for that, before
it executes the command, and Python must not run there in a process that has threads.

A session of its own, because Ctrl-C at a terminal goes to everyone in the foreground group: the command would get
it twice, and a second time uninvited. It can still read the terminal by its stdin; the session has no controlling
terminal, so /dev/tty cannot be opened.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from statelatch.cli.stderr import Relay

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GRACE", "NOT_EXECUTABLE", "NOT_FOUND", "ChildProcess", "Exit", "adopt_orphans"]

GRACE = 10.0
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNALLED = 128

POLL = 0.02
LAST_SECONDS = 2.0
"""How long to wait for what was killed to be gone; longer only for what no signal reaches."""

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a command ended.

    Attributes:
        code: as a shell reports it: the exit code, 128 + N if signal N ended it, 127 if there is no such command,
            126 if it cannot be executed.
        stopped_by: the first signal that asked it to stop while it ran; None if none did.
        text: the last lines of its stderr, else the cause in words.
        began: False if there is no such command, or it cannot be executed.
    """

    code: int
    stopped_by: signal.Signals | None
    text: str
    began: bool = True


class ChildProcess:
    """One command, to be run once. `stop` and `kill` may come from any thread, at any time.

    Args:
        grace: seconds between the request to stop and SIGKILL.
        stderr: file descriptor to which the command's stderr is passed on.
        buries: whether every child of this process that dies meanwhile is buried: see `adopt_orphans`.

    Attributes:
        exit: how the command ended; None until then.
        begun: False if it has not begun, and then, if it was told to stop, it never will.
    """

    def __init__(self, *, grace: float = GRACE, stderr: int = 2, buries: bool = False) -> None:
        self.exit: Exit | None = None
        self.begun = False
        self._grace = grace
        self._stderr = stderr
        self._buries = buries
        self._lock = threading.Lock()
        self._group: int | None = None  # while somebody may be in it
        self._stopped_by: signal.Signals | None = None
        self._killer: threading.Timer | None = None
        self._killed_at: float | None = None

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The first signal that asked it to stop, whether or not it still ran."""
        return self._stopped_by

    def run(self, command: Sequence[str]) -> Exit | None:
        """Run a command to its end.

        Args:
            command: its name or path, and its arguments.

        Returns:
            How it ended; None if it was told to stop before it began.
        """
        with self._lock:
            if self._stopped_by is not None:
                return None
            self.begun = True
            try:
                process, relay = self._spawned(command)
            except OSError as error:
                self.exit = _not_begun(command[0], error)
                return self.exit
            self._group = process.pid
        self.exit = self._watched(process, relay)
        return self.exit

    def stop(self, number: int) -> bool:
        """Send the group this signal, and SIGKILL after the grace period.

        Returns:
            Whether anybody was there.
        """
        with self._lock:
            self._stopped_by = self._stopped_by or signal.Signals(number)
            return self._end(number)

    def kill(self) -> bool:
        """Send the group SIGKILL.

        Returns:
            Whether anybody was there.
        """
        with self._lock:
            if self._group is None:
                return False
            self._killed_at = self._killed_at or time.monotonic()
            return _send(self._group, signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send the group a signal that does not ask it to stop, if anybody is there."""
        with self._lock:
            if self._group is not None:
                _send(self._group, number)

    def _spawned(self, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], Relay]:
        read, write = os.pipe()
        try:
            relay = Relay(read, self._stderr)
            relay.start()
            process = subprocess.Popen(  # noqa: S603  as the user said
                command, stderr=write, start_new_session=True, close_fds=False
            )
        finally:
            os.close(write)
        return process, relay

    def _watched(self, process: subprocess.Popen[bytes], relay: Relay) -> Exit:
        if self._buries:
            _bury_others(process.pid)
        returncode = process.wait()
        with self._lock:
            stopped_by = self._stopped_by
        self._end_group(process.pid)
        while not relay.finish(POLL):
            if self._stopped_by is not None:  # nobody waits for a reader who does not read
                relay.finish(LAST_SECONDS)
                break
        text = relay.last_lines() or _in_words(returncode)
        return Exit(code=_as_shell(returncode), stopped_by=stopped_by, text=text)

    def _end_group(self, group: int) -> None:
        """End what the command left behind, and wait until it is gone."""
        if _is_there(group):
            with self._lock:
                if self._stopped_by != signal.SIGTERM:  # a shell's background jobs do not mind SIGINT
                    self._end(signal.SIGTERM)
        while _is_there(group) and not self._is_given_up():
            time.sleep(POLL)
        with self._lock:
            self._group = None
            if self._killer is not None:
                self._killer.cancel()

    def _end(self, number: int) -> bool:
        if self._group is None:
            return False
        if self._killer is None:
            self._killer = threading.Timer(self._grace, self.kill)
            self._killer.daemon = True
            self._killer.start()
        return _send(self._group, number)

    def _is_given_up(self) -> bool:
        return self._killed_at is not None and time.monotonic() > self._killed_at + LAST_SECONDS


def _send(group: int, number: int) -> bool:
    """Signal a group; False if nobody is there, or nobody who takes signals from us."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _is_there(group: int) -> bool:
    """Whether anybody is in the group. The dead who were left to us are buried first: they would count."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    return _send(group, 0)


def _bury_others(command: int) -> None:
    """Wait until the command is dead, which stays to be buried; bury every other child that dies before."""
    while (status := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) and status.si_pid != command:
        os.waitpid(status.si_pid, 0)


def adopt_orphans() -> bool:
    """On Linux, become the parent of what commands leave behind, so as to see at once that it is gone.

    Otherwise that is up to the init process, which buries the dead sooner or later, in some containers never. It
    concerns every child of this process, so it is for the command line only.

    Returns:
        Whether they are left to us from now on.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            return ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    return False


def _not_begun(name: str, error: OSError) -> Exit:
    """The shell's codes (POSIX, "Exit Status for Commands")."""
    found = not isinstance(error, FileNotFoundError)
    reason = (error.strerror or str(error)).lower() if found else "command not found"
    return Exit(code=NOT_EXECUTABLE if found else NOT_FOUND, stopped_by=None, text=f"{name}: {reason}", began=False)


def _as_shell(returncode: int) -> int:
    return SIGNALLED - returncode if returncode < 0 else returncode


def _in_words(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-returncode}"
