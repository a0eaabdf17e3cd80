"""`statelatch run`: a command as a persisted run.

The command runs in a worker thread of the run manager, the manager in a thread of its own, signals are passed on by
another, and the main thread waits. No signal is answered with a database statement, so that Ctrl-C works when the
database does not: a signal that finds no command gives up on the database, which has a last moment to answer.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from statelatch.cli.database import DatabaseOption, is_named, opened
from statelatch.cli.process import GRACE, ChildProcess, adopt_orphans
from statelatch.cli.signals import Signals
from statelatch.cli.spool import SpoolOption, manager_with, spool_file
from statelatch.cli.terminal import log_to_stderr, say
from statelatch.errors import ActiveRunExistsError, RequestError
from statelatch.runs import Finalized, Outcome, RunCancelled, current_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from statelatch.runs import RunManager

__all__ = ["CommandFailed", "run"]

BUSY = 75  # EX_TEMPFAIL of sysexits.h: try again later
NOT_RUN = 1
SIGNALLED = 128
LONGEST_NAME = 255
LONGEST_GRACE = 86_400

LAST_MOMENT = 2.0
"""Seconds that the database has to answer when it has been given up."""


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
    spool: SpoolOption = None,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time between the request to stop and SIGKILL.")
    ] = GRACE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")] = False,
) -> None:
    """Run a command as a persisted run.

    For instance: statelatch run --key nightly -- make report

    The run ends completed, failed or cancelled, and that is written once. The command's input and output are its
    own; statelatch says a few lines on stderr. If it fails, the last lines of its stderr become the run's error
    text. The command line is kept in the run's row. If the database does not answer at the end, that end is kept in
    a file, the spool, and `statelatch recover` writes it later.

    Ctrl-C, SIGTERM, SIGHUP, SIGQUIT and `statelatch cancel` ask the command and all processes in its group to stop,
    and kill them after --grace seconds; a second Ctrl-C kills them at once. Processes that the command leaves
    behind in its group are ended, too. While the database does not answer, Ctrl-C before the command began, and a
    second one after its end, give it up. Ctrl-Z stops the command and statelatch; nobody keeps the run's lease then.

    The command is in a session of its own, without a controlling terminal: it may read its input from the terminal,
    but a program that opens /dev/tty to ask for a password, as ssh and sudo do, fails. If statelatch itself is
    killed by SIGKILL, the command goes on.

    \b
    Exit code: the command's own; 128 + N if signal N ended it; else
      1    the database did not answer; the command was not started
      2    wrong usage; the command was not started
      75   another run holds the key; the command was not started
      126  the command cannot be executed
      127  there is no such command
      129  it was cancelled by SIGHUP
      130  it was cancelled by Ctrl-C
      131  it was cancelled by SIGQUIT
      143  it was cancelled by SIGTERM or `statelatch cancel`
    A command that ends with 0 has completed, whatever was asked meanwhile.
    """  # noqa: D301  a backspace: click keeps these lines as they are
    if os.name != "posix":
        raise RequestError("`statelatch run` needs process groups, which this system lacks; use RunManager in Python")
    _check_text(key=key, name=name)
    if not 0 <= grace <= LONGEST_GRACE:
        raise RequestError(f"--grace: expected 0 to {LONGEST_GRACE} seconds, found {grace}; nothing was written")
    is_named(db)
    log_to_stderr()
    manner = Manner(db=db, spool=spool, key=key, name=name or _name_of(command), grace=grace, quiet=quiet)
    child = ChildProcess(grace=grace, buries=adopt_orphans())
    raise typer.Exit(_attended(Attempt(command=command, manner=manner, child=child)))


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a command is to be run."""

    db: str | None
    spool: Path | None
    key: str | None
    name: str | None
    grace: float
    quiet: bool


@dataclass(kw_only=True)
class Attempt:
    """A command on its way, and its run and who runs it, once they are known."""

    command: Sequence[str]
    manner: Manner
    child: ChildProcess
    run_id: UUID | None = None
    manager: RunManager | None = None


def _attended(attempt: Attempt) -> int:
    """Run the command in another thread; wait for the end of its run, or until a signal gives that up."""
    over = threading.Event()
    signals = Signals(attempt.child, passed_on=partial(_say_passed_on, attempt.manner), give_up=partial(_give_up, over))
    signals.begin()
    with ThreadPoolExecutor(1, thread_name_prefix="statelatch-run") as threads:
        running = threads.submit(_run, attempt)
        running.add_done_callback(lambda _: over.set())
        over.wait()
        if not running.done():
            _end_at_once(attempt)
        return running.result()


