"""`RunManager`: runs functions in threads and writes each one's last word exactly once.

The manager keeps what is in memory and asks; what an answer means is decided in `plans`, what a thread does
in `worker`. It holds no state that the database could contradict: every write is checked where it happens.
"""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4
from weakref import WeakSet

from statelatch.errors import RequestError
from statelatch.plans import load
from statelatch.runs import endings, plans, worker
from statelatch.runs.connections import Connections
from statelatch.runs.execution import Execution
from statelatch.runs.handle import RunHandle
from statelatch.runs.heartbeat import Heartbeat
from statelatch.runs.model import KEY_LENGTH, new_run_id, run_mapping
from statelatch.runs.plans import Answer, Beat
from statelatch.runs.records import Finalized, Outcome
from statelatch.runs.subscriptions import Subscriptions
from statelatch.tokens import mint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from uuid import UUID

    from statelatch.commands import Plan
    from statelatch.runs.connections import Source
    from statelatch.runs.model import RunColumns
    from statelatch.runs.records import Cancellation
    from statelatch.runs.statements import RunStatements
    from statelatch.runs.subscriptions import Subscription

__all__ = ["RunManager"]

LARGEST_PARAMS = 2**16
LONGEST_LEASE = 10**9  # seconds, about 32 years: what every database can add to its clock
MOST_ATTEMPTS = 2**31 - 1
CLOSED = "this RunManager is shut down; start a new one"


