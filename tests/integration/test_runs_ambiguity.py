"""The acknowledgement of a COMMIT is lost: what was written is found out by its token, and never guessed.

The fault is real: the connection is killed in the moment of COMMIT, after the write has landed or before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
from sqlalchemy import Engine

from statelatch.runs import Outcome, RunManager
from tests.outages import LostCommit, Outage
from tests.runs import NEVER, PATIENCE, broken, everything, nothing, stopping, stored

pytestmark = pytest.mark.usefixtures("either_way")

WORDS = [
    pytest.param(nothing, "completed", 0, id="completed"),
    pytest.param(broken, "failed", 0, id="failed"),
    pytest.param(stopping, "cancelled", 0, id="cancelled, at the request"),
    pytest.param(stopping, "cancelled", 1, id="cancelled, at the transition"),
]


@pytest.fixture
def lonely(runs_engine: Engine) -> Generator[RunManager]:
    """A manager without fallbacks, whose heart does not beat during a test."""
    with RunManager(runs_engine, heartbeat=NEVER) as manager:
        yield manager


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])
@pytest.mark.parametrize(("function", "state", "skip"), WORDS)
def test_a_last_word_whose_commit_is_lost_is_written_once(
    lonely: RunManager, runs_engine: Engine, *, function: Callable[[], None], state: str, skip: int, landed: bool
) -> None:
    """Whether the write had landed or not: applied, once, at version 3; found out over a new connection.

    An event is verified by its own call; the request to cancel is no event, and is repeated by the next connection.
    """
    via = "reconnected" if (state, skip) == ("cancelled", 0) else "primary"
    lost = LostCommit(runs_engine, landed=landed)

    def last_deed() -> None:
        lost.arm(skip=skip)
        function()

    said = lonely.start(last_deed).wait(PATIENCE)

    assert lost.strikes == 1
    assert (state, Outcome.APPLIED, 3, via) == (said.state, said.outcome, said.version, said.via)
    row = stored(runs_engine, said.run_id)
    assert (state, 3, 1) == (row.status, row.version, row.attempt)


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])
@pytest.mark.parametrize(("skip", "what"), [(0, "the insert"), (1, "the claim")])
def test_a_start_whose_commit_is_lost_happens_once(
    lonely: RunManager, runs_engine: Engine, *, skip: int, what: str, landed: bool
) -> None:
    """The row is there once, the function is called once, and the key is not taken for busy."""
    called: list[int] = []
    lost = LostCommit(runs_engine, landed=landed)
    lost.arm(skip=skip)
    said = lonely.start(called.append, 1, key="k").wait(PATIENCE)

    assert (what, lost.strikes) == (what, 1)
    assert (said.state, said.outcome, said.version) == ("completed", Outcome.APPLIED, 3)
    assert [(row.status, row.version, row.attempt) for row in everything(runs_engine)] == [("completed", 3, 1)]
    assert called == [1]


def test_the_fallback_recognises_what_the_primary_wrote(runs_engine: Engine, fallback: Engine) -> None:
    """The write landed, its acknowledgement is lost and no reconnection succeeds: applied, once, via the fallback."""
    lost, outage = LostCommit(runs_engine, landed=True), Outage(runs_engine)

    def last_deed() -> None:
        lost.arm()
        outage.away = True  # for new connections; the pool's is there until it is lost

    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        said = manager.start(last_deed).wait(PATIENCE)
        outage.end()

    assert lost.strikes == 1
    assert outage.refused > 1, "neither could it be asked what had landed, nor was there a new connection"
    assert (said.state, said.outcome, said.version, said.via) == ("completed", Outcome.APPLIED, 3, "fallback 1")
    assert stored(runs_engine, said.run_id).version == 3
