"""`statelatch runs`, `show` and `cancel`: what a person sees of runs, and what a program does."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import Session

from statelatch.cli import main
from statelatch.cli.listing import Status
from statelatch.runs import Run, RunLifecycle, RunManager, create_tables
from tests.command_line import in_terminal, launched, rows, seen
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
    """A database that is not there yet → made, with the table; a line on stderr that there are none."""
    assert call("runs", "--db", f"sqlite:///{tmp_path / 'new.db'}") == (0, "", "statelatch: no runs\n")
    assert rows(f"sqlite:///{tmp_path / 'new.db'}") == []


def test_default_database(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --db → STATELATCH_DB, else a file in the user's state folder, which is made."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("STATELATCH_DB", raising=False)
    assert call("runs")[0] == 0
    assert [file.name for file in tmp_path.rglob("*.db")] == ["runs.db"]

    monkeypatch.setenv("STATELATCH_DB", f"sqlite:///{tmp_path / 'other.db'}")
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
    (("runs", "--db", "sqlite:////no/such/folder/x.db"), 1, "sqlite:////no/such/folder/x.db did not answer (connect)"),
    (("show", "--db", "postgresql://u:secret@127.0.0.1:1/x", "abcd"), 1, "postgresql://u:***@127.0.0.1:1/x did not"),
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


def test_reader_gone(db: str) -> None:
    """A reader who has had enough, as in `| head` → no word about it."""
    with launched("runs", "--json", environment={"STATELATCH_DB": db}) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