class RunManager:
    """Runs functions as persisted runs. Threads may share it; use it as a context manager.

    Args:
        database: an adapter with a run mapping, an engine, or a URL; the table must exist: see `create_tables`.
        fallbacks: further ways to the same database, tried in order when the primary does not answer.
        executor: where functions run; by default threads of the manager's own.
        lease: seconds for which a worker holds its run without a heartbeat.
        heartbeat: seconds between two heartbeats: how soon a cancel request of another process is seen, and
            how often progress is saved. By default a third of the lease, at most one second.
    """

    def __init__(
        self,
        database: Source,
        *,
        fallbacks: Sequence[Source] = (),
        executor: Executor | None = None,
        lease: float = 30.0,
        heartbeat: float | None = None,
    ) -> None:
        interval = min(lease / 3, 1.0) if heartbeat is None else heartbeat
        if not 0 < interval < lease <= LONGEST_LEASE:
            raise RequestError(f"expected 0 < heartbeat < lease <= {LONGEST_LEASE} s, found {interval} and {lease}")
        self._connections = Connections(database, fallbacks, run_mapping)
        self._owns_executor = executor is None
        self._executor = ThreadPoolExecutor(thread_name_prefix="statelatch") if executor is None else executor
        self._lease = lease
        self._subscriptions = Subscriptions()
        self._executions: dict[UUID, Execution] = {}
        self._foreign: WeakSet[Subscription] = WeakSet()  # those that watch runs of other processes
        self._lock = threading.Lock()
        self._closing = False
        self._renewed = time.monotonic()
        self._heartbeat = Heartbeat(self._beat, interval)

    # -- runs of this process -----------------------------------------------------------------------

    def start(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        name: str | None = None,
        max_attempts: int = 1,
        **kwargs: Any,
    ) -> RunHandle:
        """Run `function(*args, **kwargs)` in another thread, as a run.

        It is `completed` when the function returns, `cancelled` when it raises `RunCancelled`, `failed` when it
        raises anything else. Arguments and result are kept in the row where they are JSON of moderate size.

        Args:
            function: called once; inside it `current_run()` is the run.
            args: its positional arguments.
            key: at most one active run may hold it; None holds nothing.
            name: for people; by default the function's name.
            max_attempts: how often the run may be started, its worker having died.
            kwargs: its keyword arguments.

        Raises:
            ActiveRunExistsError: another run holds the key; `run_id` says which.
            ConnectionFailureError: the database did not answer; the function was not called.
            RequestError: a coroutine function, a key or name that is too long or no text, attempts below 1.
            RuntimeError: the manager is shut down.
            Exception: whatever the executor raised when it refused; the run is `failed` with that cause.
        """
        name = name or _name_of(function)
        _check_start(function, key, name, max_attempts)
        if self._closing:
            raise RuntimeError(CLOSED)
        run_id = new_run_id()
        params = endings.jsonable({"args": list(args), "kwargs": kwargs}, largest=LARGEST_PARAMS)
        values = {"id": run_id, "key": key, "name": name, "max_attempts": max_attempts, "params": params}
        self._connections.ask(lambda runs: plans.create(runs, values)).unwrap()
        execution = Execution(run_id, _worker_name(), self._subscriptions)
        self._submit(execution, worker.Call(function, args, kwargs))
        return RunHandle(self, execution)

    def _submit(self, execution: Execution, call: worker.Call) -> None:
        with self._lock:
            self._executions[execution.run_id] = execution
            closing = self._closing  # if not, `shutdown` will find it
        execution.finalized.add_done_callback(lambda _: self._forget(execution))
        try:
            if closing:
                raise RuntimeError(CLOSED)
            self._heartbeat.start()
            future = self._executor.submit(self._work, execution, call)
        except BaseException as error:
            worker.finish(execution, endings.failed(error), self._connections)
            raise
        future.add_done_callback(lambda done: self._fallen_out(execution, done))

    def _work(self, execution: Execution, call: worker.Call) -> None:
        worker.work(execution, call, self._connections, self._lease)

    def _fallen_out(self, execution: Execution, future: Future[None]) -> None:
        """The executor dropped the work, or could not run it: say so, or nobody will."""
        if execution.finalized.done():
            return
        if future.cancelled():
            worker.finish(execution, endings.cancelled(), self._connections)
        elif error := future.exception():
            worker.finish(execution, endings.failed(error), self._connections)

    def _forget(self, execution: Execution) -> None:
        with self._lock:
            self._executions.pop(execution.run_id, None)

    # -- runs of any process --------------------------------------------------------------------------

    def cancel(self, run_id: UUID, *, force: bool = False) -> Cancellation:
        """Cancel a run of this or another process.

        A run that has not started is cancelled at once. A running one is asked to stop: its function learns of
        it at once in this process, within a heartbeat in another, and the run is cancelled when it stops with
        `RunCancelled`. If it returns instead, it has completed.

        Args:
            run_id: which run.
            force: write `cancelled` at once, without waiting for the function. What it returns later is dropped.

        Returns:
            Whether the run is cancelled, or was asked to stop.

        Raises:
            TransitionRefusedError: it has ended already; nothing was written.
            RowNotFoundError: there is no such run.
            ConnectionFailureError: no connection answered.
        """
        token = mint()
        answer = self._connections.ask(lambda runs: plans.cancel(runs, run_id, token, force=force))
        done = answer.unwrap()
        execution = self._executions.get(run_id)
        if execution is not None:
            if done.written:
                execution.close(_cancelled(done, answer))
            execution.request_cancel()
        return done

    def get(self, run_id: UUID) -> RunColumns:
        """The run, read now; an instance of the mapped entity in no session.

        Raises:
            RowNotFoundError: there is no such run.
            ConnectionFailureError: the database did not answer.
        """
        snapshot = self._connections.ask(lambda runs: load(runs.of_mapping, run_id)).unwrap()
        return self._connections.primary.mapping.restored(snapshot.values)

    def active(self, key: str) -> RunColumns | None:
        """The run that holds the key, if one does."""
        return self._first(lambda runs: plans.select(runs.holder, run_key=key))

    def current_or_latest(self, key: str) -> RunColumns | None:
        """The run that holds the key, else the newest that ever did."""
        return self._first(lambda runs: plans.select(runs.current_or_latest, run_key=key))

    def runs(
        self, *, key: str | None = None, name: str | None = None, status: str | None = None, limit: int | None = None
    ) -> list[RunColumns]:
        """Runs, newest first.

        Args:
            key: only those that have it.
            name: only those that have it.
            status: only those in this state.
            limit: at most so many.

        Raises:
            RequestError: no such state, or a limit below 0.
            ConnectionFailureError: the database did not answer.
        """
        mapping = self._connections.primary.mapping
        if status is not None:
            mapping.in_state(status)
        if limit is not None and limit < 0:
            raise RequestError(f"limit: expected at least 0 rows, found {limit}")
        asked = {"key": key, "name": name, "status": status}
        filters = {column: value for column, value in asked.items() if value is not None}
        rows = self._connections.ask(lambda runs: plans.select(runs.listing(filters, limit))).unwrap()
        return [mapping.restored(row) for row in rows]

    def _first(self, plan: Callable[[RunStatements], Plan[Sequence[Mapping[str, Any]]]]) -> RunColumns | None:
        rows = self._connections.ask(plan).unwrap()
        return self._connections.primary.mapping.restored(rows[0]) if rows else None

    # -- events -------------------------------------------------------------------------------------------

    def subscribe(self, run_id: UUID, *, maxsize: int = 1000) -> Subscription:
        """The run's events from now on, to be iterated in a thread or with `async for`; close it after use.

        Of a run of another process only the end is seen, within a heartbeat. A run that is over yields its
        `Finalized` at once.

        Args:
            run_id: which run.
            maxsize: events that may wait; when it is full, log lines and progress are dropped.

        Raises:
            RowNotFoundError: there is no such run.
            RuntimeError: the manager is shut down, and the run goes on elsewhere.
        """
        return self.subscribed(run_id, maxsize, self._executions.get(run_id))

    def subscribed(self, run_id: UUID, maxsize: int, execution: Execution | None) -> Subscription:
        """Subscribe to a run; the execution is known if it is, or was, one of this process."""
        subscription = self._subscriptions.subscribe(run_id, maxsize)
        if execution is None:
            self._watch(run_id, subscription)
        elif execution.over:  # before or after we subscribed: a second `Finalized` is dropped
            subscription.deliver(execution.finalized.result())
        return subscription

    def _watch(self, run_id: UUID, subscription: Subscription) -> None:
        try:
            run = self.get(run_id)
            if run.finished_at is None and self._closing:
                raise RuntimeError(CLOSED)
        except BaseException:
            subscription.close()
            raise
        if run.finished_at is not None:
            self._subscriptions.publish(_from_row(run))
            return
        with self._lock:
            self._foreign.add(subscription)
        self._heartbeat.start()

    # -- heartbeat and end ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        with self._lock:
            executions = {e.run_id: e for e in self._executions.values() if e.claimed}
            watched = {each.run_id for each in self._foreign if self._subscriptions.wanted(each.run_id)}
        if not executions and not watched:
            return
        began = time.monotonic()
        renew = began - self._renewed >= self._lease / 3
        unsaved = [(e, progress) for e in executions.values() if (progress := e.unsaved_progress)]
        told = Beat(
            held=[(e.run_id, e.worker) for e in executions.values()] if renew else [],
            progress=[(e.worker, progress) for e, progress in unsaved],
            watched=[*executions, *watched],
            lease=self._lease,
        )
        rows = self._connections.ask(lambda runs: plans.beat(runs, told)).unwrap()
        if renew:
            self._renewed = began
        for execution, progress in unsaved:
            execution.saved(progress)
        for row in rows:
            self._seen(self._connections.primary.mapping.restored(row), executions)

    def _seen(self, run: RunColumns, executions: Mapping[UUID, Execution]) -> None:
        execution = executions.get(run.id)
        if execution is None:
            if run.finished_at is not None:
                self._subscriptions.publish(_from_row(run))
        elif run.status != "running" or run.cancel_requested or not run.holds_lease(execution.worker):
            execution.request_cancel()

    def shutdown(self, *, wait: bool = True, cancel: bool = False) -> None:
        """Take no more runs, and let those that there are come to their end.

        Args:
            wait: return when all are over and their last words are written; who watches others' runs is let go.
            cancel: ask all of them to stop first.
        """
        with self._lock:
            self._closing = True
            executions = list(self._executions.values())
        for execution in reversed(executions) if cancel else ():  # those that wait first: they must not begin now
            self._cancel_at_shutdown(execution)
        if self._owns_executor:
            self._executor.shutdown(wait=wait)
        if wait:
            for execution in executions:
                execution.finalized.result()
            self._heartbeat.stop()
            for subscription in [each for each in self._foreign if self._subscriptions.wanted(each.run_id)]:
                subscription.close()  # nobody will tell it the end any more
            self._connections.close()

    def _cancel_at_shutdown(self, execution: Execution) -> None:
        try:
            self.cancel(execution.run_id)
        except Exception:  # noqa: BLE001  it has ended, or no connection answers: the function is told all the same
            execution.request_cancel()

    def __enter__(self) -> Self:
        """Return the manager itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all runs; after an exception, Ctrl-C included, cancel them first."""
        self.shutdown(cancel=error is not None)


