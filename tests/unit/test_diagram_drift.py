"""`diagrams/` is what the code generates. None of these tests needs Graphviz, except where one says so."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from diagrams.__main__ import ARCHITECTURE, FOLDER, drifted, drifted_docs
from sqlalchemy import ColumnElement
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase
from statemachine import State, StateMachine

from statelatch import MachineMapping
from statelatch.runs import Run, RunColumns, run_mapping

TEXT = "is not what the code generates"
DOT = "run-lifecycle.svg was drawn from another dot source"


class Base(DeclarativeBase):
    """The declarative base of this file's table."""


class OtherRun(RunColumns, Base):
    """A run like `Run`, but for the SQL of one guard."""

    __tablename__ = "other_runs"

    @hybrid_property
    def unclaimed(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Always."""
        return True

    @unclaimed.inplace.expression
    @classmethod
    def _unclaimed(cls) -> ColumnElement[bool]:
        return cls.id.is_not(None)


class RunLifecycle(StateMachine):
    """Another lifecycle of that name, with one event and one guard."""

    pending = State(initial=True)
    failed = State(final=True)
    fail = pending.to(failed, cond="unclaimed")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of `diagrams/` to break, beside a copy of `docs/`."""
    shutil.copytree(ARCHITECTURE.parent, tmp_path / "docs")
    return Path(shutil.copytree(FOLDER, tmp_path / "diagrams"))


def drift(folder: Path, mapping: MachineMapping | None = None) -> list[str]:
    """What has drifted in the folder, found without Graphviz."""
    return list(drifted(folder, mapping or run_mapping(), redraw=False))


def test_nothing_has_drifted() -> None:
    """The files that are checked in are those that the code generates; if not, run `python -m diagrams`."""
    assert drift(FOLDER) == [], "run python -m diagrams"


@pytest.mark.parametrize(("old", "new"), [("", ""), ("[unclaimed]", "[claimed]"), ("<!-- end -->", "")])
def test_the_docs_have_not_drifted(old: str, new: str) -> None:
    """The lifecycle in docs/architecture.md is the code's; a change there, or a lost marker, is named."""
    page = ARCHITECTURE.read_text(encoding="utf-8").replace(old, new)
    expected = ["../docs/architecture.md: its lifecycle is not what the code generates"] if old else []
    assert list(drifted_docs(page, run_mapping())) == expected


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("run-lifecycle.mmd", "[unclaimed]", "[claimed]", f"run-lifecycle.mmd {TEXT}"),
        ("run-lifecycle.md", "[unclaimed]", "[claimed]", f"run-lifecycle.md {TEXT}"),
        ("run-lifecycle.md", "lease_owner IS NULL", "TRUE", f"run-lifecycle.md {TEXT}"),
        ("run-lifecycle.svg", "SHA-256 ", "SHA-256 0", DOT),
    ],
)
def test_a_changed_file_is_named(copy: Path, name: str, old: str, new: str, expected: str) -> None:
    """A file that differs from the code in one place is named, and no other."""
    changed = (copy / name).read_text(encoding="utf-8").replace(old, new, 1)
    (copy / name).write_text(changed, encoding="utf-8")
    assert drift(copy) == [expected]


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A file that is not there has drifted."""
    assert drift(tmp_path) == [f"run-lifecycle.mmd {TEXT}", f"run-lifecycle.md {TEXT}", DOT]


def test_a_guard_whose_sql_changed() -> None:
    """A guard that keeps its name and changes its SQL has drifted where its SQL stands."""
    assert drift(FOLDER, run_mapping(OtherRun)) == [f"run-lifecycle.md {TEXT}"]


def test_a_lifecycle_that_changed() -> None:
    """A lifecycle with other transitions has drifted everywhere."""
    mapping = MachineMapping(machine=RunLifecycle, entity=Run, state="status")
    assert drift(FOLDER, mapping) == [f"run-lifecycle.mmd {TEXT}", f"run-lifecycle.md {TEXT}", DOT]


def test_a_picture_by_another_graphviz(copy: Path) -> None:
    """A picture that another version of Graphviz drew is judged by its dot source alone."""
    svg = copy / "run-lifecycle.svg"
    content, replaced = re.subn("graphviz version [^ ]+", "graphviz version 0.1", svg.read_text(encoding="utf-8"))
    svg.write_text(content.replace("Requeue", "Retry"), encoding="utf-8")
    assert (replaced, list(drifted(copy, run_mapping(), redraw=True))) == (1, [])


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_an_edited_picture(copy: Path) -> None:
    """With the Graphviz that drew it, the whole picture is compared; needs Graphviz."""
    from diagrams.__main__ import write

    write(copy, run_mapping())
    before = list(drifted(copy, run_mapping(), redraw=True))
    svg = copy / "run-lifecycle.svg"
    svg.write_text(svg.read_text(encoding="utf-8").replace("Requeue", "Retry"), encoding="utf-8")
    after = list(drifted(copy, run_mapping(), redraw=True))
    assert (before, len(after)) == ([], 1)
    assert after[0].startswith("run-lifecycle.svg is not what graphviz version ")


def check(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """`python -m diagrams --check` in this folder, with this folder as the PATH."""
    command = [sys.executable, "-m", "diagrams", "--check"]
    return subprocess.run(command, cwd=folder, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


def test_the_command(copy: Path, tmp_path: Path) -> None:
    """`python -m diagrams --check` needs no Graphviz; it exits with 1 and names on stderr what has drifted."""
    clean = check(copy.parent, tmp_path)
    (copy / "run-lifecycle.mmd").write_text("", encoding="utf-8")
    stale = check(copy.parent, tmp_path)
    assert (clean.returncode, clean.stderr) == (0, "")
    message = f"diagrams/run-lifecycle.mmd {TEXT}; run python -m diagrams\n"
    assert (stale.returncode, stale.stderr) == (1, message)
