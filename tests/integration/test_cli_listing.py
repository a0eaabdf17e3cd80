"""`statelatch runs`, `show` and `cancel`: what a person sees of runs, and what a program does."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import URL, create_engine, inspect
from sqlalchemy.orm import Session

from statelatch.cli import main
from statelatch.cli.listing import Status
from statelatch.runs import Run, RunLifecycle, RunManager, create_tables
from tests.command_line import COMMAND, completed, in_terminal, launched, rows, seen
from tests.runs import PATIENCE, at_gate, until_cancelled

Call = Callable[..., tuple[int, str, str]]

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FIRST, SECOND, THIRD = (
    UUID(f"01900000-0000-7000-8000-{end}") for end in ("00000000abcd", "00001111abcd", "ffffffffffff")
)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["statelatch", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def db(tmp_path: Path) -> str:
    """The URL of a database with three runs that have ended."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    fill(url)
    return url


def run(run_id: UUID, minute: int, **columns: object) -> Run:
    """A run that took 90 seconds."""
    started = AT + timedelta(minutes=minute)
    times = {"created_at": started, "started_at": started, "finished_at": started + timedelta(seconds=90)}
    return Run(**{"id": run_id, "status": "completed", "version": 3, "attempt": 1, **times, **columns})


def fill(url: URL | str) -> None:
    """Make the database and the three runs."""
    engine = create_engine(url)
    create_tables(engine)
    with Session(engine) as session:
        session.add(run(FIRST, 0, key="nightly", name="report"))
        session.add(run(SECOND, 1, key="nightly", name="report", status="failed", error="[red]disk\x1b[31m full\u202e"))
        session.add(run(THIRD, 2, status="cancelled", name="other", progress_current=7, progress_total=10))
        session.commit()
    engine.dispose()


def ids(out: str) -> list[UUID]:
    """The ids of JSON lines."""
    return [UUID(json.loads(line)["id"]) for line in out.splitlines()]


# -- runs ----------------------------------------------------------------------------------------------------

FILTERS: list[tuple[tuple[str, ...], list[UUID]]] = [
    ((), [THIRD, SECOND, FIRST]),
    (("--key", "nightly"), [SECOND, FIRST]),
    (("--name", "other"), [THIRD]),
    (("--status", "completed"), [FIRST]),
    (("--key", "nightly", "--status", "failed"), [SECOND]),
    (("--limit", "1"), [THIRD]),
    (("--key", "no such"), []),
]


@pytest.mark.parametrize(("arguments", "expected"), FILTERS)
def test_runs(call: Call, db: str, arguments: tuple[str, ...], expected: list[UUID]) -> None:
    """The runs that every filter lets through, newest first, one JSON object a line."""
    code, out, err = call("runs", "--db", db, "--json", *arguments)
    assert (code, ids(out), err) == (0, expected, "")


def test_json_has_every_column(call: Call, db: str) -> None:
    """JSON → every column of the row as it is stored, in ASCII, times in ISO 8601."""
    _, out, _ = call("show", "--db", db, "--json", str(SECOND))
    found = json.loads(out)

    assert out.isascii()
    assert set(found) == set(Run.__table__.columns.keys())
    assert (found["error"], found["finished_at"]) == ("[red]disk\x1b[31m full\u202e", "2026-01-02T03:06:35+00:00")


def test_table_in_a_pipe(call: Call, db: str) -> None:
    """In a pipe → whole ids, nothing shortened; what a terminal would obey is spelled out, markup is text."""
    _, out, _ = call("runs", "--db", db)
    header, _, third, second, _ = out.splitlines()

    assert " ".join(header.split()) == "id key name state version attempt created duration progress error"
    assert third.split()[:5] == [str(THIRD), "-", "other", "cancelled", "3"]
    assert third.split()[-2:] == ["1m30s", "7/10"]
    assert second.rstrip().endswith(r"[red]disk\x1b[31m full\u202e")


