"""The end of a manager: nothing is lost, nothing is left."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL, Engine, event

from statelatch.runs import Outcome, RunHandle, RunManager, create_tables
from tests.databases import kill_connections, on, pooled
from tests.runs import PATIENCE, at_gate, eventually, everything, nothing, stored, until_cancelled

pytestmark = pytest.mark.usefixtures("either_way")


def begun(manager: RunManager) -> RunHandle:
    """A run whose function is waiting to be cancelled."""
    reached = threading.Event()
    handle = manager.start(until_cancelled, reached)
    assert reached.wait(PATIENCE)
    return handle


def own_threads() -> set[str]:
    """Names of the threads that managers have made; the watchdog of all time limits is the process's."""
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("statelatch")}
    return names - {"statelatch-watchdog"}


def test_shutdown_waits_for_every_run(runs_engine: Engine) -> None:
    """Running and pending ones come to their own end, and their last words are written when it returns."""
    with at_gate() as gate, ThreadPoolExecutor(2) as executor:
        manager = RunManager(runs_engine, executor=executor)
        handles = [manager.start(gate, number) for number in range(6)]
        gate.wait()
        threading.Timer(0.05, gate.open).start()
        manager.shutdown()

        assert [("completed", number) for number in range(6)] == [
            (stored(runs_engine, handle.id).status, handle.result(0)) for handle in handles
        ]


def test_shutdown_with_cancel_ends_every_run(runs_engine: Engine) -> None:
    """Those that run are asked to stop, those that wait never begin; every row says cancelled."""
    with ThreadPoolExecutor(1) as executor:
        manager = RunManager(runs_engine, executor=executor)
        running = begun(manager)
        called: list[int] = []
        pending = [manager.start(called.append, number) for number in range(5)]
        manager.shutdown(cancel=True)

        assert {("cancelled", Outcome.APPLIED)} == {
            (handle.wait(0).state, handle.wait(0).outcome) for handle in (running, *pending)
        }
    assert {"cancelled"} == {row.status for row in everything(runs_engine)}
    assert called == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_in_the_with_block_cancels_the_runs(runs_engine: Engine, error: type[BaseException]) -> None:
    """Ctrl-C, for instance: the runs are stopped and written, and the exception goes on its way."""
    handles: list[RunHandle] = []

    def interrupted() -> None:
        with RunManager(runs_engine) as manager:
            handles.append(begun(manager))
            raise error

    with pytest.raises(error):
        interrupted()

    assert handles[0].wait(0).state == "cancelled"
    assert stored(runs_engine, handles[0].id).status == "cancelled"


def test_an_exception_while_the_block_waits_cancels_the_runs(runs_engine: Engine) -> None:
    """Ctrl-C while the manager waits at the end of its block: the runs are stopped, and nothing is left."""
    handles: list[RunHandle] = []

    def interrupted() -> None:
        with RunManager(runs_engine, heartbeat=0.02) as manager:
            handles.append(begun(manager))
            threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert handles[0].wait(0).state == "cancelled"
    assert stored(runs_engine, handles[0].id).status == "cancelled"
    assert own_threads() == set()


def test_shutdown_waits_for_a_function_whose_run_is_over(runs_engine: Engine) -> None:
    """Cancelled by force, its function goes on in somebody else's thread: shutdown returns when it has stopped."""
    stopped: list[bool] = []

    def deaf() -> None:
        gate()
        stopped.append(True)

    with ThreadPoolExecutor(1) as executor, at_gate() as gate:
        manager = RunManager(runs_engine, executor=executor)
        handle = manager.start(deaf)
        gate.wait()
        handle.cancel(force=True)
        threading.Timer(0.2, gate.open).start()
        manager.shutdown()

        assert stopped == [True]


def test_a_run_cannot_wait_for_its_own_end(manager: RunManager) -> None:
    """A function that shuts its own manager down and waits is told so, instead of waiting for ever."""
    handle = manager.start(manager.shutdown)

    with pytest.raises(RuntimeError, match="a run cannot wait for its own end"):
        handle.result(PATIENCE)
    assert manager.start(nothing).wait(PATIENCE).state == "completed"


def test_a_manager_that_is_shut_down_starts_nothing(runs_engine: Engine) -> None:
    """It says so, and no row is written; reading goes on."""
    with RunManager(runs_engine) as manager:
        handle = manager.start(nothing)
    with pytest.raises(RuntimeError, match="this RunManager is shut down"):
        manager.start(nothing)

    assert [handle.id] == [row.id for row in everything(runs_engine)]
    assert manager.get(handle.id).status == "completed"
    manager.shutdown()


