"""How a run begins: its key, what is refused before anything is written, and executors that refuse."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from math import inf, nan
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import Engine, update

from statelatch.errors import ActiveRunExistsError, ConnectionFailureError, RequestError
from statelatch.runs import Outcome, Run, RunCancelled, RunHandle, RunManager
from tests.databases import on, unreachable
from tests.outages import Outage, Traffic
from tests.runs import PATIENCE, at_gate, everything, nothing, stored, until_cancelled

# -- one active run per key ---------------------------------------------------------------------------------


def test_two_threads_with_one_key_start_one_run(manager: RunManager, runs_engine: Engine) -> None:
    """Of 12 threads that start at the same instant one has its run; the others are told that run's id."""
    instant = threading.Barrier(12)

    def start(_: int) -> RunHandle | tuple[str, UUID]:
        instant.wait(PATIENCE)
        try:
            return manager.start(until_cancelled, key="k")
        except ActiveRunExistsError as busy:
            return busy.run_key, busy.run_id

    with ThreadPoolExecutor(12) as threads:
        said = list(threads.map(start, range(12)))
    started = [each for each in said if isinstance(each, RunHandle)]

    assert [row.id for row in everything(runs_engine)] == [handle.id for handle in started]
    assert {each for each in said if isinstance(each, tuple)} == {("k", handle.id) for handle in started}
    assert len(started) == 1


def test_a_key_is_busy_while_its_run_is_active(manager: RunManager, runs_engine: Engine) -> None:
    """Pending or running, the key is refused; once the run has ended it is free."""
    with at_gate() as gate:
        first = manager.start(gate, key="k")
        gate.wait()
        with pytest.raises(ActiveRunExistsError) as busy:
            manager.start(nothing, key="k")
        assert first.id == busy.value.run_id
    first.wait(PATIENCE)
    second = manager.start(nothing, key="k")

    assert second.wait(PATIENCE).state == "completed"
    assert [first.id, second.id] == [row.id for row in everything(runs_engine)]


def test_a_pending_run_holds_its_key(runs_engine: Engine) -> None:
    """A run whose thread has not begun is active, too."""
    with ThreadPoolExecutor(1) as executor, at_gate() as gate:
        manager = RunManager(runs_engine, executor=executor)
        manager.start(gate)
        waiting = manager.start(nothing, key="k")

        assert stored(runs_engine, waiting.id).status == "pending"
        with pytest.raises(ActiveRunExistsError) as busy:
            manager.start(nothing, key="k")
        assert waiting.id == busy.value.run_id
        gate.open()
        manager.shutdown()


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_every_terminal_state_frees_the_key(manager: RunManager, runs_engine: Engine, state: str) -> None:
    """However the last run ended, the next may start."""

    def function() -> None:
        if state == "failed":
            raise ValueError("broken")
        if state == "cancelled":
            raise RunCancelled

    first = manager.start(function, key="k").wait(PATIENCE)

    assert first.state == state
    assert manager.start(nothing, key="k").wait(PATIENCE).state == "completed"


def test_runs_without_a_key_do_not_exclude_one_another(manager: RunManager) -> None:
    """None holds nothing."""
    with at_gate() as gate:
        handles = [manager.start(gate) for _ in range(3)]
        gate.wait()
        gate.open()
        assert {"completed"} == {handle.wait(PATIENCE).state for handle in handles}


DISTINCT = [
    "k",
    "K",
    "k ",
    " k",
    "ḱ",
    "k\u0301",
    "ß",
    "ss",
    "😀",
    "😁",
    "\u0131",
    "i",
    "k\n",
    "x" * 255,
    "x" * 254,
    "😀" * 255,
]


def test_keys_are_compared_to_the_letter(manager: RunManager) -> None:
    """Case, accents, trailing blanks: what differs anywhere is another key, on every database."""
    with at_gate() as gate:
        handles = [manager.start(gate, key=key) for key in DISTINCT]
        for key, handle in zip(DISTINCT, handles, strict=True):
            holder = manager.active(key)
            assert holder is not None
            assert (handle.id, key) == (holder.id, holder.key)


# -- refused before anything is written -------------------------------------------------------------------------


async def coroutine() -> None:
    """What no thread runs."""


