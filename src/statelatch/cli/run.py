"""`statelatch run`: a command as a persisted run.

The command runs in a worker thread of the run manager, signals are passed on to it by another, and the main thread
waits. No signal is answered with a database statement, so that Ctrl-C works when the database does not.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from statelatch.cli.database import DatabaseOption, opened
from statelatch.cli.process import GRACE, ChildProcess, Exit, adopt_orphans
from statelatch.cli.terminal import log_to_stderr, say
from statelatch.errors import ActiveRunExistsError, RequestError
from statelatch.runs import Finalized, Outcome, RunCancelled, RunManager, current_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statelatch.adapter import PersistenceAdapter

__all__ = ["CommandFailed", "open_standard_streams", "run"]

BUSY = 75  # EX_TEMPFAIL of sysexits.h: try again later
NOT_RUN = 1
SIGNALLED = 128
LONGEST_NAME = 255
LONGEST_GRACE = 86_400


class CommandFailed(Exception):  # noqa: N818  an exit code, not a mistake of ours
    """The command's exit code was not 0; the text is the last lines of its stderr."""


def run(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", show_default=False, help="What to run, after `--`.")
    ],
    *,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="At most one active run may have it.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="For people. Default: the command's name.", show_default=False)
    ] = None,
    db: DatabaseOption = None,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time between the request to stop and SIGKILL.")
    ] = GRACE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")] = False,
) -> None:
    """Run a command as a persisted run.

    For instance: statelatch run --key nightly -- make report

    The run ends completed, failed or cancelled, and that is written once. The command's input and output are its
    own; statelatch says a few lines on stderr. If it fails, the last lines of its stderr become the run's error
    text. The command line is kept in the run's row.

    Ctrl-C, SIGTERM, SIGHUP and `statelatch cancel` ask the command and all processes in its group to stop, and
    kill them after --grace seconds; a second Ctrl-C kills them at once. Processes that the command leaves behind
    in its group are ended, too.

    \b
    Exit code: the command's own; 128 + N if signal N ended it; else
      1    the database did not answer; the command was not started
      2    wrong usage; the command was not started
      75   another run holds the key; the command was not started
      126  the command cannot be executed
      127  there is no such command
      129  it was cancelled by SIGHUP
      130  it was cancelled by Ctrl-C
      143  it was cancelled by SIGTERM or `statelatch cancel`
    A command that ends with 0 has completed, whatever was asked meanwhile.
    """  # noqa: D301  a backspace: click keeps these lines as they are
    if os.name != "posix":
        raise RequestError("`statelatch run` needs process groups, which this system lacks; use RunManager in Python")
    _check_text(key=key, name=name)
    if not 0 <= grace <= LONGEST_GRACE:
        raise RequestError(f"--grace: expected 0 to {LONGEST_GRACE} seconds, found {grace}; nothing was written")
    open_standard_streams()
    log_to_stderr()
    with opened(db) as adapter:
        code = _run(adapter, command, Manner(key=key, name=name or _name_of(command), grace=grace, quiet=quiet))
    raise typer.Exit(code)


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a command is to be run."""

    key: str | None
    name: str | None
    grace: float
    quiet: bool


def _run(adapter: PersistenceAdapter, command: Sequence[str], manner: Manner) -> int:
    adopt_orphans()
    child = ChildProcess(grace=manner.grace)
    _pass_signals_to(child, manner)
    with RunManager(adapter) as manager:
        try:
            handle = manager.start(partial(_work, child), key=manner.key, name=manner.name, command=command)
        except ActiveRunExistsError as busy:
            say(f"key {busy.run_key!r} is busy: run {busy.run_id} holds it; the command was not started")
            return BUSY
        if not manner.quiet:
            say(f"run {handle.id}" + (f" ({manner.key})" if manner.key else ""), dim=True)
        said = handle.wait()
    _report(said, child.exit, manner)
    return _exit_code(said, child)


def _work(child: ChildProcess, *, command: Sequence[str]) -> None:
    """The run's function. A command that ends with 0 has completed, whatever was asked meanwhile."""
    current_run().on_cancel(lambda: child.stop(signal.SIGTERM))
    ended = child.run(command)
    if ended is None or (ended.code and ended.stopped_by):
        raise RunCancelled
    if ended.code:
        raise CommandFailed(ended.text)


# -- signals ----------------------------------------------------------------------------------------------


def _pass_signals_to(child: ChildProcess, manner: Manner) -> None:
    """Signals go to the child from now on, until this process ends.

    They arrive in a pipe, from which a thread reads them. A handler in Python would run in the main thread, and not
    before that wakes up: a signal that comes just before it goes to sleep would not wake it.

    This stays so when the run is over: a signal then must not change an exit code that is due. What was ignored
    from the start, by nohup for instance, stays ignored.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _into_the_pipe)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would hide exit codes
    threading.Thread(target=_pass_on, args=(read, child, manner), name="statelatch-signals", daemon=True).start()


def _into_the_pipe(_number: int, _frame: object) -> None:
    """Nothing is left to do: a handler in Python is what makes the interpreter write to the pipe."""


def _pass_on(arriving: int, child: ChildProcess, manner: Manner) -> None:
    interrupted = False
    while number := int.from_bytes(os.read(arriving, 1)):
        if number == signal.SIGINT and interrupted:
            child.kill()
            continue
        interrupted = interrupted or number == signal.SIGINT
        if child.stop(number) and not manner.quiet:
            again = ", or at the next Ctrl-C" if interrupted else ""
            say(f"{signal.Signals(number).name} passed on; SIGKILL follows in {manner.grace:g} s{again}", dim=True)


# -- the end ----------------------------------------------------------------------------------------------


def _report(said: Finalized, ended: Exit | None, manner: Manner) -> None:
    """Say what the command itself cannot say."""
    if said.target == "failed" and not (ended and ended.began):
        say(ended.text if ended else f"the command was not started: {said.error}")
    match said.outcome:
        case Outcome.UNSAVED:
            cause = "" if said.target == "failed" else f": {said.error}"  # of a failure the error is the command's
            say(f"run {said.run_id}: its row was left as it is, not {said.target}{cause}")
        case Outcome.NO_OP if said.state != said.target:
            say(f"run {said.run_id} has ended meanwhile as {said.state}; {said.target} was not written")
        case _ if said.state == "cancelled" and not manner.quiet:
            say(f"run {said.run_id} was cancelled", dim=True)
        case _:
            pass


def _exit_code(said: Finalized, child: ChildProcess) -> int:
    ended = child.exit
    if ended is None:  # it never began
        return SIGNALLED + (child.stopped_by or signal.SIGTERM) if said.target == "cancelled" else NOT_RUN
    if ended.code and ended.stopped_by:
        return SIGNALLED + ended.stopped_by
    return ended.code


# -- the beginning ----------------------------------------------------------------------------------------


def _name_of(command: Sequence[str]) -> str | None:
    return PurePath(command[0]).name[:LONGEST_NAME].encode("utf-8", "replace").decode() or None


def _check_text(**texts: str | None) -> None:
    for label, value in texts.items():
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"{label}: expected text in UTF-8, found {value!r}; nothing was written") from error


def open_standard_streams() -> None:
    """Fill what of 0, 1 and 2 is closed: a database's file or socket in that place would be written to."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