def test_a_start_that_meets_the_shutdown_is_refused(runs_engine: Engine) -> None:
    """The manager shut down while the run's row was being written: the function is not called, the row says failed."""
    called: list[int] = []
    inserting, go = threading.Event(), threading.Event()

    def pause(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT"):
            inserting.set()
            assert go.wait(PATIENCE)

    event.listen(runs_engine, "before_cursor_execute", pause)
    with ThreadPoolExecutor(1) as executor, ThreadPoolExecutor(1) as starter:
        manager = RunManager(runs_engine, executor=executor)
        starting = starter.submit(manager.start, called.append, 1)
        assert inserting.wait(PATIENCE)
        manager.shutdown()
        go.set()
        with pytest.raises(RuntimeError, match="this RunManager is shut down"):
            starting.result(PATIENCE)

    assert [(row.status, row.error_type) for row in everything(runs_engine)] == [("failed", "RuntimeError")]
    assert called == []


def test_shutdown_without_waiting_lets_runs_end(runs_engine: Engine) -> None:
    """It returns at once; the run goes on, keeps its heart, and writes its last word."""
    with at_gate() as gate:
        manager = RunManager(runs_engine, heartbeat=0.02)
        handle = manager.start(gate)
        gate.wait()
        manager.shutdown(wait=False)

        assert stored(runs_engine, handle.id).status == "running"
        gate.open()
        assert handle.wait(PATIENCE).state == "completed"
    assert eventually(lambda: own_threads() == set())


def test_shutdown_without_waiting_and_without_runs_leaves_no_thread(runs_engine: Engine) -> None:
    """There is nothing to come to its end: the heartbeat ends at once, and who watches others is let go."""
    with RunManager(runs_engine) as other, at_gate() as gate:
        foreign = other.start(gate)
        manager = RunManager(runs_engine)
        subscription = manager.subscribe(foreign.id)
        manager.start(nothing).wait(PATIENCE)
        manager.shutdown(wait=False)

        assert subscription.get(PATIENCE) is None


def test_a_manager_that_is_dropped_is_gone(runs_engine: Engine) -> None:
    """Nobody shut it down, and no run is active: its heartbeat does not keep it in memory, and ends."""
    manager = RunManager(runs_engine, heartbeat=0.05)
    manager.start(nothing).wait(PATIENCE)
    gone = weakref.ref(manager)
    assert own_threads() >= {"statelatch-heartbeat"}
    del manager

    assert eventually(lambda: gc.collect() >= 0 and gone() is None)
    assert eventually(lambda: "statelatch-heartbeat" not in own_threads())


def test_a_manager_that_is_dropped_lives_as_long_as_somebody_watches(runs_engine: Engine, manager: RunManager) -> None:
    """A subscription to another process's run holds what brings its end."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        subscription = RunManager(runs_engine, heartbeat=0.02).subscribe(handle.id)
        gc.collect()
        gate.open()

        assert subscription.get(PATIENCE) == handle.wait(PATIENCE)


@on("postgresql", "mariadb")
def test_no_thread_and_no_connection_is_left(database_url: URL) -> None:
    """Of a manager that made its own engine: not one thread, not one session on the server."""
    with pooled(database_url) as engine:
        create_tables(engine)
    with RunManager(database_url, fallbacks=[database_url], heartbeat=0.01) as manager:
        handles = [manager.start(nothing) for _ in range(20)]
        begun(manager).cancel()
        assert own_threads() >= {"statelatch-heartbeat"}
        for handle in handles:
            handle.wait(PATIENCE)

    assert own_threads() == set()
    assert kill_connections(database_url) == 0


def test_who_watches_another_manager_s_run_is_let_go(runs_engine: Engine, manager: RunManager) -> None:
    """No heartbeat will see the run's end any more: iterating ends, and nobody can begin to watch."""
    with at_gate() as gate:
        handle = manager.start(gate)
        gate.wait()
        watcher = RunManager(runs_engine)
        subscription = watcher.subscribe(handle.id)
        watcher.shutdown()

        assert subscription.get(PATIENCE) is None
        with pytest.raises(RuntimeError, match="this RunManager is shut down"):
            watcher.subscribe(handle.id)
        gate.open()
        said = handle.wait(PATIENCE)
    assert watcher.subscribe(handle.id).get(PATIENCE) == said


def test_an_end_that_was_seen_outlives_the_manager(runs_engine: Engine, manager: RunManager) -> None:
    """The watched run has ended before the shutdown: its end may still be read afterwards."""
    with at_gate() as gate, RunManager(runs_engine, heartbeat=0.02) as watcher:
        handle = manager.start(gate)
        gate.wait()
        subscription, second = watcher.subscribe(handle.id), watcher.subscribe(handle.id)
        gate.open()
        assert second.get(PATIENCE) == handle.wait(PATIENCE)

    assert list(subscription) == [handle.wait(0)]


def test_an_engine_of_the_caller_s_is_left_open(runs_engine: Engine) -> None:
    """Its pool is the caller's business."""
    with RunManager(runs_engine) as manager:
        manager.start(nothing).wait(PATIENCE)

    assert everything(runs_engine)[0].status == "completed"


def test_runs_that_are_over_are_forgotten(manager: RunManager) -> None:
    """Neither a run's arguments, nor its result, nor its error stay in memory once nobody holds the handle."""

    class Large:
        """Something that one would notice."""

    def function(argument: Large) -> Large:
        seen.append(weakref.ref(argument))
        result = Large()
        seen.append(weakref.ref(result))
        return result

    def broken(argument: Large) -> None:
        seen.append(weakref.ref(argument))
        raise ValueError

    seen: list[weakref.ref[Large]] = []
    for each in (function, broken):
        manager.start(each, Large()).wait(PATIENCE)
    manager.start(nothing).wait(PATIENCE)  # the pool's threads let go of the last work when the next one comes
    manager.start(nothing).wait(PATIENCE)

    assert eventually(lambda: len(manager._executions) == 0)  # pyright: ignore[reportPrivateUsage]
    gc.collect()
    assert [reference() for reference in seen] == [None] * 3
