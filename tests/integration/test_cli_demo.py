"""`statelatch demo`: what it shows is what happened, and its counter counts."""

import os
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from statelatch.cli import main
from statelatch.cli.demo.files import Files, find_files, hash_files
from statelatch.cli.demo.scenes import SCENES, Told, faults
from statelatch.cli.demo.stage import counter_works, overwritten, set_up
from statelatch.errors import ConnectionFailureError
from statelatch.runs import RunManager, create_tables
from tests.command_line import in_terminal, seen
from tests.runs import PATIENCE, nothing


def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """In a pipe → a line a scene with state, version, outcome and connection; nothing overwritten; nothing else."""
    (tmp_path / "file").write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["statelatch", "demo"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    first, _, header, _, *lines, _, last = out.splitlines()

    assert (ended.value.code, err) == (0, "")
    assert first == f"Hashing 1 files, 0.0 MB, of {tmp_path}."
    assert header.split() == ["run", "state", "version", "outcome", "written", "by"]
    assert [line.rpartition("held by")[0].split() or line.split() for line in lines] == [
        ["success", "completed", "3", "applied", "primary"],
        ["failure", "failed", "3", "applied", "primary"],
        ["cancel", "cancelled", "3", "applied", "primary"],
        ["cancel", "beats", "completion", "cancelled", "3", "no-op", "another", "process"],
        ["connection", "lost", "at", "the", "end", "completed", "3", "applied", "fallback", "1"],
        ["second", "start", "on", "a", "busy", "key", "not", "started", "-", "refused"],
    ]
    assert last == "Terminal states overwritten: 0 (counted by a trigger in the database)"


def test_in_a_terminal(tmp_path: Path) -> None:
    """At a terminal of 80 columns → progress while it goes on, and a table of one line a scene."""
    for number in range(50):
        (tmp_path / f"file{number}").write_bytes(b"12345")
    with in_terminal("demo", "--folder", str(tmp_path)) as (process, person):
        shown = seen(person)
        assert process.wait(PATIENCE) == 0
    table = shown[shown.rindex("written by") :].splitlines()

    assert "/50" in shown
    assert len(table) == 2 + len(SCENES) + 2
    assert "held by" in table[7]


def test_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without files → the same table."""
    monkeypatch.setattr(sys, "argv", ["statelatch", "demo", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def test_folder_that_cannot_be_entered(tmp_path: Path) -> None:
    """A folder whose files cannot be asked for, here because their paths would be too long → left out."""
    inside = tmp_path
    while len(str(inside)) < 3900:
        inside /= "f" * 100
    inside.mkdir(parents=True)
    (inside / ("f" * (4090 - len(str(inside)) - 1))).mkdir()  # a path has at most 4095 characters
    (tmp_path / "file").write_bytes(b"12345")
    assert find_files(tmp_path) == Files(paths=[tmp_path / "file"], size=5, cut=False)


def test_file_with_nothing_to_read_yet(tmp_path: Path) -> None:
    """A file that has nothing to read yet, as some of /proc have, here a FIFO → empty, and not waited for."""
    os.mkfifo(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    with RunManager(create(tmp_path)) as manager:
        run = manager.start(lambda: hash_files(Files(paths=[tmp_path / "fifo"], size=0, cut=False)))
        try:
            assert run.result(PATIENCE)["bytes"] == 0
        finally:
            os.close(writer)  # whoever waits for it sees its end


def create(folder: Path) -> str:
    """The URL of a new database with the table of the runs."""
    url = f"sqlite:///{folder / 'runs.db'}"
    engine = create_engine(url)
    create_tables(engine)
    engine.dispose()
    return url


def test_counter() -> None:
    """A run that has ended is overwritten, by anyone → counted; without its trigger the counter says it is blind."""
    with set_up() as stage:
        stage.manager.start(nothing).wait(PATIENCE)
        engine = stage.direct.engine
        assert (overwritten(engine), counter_works(engine), overwritten(engine)) == (0, True, 0)

        with engine.begin() as connection:
            connection.execute(text("UPDATE statelatch_runs SET status = 'failed'"))
        assert overwritten(engine) == 1

        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER count_overwritten"))
        assert counter_works(engine) is False


def test_fault() -> None:
    """The primary is cut off → it fails for real, connected anew included, and works again when it is restored."""
    with set_up() as stage:
        run_id = stage.manager.start(nothing).wait(PATIENCE).run_id
        stage.cut_primary_off()
        with pytest.raises(ConnectionFailureError):
            stage.primary.load(run_id)
        with stage.primary.reconnected() as again, pytest.raises(ConnectionFailureError):
            again.load(run_id)

        stage.restore_primary()
        assert stage.primary.load(run_id).state == "completed"


def test_faults() -> None:
    """Whatever is not as it must be is named; if nothing is, nothing is."""
    good = [scene.expected for scene in SCENES]
    assert faults(good, 0, counts=True) == []

    wrong = [Told("failed", 3, "applied", "primary"), *good[1:]]
    assert [line.partition(":")[0] for line in faults(wrong, 2, counts=False)] == [
        "success",
        "2 terminal states were overwritten",
        "the counter of overwritten states does not count",
    ]


def test_files(tmp_path: Path) -> None:
    """Regular files below the folder, without hidden folders, environments and links; at most so many."""
    for name in ("a", "sub/b", ".git/c", "venv/pyvenv.cfg", "venv/d", "node_modules/e"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    found = find_files(tmp_path)

    assert [str(path.relative_to(tmp_path)) for path in found.paths] == ["a", "sub/b"]
    assert (found.size, found.cut) == (10, False)


def test_many_files(tmp_path: Path) -> None:
    """A folder with more files than a demo needs → cut, and said so."""
    for name in "abc":
        (tmp_path / name).touch()
    assert [(len(found.paths), found.cut) for n in (2, 3) if (found := find_files(tmp_path, most=n))] == [
        (2, True),
        (3, False),
    ]
