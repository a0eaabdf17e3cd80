"""Finalizing while a database is away, or answers with no: who is asked next, and what is told.

The function ends the primary's connections as its last deed, so that its last word meets the outage and nothing
else does. The heart beats too seldom to get in between.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, event, update

from statelatch.errors import TransitionRefusedError
from statelatch.runs import Finalized, Outcome, Run, RunManager, current_run
from tests.databases import unreachable
from tests.outages import Outage, Traffic, disconnect
from tests.runs import ENDS, NEVER, PATIENCE, Delayed, nothing, stored, until_cancelled

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.mark.parametrize(("function", "state", "error"), ENDS)
def test_the_fallback_writes_what_the_primary_cannot(
    runs_engine: Engine, fallback: Engine, function: Callable[[], None], state: str, error: str | None
) -> None:
    """The primary is away, and away anew: the fallback writes the very word that was due, never another."""
    outage = Outage(runs_engine)

    def last_deed() -> None:
        outage.begin()
        function()

    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        handle = manager.start(last_deed)
        said = handle.wait(PATIENCE)
        outage.end()

    assert outage.refused >= 1
    assert (state, Outcome.APPLIED, "fallback 1", 3) == (said.state, said.outcome, said.via, said.version)
    row = stored(runs_engine, handle.id)
    assert (state, error, 3) == (row.status, row.error, row.version)


@pytest.mark.parametrize(("function", "state", "error"), ENDS)
def test_a_reconnection_writes_what_dead_connections_cannot(
    runs_engine: Engine, fallback: Engine, function: Callable[[], None], state: str, error: str | None
) -> None:
    """The pool's connections were killed, the server is there: the same URL writes it, and no fallback is used."""
    traffic = Traffic(fallback)

    def last_deed() -> None:
        end_under_the_pool(runs_engine)
        function()

    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        handle = manager.start(last_deed)
        said = handle.wait(PATIENCE)

    assert (state, Outcome.APPLIED, "reconnected", 3) == (said.state, said.outcome, said.via, said.version)
    assert (state, error, 3) == (
        stored(runs_engine, handle.id).status,
        stored(runs_engine, handle.id).error,
        stored(runs_engine, handle.id).version,
    )
    assert (traffic.opened, traffic.used, traffic.statements) == (0, 0, [])


def end_under_the_pool(engine: Engine) -> None:
    """End the connections that the pool holds, at least one, without its knowledge."""
    with engine.connect() as connection:
        driver_connection: Any = connection.connection.dbapi_connection
    if engine.dialect.name == "sqlite":
        driver_connection.close()
    else:
        disconnect(engine)


def test_a_fallback_s_own_connections_may_have_died_meanwhile(runs_engine: Engine, fallback: Engine) -> None:
    """It has been used before and was idle for long: it is connected to anew, and writes the last word."""
    end_under_the_pool(fallback)
    outage, traffic = Outage(runs_engine), Traffic(fallback)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        said = manager.start(outage.begin).wait(PATIENCE)
        outage.end()

    assert (said.state, said.outcome, said.via) == ("completed", Outcome.APPLIED, "fallback 1")
    assert traffic.opened == 1  # as the tests that count none rely on


def test_the_second_fallback_is_asked_after_the_first(runs_engine: Engine, fallback: Engine) -> None:
    """In their order, and it is told which one wrote."""
    outage = Outage(runs_engine)
    nowhere = unreachable(runs_engine.url)
    with RunManager(runs_engine, fallbacks=[nowhere, fallback], heartbeat=NEVER) as manager:
        said = manager.start(outage.begin).wait(PATIENCE)
        outage.end()

    assert (said.state, said.via) == ("completed", "fallback 2")


def test_a_claim_may_need_the_fallback(runs_engine: Engine, fallback: Engine) -> None:
    """The primary goes away before the thread begins: the fallback starts the run and ends it."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER, executor=Delayed(outage.begin)) as manager:
        said = manager.start(nothing).wait(PATIENCE)
        outage.end()

    assert (said.state, said.version, said.via) == ("completed", 3, "fallback 1")
    assert stored(runs_engine, said.run_id).attempt == 1


def test_a_cancel_may_need_the_fallback(runs_engine: Engine, fallback: Engine) -> None:
    """The primary is away: the request goes over the fallback, the function is told, and so goes its last word."""
    outage = Outage(runs_engine)
    reached = threading.Event()
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        handle = manager.start(until_cancelled, reached)
        assert reached.wait(PATIENCE)
        outage.begin()
        assert handle.cancel().state == "running"
        said = handle.wait(PATIENCE)
        outage.end()

    assert (said.state, said.outcome, said.version, said.via) == ("cancelled", Outcome.APPLIED, 3, "fallback 1")


def test_the_primary_is_asked_again_when_it_is_back(runs_engine: Engine, fallback: Engine) -> None:
    """An outage is not remembered: the next run's last word goes over the primary."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        assert manager.start(outage.begin).wait(PATIENCE).via == "fallback 1"
        outage.end()
        assert manager.start(nothing).wait(PATIENCE).via == "primary"