def test_table_in_a_narrow_terminal(db: str) -> None:
    """In 80 columns → one line a run that fits, with the end of its id; colours are the table's own."""
    with in_terminal("runs", "--db", db) as (process, person):
        shown = seen(person)
        assert process.wait(PATIENCE) == 0
    lines = [line for line in shown.splitlines() if "nightly" in line]

    assert len(lines) == 2
    assert SECOND.hex[-8:] in lines[0]
    assert "\x1b[31mfailed" in lines[0]
    assert "[red]disk…" in lines[0]


def test_no_runs(call: Call, tmp_path: Path) -> None:
    """A table without rows → a line on stderr that there are none."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    create_tables(create_engine(url))
    assert call("runs", "--db", url) == (0, "", "statelatch: no runs\n")


LOOKING = [("runs",), ("show", "abcd"), ("cancel", "abcd")]


@pytest.mark.parametrize("command", LOOKING)
@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_no_database(call: Call, tmp_path: Path, command: tuple[str, ...], url: str) -> None:
    """A file that is not there → said so, exit code 1, and it is not made."""
    file = tmp_path / "none.db"
    said = f"statelatch: {file}: there is no such database; `statelatch run` makes one\n"
    assert call(command[0], "--db", url.format(file), *command[1:]) == (1, "", said)
    assert list(tmp_path.iterdir()) == []


def test_no_table(call: Call, database_url: URL) -> None:
    """A database without the table → said so, exit code 1, and the table is not made."""
    said = "no run was ever started in this database; `statelatch run` starts one\n"
    for command in LOOKING:
        db = database_url.render_as_string(hide_password=False)
        code, out, err = call(command[0], "--db", db, *command[1:])
        assert (code, out, err.partition(": no ")[2]) == (1, "", said.removeprefix("no "))
    engine = create_engine(database_url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_default_database(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --db → STATELATCH_DB, else a file in the user's state folder, which is made."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("STATELATCH_DB", raising=False)
    assert call("runs")[0] == 1
    assert list(tmp_path.iterdir()) == []
    assert completed("run", "--", "true")[0] == 0
    assert call("runs")[0] == 0
    assert sorted(file.name for file in tmp_path.rglob("*.db")) == ["runs.db", "spool.db"]

    monkeypatch.setenv("STATELATCH_DB", f"sqlite:///{tmp_path / 'other.db'}")
    assert completed("run", "--", "true")[0] == 0
    assert call("runs")[0] == 0
    assert (tmp_path / "other.db").exists()


def test_every_state_can_be_asked_for() -> None:
    """The states of `--status` are those of the lifecycle."""
    assert [status.value for status in Status] == [state.value for state in RunLifecycle.states_map.values()]


# -- show ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [str(THIRD), THIRD.hex.upper(), "ffff", "ffff-ffff", str(THIRD)[:-6]])
def test_show(call: Call, db: str, given: str) -> None:
    """An id, or a part of it that fits one run → what that run's row holds."""
    code, out, err = call("show", "--db", db, given)
    told = dict(line.split() for line in out.splitlines() if "_at" not in line)

    assert (code, err) == (0, "")
    assert (told["id"], told["status"], told["progress_current"]) == (str(THIRD), "cancelled", "7")
    assert told["duration"] == "1m30s"


def test_show_by_part_on_each_database(call: Call, database_url: URL) -> None:
    """The beginning and the end of an id → found on every database."""
    fill(database_url)
    db = database_url.render_as_string(hide_password=False)
    for given in ("1111abcd", str(SECOND)[:-5]):
        assert ids(call("show", "--db", db, "--json", given)[1]) == [SECOND]


