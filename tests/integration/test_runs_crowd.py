"""Many runs at once, and two last words at the same instant: each run gets exactly one."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from statelatch.errors import TransitionRefusedError
from statelatch.runs import Cancellation, Finalized, Outcome, RunHandle, RunManager
from tests.runs import PATIENCE, everything, stored, until_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

pytestmark = pytest.mark.usefixtures("either_way")

TERMINAL = {"completed", "failed", "cancelled"}


def agrees(said: Finalized, engine: Engine) -> bool:
    """Whether the last word that was told is the one that the row holds."""
    row = stored(engine, said.run_id)
    return (said.state, said.version) == (row.status, row.version) and row.finished_at is not None


def simultaneously(*calls: Callable[[], Any]) -> list[Any]:
    """Make these calls at the same instant; their results, or what they raised."""
    instant = threading.Barrier(len(calls))

    def call(function: Callable[[], Any]) -> Any:
        instant.wait(PATIENCE)
        try:
            return function()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, calls))


def test_two_hundred_runs_at_once_each_complete(runs_engine: Engine) -> None:
    """200 runs on 16 threads of one manager, started from 8, all complete with their own result, at version 3."""
    with ThreadPoolExecutor(16) as executor, RunManager(runs_engine, executor=executor) as manager:

        def started(number: int) -> tuple[int, RunHandle]:
            return number, manager.start(lambda: number, key=f"key {number}")

        with ThreadPoolExecutor(8) as starters:
            handles = list(starters.map(started, range(200)))
        ends = [(number, handle.result(PATIENCE), handle.wait()) for number, handle in handles]

    assert [number for number, _, _ in ends] == [result for _, result, _ in ends]
    assert {("completed", 3, Outcome.APPLIED, "primary")} == {
        (said.state, said.version, said.outcome, said.via) for _, _, said in ends
    }
    assert {("completed", 3)} == {(row.status, row.version) for row in everything(runs_engine)}


@pytest.mark.parametrize("force", [False, True])
def test_a_cancel_at_the_instant_of_completion(manager: RunManager, runs_engine: Engine, *, force: bool) -> None:
    """A cancel and a completion at the same instant, 60 times: one last word each, and all accounts of it agree."""
    ends: Counter[str] = Counter()
    for _ in range(60):
        instant = threading.Barrier(2)
        handle = manager.start(instant.wait, PATIENCE)
        instant.wait(PATIENCE)
        try:
            said: Cancellation | None = handle.cancel(force=force)
        except TransitionRefusedError:
            said = None
        finalized = handle.wait(PATIENCE)

        assert agrees(finalized, runs_engine)
        assert finalized.version == 3
        assert finalized.state in ({"completed"} if said is None or not said.written else {"cancelled"})
        ends[str(finalized.state)] += 1
    assert ends.total() == 60


def test_a_cancel_at_the_instant_of_the_claim(manager: RunManager, runs_engine: Engine) -> None:
    """A cancel that meets the run before, at or after its start always ends it as cancelled, and never raises."""
    for _ in range(60):
        handle = manager.start(until_cancelled)
        said = handle.cancel()
        finalized = handle.wait(PATIENCE)

        assert agrees(finalized, runs_engine)
        assert finalized.state == "cancelled"
        assert said.state in {"cancelled", "running"}
        assert said.written == (said.state == "cancelled")
