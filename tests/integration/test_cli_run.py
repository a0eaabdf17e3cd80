"""`statelatch run`: real commands, real signals, real processes; the row, the exit code, and nothing left behind."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.command_line import (
    COMMAND,
    FAMILY,
    completed,
    ended,
    eventually,
    in_terminal,
    is_alive,
    launched,
    line_of,
    only,
    pids,
    rows,
    seen,
)
from tests.databases import on
from tests.runs import PATIENCE


@pytest.fixture
def db(tmp_path: Path) -> str:
    """The URL of a database that is not there yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


# -- how a command ends -------------------------------------------------------------------------------------


def test_success(db: str) -> None:
    """A command that ends with 0 → completed; its input and output are untouched, its command line is in the row."""
    code, out, err = completed("run", "--db", db, "--key", "k", "--", "cat", stdin=b"\x00\xff\n")
    run = only(db)

    assert (code, out) == (0, b"\x00\xff\n")
    assert err.decode() == f"statelatch: run {run.id} (k)\n"
    assert (run.status, run.version, run.error, run.key, run.name) == ("completed", 3, None, "k", "cat")
    assert run.params == {"args": [], "kwargs": {"command": ["cat"]}}


def test_failure(db: str) -> None:
    """A command that ends with 3 → exit code 3, failed; stderr passes byte by byte, its last lines are the error."""
    script = r"printf 'first\nit \377 \033[31mbroke\n in /etc/passwd\n' >&2; exit 3"
    code, out, err = completed("run", "-q", "--db", db, "--", "sh", "-c", script)
    run = only(db)

    assert (code, out, err) == (3, b"", b"first\nit \xff \x1b[31mbroke\n in /etc/passwd\n")
    assert (run.status, run.version, run.error) == ("failed", 3, "first it � broke in <path>")
    assert run.error_type == "statelatch.cli.run.CommandFailed"


@pytest.mark.parametrize(
    ("script", "code", "error"), [("exit 3", 3, "exit code 3"), ("kill -9 $$", 137, "killed by SIGKILL")]
)
def test_silent_failure(db: str, script: str, code: int, error: str) -> None:
    """A command that fails without a word → its exit code, or 128 + the signal that killed it; both in words."""
    assert completed("run", "-q", "--db", db, "--", "sh", "-c", script) == (code, b"", b"")
    assert (only(db).status, only(db).error) == ("failed", error)


def test_no_such_command(db: str) -> None:
    """A command that does not exist → 127, a line on stderr, the run failed with that cause."""
    code, out, err = completed("run", "-q", "--db", db, "--", "no-such-command")

    assert (code, out, err) == (127, b"", b"statelatch: no-such-command: command not found\n")
    assert (only(db).status, only(db).error) == ("failed", "no-such-command: command not found")


def test_not_executable(db: str, tmp_path: Path) -> None:
    """A file that cannot be executed → 126, a line on stderr, the run failed with that cause."""
    file = tmp_path / "text"
    file.write_text("text")
    code, out, err = completed("run", "-q", "--db", db, "--", str(file))

    assert (code, out, err.decode()) == (126, b"", f"statelatch: {file}: permission denied\n")
    assert (only(db).status, only(db).error) == ("failed", "<path>: permission denied")


def test_leftovers(db: str) -> None:
    """What a command leaves running in its group → ended with it; the run completed, the exit code 0."""
    code, out, _ = completed("run", "--db", db, "--", "sh", "-c", "sleep 100 & echo $!")

    assert (code, only(db).status) == (0, "completed")
    assert not is_alive(int(out))


def test_stderr_held_open(db: str) -> None:
    """A daemon that keeps stderr open after the command has ended → the run ends all the same."""
    script = "import subprocess; print(subprocess.Popen(['sleep', '100'], stdout=-3, start_new_session=True).pid)"
    code, out, _ = completed("run", "--db", db, "--", sys.executable, "-c", script)
    os.kill(int(out), signal.SIGKILL)  # fails if the daemon had not lived on: then nothing was held open

    assert (code, only(db).status) == (0, "completed")


