"""`statelatch run` and signals: who gets them, what becomes of the run, and which ones end a wait for the database."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.command_line import (
    COMMAND,
    FAMILY,
    STUBBORN,
    catches,
    completed,
    ended,
    eventually,
    in_terminal,
    is_alive,
    is_running,
    launched,
    line_of,
    make,
    only,
    pids,
    rows,
    seen,
    told,
)
from tests.runs import PATIENCE


@pytest.fixture
def db(tmp_path: Path) -> str:
    """The URL of a database that is not there yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


def test_ctrl_c(db: str) -> None:
    """Ctrl-C at a terminal → the command and its child, which minds no SIGINT, are gone at once; cancelled; 130."""
    with in_terminal("run", "--db", db, "--grace", "1000", "--", "sh", "-c", FAMILY) as (process, person):
        shown = seen(person, lines=2)
        os.write(person, b"\x03")
        after = seen(person)
        code = process.wait()

    assert (code, only(db).status, only(db).error) == (130, "cancelled", None)
    assert f"run {only(db).id}" in shown
    assert f"run {only(db).id} was cancelled" in after
    assert [pid for pid in pids(shown.splitlines()[1]) if is_alive(pid)] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)])
def test_signal(db: str, number: int, code: int) -> None:
    """SIGTERM, SIGHUP and SIGQUIT → passed on to the whole group; cancelled; 128 + the signal."""
    with launched("run", "--db", db, "--", "sh", "-c", FAMILY) as process:
        family = pids(line_of(process))
        process.send_signal(number)
        assert ended(process)[0] == code

    assert (only(db).status, only(db).version) == ("cancelled", 3)
    assert [pid for pid in family if is_alive(pid)] == []