def _check_start(function: Callable[..., Any], key: str | None, name: str, max_attempts: int) -> None:
    if inspect.iscoroutinefunction(function):
        raise RequestError(f"{name}: a coroutine function does not run in a thread; pass a function that runs it")
    for label, text in (("key", key), ("name", name)):
        if text is not None and not 0 < len(text) <= KEY_LENGTH:
            raise RequestError(
                f"{label}: expected 1 to {KEY_LENGTH} characters, found {len(text)}; nothing was written"
            )
        if text is not None and any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
            raise RequestError(f"{label}: expected text that every database holds, found {text!r}; nothing was written")
    if not 1 <= max_attempts <= MOST_ATTEMPTS:
        raise RequestError(f"max_attempts: expected 1 to {MOST_ATTEMPTS}, found {max_attempts}; nothing was written")


def _name_of(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))[:KEY_LENGTH]


def _worker_name() -> str:
    """Owner of one attempt's lease: no other attempt, anywhere, ever has this name."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid4().hex}"


def _cancelled(done: Cancellation, answer: Answer[Cancellation]) -> Finalized:
    return Finalized(
        run_id=done.run_id,
        target="cancelled",
        outcome=Outcome.APPLIED,
        state=done.state,
        version=done.version,
        via=answer.via,
    )


def _from_row(run: RunColumns) -> Finalized:
    """The end of a run that this process did not see."""
    return Finalized(
        run_id=run.id,
        target=run.status,
        outcome=Outcome.APPLIED,
        state=run.status,
        version=run.version,
        via="primary",
        error=run.error,
    )
