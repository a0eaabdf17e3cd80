"""Runs whose last words are in a spool, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statelatch.runs import Finalized, Outcome, RunHandle, RunManager
from tests.outages import Outage
from tests.runs import NEVER, PATIENCE, nothing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

__all__ = ["applied", "recovered", "spooled"]


def spooled(engine: Engine, spool: Path, function: Callable[..., object] = nothing, number: int = 1) -> list[RunHandle]:
    """Runs that have ended while nothing answered."""
    outage = Outage(engine)
    with RunManager(engine, heartbeat=NEVER, spool=spool) as manager:
        handles: list[RunHandle] = []
        for each in range(number):
            handles.append(manager.start(lambda: (outage.begin(), function())[1], name=str(each)))
            assert handles[-1].wait(PATIENCE).outcome is Outcome.SPOOLED
            outage.end()
    assert outage.refused >= number
    return handles


def recovered(engine: Engine, spool: Path, *fallbacks: Engine) -> list[Finalized]:
    """What a new manager, of another process for all it knows, makes of the spool."""
    with RunManager(engine, fallbacks=fallbacks, heartbeat=NEVER, spool=spool) as manager:
        return manager.recover()


def applied(handle: RunHandle, state: str, error: str | None = None, via: str = "primary") -> Finalized:
    """That a run's last word was written."""
    return Finalized(
        run_id=handle.id, target=state, outcome=Outcome.APPLIED, state=state, version=3, via=via, error=error
    )
