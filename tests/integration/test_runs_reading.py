"""Reading runs: by id, by key, as a list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, inspect, update

from statelatch.errors import ConnectionFailureError, RequestError, RowNotFoundError
from statelatch.runs import Run, RunManager
from tests.outages import Outage
from tests.runs import PATIENCE, at_gate, nothing


def fail() -> None:
    """Fail."""
    raise ValueError("broken")


def test_the_current_run_of_a_key_else_the_newest(manager: RunManager) -> None:
    """None before the first; the active one while there is one; the newest when all have ended."""
    assert (manager.active("k"), manager.current_or_latest("k")) == (None, None)
    first, second = (manager.start(function, key="k").wait(PATIENCE) for function in (nothing, fail))
    latest = manager.current_or_latest("k")
    assert latest is not None
    assert (second.run_id, "failed", "broken") == (latest.id, latest.status, latest.error)
    with at_gate() as gate:
        third = manager.start(gate, key="k")
        gate.wait()
        for run in (manager.active("k"), manager.current_or_latest("k")):
            assert run is not None
            assert (third.id, "running") == (run.id, run.status)
        gate.open()
        third.wait(PATIENCE)
    latest = manager.current_or_latest("k")
    assert latest is not None
    assert (third.id, None) == (latest.id, manager.active("k"))
    assert [third.id, second.run_id, first.run_id] == [run.id for run in manager.runs(key="k")]


def test_an_older_active_run_comes_before_newer_ones(manager: RunManager, runs_engine: Engine) -> None:
    """The run that holds the key is the current one, whatever was created after it."""
    with at_gate() as gate:
        holder = manager.start(gate, key="k")
        gate.wait()
        other = manager.start(nothing, key="other").wait(PATIENCE)
        with runs_engine.begin() as connection:  # as if it had had the key, created later and ended
            connection.execute(update(Run).where(Run.id == other.run_id).values(key="k"))
        current = manager.current_or_latest("k")

        assert current is not None
        assert holder.id == current.id
        assert other.run_id == manager.runs(key="k")[0].id


@pytest.mark.parametrize("clock", ["as it is", "stands still"])
def test_runs_newest_first(manager: RunManager, runs_engine: Engine, clock: str) -> None:
    """In the order of their creation, backwards, also of those that the database's clock cannot tell apart."""
    handles = [manager.start(nothing) for _ in range(20)]
    for handle in handles:
        handle.wait(PATIENCE)
    if clock == "stands still":
        with runs_engine.begin() as connection:
            connection.execute(update(Run).values(created_at=datetime.now(UTC)))

    assert [handle.id for handle in reversed(handles)] == [run.id for run in manager.runs()]
    assert [handle.id for handle in reversed(handles[-3:])] == [run.id for run in manager.runs(limit=3)]
    assert manager.runs(limit=0) == []


def test_runs_are_filtered_to_the_letter(manager: RunManager) -> None:
    """By key, name and state, each compared exactly; what nobody has yields nothing."""
    for function, key, name in ((nothing, "a", "x"), (fail, "A", "X"), (nothing, None, "x ")):
        manager.start(function, key=key, name=name).wait(PATIENCE)

    def found(
        key: str | None = None, name: str | None = None, status: str | None = None
    ) -> list[tuple[str | None, str | None]]:
        return [(run.key, run.name) for run in manager.runs(key=key, name=name, status=status)]

    assert found(key="a") == [("a", "x")]
    assert found(name="X") == [("A", "X")]
    assert found(name="x") == [("a", "x")]
    assert found(status="completed") == [(None, "x "), ("a", "x")]
    assert found(status="failed", key="a") == []
    assert found(key="") == found(name="") == found(key="b") == []


def test_what_no_run_can_have_is_refused(manager: RunManager) -> None:
    """It says which states there are, and which limits, instead of finding nothing."""
    with pytest.raises(RequestError, match="no state 'done'; it has pending, running, completed, failed, cancelled"):
        manager.runs(status="done")
    limits: list[Any] = [-1, 2**63, "x", True, 1.0]
    for limit in limits:
        with pytest.raises(RequestError, match=f"limit: expected at least 0 rows, found {limit!r}"):
            manager.runs(limit=limit)


NO_TEXTS: list[tuple[Any, str]] = [
    (5, "expected text, found 5"),
    (b"k", "expected text, found b'k'"),
    ("a\0", "expected text that every database holds"),
    ("\ud800", "expected text that every database holds"),
]


@pytest.mark.parametrize(("key", "message"), NO_TEXTS, ids=ascii)
def test_what_is_no_text_is_refused(manager: RunManager, key: Any, message: str) -> None:
    """A key that no run can have is told at once, not by some databases as an error of theirs."""
    for read in (
        lambda: manager.active(key),
        lambda: manager.current_or_latest(key),
        lambda: manager.runs(key=key),
        lambda: manager.runs(name=key),
    ):
        with pytest.raises(RequestError, match=message):
            read()


def test_a_run_that_was_read_is_in_no_session(manager: RunManager) -> None:
    """It can be used anywhere, with all its columns, and changing it changes nothing."""
    said = manager.start(max, 1, 2, key="k").wait(PATIENCE)
    run = manager.get(said.run_id)

    assert inspect(run).detached
    assert (run.status, run.result, run.params) == ("completed", 2, {"args": [1, 2], "kwargs": {}})
    assert run.finished_at is not None
    assert run.finished_at.utcoffset() is not None
    run.status = "failed"
    assert manager.get(said.run_id).status == "completed"


def test_a_run_that_does_not_exist(manager: RunManager) -> None:
    """It says so."""
    with pytest.raises(RowNotFoundError):
        manager.get(uuid4())


def test_reading_without_a_database(manager: RunManager, runs_engine: Engine) -> None:
    """No answer is told apart from nothing found."""
    outage = Outage(runs_engine)
    outage.begin()
    for read in (
        lambda: manager.get(uuid4()),
        lambda: manager.active("k"),
        lambda: manager.current_or_latest("k"),
        manager.runs,
        lambda: manager.subscribe(uuid4()),
    ):
        with pytest.raises(ConnectionFailureError):
            read()
    outage.end()
    assert manager.runs() == []