def test_stderr_gone(db: str) -> None:
    """Nobody reads our stderr → the command goes on, and the run's last word and exit code are its own."""
    read, write = os.pipe()
    os.close(read)
    script = "echo lost >&2; echo lost too >&2; exit 3"
    with os.fdopen(write, "wb") as broken, launched("run", "--db", db, "--", "sh", "-c", script, stderr=broken) as it:
        code, _, _ = ended(it)

    assert (code, only(db).error) == (3, "lost lost too")


@on("sqlite", "postgresql")  # a driver of each kind that opens files and sockets past Python
def test_descriptors(database_url: URL) -> None:
    """A file that we were given open → the command's, too; nothing else is, no socket of a database for instance."""
    read, write = os.pipe()
    os.write(write, b"hello")
    script = (
        "import os, sys\n"
        "for number in os.listdir('/proc/self/fd'):\n"
        "    if os.path.lexists(f'/proc/self/fd/{number}'): print(number)\n"  # not that of the listing itself
        "print(os.read(int(sys.argv[1]), 100).decode())"
    )
    command = [*COMMAND, "run", "-q", "--", sys.executable, "-c", script, str(read)]
    db = {"STATELATCH_DB": database_url.render_as_string(hide_password=False)}
    done = subprocess.run(
        command, pass_fds=(read,), capture_output=True, timeout=PATIENCE, env={**os.environ, **db}, check=False
    )
    os.close(read)
    os.close(write)
    *numbers, given = done.stdout.decode().split()

    assert (done.returncode, sorted(map(int, numbers)), given) == (0, [0, 1, 2, read], "hello")


def test_orphans_are_buried(db: str) -> None:
    """A process that is left to us dies while the command runs → it is buried at once, and the command goes on."""
    with launched("run", "--db", db, "--", "sh", "-c", "(sleep 0.01 & echo $!); read -r line; exit 3") as process:
        (orphan,) = pids(line_of(process))
        assert eventually(lambda: not is_alive(orphan))
        assert (process.poll(), only(db).status) == (None, "running")
        process.communicate(b"\n", timeout=PATIENCE)

    assert (process.returncode, only(db).status) == (3, "failed")


def test_closed_descriptors() -> None:
    """Standard streams that are closed are filled, so that no socket of a database takes their place."""
    script = (
        "import os; from statelatch.cli.terminal import open_standard_streams as fill; fill(); os.fstat(0), os.fstat(2)"
    )
    shell = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", script]
    assert subprocess.run(shell, timeout=PATIENCE, check=False).returncode == 0


def test_closed_streams(db: str) -> None:
    """Nothing at all is open at the start → the run's last word and exit code are as ever."""
    command = [*COMMAND, "run", "--db", db, "--", "sh", "-c", "exit 3"]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], timeout=PATIENCE, check=False)

    assert (done.returncode, only(db).status, only(db).error) == (3, "failed", "exit code 3")


# -- another terminal -----------------------------------------------------------------------------------------


def test_cancel_from_another_process(database_url: URL) -> None:
    """`statelatch cancel` → the command is told within a heartbeat, nothing of it is left; cancelled; 143."""
    db = {"STATELATCH_DB": database_url.render_as_string(hide_password=False)}
    with launched("run", "--", "sh", "-c", FAMILY, environment=db) as process:
        family = pids(line_of(process))
        run_id = only(database_url).id
        code, out, _ = completed("cancel", run_id.hex[-8:], environment=db)
        assert (code, out.decode()) == (0, f"run {run_id}: asked to stop; --force would end it at once\n")
        assert ended(process)[0] == 143

    assert (only(database_url).status, only(database_url).version) == ("cancelled", 3)
    assert [pid for pid in family if is_alive(pid)] == []