NOT_FOUND = [
    ("abc", 2, "run id: expected at least 4 characters of it, found 'abc'"),
    ("abcd", 2, f"run id: expected one run, found several that 'abcd' fits: {SECOND}, {FIRST}; say more of it"),
    ("9999", 1, "there is no run 9999; `statelatch runs` lists those that there are"),
    ("100%", 1, "there is no run 100%; `statelatch runs` lists those that there are"),
    (str(UUID(int=1)), 1, f"there is no run {UUID(int=1)}; `statelatch runs` lists those that there are"),
]


@pytest.mark.parametrize("command", ["show", "cancel"])
@pytest.mark.parametrize(("given", "code", "said"), NOT_FOUND)
def test_not_found(call: Call, db: str, command: str, given: str, code: int, said: str) -> None:
    """No run, or several → one line that says so, with the id that was given."""
    assert call(command, "--db", db, given) == (code, "", f"statelatch: {said}\n")


@pytest.mark.parametrize(("status", "minutes", "shown"), [("running", -3, 1), ("running", 3, 0), ("completed", -3, 0)])
def test_show_of_a_lost_worker(call: Call, db: str, status: str, minutes: int, shown: int) -> None:
    """A running run whose lease has expired → said so, and for how long; else not."""
    engine = create_engine(db)
    with Session(engine) as session:
        lease = datetime.now(UTC) + timedelta(minutes=minutes)
        session.add(run(UUID(int=5), 3, status=status, finished_at=None, lease_owner="w", lease_expires_at=lease))
        session.commit()
    engine.dispose()
    _, out, _ = call("show", "--db", db, str(UUID(int=5)))
    assert len(re.findall(r"lease expired 3m0\ds ago: its worker is gone", out)) == shown


# -- cancel ------------------------------------------------------------------------------------------------------


def test_cancel_running(call: Call, db: str) -> None:
    """A running run → asked to stop, and it does."""
    with RunManager(db, heartbeat=0.05) as manager:
        handle = manager.start(until_cancelled)
        code, out, err = call("cancel", "--db", db, handle.id.hex[-12:])
        assert (code, err) == (0, "")
        assert out == f"run {handle.id}: asked to stop; --force would end it at once\n"
        assert handle.wait(PATIENCE).state == "cancelled"


def test_force(call: Call, db: str) -> None:
    """By force → cancelled at once, whatever the function does."""
    with at_gate() as gate, RunManager(db) as manager:
        handle = manager.start(gate)
        gate.wait()
        assert call("cancel", "--db", db, "--force", str(handle.id)) == (0, f"run {handle.id}: cancelled\n", "")
        assert manager.get(handle.id).status == "cancelled"
        gate.open()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_cancel_ended(call: Call, db: str, force: tuple[str, ...]) -> None:
    """A run that has ended → said so with its state, exit code 1, the row as it was."""
    before = vars(rows(db)[0])
    said = f"statelatch: run {FIRST} had ended already, as completed; nothing was written\n"
    assert call("cancel", "--db", db, *force, str(FIRST)) == (1, "", said)
    after = vars(rows(db)[0])
    assert {**after, "_sa_instance_state": None} == {**before, "_sa_instance_state": None}


# -- errors --------------------------------------------------------------------------------------------------------

ERRORS = [
    (("runs", "--db", "nonsense"), 2, "database URL: "),
    (("runs", "--db", "sqlite:////dev"), 1, "sqlite:////dev did not answer (connect)"),
    (("show", "--db", "postgresql://u:secret@127.0.0.1:1/x", "abcd"), 1, "postgresql://u:***@127.0.0.1:1/x did not"),
    (("runs", "--db", ""), 2, "--db, or STATELATCH_DB: expected a URL, found an empty text"),
    (("run", "--db", " ", "--", "true"), 2, "--db, or STATELATCH_DB: expected a URL, found an empty text"),
    (("runs", "--db", "postgresql://h:secret/x"), 2, "database URL: expected a number as port; write /, : and"),
    (("runs", "--db", "postgresql+asyncpg://u@h/x"), 2, "database URL: postgresql+asyncpg is asynchronous, and"),
    (("runs", "--db", "sqlite+aiosqlite:///x.db"), 2, "database URL: sqlite+aiosqlite is asynchronous, and"),
    (("runs", "--db", "mysql://u@127.0.0.1:1/x?no=1"), 2, "database URL: its parameters are not understood: "),
    (("runs", "--db", "sqlite:////dev/null?timeout=abc"), 2, "database URL: its parameters are not understood: "),
    (("runs", "--db", "sqlite:////dev/null?no=1"), 2, "database URL: its parameters are not understood: "),
    (("run", "--key", "\udcff", "--", "true"), 2, r"key: expected text in UTF-8, found '\udcff'"),
    (("run", "--grace", "nan", "--", "true"), 2, "--grace: expected 0 to 86400 seconds, found nan"),
    (("run", "--grace", "-1", "--", "true"), 2, "--grace: expected 0 to 86400 seconds, found -1.0"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), ERRORS)
