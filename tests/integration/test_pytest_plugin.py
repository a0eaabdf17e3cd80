"""The pytest plugin: registered by its entry point, inert unless a test asks for one of its fixtures."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

IMPORTED = """
import sys
from importlib.metadata import entry_points

(plugin,) = [each for each in entry_points(group="pytest11") if each.name == "statelatch"]
plugin.load()
print([name for name in ("sqlalchemy", "hypothesis", "statelatch") if name in sys.modules])
"""

USING = """
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import ConnectionFailureError, MachineMapping, PersistenceAdapter, StaleVersionError
from statelatch.columns import TransitionColumns, state_text
from statelatch.testing import Fault, InjectionError


class Door(StateMachine):
    shut = State(initial=True)
    open = State(final=True)
    knock = shut.to(shut)
    unlock = shut.to(open)


class Base(DeclarativeBase):
    pass


class DoorRow(TransitionColumns, Base):
    __tablename__ = "doors"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


@pytest.fixture
def adapter(tmp_path):
    with PersistenceAdapter(f"sqlite:///{tmp_path}/doors.db", MachineMapping(machine=Door, entity=DoorRow)) as adapter:
        Base.metadata.create_all(adapter.engine)
        yield adapter


def test_everything(adapter, fault_injector, conflict, recorder, recorded_history, proxy):
    recorded = recorder(adapter)
    key = recorded.create().key
    with fault_injector(adapter).inject(Fault.REFUSE), pytest.raises(ConnectionFailureError):
        recorded.send(key, "knock")
    with pytest.raises(InjectionError):
        proxy("sqlite:///doors.db")
    assert len(recorded_history) == 2


def test_a_conflict(adapter, conflict):
    key = adapter.create().key
    with conflict(adapter, key, "knock") as other, pytest.raises(StaleVersionError):
        adapter.send(key, "unlock", expected_version=1)
    assert other.fired == 1


def test_all_at_once(adapter, fault_injector, conflict, recorder):
    recorded = recorder(adapter)
    key = recorded.create().key
    with fault_injector(adapter).inject(Fault.LOSE_ACKNOWLEDGEMENT):
        assert recorded.send(key, "knock").version == 2
    with fault_injector(adapter).inject(Fault.LOSE_ACKNOWLEDGEMENT):
        assert recorded.send(key, "knock").version == 3
    with conflict(recorded, key, "knock"), pytest.raises(StaleVersionError):
        recorded.send(key, "unlock", expected_version=3)
    assert recorded.load(key).version == 4


def test_a_lie_is_found_at_the_end(adapter, recorder):
    recorded = recorder(adapter)
    key = recorded.create().key
    adapter.send(key, "knock")
    recorded.load(key)
"""


def test_it_is_registered_once() -> None:
    """Wherever statelatch is installed, pytest finds the plugin."""
    found = [each.value for each in entry_points(group="pytest11") if each.name == "statelatch"]

    assert found == ["_statelatch_pytest"]


def test_importing_it_brings_nothing_along() -> None:
    """Whoever runs pytest and does not use the kit pays for no SQLAlchemy, Hypothesis or statelatch."""
    run = subprocess.run([sys.executable, "-c", IMPORTED], check=True, capture_output=True, text=True)

    assert run.stdout == "[]\n"


def test_its_fixtures_work_in_a_project_of_its_own(tmp_path: Path) -> None:
    """A project's tests have every fixture without importing it; a recorded lie is an error of its test."""
    (tmp_path / "test_doors.py").write_text(USING, encoding="utf-8")

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    run = subprocess.run(command, check=False, capture_output=True, text=True)

    assert "4 passed, 1 error" in run.stdout, run.stdout
    assert "HistoryError: key 1: no order of these 2 operations" in run.stdout
