"""`statelatch diagram`: what it prints and writes, and what it says where pydot or Graphviz is missing."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from statelatch.cli.diagram import diagram
from statelatch.diagrams import render
from statelatch.errors import RequestError
from statelatch.runs import RunLifecycle

COMMAND = [sys.executable, "-c", "import sys; from statelatch.cli import main; sys.exit(main())", "diagram"]
RUNS = "statelatch.runs:RunLifecycle"
PYDOT = "pydot (pip install 'statelatch[diagrams]')"
GRAPHVIZ = "install your system's package `graphviz`"

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")

app = typer.Typer()
app.command()(diagram)


def invoke(*arguments: str) -> bytes:
    """The command in this process: its standard output; what it raises is raised."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout_bytes


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command as its user runs it, with these variables."""
    return subprocess.run(
        [*COMMAND, *arguments], env={**os.environ, **environment}, capture_output=True, check=False, timeout=60
    )


def said(process: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr of a command that refused: nothing on stdout, exit code 2."""
    assert (process.returncode, process.stdout) == (2, b"")
    (line,) = process.stderr.decode().splitlines()
    assert line.startswith("statelatch: ")
    return line


@pytest.fixture
def no_programs(tmp_path: Path) -> str:
    """A PATH on which `dot` is not found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return str(folder)


@pytest.fixture
def no_pydot(tmp_path: Path) -> str:
    """A PYTHONPATH with which `import pydot` fails as if it were not installed."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "pydot.py").write_text("raise ModuleNotFoundError(\"No module named 'pydot'\", name='pydot')\n")
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


# -- what is missing ----------------------------------------------------------------------------------------


def test_mermaid_needs_nothing(no_programs: str, no_pydot: str) -> None:
    """Without Graphviz and pydot the command prints Mermaid."""
    process = run(RUNS, PATH=no_programs, PYTHONPATH=no_pydot)
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.decode() == render(RunLifecycle, "mermaid")


def test_table_needs_nothing(no_programs: str, no_pydot: str) -> None:
    """Without Graphviz and pydot the command prints the table."""
    process = run(RUNS, "--format", "table", PATH=no_programs, PYTHONPATH=no_pydot)
    assert (process.returncode, process.stdout.decode()) == (0, render(RunLifecycle, "table"))


@pytest.mark.parametrize("fmt", ["svg", "png"])
def test_without_graphviz(no_programs: str, tmp_path: Path, fmt: str) -> None:
    """Without Graphviz a picture is refused with the name of its package, and no file is left behind."""
    picture = tmp_path / f"runs.{fmt}"
    line = said(run(RUNS, "-o", str(picture), PATH=no_programs))
    assert line.startswith(f"statelatch: {fmt} needs Graphviz, ")
    assert (GRAPHVIZ in line, PYDOT in line, picture.exists()) == (True, False, False)


def test_dot_without_graphviz(no_programs: str) -> None:
    """Without Graphviz the dot source is printed: only drawing needs Graphviz."""
    process = run(RUNS, "--format", "dot", PATH=no_programs)
    assert (process.returncode, process.stdout.decode()) == (0, render(RunLifecycle, "dot"))


def test_without_pydot(no_pydot: str) -> None:
    """Without pydot the dot source is refused with what to install."""
    line = said(run(RUNS, "--format", "dot", PYTHONPATH=no_pydot))
    assert line.startswith(f"statelatch: dot needs {PYDOT}; ")


def test_without_pydot_and_graphviz(no_programs: str, no_pydot: str) -> None:
    """What is missing is named at once, not one after the other."""
    line = said(run(RUNS, "--format", "svg", PATH=no_programs, PYTHONPATH=no_pydot))
    assert line.startswith(f"statelatch: svg needs {PYDOT} and Graphviz, ")
    assert GRAPHVIZ in line


def test_a_graphviz_that_fails(no_programs: str) -> None:
    """What Graphviz reports is told in one line."""
    dot = Path(no_programs) / "dot"
    dot.write_text("#!/bin/sh\necho 'no layout\nengine' >&2\nexit 3\n")
    dot.chmod(0o700)
    line = said(run(RUNS, "--format", "svg", PATH=no_programs))
    assert line == "statelatch: svg: dot -Tsvg failed with exit code 3. no layout engine"


# -- where it goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fmt"),
    [("runs.mmd", "mermaid"), ("runs.md", "table"), ("runs.DOT", "dot")],
)
def test_the_suffix_chooses(tmp_path: Path, name: str, fmt: str) -> None:
    """With -o and no --format the file's suffix says which format it gets."""
    assert invoke(RUNS, "-o", str(tmp_path / name)) == b""
    assert (tmp_path / name).read_bytes().decode() == render(RunLifecycle, fmt)


def test_the_format_wins(tmp_path: Path) -> None:
    """--format counts, whatever the file's suffix."""
    file = tmp_path / "runs.txt"
    invoke(RUNS, "--format", "table", "-o", str(file))
    assert file.read_bytes().decode() == render(RunLifecycle, "table")


def test_unknown_suffix(tmp_path: Path) -> None:
    """A suffix that says no format is a named error, and nothing is written."""
    with pytest.raises(RequestError) as caught:
        invoke(RUNS, "-o", str(tmp_path / "runs.gif"))
    assert "expected a file that ends in .mmd, .md, .dot, .svg, .png, found .gif" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_file(tmp_path: Path) -> None:
    """A file that cannot be written is a named error that says why."""
    with pytest.raises(RequestError) as caught:
        invoke(RUNS, "-o", str(tmp_path / "nowhere" / "runs.md"))
    assert "runs.md: cannot be written: No such file or directory" in str(caught.value)


@needs_graphviz
def test_pictures(tmp_path: Path) -> None:
    """Pictures go to a pipe and to a file byte for byte; needs Graphviz."""
    png, svg = tmp_path / "runs.png", tmp_path / "runs.svg"
    invoke(RUNS, "-o", str(png))
    invoke(RUNS, "-o", str(svg))
    assert png.read_bytes() == run(RUNS, "--format", "png").stdout == render(RunLifecycle, "png")
    assert svg.read_bytes() == run(RUNS, "--format", "svg").stdout == render(RunLifecycle, "svg").encode()


def test_png_is_not_for_a_terminal() -> None:
    """A png is refused where standard output is a terminal."""
    terminal, output = pty.openpty()
    try:
        process = subprocess.run(
            [*COMMAND, RUNS, "--format", "png"], stdout=output, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(output)
        os.close(terminal)
    assert process.returncode == 2
    assert process.stderr == b"statelatch: png is not for a terminal; add -o FILE, or pipe it into a program\n"


# -- what it is asked for -----------------------------------------------------------------------------------


def test_a_machine_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine in a module of the current folder is drawn, its names in UTF-8 whatever the locale says."""
    (tmp_path / "gate.py").write_text(
        "from statemachine import State, StateMachine\n"
        "class Gate(StateMachine):\n    auf = State('geöffnet', initial=True, final=True)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    process = run("gate:Gate", PYTHONIOENCODING="latin-1")
    assert (process.returncode, process.stderr) == (0, b"")
    assert 'state "geöffnet" as auf' in process.stdout.decode()


def test_a_machine_that_there_is_not() -> None:
    """An unknown machine is refused in one line that names those that the module has."""
    line = said(run("statelatch.runs:RunLifecycl"))
    assert line == (
        "statelatch: statelatch.runs:RunLifecycl: statelatch.runs has no attribute 'RunLifecycl'; "
        "machines in statelatch.runs: RunLifecycle"
    )