def test_forced_cancel(db: str) -> None:
    """`cancel --force` → cancelled at once; the command is ended, and what it would have said is not written."""
    with launched("run", "--db", db, "--", "sh", "-c", FAMILY) as process:
        family = pids(line_of(process))
        code, out, _ = completed("cancel", "--db", db, "--force", str(only(db).id))
        cancelled = only(db)
        assert (code, out.decode(), cancelled.status) == (0, f"run {cancelled.id}: cancelled\n", "cancelled")
        assert ended(process)[0] == 143

    assert only(db).version == cancelled.version
    assert [pid for pid in family if is_alive(pid)] == []


def test_busy_key(db: str, tmp_path: Path) -> None:
    """A key that another run holds → 75, its id on stderr, nothing started, no row; free again afterwards."""
    again = ("run", "-q", "--db", db, "--key", "k", "--", "touch", str(tmp_path / "started"))
    with launched("run", "--db", db, "--key", "k", "--", "sh", "-c", "echo; read -r line") as process:
        line_of(process)
        code, out, err = completed(*again)
        said = f"statelatch: key 'k' is busy: run {only(db).id} holds it; the command was not started\n"
        assert (code, out, err.decode()) == (75, b"", said)
        assert not (tmp_path / "started").exists()
        process.communicate(b"\n", timeout=PATIENCE)
        assert process.returncode == 0

    assert completed(*again)[0] == 0


def test_impossible_key(db: str) -> None:
    """A key that cannot be one → 2 and one line; no row."""
    code, out, err = completed("run", "--db", db, "--key", "k" * 256, "--", "true")

    assert (code, out) == (2, b"")
    assert err.decode() == "statelatch: key: expected 1 to 255 characters, found 256; nothing was written\n"
    assert rows(db) == []


# -- a database that is away ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "said"), [(3, "not failed"), (0, "not completed: no such table: statelatch_runs")])
def test_unsaved(db: str, tmp_path: Path, code: int, said: str) -> None:
    """The end cannot be saved, nor kept → warnings on stderr; the exit code is the command's all the same."""
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('ALTER TABLE statelatch_runs RENAME TO away')"
    place = str(tmp_path / "runs.db")
    command = [sys.executable, "-c", f"{script}; sys.exit({code})", place]
    nowhere = {"XDG_STATE_HOME": "/dev/null"}
    given, _, err = completed("run", "-q", "--db", db, "--", *command, environment=nowhere)
    with closing(sqlite3.connect(place)) as connection:
        connection.execute("ALTER TABLE away RENAME TO statelatch_runs")  # fails if it had not gone away
    first, warning, last = err.decode().splitlines()

    assert (given, only(db).status) == (code, "running")
    assert "Not a directory: '/dev/null/statelatch'; without it, the end of a run" in first
    assert "could not be saved, no connection answered" in warning
    assert last == f"statelatch: run {only(db).id}: its row was left as it is, {said}"


def test_unreachable(tmp_path: Path) -> None:
    """No database at the start → 1 and one line on stderr without the password; the command is not started."""
    url = "postgresql://someone:secret@127.0.0.1:1/runs"
    code, out, err = completed("run", "--db", url, "--", "touch", str(tmp_path / "started"))
    (line,) = err.decode().splitlines()

    assert (code, out) == (1, b"")
    assert line.startswith("statelatch: postgresql://someone:***@127.0.0.1:1/runs did not answer (connect): ")
    assert not (tmp_path / "started").exists()


def test_without_the_extra() -> None:
    """Typer is not installed → one line that says what to install; 2."""
    script = "import sys; sys.modules['typer'] = None; from statelatch.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        "statelatch: the command line needs typer and rich: pip install 'statelatch[cli]'\n"
    )


def test_help_warns_of_passwords(db: str) -> None:
    """The help says that a program which asks the terminal for a password fails, and it does."""
    _, out, _ = completed("run", "--help")
    with in_terminal("run", "--db", db, "--", "sh", "-c", "(: </dev/tty) || exit 7") as (process, person):
        seen(person)
        code = process.wait(PATIENCE)

    assert (b"/dev/tty" in out, code) == (True, 7)
