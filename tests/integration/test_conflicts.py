"""`simulate_conflict`: another writer is faster, on each database, compiled and interpreted."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from statelatch import PersistenceAdapter, StaleVersionError, TransitionRefusedError
from statelatch.testing import (
    Fault,
    FaultInjector,
    FaultNotFiredError,
    InjectionError,
    Recorder,
    check_history,
    simulate_conflict,
)
from tests.lights import PATHS, light_adapter

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL, Engine


@pytest.fixture(params=["engine", "url"])
def adapter(request: pytest.FixtureRequest, engine: Engine, database_url: URL) -> Generator[PersistenceAdapter]:
    """An adapter with an engine of the test's, or with one of its own."""
    given = light_adapter(engine)
    with PersistenceAdapter(database_url if request.param == "url" else engine, given.mapping) as adapter:
        yield adapter


def test_the_other_writer_is_faster(adapter: PersistenceAdapter) -> None:
    """The event of the other is applied just before this adapter's UPDATE, which is stale then."""
    key = adapter.create().key

    with simulate_conflict(adapter, key, "step") as conflict, pytest.raises(StaleVersionError) as stale:
        adapter.send(key, "end", expected_version=1)

    assert conflict.transition is not None
    assert (conflict.fired, conflict.transition.version, conflict.transition.target) == (1, 2, "yellow")
    assert (stale.value.actual_version, stale.value.state) == (2, "yellow")
    assert adapter.load(key).version == 2


@pytest.mark.parametrize("path", PATHS)
def test_the_row_is_decided_anew(engine: Engine, path: str) -> None:
    """Without an expected version the event finds the row as the other has left it."""
    adapter = light_adapter(engine, PATHS[path])
    key, other = adapter.create().key, adapter.create().key

    with simulate_conflict(adapter, key, "end"), pytest.raises(TransitionRefusedError):
        adapter.send(key, "step")
    with simulate_conflict(adapter, other, "step"):
        assert adapter.send(other, "step").source == "yellow"

    assert adapter.send(other, "step").version == 4  # afterwards nobody is faster


def test_one_that_nobody_met_is_an_error(adapter: PersistenceAdapter) -> None:
    """Where no UPDATE was sent, the test has shown nothing, and is told so."""
    key = adapter.create().key

    with pytest.raises(FaultNotFiredError), simulate_conflict(adapter, key, "step") as conflict:
        adapter.load(key)

    assert (conflict.fired, conflict.transition) == (0, None)


def test_an_event_that_is_refused_is_told(adapter: PersistenceAdapter) -> None:
    """The other's own refusal comes out where the UPDATE was to be sent: nothing was overtaken."""
    key = adapter.create().key

    with simulate_conflict(adapter, key, "blink"), pytest.raises(TransitionRefusedError) as refused:
        adapter.send(key, "step")

    assert refused.value.event == "blink"
    assert adapter.load(key).version == 1


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_fault_besides(adapter: PersistenceAdapter, is_inside: bool) -> None:
    """Both happen, whichever was begun first: the other's UPDATE goes through, this adapter's is struck."""
    key = adapter.create().key

    with ExitStack() as stack:
        outer = stack.enter_context(FaultInjector(adapter)) if is_inside else None
        conflict = stack.enter_context(simulate_conflict(adapter, key, "step"))
        injector = outer or stack.enter_context(FaultInjector(adapter))
        fault = stack.enter_context(injector.inject(Fault.LOSE_ACKNOWLEDGEMENT))
        with pytest.raises(StaleVersionError):
            adapter.send(key, "end", expected_version=1)

    assert (conflict.fired, fault.fired, adapter.load(key).version) == (1, 1, 2)


def test_a_conflict_in_a_history(adapter: PersistenceAdapter) -> None:
    """The event of the other is noted, too, so that an order can be found."""
    recorder = Recorder(adapter)
    key = recorder.create().key

    with simulate_conflict(recorder, key, "step") as conflict, pytest.raises(StaleVersionError):
        recorder.send(key, "end", expected_version=1)

    assert conflict.fired == 1
    assert [operation.client for operation in recorder.history] == ["MainThread", "MainThread", "another"]
    check_history(recorder.history)


def test_what_cannot_be_overtaken() -> None:
    """An error tells what was expected."""
    other: Any = "sqlite:///x.db"

    with (
        pytest.raises(InjectionError, match="a Recorder of one, got 'sqlite:"),
        simulate_conflict(other, 1, "x"),
    ):
        pass
