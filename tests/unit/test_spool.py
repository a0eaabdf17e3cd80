"""The spool: what it has taken is there, in order, once; what is no spool is set aside, whole, and told."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from filelock import FileLock

from statelatch.errors import ConfigurationError
from statelatch.runs import SpoolError, spool
from statelatch.runs.last_word import LastWord
from statelatch.runs.spool import Spool

DEEP: dict[str, Any] = {
    "result": {"text": "é \U0001f512 \x00 '", "list": [1, -(2**63), 1.5, None, True, []]},
    "progress_current": 7,
}


def word(number: int, **changes: Any) -> LastWord:
    """A last word, of a run and with a token of its own."""
    values: dict[str, Any] = {"event": "complete", "worker": "w", "params": DEEP, "target": "completed", "error": None}
    return LastWord(run_id=UUID(int=number), token=UUID(int=number << 64), **{**values, **changes})


WORDS = [
    word(1),
    word(2, event="fail", target="failed", error="disk full", params={"error": "disk full", "error_type": "OSError"}),
    word(3, event="cancel", target="cancelled", worker=None, params={}),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a spool is to be."""
    return tmp_path / "spool.db"


def filled(path: Path) -> Spool:
    """A spool with three words."""
    made = Spool(path)
    for each in WORDS:
        made.append(each)
    return made


@contextmanager
def opened(path: Path) -> Generator[sqlite3.Connection]:
    """The file as anybody may open it."""
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


# -- what is kept ------------------------------------------------------------------------------------------------


def test_words_come_back_as_they_went_in(path: Path) -> None:
    """Every attribute of each, oldest first, also when the file is opened by another."""
    filled(path)

    assert Spool(path).entries() == WORDS


def test_a_word_is_removed_once(path: Path) -> None:
    """Of two who remove it, one is told that it was there; the others stay, in order."""
    one, other = filled(path), Spool(path)

    assert (other.remove(WORDS[1]), one.remove(WORDS[1])) == (True, False)
    assert one.entries() == [WORDS[0], WORDS[2]]


def test_a_word_that_comes_later_is_later(path: Path) -> None:
    """Also when those before it have been removed."""
    kept = filled(path)
    for each in WORDS[1:]:
        kept.remove(each)
    kept.append(word(9))

    assert kept.entries() == [WORDS[0], word(9)]


def test_a_word_is_kept_once(path: Path) -> None:
    """The same token a second time is the same word: it is there once, in its place, as it was."""
    kept = filled(path)
    kept.append(word(1, target="failed"))

    assert kept.entries() == WORDS


def test_the_file_says_whose_it_is_and_is_written_synchronously(path: Path) -> None:
    """Its header has our id and version; no journal is left, and none of another mode is used."""
    filled(path)
    with opened(path) as connection:
        header = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()

    assert (header, mode) == ([0x73744C61, 1], "delete")
    assert sorted(file.name for file in path.parent.iterdir()) == ["spool.db", "spool.db.lock"]


def test_many_threads_may_share_it(path: Path) -> None:
    """Eight append and remove at the same time: nothing is lost, nothing is there twice, each is removed once."""
    shared = Spool(path)

    def append(number: int) -> None:
        shared.append(word(number))

    def remove(number: int) -> bool:
        return shared.remove(word(number % 100))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append, range(200)))
        removed = list(threads.map(remove, range(200)))

    assert removed.count(True) == 100
    assert {each.run_id.int for each in shared.entries()} == set(range(100, 200))


def at_once(path: Path, work: str, number: int) -> None:
    """So many processes that do this work at the same time, each with a `number`, in the spool of this file."""
    script = (
        "import sys; from tests.unit.test_spool import Spool, word; path, number = sys.argv[1], int(sys.argv[2])\n"
        f"print('ready', flush=True)\n{work}"
    )
    with FileLock(f"{path}.lock"):
        commands = [[sys.executable, "-c", script, str(path), str(each)] for each in range(number)]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
    assert [child.communicate(timeout=30) for child in children] == [("", None)] * number
    assert [child.returncode for child in children] == [0] * number