def test_ignored_signal(db: str) -> None:
    """A signal that was ignored from the start, as by nohup → ignored."""
    command = [*COMMAND, "run", "--db", db, "--", "sh", "-c", "echo; read -r line"]
    with subprocess.Popen(
        ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        line_of(process)
        assert not catches(process, signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        process.communicate(b"\n", timeout=PATIENCE)

    assert (process.returncode, only(db).status) == (0, "completed")


def test_grace(db: str) -> None:
    """A command and a child that mind no signal → killed after the grace period; cancelled; still 143."""
    with launched("run", "--db", db, "--grace", "0.2", "--", "sh", "-c", STUBBORN) as process:
        family = pids(line_of(process))
        process.terminate()
        assert ended(process)[0] == 143

    assert only(db).status == "cancelled"
    assert [pid for pid in family if is_alive(pid)] == []


def test_second_ctrl_c(db: str) -> None:
    """A second SIGINT → SIGKILL at once, however long the grace period; cancelled; 130."""
    with launched("run", "--db", db, "--grace", "1000", "--", "sh", "-c", STUBBORN) as process:
        family = pids(line_of(process))
        process.send_signal(signal.SIGINT)
        told(process, "SIGINT passed on")
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 130

    assert only(db).status == "cancelled"
    assert [pid for pid in family if is_alive(pid)] == []


def test_completed_all_the_same(db: str) -> None:
    """A command that ends with 0 after Ctrl-C → it has completed: exit code 0."""
    with launched(
        "run", "--db", db, "--", "sh", "-c", "trap 'exit 0' INT; echo; while true; do sleep 0.05; done"
    ) as it:
        line_of(it)
        it.send_signal(signal.SIGINT)
        assert ended(it)[0] == 0

    assert only(db).status == "completed"


def test_signal_before_the_command(db: str, tmp_path: Path) -> None:
    """SIGTERM while the run is still being written → the command never starts; cancelled; 143."""
    make(db)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with launched("run", "--db", db, "--", "touch", str(tmp_path / "started")) as process:
            assert eventually(lambda: catches(process, signal.SIGTERM))
            process.terminate()
            other.rollback()
            assert ended(process)[0] == 143

    assert only(db).status == "cancelled"
    assert not (tmp_path / "started").exists()


def test_signal_while_the_database_is_waited_for(db: str, tmp_path: Path) -> None:
    """Ctrl-C while the run cannot be written → that is given up; the command never starts; no row."""
    make(db)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with launched("run", "--db", db, "--", "touch", str(tmp_path / "started")) as process:
            assert eventually(lambda: catches(process, signal.SIGTERM))
            process.send_signal(signal.SIGINT)
            code, _, err = ended(process)
        other.rollback()  # fails if it had not held the lock until now

    said = "statelatch: the command was not started: the database did not answer\n"
    assert (code, err.decode(), rows(db), (tmp_path / "started").exists()) == (130, said, [], False)


def test_last_word_is_given_up(db: str, tmp_path: Path, state_folder: Path) -> None:
    """The command is over, its end cannot be written, and a second signal comes → kept, and said so; its exit code."""
    with launched("run", "-q", "--db", db, "--", "sh", "-c", "echo $$; read -r line; exit 3") as process:
        (command,) = pids(line_of(process))
        with closing(sqlite3.connect(tmp_path / "runs.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert eventually(lambda: not is_alive(command))
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            code, _, err = ended(process)
            other.rollback()

    said = f"its end is kept in {state_folder / 'spool.db'}; `statelatch recover --db URL` writes it"
    assert (code, err.decode()) == (3, f"statelatch: run {only(db).id}: {said}\n")
    assert only(db).status == "running"
    assert completed("recover", "--db", db)[0] == 0
    assert (only(db).status, only(db).error) == ("failed", "exit code 3")


def test_signals_for_the_command(db: str) -> None:
    """SIGUSR1, SIGUSR2 and SIGWINCH → passed on, and nobody is asked to stop."""
    script = 'for s in USR1 USR2 WINCH; do trap "echo $s" $s; done; echo; while :; do sleep 0.05; done'
    with launched("run", "--db", db, "--grace", "0.01", "--", "sh", "-c", script) as process:
        line_of(process)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
            process.send_signal(number)
            assert f"SIG{line_of(process)}" == number.name
        assert is_running(db)
        process.terminate()
        assert ended(process)[0] == 143


def test_ctrl_z(db: str) -> None:
    """Ctrl-Z → the command is stopped, and we are, so that a shell sees it; SIGCONT → both go on."""
    with in_terminal("run", "--db", db, "--", "sh", "-c", "echo $$; exec sleep 100") as (process, person):
        (command,) = pids(seen(person, lines=2).splitlines()[1])
        os.write(person, b"\x1a")
        assert eventually(lambda: state_of(process.pid) == state_of(command) == "T")
        process.send_signal(signal.SIGCONT)
        assert eventually(lambda: "T" not in {state_of(process.pid), state_of(command)})
        os.write(person, b"\x03")
        seen(person)
        assert process.wait(PATIENCE) == 130

    assert only(db).status == "cancelled"


def state_of(pid: int) -> str:
    """The state of a process, T if it is stopped; Linux only."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_ctrl_c_with_a_stuck_reader(db: str) -> None:
    """Nobody reads our stderr, and it is full → the second Ctrl-C kills all the same."""
    script = "trap 'echo int' INT; echo; while :; do sleep 0.05; done"
    read, write = os.pipe()
    fill(write)
    with (
        os.fdopen(read, "rb") as reader,
        os.fdopen(write, "wb") as stuck,
        launched("run", "--db", db, "--grace", "1000", "--", "sh", "-c", script, stderr=stuck) as process,
    ):
        line_of(process)
        process.send_signal(signal.SIGINT)
        assert line_of(process) == "int"
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 130
        stuck.close()
        assert set(reader.read()) == {ord("x")}  # it was stuck: nothing was said

    assert only(db).status == "cancelled"


def fill(pipe: int) -> None:
    """Write into a pipe until not one byte more fits; then it blocks."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)


def test_ctrl_c_at_the_start() -> None:
    """Ctrl-C while the command line is still being imported → ended by it, without a word."""
    script = (
        "import os, signal, sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "from statelatch.cli import main\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=PATIENCE, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
