"""Signals on their way to a command.

Rules:

- A signal that asks to stop goes to the command's group; a second Ctrl-C kills the group. Once nobody is there, it
  is the database that is waited for, and the signal gives that up: before the command began the first one does,
  after its end the second, so that what is due to be written is.
- Ctrl-Z stops the command's group and then this process, so that `fg` continues both. While this process is
  stopped there is no heartbeat: the lease expires.
- Signals that mean something to the command alone are passed on.
- What was ignored from the start, by nohup for instance, stays ignored.
- Nothing here waits: not for the database, nor for a reader of stderr.

Signals arrive in a pipe, from which a thread reads them. A handler in Python would run in the main thread, and not
before that wakes up: a signal that comes just before it goes to sleep would not wake it.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from statelatch.cli.process import ChildProcess

__all__ = ["Signals"]


class Signals:
    """Passes signals on to a command from `begin` until this process ends.

    It goes on when the run is over: a signal then must not change an exit code that is due.

    Args:
        child: the command.
        passed_on: is told of each request to stop that reached the command, and whether it was Ctrl-C.
        give_up: is called, once or more, when nobody is left whom a signal could reach, and somebody insists.
    """

    def __init__(
        self, child: ChildProcess, *, passed_on: Callable[[signal.Signals], None], give_up: Callable[[], None]
    ) -> None:
        self._child = child
        self._passed_on = passed_on
        self._give_up = give_up
        self._asked = self._interrupted = False

    def begin(self) -> None:
        """Begin; in the main thread."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (
            *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
            *(signal.SIGTSTP, signal.SIGCONT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH),
        ):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _into_the_pipe)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would hide exit codes
        threading.Thread(target=self._read, args=(read,), name="statelatch-signals", daemon=True).start()

    def _read(self, arriving: int) -> None:
        while number := int.from_bytes(os.read(arriving, 1)):
            match number:
                case signal.SIGINT | signal.SIGTERM | signal.SIGHUP | signal.SIGQUIT:
                    self._stop(signal.Signals(number))
                case signal.SIGTSTP:
                    self._child.send(signal.SIGSTOP)  # nobody continues a session without a terminal after SIGTSTP
                    os.kill(os.getpid(), signal.SIGSTOP)
                case _:
                    self._child.send(number)

    def _stop(self, number: signal.Signals) -> None:
        again, self._asked = self._asked, True
        if number == signal.SIGINT and self._interrupted:
            reached = self._child.kill()
        else:
            self._interrupted = self._interrupted or number == signal.SIGINT
            reached = self._child.stop(number)
            if reached:
                self._passed_on(number)
        if not reached and (again or not self._child.begun):
            self._give_up()


def _into_the_pipe(_number: int, _frame: object) -> None:
    """Nothing is left to do: a handler in Python is what makes the interpreter write to the pipe."""
