"""`statelatch run --spool` and `statelatch recover`: an end that the database did not take, kept and written later."""

import json
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, delete, text

from statelatch.runs import Run, RunManager, create_tables
from statelatch.runs.spool import Spool
from tests.command_line import completed, in_terminal, only, seen
from tests.databases import sqlite_file, unreachable
from tests.spools import spooled

AWAY = """
import sys
from sqlalchemy import create_engine
engine = create_engine(sys.argv[1])
with engine.begin() as connection:
    connection.exec_driver_sql("ALTER TABLE statelatch_runs RENAME TO away")
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def own(tmp_path: Path) -> Generator[Engine]:
    """An engine on a file with the runs' table."""
    engine = create_engine(sqlite_file(tmp_path))
    create_tables(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def db(own: Engine) -> str:
    """Its URL."""
    return own.url.render_as_string()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A spool's file, which is not there yet."""
    return tmp_path / "my spool.db"


def run_without_end(db: str, *options: str, code: int = 0) -> str:
    """Run a command that takes the table away from its own run, put it back, and return what was said."""
    given, _, err = completed("run", "-q", "--db", db, *options, "--", sys.executable, "-c", AWAY, db, str(code))
    assert given == code
    execute(db, "ALTER TABLE away RENAME TO statelatch_runs")
    return err.decode()


def execute(db: str, statement: str) -> None:
    """Send a statement past the product."""
    engine = create_engine(db)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_an_end_that_is_kept_is_recovered(database_url: URL, file: Path) -> None:
    """Kept → said, with what to do; `recover` writes it and says so; the exit codes are the command's and 0."""
    db = database_url.render_as_string(hide_password=False)
    *_, warning, last = run_without_end(db, "--spool", str(file), code=3).splitlines()  # a late beat may warn as well
    kept = only(db)

    assert (kept.status, kept.version) == ("running", 2)
    assert warning == f"statelatch: run {kept.id}: failed is kept in the spool, no connection answered"
    how = f"`statelatch recover --db URL --spool '{file}'`"
    assert last == f"statelatch: run {kept.id}: failed is kept in {file}; {how} writes it"

    given, out, err = completed("recover", "--db", db, "--spool", str(file))
    header, _, row, *_ = out.decode().splitlines()
    assert (given, err) == (0, b"")
    assert header.split() == ["id", "end", "outcome", "state", "version", "via", "error"]
    assert row.split() == [str(kept.id), "failed", "applied", "failed", "3", "primary", "exit", "code", "3"]
    assert (only(db).status, only(db).version, only(db).error) == ("failed", 3, "exit code 3")
    assert Spool(file).entries() == []


def test_the_user_s_own_spool(db: str, state_folder: Path) -> None:
    """Without --spool → a file in the user's state folder, for both commands; nothing to recover is no error."""
    assert completed("recover", "--db", db) == (0, b"", b"statelatch: nothing to recover\n")
    assert not state_folder.exists()

    last = run_without_end(db).splitlines()[-1]
    assert f"completed is kept in {state_folder / 'spool.db'}; `statelatch recover --db URL` writes it" in last
    assert completed("recover", "--db", db)[0] == 0
    assert only(db).status == "completed"


def test_a_spool_that_cannot_be_made(db: str, tmp_path: Path) -> None:
    """The one that was named → 2, the command is not started; the user's own → a warning, and the command runs."""
    started = tmp_path / "started"
    code, _, err = completed("run", "--db", db, "--spool", "/dev/null/spool", "--", "touch", str(started))
    assert (code, started.exists()) == (2, False)
    assert err.decode().startswith("statelatch: spool /dev/null/spool: ")

    code, _, err = completed("run", "-q", "--db", db, "--", "true", environment={"XDG_STATE_HOME": "/dev/null"})
    assert (code, only(db).status) == (0, "completed")
    assert "without it, the end of a run that no database takes is not kept; name another with --spool" in err.decode()


def test_a_run_that_was_cancelled_meanwhile(own: Engine, db: str, file: Path) -> None:
    """Ended otherwise → it stays as it is, which is said; nothing is left, so 0."""
    (handle,) = spooled(own, file)
    with RunManager(own) as manager:
        manager.cancel(handle.id, force=True)
    code, out, _ = completed("recover", "--db", db, "--spool", str(file), "--json")

    assert code == 0
    assert json.loads(out) == {
        "run_id": str(handle.id),
        "target": "completed",
        "outcome": "no-op",
        "state": "cancelled",
        "version": 3,
        "via": "primary",
        "error": None,
    }


def test_what_stays_in_the_spool(own: Engine, db: str, file: Path) -> None:
    """No such run in this database → 1, with the reason, in a terminal on one line; it is kept."""
    (handle,) = spooled(own, file)
    with own.begin() as connection:
        connection.execute(delete(Run))
    with in_terminal("recover", "--db", db, "--spool", str(file)) as (process, person):
        shown = seen(person)
        assert process.wait(20) == 1
    row = shown.splitlines()[-1]

    assert "no such row" in shown
    assert all(word in row for word in (handle.id.hex[-8:], "completed", "spooled", "…"))
    assert [word.run_id for word in Spool(file).entries()] == [handle.id]


def test_a_database_that_does_not_answer(own: Engine, file: Path) -> None:
    """Away → 1 and one line; all is kept."""
    spooled(own, file)
    nowhere = unreachable(URL.create("postgresql", "someone", "secret", "127.0.0.1", 1, "runs"))
    name = nowhere.render_as_string(hide_password=False)
    code, out, err = completed("recover", "--db", name, "--spool", str(file))

    assert (code, out, len(err.decode().splitlines())) == (1, b"", 1)
    assert (b"did not answer" in err, b"secret" in err) == (True, False)
    assert len(Spool(file).entries()) == 1


def test_a_file_that_is_no_spool(db: str, file: Path) -> None:
    """Somebody's text → 1, set aside under a name that is said; the next finds nothing to recover."""
    file.write_text("somebody's text")
    code, _, err = completed("recover", "--db", db, "--spool", str(file))

    assert (code, Path(f"{file}.aside-1").read_text()) == (1, "somebody's text")
    assert f"set aside, unread, as {file}.aside-1" in err.decode()
    assert f"{file}.aside-1: what it holds could not be read and was not recovered" in err.decode()
    assert completed("recover", "--db", db, "--spool", str(file)) == (0, b"", b"statelatch: nothing to recover\n")


def test_a_spool_that_is_damaged(own: Engine, db: str, file: Path) -> None:
    """Its end is cut off, which only reading it shows → 1, and what was kept is in the file that is named."""
    spooled(own, file)
    damaged = file.read_bytes()[:5000]
    file.write_bytes(damaged)
    code, out, err = completed("recover", "--db", db, "--spool", str(file), "--json")

    assert (code, out, Path(f"{file}.aside-1").read_bytes()) == (1, b"", damaged)
    assert f"{file}.aside-1: what it holds could not be read" in err.decode()


def test_a_database_of_another_application(db: str, file: Path) -> None:
    """Named by mistake → 2 and what was expected; it keeps its name and every byte."""
    execute(f"sqlite:///{file}", "CREATE TABLE users (name TEXT)")
    before = file.read_bytes()
    code, out, err = completed("recover", "--db", db, "--spool", str(file))

    assert (code, out, file.read_bytes(), list(file.parent.glob("*.aside-*"))) == (2, b"", before, [])
    assert f"spool {file}: expected a spool, found an SQLite database of another application" in err.decode()


def test_no_such_spool(db: str, file: Path) -> None:
    """A file that was named and is not there → 1; it is not made."""
    code, _, err = completed("recover", "--db", db, "--spool", str(file))

    assert (code, file.exists()) == (1, False)
    assert err.decode() == f"statelatch: {file}: there is no such spool; `statelatch run --spool FILE` makes one\n"
