"""A machine by its name: what is found, and what is said where nothing is."""

import shutil
import sys
from pathlib import Path

import pytest

from statelatch.errors import ConfigurationError, RequestError
from statelatch.references import load_machine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the modules that `load_machine` is asked for."""
    (tmp_path / "latch_gates.py").write_text(
        "from statemachine import State, StateMachine\n"
        "class Gate(StateMachine):\n    shut = State(initial=True, final=True)\n"
        "class Yard:\n    class Fence(Gate):\n        pass\n    gate = Gate()\n"
        "class Plan(StateMachine):\n    pass\n"
        "height = 3\n"
    )
    (tmp_path / "latch_missing.py").write_text("import latch_not_there\n")
    (tmp_path / "latch_broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "latch_script.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "latch_empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["Gate", "Yard.Fence"])
def test_load_from_the_current_folder(folder: Path, name: str) -> None:
    """A machine in a module of the current folder is found, also a nested one, and sys.path stays as it was."""
    before = list(sys.path)
    assert load_machine(f"latch_gates:{name}").__qualname__ == name
    assert before == sys.path


def test_the_current_folder_is_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the current folder is found before one of the same name that is installed."""
    installed = folder / "installed"
    installed.mkdir()
    (installed / "latch_twice.py").write_text("")
    shutil.copy(folder / "latch_gates.py", folder / "latch_twice.py")
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    assert load_machine("latch_twice:Gate").__name__ == "Gate"


MALFORMED = "expected module:Machine, for instance statelatch.runs:RunLifecycle, found "
EXPECTED = "expected a StateMachine or StateChart class, found "


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("Gate", RequestError, MALFORMED + "'Gate'"),
        ("latch_gates:", RequestError, MALFORMED + "'latch_gates:'"),
        (":Gate", RequestError, MALFORMED + "':Gate'"),
        ("a:b:c", RequestError, MALFORMED + "'a:b:c'"),
        ("latch_gates.py:Gate", RequestError, MALFORMED + "'latch_gates.py:Gate'"),
        ("latch_nowhere:Gate", RequestError, "there is no module 'latch_nowhere' in the current folder"),
        ("statelatch.nowhere:Gate", RequestError, "there is no module 'statelatch.nowhere'"),
        ("latch_missing:Gate", ConfigurationError, "latch_missing imports latch_not_there, which is not installed"),
        (
            "latch_broken:Gate",
            ConfigurationError,
            "importing latch_broken failed with RuntimeError: two lines",
        ),
        ("latch_script:Gate", ConfigurationError, "importing latch_script failed with SystemExit: 0"),
        (
            "latch_gates:Gat",
            RequestError,
            "latch_gates has no attribute 'Gat'; machines in latch_gates: Gate, Yard.Fence",
        ),
        (
            "latch_gates:Yard.Gat",
            RequestError,
            "Yard has no attribute 'Gat'; machines in latch_gates: Gate, Yard.Fence",
        ),
        ("latch_empty:Gate", RequestError, "latch_empty has no attribute 'Gate'; machines in latch_empty: none"),
        ("latch_gates:height", RequestError, EXPECTED + "an instance of int"),
        ("latch_gates:Yard", RequestError, EXPECTED + "the class Yard"),
        ("latch_gates:Yard.gate", RequestError, EXPECTED + "an instance of Gate; name the machine's class"),
        ("latch_gates:Plan", RequestError, EXPECTED + "Plan, which is abstract: it has no states"),
    ],
)
def test_load_says_what_it_found(folder: Path, reference: str, kind: type[Exception], message: str) -> None:
    """A reference that leads to no machine is a named error on one line that says what was found instead."""
    with pytest.raises(kind) as caught:
        load_machine(reference)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