def generator() -> Iterator[int]:
    """What does nothing when it is called."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """The same."""
    yield 1


class Awaited:
    """An object whose call is a coroutine."""

    async def __call__(self) -> None:
        """Do nothing."""


class Job:
    """An object that can be called."""

    def __call__(self) -> str:
        return "called"


REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (coroutine, {}, "coroutine: a coroutine function does not run in a thread"),
    (functools.partial(coroutine), {}, "a coroutine function does not run in a thread"),
    (Awaited(), {}, "Awaited: a coroutine function does not run in a thread"),
    (generator, {}, "generator: a generator function does not run when it is called"),
    (functools.partial(generator), {}, "a generator function does not run when it is called"),
    (async_generator, {}, "async_generator: a generator function does not run when it is called"),
    (cast("Any", 5), {}, "function: expected something to call, found 5"),
    (nothing, {"key": 5}, "key: expected text, found 5"),
    (nothing, {"key": b"k"}, "key: expected text, found b'k'"),
    (nothing, {"name": 5}, "name: expected text, found 5"),
    (nothing, {"name": []}, r"name: expected text, found \[\]"),
    (nothing, {"max_attempts": True}, "max_attempts: expected 1 to 2147483647, found True"),
    (nothing, {"max_attempts": 1.5}, "max_attempts: expected 1 to 2147483647, found 1.5"),
    (nothing, {"max_attempts": "3"}, "max_attempts: expected 1 to 2147483647, found '3'"),
    (nothing, {"key": ""}, "key: expected 1 to 255 characters, found 0"),
    (nothing, {"key": "x" * 256}, "key: expected 1 to 255 characters, found 256"),
    (nothing, {"name": "x" * 256}, "name: expected 1 to 255 characters, found 256"),
    (nothing, {"key": "a\x00b"}, "key: expected text that every database holds"),
    (nothing, {"key": "a\ud800"}, "key: expected text that every database holds"),
    (nothing, {"name": "a\x00b"}, "name: expected text that every database holds"),
    (nothing, {"max_attempts": 0}, "max_attempts: expected 1 to 2147483647, found 0"),
    (nothing, {"max_attempts": 2**31}, "max_attempts: expected 1 to 2147483647, found 2147483648"),
]


@on("sqlite")
@pytest.mark.parametrize(("function", "options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_start_that_cannot_work_is_refused(
    runs_engine: Engine, function: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    """A named error that says what was expected and found; no statement is sent."""
    traffic = Traffic(runs_engine)
    with RunManager(runs_engine) as manager, pytest.raises(RequestError, match=message):
        manager.start(function, **options)

    assert traffic.statements == []


@pytest.mark.parametrize(
    ("lease", "heartbeat"),
    [
        *((0, None), (-1, None), (1, 0), (1, 1), (1, 2), (inf, None), (nan, None), (1, nan), (1, inf)),
        *((1e9, None), (1e300, None), (True, None), ("1", None), (1, "0.1"), (None, None)),
    ],
)
@on("sqlite")
def test_lease_and_heartbeat_must_fit(runs_engine: Engine, lease: Any, heartbeat: Any) -> None:
    """A heart that beats more seldom than the lease expires would lose every run."""
    with pytest.raises(RequestError, match="expected 0 < heartbeat < lease"):
        RunManager(runs_engine, lease=lease, heartbeat=heartbeat)


def test_names_and_arguments_are_kept(manager: RunManager, runs_engine: Engine) -> None:
    """The name is the function's own unless one is given; arguments are kept where they are JSON."""
    ten = functools.partial(int, "a", base=16)
    kept = [
        manager.start(nothing),
        manager.start(lambda: 1),
        manager.start(ten),
        manager.start(Job()),
        manager.start(nothing, name="Größe 😀", key="k"),
        manager.start(max, 1, 2),
        manager.start(dict, a=[1, None], b={"c": "d"}),
        manager.start(repr, object()),
    ]
    rows = [stored(runs_engine, handle.id) for handle in kept if handle.wait(PATIENCE)]

    assert [str(row.name).rpartition(".")[2] for row in rows] == [
        *("nothing", "<lambda>", "partial", "Job", "Größe 😀", "max", "dict", "repr")
    ]
    assert [row.params for row in rows[-3:]] == [
        {"args": [1, 2], "kwargs": {}},
        {"args": [], "kwargs": {"a": [1, None], "b": {"c": "d"}}},
        None,
    ]
    assert [handle.result(PATIENCE) for handle in kept[:4]] == [None, 1, 10, "called"]


# -- no database -------------------------------------------------------------------------------------------------


def test_a_start_without_a_database_calls_nothing(runs_engine: Engine) -> None:
    """No connection answers: the caller is told, the function never runs, and there is no row."""
    called: list[int] = []
    outage = Outage(runs_engine)
    with RunManager(runs_engine) as manager:
        outage.begin()
        with pytest.raises(ConnectionFailureError):
            manager.start(called.append, 1)
        outage.end()

        assert outage.refused >= 1
        assert manager.start(nothing).wait(PATIENCE).state == "completed"
    assert len(everything(runs_engine)) == 1
    assert called == []


def test_a_manager_on_a_url_that_nobody_answers_at(database_url: Any) -> None:
    """It can be built; its first statement tells."""
    manager = RunManager(unreachable(database_url))
    with pytest.raises(ConnectionFailureError):
        manager.start(nothing)
    manager.shutdown()


# -- executors that refuse ----------------------------------------------------------------------------------------


class Refusing(Executor):
    """An executor that takes no work; a test may have something done first."""

    def __init__(self, before: Callable[[], object] = nothing) -> None:
        self.error = OSError("no room in /var/spool/jobs")
        self._before = before

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._before()
        raise self.error