def test_errors(call: Call, arguments: tuple[str, ...], code: int, said: str) -> None:
    """An error → one line on stderr, its exit code, nothing on stdout, no password."""
    given, out, err = call(*arguments)
    (line,) = err.splitlines()
    assert (given, out) == (code, "")
    assert line.startswith(f"statelatch: {said}")


def test_variable_that_is_empty(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """STATELATCH_DB is set and empty → refused, lest runs go into another database than the one that was meant."""
    monkeypatch.setenv("STATELATCH_DB", "")
    code, _, err = call("runs")
    assert (code, err.startswith("statelatch: --db, or STATELATCH_DB: expected a URL")) == (2, True)


def test_limit_that_no_database_knows(call: Call, db: str) -> None:
    """More rows than a database can be asked for → wrong usage."""
    code, out, err = call("runs", "--db", db, "--limit", str(10**30))
    assert (code, out, "'--limit'" in err) == (2, "", True)


def in_shell(script: str, *arguments: str) -> tuple[int, str]:
    """`statelatch` with these arguments as `"$@"` of a shell script: exit code and stderr."""
    done = subprocess.run(["sh", "-c", script, "sh", *COMMAND, *arguments], capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


NOWHERE = [
    ('"$@" >&-', "bad file descriptor", ("runs",)),
    ('"$@" >&-', "bad file descriptor", ("diagram", "statelatch.runs:RunLifecycle")),
    ('"$@" >/dev/full', "no space left on device", ("runs",)),
]


@pytest.mark.parametrize(("script", "reason", "arguments"), NOWHERE)
def test_output_that_cannot_be_written(
    db: str, monkeypatch: pytest.MonkeyPatch, script: str, reason: str, arguments: tuple[str, ...]
) -> None:
    """Standard output is closed, or full → one line that says so, and 1."""
    monkeypatch.setenv("STATELATCH_DB", db)
    assert in_shell(script, *arguments) == (1, f"statelatch: standard output: {reason}\n")


def test_output_in_ascii(tmp_path: Path) -> None:
    """Standard output has no code for a character → it is spelled out."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    fill(url)
    engine = create_engine(url)
    with Session(engine) as session:
        session.add(run(UUID(int=5), 3, name="日本"))
        session.commit()
    engine.dispose()
    code, out, err = completed("runs", "--db", url, environment={"PYTHONIOENCODING": "ascii"})
    assert (code, rb"\u65e5\u672c" in out, err) == (0, True, b"")


def test_folder_that_is_gone(tmp_path: Path) -> None:
    """The current folder has been removed → one line that says so."""
    (tmp_path / "gone").mkdir()
    leave = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$@"'
    said = "statelatch: the current folder is gone; change to another\n"
    assert in_shell(leave, "diagram", "statelatch.runs:RunLifecycle") == (1, said)


def test_reader_gone(db: str) -> None:
    """A reader who has had enough, as in `| head` → no word about it."""
    with launched("runs", "--json", environment={"STATELATCH_DB": db}) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