def test_an_outage_does_not_disturb_a_run_that_outlives_it(runs_engine: Engine) -> None:
    """The database is away for a while in the middle of the run: its last word is written over the primary again."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=0.02) as manager:

        def function() -> None:
            outage.begin()
            while outage.refused < 6:
                assert not threading.Event().wait(0.005)
            outage.end()

        handle = manager.start(function)
        said = handle.wait(PATIENCE)

        assert (said.state, said.version) == ("completed", 3)
        second = manager.start(until_cancelled)
        with RunManager(runs_engine) as other:
            other.cancel(second.id)
        assert second.wait(PATIENCE).state == "cancelled"


# -- the database says no ------------------------------------------------------------------------------------

NOES: list[tuple[dict[str, Any] | None, str | None, int | None]] = [
    ({"status": "cancelled", "version": 3}, "cancelled", 3),
    ({"status": "completed", "version": 3}, "completed", 3),
    ({"status": "failed", "version": 7, "error": "lease expired"}, "failed", 7),
    ({"lease_owner": "another"}, "running", 2),
    ({"lease_owner": None}, "running", 2),
    (None, None, None),
]
"""What somebody else makes of the running row (None deletes it), and the state and version that it then has."""


def overtake(engine: Engine, change: dict[str, Any] | None) -> None:
    """Somebody else changes the run behind its worker's back, or deletes it."""
    this = Run.id == current_run().id
    with engine.begin() as connection:
        connection.execute(update(Run).where(this).values(change) if change else delete(Run).where(this))


@pytest.mark.parametrize(("function", "target", "error"), ENDS)
def test_a_no_is_a_no_op_and_reaches_no_fallback(
    runs_engine: Engine,
    fallback: Engine,
    caplog: pytest.LogCaptureFixture,
    function: Callable[[], None],
    target: str,
    error: str | None,
) -> None:
    """0 rows: no connection is opened or used for it but the primary's own; INFO tells, and so does `Finalized`."""
    primary, other = Traffic(runs_engine), Traffic(fallback)
    caplog.set_level(logging.INFO, "statelatch.runs")

    def last_deed(change: dict[str, Any] | None) -> None:
        overtake(runs_engine, change)
        caplog.clear()
        opened.append(primary.opened)
        function()

    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        for change, state, version in NOES:
            opened: list[int] = []
            said = manager.start(last_deed, change).wait(PATIENCE)

            assert said == Finalized(
                run_id=said.run_id,
                target=target,
                outcome=Outcome.NO_OP,
                state=state,
                version=version,
                via="primary",
                error=error,
            )
            assert opened == [primary.opened]
            (record,) = caplog.records
            assert (
                record.levelno,
                f"run {said.run_id}: {target} not written" in record.message,
            ) == (logging.INFO, True)
    assert (other.opened, other.used, other.statements) == (0, 0, [])


def test_a_refusal_is_what_result_raises(runs_engine: Engine) -> None:
    """The function returned, but the run is another's: the caller learns that the result does not count."""
    with RunManager(runs_engine, heartbeat=NEVER) as manager:
        handle = manager.start(overtake, runs_engine, {"lease_owner": "another"})
        with pytest.raises(TransitionRefusedError) as refused:
            handle.result(PATIENCE)

    assert (refused.value.state, refused.value.guards) == ("running", ("holds_lease",))


# -- the primary's path breaks ---------------------------------------------------------------------------------


BREAKING = [RuntimeError("a listener's bug"), KeyError("x"), MemoryError(), SystemExit(), asyncio.CancelledError()]


@pytest.mark.parametrize("error", BREAKING, ids=repr)
def test_any_exception_of_the_primary_reaches_the_fallback(
    runs_engine: Engine, fallback: Engine, error: BaseException
) -> None:
    """Not only what a driver raises: whatever goes wrong on the primary's way, anew as well, the fallback is asked."""
    strikes: list[str] = []
    ending = threading.Event()

    def strike(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if ending.is_set():
            strikes.append(statement)
            raise error

    event.listen(runs_engine, "before_cursor_execute", strike)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        said = manager.start(ending.set).wait(PATIENCE)
        ending.clear()

    assert len(strikes) == 2  # the listener is heard on the reconnection, too
    assert (said.state, said.outcome, said.version, said.via) == ("completed", Outcome.APPLIED, 3, "fallback 1")
    assert stored(runs_engine, said.run_id).status == "completed"


def test_an_exception_of_the_primary_s_pool_reaches_the_fallback(runs_engine: Engine, fallback: Engine) -> None:
    """The same where it strikes every new connection to the primary, the reconnection included."""
    strikes: list[object] = []
    ending = threading.Event()

    def strike(_connection: object, record: object, _proxy: object) -> None:
        if ending.is_set():
            strikes.append(record)
            raise RuntimeError("a listener's bug")

    event.listen(runs_engine, "checkout", strike)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER) as manager:
        said = manager.start(ending.set).wait(PATIENCE)
        ending.clear()

    assert len(strikes) == 2
    assert (said.state, said.outcome, said.via) == ("completed", Outcome.APPLIED, "fallback 1")
