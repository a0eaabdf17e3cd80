"""The benchmark program: it runs through on each database, proves its work, and leaves nothing behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, inspect, text

from tests.benchmarks.__main__ import main
from tests.benchmarks.cases import CASES
from tests.benchmarks.place import UnprovenError, opened
from tests.benchmarks.race import Entry, Move
from tests.benchmarks.ring import PREFIX

ROOT = Path(__file__).parents[2]


def tables(engine: Engine) -> list[str]:
    """The program's tables."""
    return [name for name in inspect(engine).get_table_names() if name.startswith(PREFIX)]


def shown(url: URL) -> str:
    """The URL as a user would type it."""
    return url.render_as_string(hide_password=False)


def test_every_case_runs_through(database_url: URL, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run measures each case, proves each contestant's work, and drops its tables."""
    assert main(["--quick", "--seconds", "0.01", "--db", shown(database_url)]) == 0

    told = capsys.readouterr().out
    assert [case.title for case in CASES if case.title not in told] == []
    assert "django-fsm-2" in told
    assert tables(engine) == []


def everything(table: str, move: Move) -> str | None:
    """What each move asks for."""
    return f"UPDATE {table} SET state = '{move.target}', version = version + 1 WHERE id = {move.key}"


def nothing(table: str, move: Move) -> str | None:
    """The clock runs, and no more."""
    return None


def all_but_one(table: str, move: Move) -> str | None:
    """One move of all is left out."""
    return None if move.key == 3 and move.version == 2 else everything(table, move)


def version_only(table: str, move: Move) -> str | None:
    """The version without the state."""
    return f"UPDATE {table} SET version = version + 1 WHERE id = {move.key}"


def wrong_row(table: str, move: Move) -> str | None:
    """As many moves, all of one row."""
    return f"UPDATE {table} SET state = '{move.target}', version = version + 1 WHERE id = 1"


@pytest.mark.parametrize(
    ("does", "proved"),
    [(everything, True), (nothing, False), (all_but_one, False), (version_only, False), (wrong_row, False)],
)
def test_work_that_was_not_done_is_found(
    database_url: URL, does: Callable[[str, Move], str | None], *, proved: bool
) -> None:
    """Whoever skips a row, a version or a state is not believed."""
    with opened(shown(database_url)) as place, place.table("proof", 4) as table:

        def block(moves: Sequence[Move]) -> int:
            with place.engine.connect() as connection:
                for statement in filter(None, (does(table.name, move) for move in moves)):
                    connection.execute(text(statement))
            return 1

        entry = Entry("someone", block, 4, 3)
        for _ in range(3):
            entry.run()

        if proved:
            place.prove(table, entry)
        else:
            with pytest.raises(UnprovenError, match="someone: row"):
                place.prove(table, entry)


def test_an_interrupted_run_leaves_nothing(database_url: URL, engine: Engine) -> None:
    """Ctrl-C in the middle of a race: the tables are dropped, and the exit code is the shell's for it."""
    command = (sys.executable, "-m", "tests.benchmarks", "--only", "transition", "--db", shown(database_url))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        while not tables(engine):
            assert program.poll() is None
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        told, _ = program.communicate(timeout=60)

    assert program.returncode == 130, told
    assert "Interrupted" in told
    assert tables(engine) == []


def test_a_file_that_was_not_there_is_gone(tmp_path: Path) -> None:
    """An SQLite file of the program's own is removed with all that belongs to it."""
    assert main(["--quick", "--seconds", "0.01", "--only", "bulk", "--db", f"sqlite:///{tmp_path}/new.db"]) == 0

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extra", [["--only", "bulk"], ["--quick"]])
def test_a_part_of_a_run_is_not_written(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The page tells of one full run, or is left as it is."""
    with pytest.raises(SystemExit, match="2"):
        main(["--db", "sqlite:///x.db", "--write", *extra])

    assert "one full run" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "nosuch://x/y"])
def test_a_url_that_cannot_be_measured_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured, and the exit code says so."""
    assert main(["--db", url]) == 1

    assert url.partition(":")[0] in capsys.readouterr().out


def test_two_databases_of_one_kind_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second would take the first one's column; what the first was measured at is told."""
    urls = [argument for name in "ab" for argument in ("--db", f"sqlite:///{tmp_path}/{name}.db")]

    assert main(["--quick", "--seconds", "0.01", "--only", "bulk", *urls]) == 1

    told = capsys.readouterr().out
    assert "two databases of one kind" in told
    assert "hand-written" in told