def _run(attempt: Attempt) -> int:
    manner, child = attempt.manner, attempt.child
    with opened(manner.db) as adapter, manager_with(adapter, manner.spool) as manager:
        attempt.manager = manager
        work = partial(_work, child)
        try:
            handle = manager.start(work, key=manner.key, name=manner.name, command=attempt.command)
        except ActiveRunExistsError as busy:
            say(f"key {busy.run_key!r} is busy: run {busy.run_id} holds it; the command was not started")
            return BUSY
        attempt.run_id = handle.id
        if not manner.quiet:
            say(f"run {handle.id}" + (f" ({manner.key})" if manner.key else ""), dim=True, waits=False)
        said = handle.wait()
    _report(said, child, manner)
    return _exit_code(child, cancelled=said.target == "cancelled")


def _work(child: ChildProcess, *, command: Sequence[str]) -> None:
    """The run's function. A command that ends with 0 has completed, whatever was asked meanwhile."""
    current_run().on_cancel(lambda: child.stop(signal.SIGTERM))
    ended = child.run(command)
    if ended is None or (ended.code and ended.stopped_by):
        raise RunCancelled
    if ended.code:
        raise CommandFailed(ended.text)


# -- signals ----------------------------------------------------------------------------------------------


def _say_passed_on(manner: Manner, number: signal.Signals) -> None:
    if not manner.quiet:
        again = ", or at the next Ctrl-C" if number == signal.SIGINT else ""
        say(f"{number.name} passed on; SIGKILL follows in {manner.grace:g} s{again}", dim=True, waits=False)


def _give_up(over: threading.Event) -> None:
    """The database has one last moment; what it answers in it is as if nobody had given it up."""
    moment = threading.Timer(LAST_MOMENT, over.set)
    moment.daemon = True
    moment.start()


def _end_at_once(attempt: Attempt) -> NoReturn:
    """End the process with the threads that wait for the database; what they had begun there is rolled back."""
    kept = attempt.manager.keep_pending() if attempt.manager else []
    if attempt.run_id in kept:
        say(f"run {attempt.run_id}: {_kept(attempt.manner, 'its end')}", waits=False)
    else:
        what = "its end could not be saved" if attempt.child.begun else "the command was not started"
        run = f"run {attempt.run_id}: {what}, and its row was left as it is" if attempt.run_id else what
        say(f"{run}: the database did not answer", waits=False)
    os._exit(_exit_code(attempt.child, cancelled=True))


# -- the end ----------------------------------------------------------------------------------------------


def _report(said: Finalized, child: ChildProcess, manner: Manner) -> None:
    """Say what the command itself cannot say; to a reader who does not read only if nobody wants us to stop."""
    tell = partial(say, waits=child.stopped_by is None)
    ended = child.exit
    if said.target == "failed" and not (ended and ended.began):
        tell(ended.text if ended else f"the command was not started: {said.error}")
    match said.outcome:
        case Outcome.UNSAVED:
            cause = "" if said.target == "failed" else f": {said.error}"  # of a failure the error is the command's
            tell(f"run {said.run_id}: its row was left as it is, not {said.target}{cause}")
        case Outcome.SPOOLED:
            tell(f"run {said.run_id}: {_kept(manner, said.target)}")
        case Outcome.NO_OP if said.state != said.target:
            tell(f"run {said.run_id} has ended meanwhile as {said.state}; {said.target} was not written")
        case _ if said.state == "cancelled" and not manner.quiet:
            tell(f"run {said.run_id} was cancelled", dim=True)
        case _:
            pass


def _kept(manner: Manner, end: str) -> str:
    """Where an end is, and how it is written; without the database's URL, which may hold a password."""
    db = "" if manner.db is None else " --db URL"
    spool = "" if manner.spool is None else f" --spool {shlex.quote(str(manner.spool))}"
    return f"{end} is kept in {spool_file(manner.spool)}; `statelatch recover{db}{spool}` writes it"


def _exit_code(child: ChildProcess, *, cancelled: bool) -> int:
    ended = child.exit
    if ended is None:  # it never began
        return SIGNALLED + (child.stopped_by or signal.SIGTERM) if cancelled else NOT_RUN
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
