"""Fixtures of the runs: a database with their table, and a manager on it; and how an engine commits."""

from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from statelatch.runs import RunManager, create_tables
from tests.heard import WAYS
from tests.orders import KEY, order_adapter


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands keep their database and their spool unless they are told otherwise: not the developer's own."""
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "statelatch"


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe is as wide as the product says: pytest-xdist, and many a shell, exports COLUMNS."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def runs_engine(engine: Engine) -> Engine:
    """An engine on a database that has the runs' table, empty."""
    create_tables(engine)
    return engine


@pytest.fixture
def fallback(runs_engine: Engine) -> Generator[Engine]:
    """Another way to the same database."""
    engine = create_engine(runs_engine.url)
    yield engine
    engine.dispose()


@pytest.fixture(params=[False, True], ids=["one by one", "batched"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that uses this runs once with managers that batch unless they are told otherwise."""
    defaults = {**(RunManager.__init__.__kwdefaults__ or {}), "batch": request.param}
    monkeypatch.setattr(RunManager.__init__, "__kwdefaults__", defaults)


@pytest.fixture
def manager(runs_engine: Engine) -> Generator[RunManager]:
    """A manager whose heart beats so seldom that a test can count what else is sent."""
    manager = RunManager(runs_engine, heartbeat=9.0)
    yield manager
    manager.shutdown(cancel=True)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the engine commits, a key of `WAYS`."""
    return request.param


@pytest.fixture
def orders(engine: Engine) -> Engine:
    """An engine of a bystander's, on a database with one order, at version 1."""
    order_adapter(engine).create(tenant=KEY[0], number=KEY[1], paid=True)
    return engine