def test_many_processes_may_share_it(path: Path) -> None:
    """Three append, and each removes the first half of what it appended: nothing is lost, nothing is there twice."""
    work = (
        "shared, mine = Spool(path), [word(30 * number + each) for each in range(30)]\n"
        "for each in mine: shared.append(each)\n"
        "assert all(shared.remove(each) for each in mine[:15])\n"
    )
    at_once(path, work, 3)
    kept = [each.run_id.int for each in Spool(path).entries()]

    assert sorted(kept) == [30 * number + each for number in range(3) for each in range(15, 30)]


def test_what_was_interrupted_was_not_done(path: Path) -> None:
    """A process that was killed in the middle of a write leaves what was there before, and blocks nobody."""
    filled(path)
    script = (
        "import os, sys, signal; from pathlib import Path; from statelatch.runs.spool import Spool, REMOVE\n"
        "def killed(connection):\n"
        "    connection.execute('PRAGMA cache_size = 0')\n"
        "    connection.execute('PRAGMA cache_spill = 1')\n"
        "    connection.execute('DELETE FROM last_words')\n"
        "    connection.execute('INSERT INTO last_words SELECT 1, x, x, x, x, x, x, x'\n"
        "                       ' FROM (SELECT hex(zeroblob(1000000)) x)')\n"
        "    assert Path(sys.argv[1] + '-journal').stat().st_size > 512\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Spool(sys.argv[1])._use(killed)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    assert Path(f"{path}-journal").exists()

    assert Spool(path).entries() == WORDS


# -- what is no spool --------------------------------------------------------------------------------------------


def overwrite(path: Path) -> None:
    """Another's text, written over the file."""
    path.write_text("Dear diary,\n" * 1000)


def truncate(path: Path) -> None:
    """The second half of the file is missing."""
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    """The page of the table's rows is full of something else."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


def scribble_where_nobody_reads(path: Path) -> None:
    """The same of the page of an index, which holds none of what would be read."""
    with opened(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE type = 'index'").fetchone()
    with path.open("r+b") as file:
        file.seek(page * 4096 - 100)
        file.write(b"\xff" * 100)


def claimed_by_another(path: Path) -> None:
    """Another application's id."""
    with opened(path) as connection:
        connection.execute("PRAGMA application_id = 7")


def from_the_future(path: Path) -> None:
    """A version that we do not know."""
    with opened(path) as connection:
        connection.execute("PRAGMA user_version = 2")


def with_another_table(path: Path) -> None:
    """Somebody else's table."""
    with opened(path) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")


def without_a_column(path: Path) -> None:
    """The table, but not as it was made."""
    with opened(path) as connection:
        connection.execute("ALTER TABLE last_words DROP COLUMN worker")


def with_a_bad_entry(column: str, value: object) -> Callable[[Path], None]:
    """An entry that nobody of us has written."""

    def spoil(path: Path) -> None:
        with opened(path) as connection:
            connection.execute(f"UPDATE last_words SET {column} = ? WHERE number = 3", (value,))

    spoil.__name__ = f"with_a_bad_{column}"
    return spoil


READABLE = [claimed_by_another, from_the_future, with_another_table, without_a_column]
SPOILT = [
    overwrite,
    truncate,
    scribble,
    scribble_where_nobody_reads,
    *READABLE,
    with_a_bad_entry("run_id", "x"),
    with_a_bad_entry("params", "[]"),
    with_a_bad_entry("params", "{"),
    with_a_bad_entry("token", b"\xff"),
]


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_what_is_no_spool_is_set_aside(
    path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    """Renamed, byte for byte, and told with its new name; not one of its words is read; the spool goes on anew."""
    kept = filled(path)
    spoil(path)
    before = path.read_bytes()

    assert kept.entries() == []
    (warning,) = caplog.messages
    assert warning.startswith(f"spool {path}: ")
    assert warning.endswith(f"; set aside, unread, as {path}.aside-1")
    assert Path(f"{path}.aside-1").read_bytes() == before
    kept.append(word(9))
    assert Spool(path).entries() == [word(9)]


@pytest.mark.parametrize("spoil", [overwrite, *READABLE], ids=lambda spoil: spoil.__name__)
def test_a_word_is_not_appended_to_what_is_no_spool(
    path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    """The word goes into a new file, and the other is as it was."""
    kept = filled(path)
    spoil(path)
    before = path.read_bytes()
    kept.append(word(9))

    assert Path(f"{path}.aside-1").read_bytes() == before
    assert (kept.entries(), len(caplog.messages)) == ([word(9)], 1)


def test_nothing_that_was_set_aside_is_written_over(path: Path) -> None:
    """The second gets a name of its own."""
    for number in range(3):
        path.write_text(f"not a database, the {number}. time, and longer than any header of one could ever be")
        Spool(path)

    assert [Path(f"{path}.aside-{number}").read_text().split()[4] for number in (1, 2, 3)] == ["0.", "1.", "2."]


def test_its_journal_goes_with_it(path: Path) -> None:
    """What belongs to a file that is set aside is set aside with it, under its new name."""
    path.write_bytes(b"no database at all" * 100)
    Path(f"{path}-journal").write_bytes(b"its journal")
    Spool(path)

    assert Path(f"{path}.aside-1-journal").read_bytes() == b"its journal"


def test_an_empty_file_becomes_a_spool(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such as `mktemp` makes: there is nothing in it to be set aside."""
    path.touch()

    assert (filled(path).entries(), caplog.messages) == (WORDS, [])


def test_a_spool_whose_making_was_interrupted_is_made_anew(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGKILL leaves it just before COMMIT removes the journal: rolled back to nothing, so nothing is set aside."""
    journal, left = Path(f"{path}-journal"), Path(f"{path}-left")

    def keep(_: sqlite3.Connection) -> None:
        os.link(journal, left)

    with monkeypatch.context() as patched:
        patched.setattr(spool, "_nothing", keep)
        Spool(path)
    left.rename(journal)

    assert (path.read_bytes()[:15], journal.stat().st_size > 0) == (b"SQLite format 3", True)
    assert (filled(path).entries(), caplog.messages) == (WORDS, [])


def test_only_one_of_many_sets_it_aside(path: Path) -> None:
    """Eight find it spoilt at the same time: it is set aside once, and what they append is all in the new file.

    Each has a lock of its own, as in a process of its own.
    """
    users = [filled(path), *(Spool(path) for _ in range(7))]
    for number in range(1, 6):
        overwrite(path)
        barrier = threading.Barrier(8)

        def append(each: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            users[each].append(word(each))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(append, range(8)))

        assert {each.run_id.int for each in Spool(path).entries()} == set(range(8))
        assert len(list(path.parent.glob("*.aside*"))) == number


# -- what cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-folder/spool.db", ".", "file/spool.db"])
def test_a_file_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    """No folder, a folder in its place, a file in the place of its folder: said with the path, when it is made."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=f"spool {(tmp_path / name).resolve()}: .*in a folder that exists"):
        Spool(tmp_path / name)


def test_a_file_that_somebody_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locked for longer than we wait → an error that names the file, and not set aside: it is whole."""
    kept = filled(path)
    monkeypatch.setattr(spool, "PATIENCE", 0.1)
    with opened(path) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SpoolError, match="database is locked") as error:
            kept.append(word(9))

    assert error.value.path == path
    assert Spool(path).entries() == WORDS


def test_a_lock_that_somebody_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file's holder does not let go → an error, likewise."""
    kept = filled(path)
    monkeypatch.setattr(spool, "PATIENCE", 0.1)
    with FileLock(f"{path}.lock"), pytest.raises(SpoolError, match="lock"):
        kept.entries()

    assert kept.entries() == WORDS