def test_an_executor_that_refuses_fails_the_run(runs_engine: Engine) -> None:
    """Its own exception reaches the caller; the row says failed, why, and when; the key is free."""
    executor = Refusing()
    with RunManager(runs_engine, executor=executor) as manager, pytest.raises(OSError, match="no room") as caught:
        manager.start(nothing, key="k")
    (row,) = everything(runs_engine)

    assert caught.value is executor.error
    assert (row.status, row.error, row.error_type, row.version) == ("failed", "no room in <path>", "OSError", 2)
    assert (row.finished_at is not None, row.started_at, row.active_key) == (True, None, None)


def test_an_executor_that_is_shut_down_fails_the_run(runs_engine: Engine) -> None:
    """A thread pool's own words are kept."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with (
        RunManager(runs_engine, executor=executor) as manager,
        pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"),
    ):
        manager.start(nothing)
    (row,) = everything(runs_engine)

    assert (row.status, row.error_type) == ("failed", "RuntimeError")
    assert row.error == "cannot schedule new futures after shutdown"


def test_no_thread_can_be_had(manager: RunManager, runs_engine: Engine) -> None:
    """Neither the heartbeat nor the pool gets a thread: the run is failed, not left pending on its key."""
    before = threading.stack_size(2**46)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            manager.start(nothing, key="k")
    finally:
        threading.stack_size(before)
    (row,) = everything(runs_engine)

    assert (row.status, row.active_key) == ("failed", None)
    assert manager.start(nothing, key="k").wait(PATIENCE).state == "completed"


def test_a_cancel_that_comes_before_the_refusal_stays(runs_engine: Engine) -> None:
    """The run was cancelled while the executor refused it: cancelled it stays, and the refusal is raised."""
    with RunManager(runs_engine) as other:

        def cancel() -> None:
            assert other.cancel(everything(runs_engine)[0].id).written

        with RunManager(runs_engine, executor=Refusing(cancel)) as manager, pytest.raises(OSError, match="no room"):
            manager.start(nothing)
    (row,) = everything(runs_engine)

    assert (row.status, row.error, row.error_type, row.version) == ("cancelled", None, None, 2)


def test_an_executor_that_drops_its_work_cancels_the_run(runs_engine: Engine) -> None:
    """Futures cancelled before they ran: their runs are cancelled, and those who wait are told."""
    called: list[int] = []
    executor = ThreadPoolExecutor(1)
    with RunManager(runs_engine, executor=executor) as manager, at_gate() as gate:
        running = manager.start(gate)
        gate.wait()
        dropped = [manager.start(called.append, number) for number in range(3)]
        executor.shutdown(wait=False, cancel_futures=True)
        ends = [handle.wait(PATIENCE) for handle in dropped]
        gate.open()

        assert running.wait(PATIENCE).state == "completed"
    assert {("cancelled", Outcome.APPLIED, 2)} == {(said.state, said.outcome, said.version) for said in ends}
    assert ["completed", *["cancelled"] * 3] == [row.status for row in everything(runs_engine)]
    assert called == []
    for handle in dropped:
        with pytest.raises(RunCancelled):
            handle.result(PATIENCE)


class Carrying(Executor):
    """An executor that cannot carry its work to where it would run, and finds out later."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(TypeError("cannot pickle a function"))
        return future


def test_an_executor_that_cannot_carry_the_work_fails_the_run(runs_engine: Engine) -> None:
    """Work that cannot be pickled never runs: the run is failed with the pickler's own words."""
    with RunManager(runs_engine, executor=Carrying()) as manager:
        handle = manager.start(lambda: 1)
        said = handle.wait(PATIENCE)

        assert (said.state, said.version, said.error) == ("failed", 2, "cannot pickle a function")
        with pytest.raises(TypeError, match="pickle"):
            handle.result(PATIENCE)


@on("sqlite")
def test_an_executor_of_processes_is_refused(runs_engine: Engine) -> None:
    """A run is called and written in a thread; said at once, not by a run that hangs."""
    with ProcessPoolExecutor(1) as executor, pytest.raises(RequestError, match="use threads"):
        RunManager(runs_engine, executor=executor)


def test_a_row_that_is_gone_before_its_thread_begins(runs_engine: Engine) -> None:
    """Somebody ended the pending run: its function never runs, and the handle tells what the database holds."""
    called: list[int] = []
    with ThreadPoolExecutor(1) as executor, RunManager(runs_engine, executor=executor) as manager, at_gate() as gate:
        manager.start(gate)
        handle = manager.start(called.append, 1)
        with runs_engine.begin() as connection:
            connection.execute(update(Run).where(Run.id == handle.id).values(status="failed", version=2))
        gate.open()
        said = handle.wait(PATIENCE)

        assert (said.state, said.version, said.outcome) == ("failed", 2, Outcome.NO_OP)
        with pytest.raises(Exception, match="found 'failed'"):
            handle.result(PATIENCE)
    assert called == []
