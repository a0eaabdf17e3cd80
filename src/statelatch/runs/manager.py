"""`RunManager`: runs functions in threads and writes each one's last word exactly once.

The manager keeps what is in memory and asks; what an answer means is decided in `plans`, what a thread does
in `worker`. It holds no state that the database could contradict: every write is checked where it happens.
"""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from statelatch.errors import ConnectionFailureError, NotAppliedError, OutcomeUnknownError, RequestError
from statelatch.plans import load
from statelatch.runs import arguments, endings, plans, worker
from statelatch.runs.answers import Answer, of_cancelled, of_request, of_row
from statelatch.runs.connections import Connections
from statelatch.runs.execution import Execution
from statelatch.runs.executions import CLOSED, Executions
from statelatch.runs.finalizer import Finalizer
from statelatch.runs.handle import RunHandle
from statelatch.runs.heartbeat import Heartbeat
from statelatch.runs.model import new_run_id, run_mapping
from statelatch.runs.pulse import Pulse
from statelatch.runs.reader import RunReader
from statelatch.runs.records import Outcome
from statelatch.runs.subscriptions import Subscriptions
from statelatch.tokens import mint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from uuid import UUID

    from statelatch.runs.connections import Source
    from statelatch.runs.records import Cancellation, Finalized
    from statelatch.runs.subscriptions import Subscription

__all__ = ["RunManager"]

LARGEST_PARAMS = 2**16


class RunManager(RunReader):
    """Runs functions as persisted runs. Threads may share it; use it as a context manager.

    Args:
        database: an adapter with a run mapping, an engine, or a URL; the table must exist: see `create_tables`.
        fallbacks: further ways to the same database, tried in order when the primary does not answer.
        executor: where functions run, in threads of this process; by default threads of the manager's own.
        lease: seconds for which a worker holds its run without a heartbeat.
        heartbeat: seconds between two heartbeats: how soon a cancel request of another process is seen, and
            how often progress is saved. By default a third of the lease, at most one second.
        spool: path of a local file for last words that no connection takes, until `recover` writes them; made if it is
            missing. Processes may share it. Without one such a word is lost, and its run `UNSAVED`.
        time_limit: seconds after which a connection that does not answer is given up, and the next one tried: for each
            transaction, connecting included.
        batch: whether runs that begin or end at the same time are written together over the primary, by a
            `Batcher`: worth its while for many short functions. A batch that is not answered is tried again run by run,
            as without. One row that somebody holds locked holds up the others, and so does a hook of the adapter, which
            must not wait for a run.

    Raises:
        RequestError: no such lease, heartbeat or time limit, or an executor of processes.
        ConfigurationError: a database that cannot hold runs, or a spool that cannot be made or written.
    """

    def __init__(
        self,
        database: Source,
        *,
        fallbacks: Sequence[Source] = (),
        executor: Executor | None = None,
        lease: float = 30.0,
        heartbeat: float | None = None,
        spool: str | os.PathLike[str] | None = None,
        time_limit: float = 10.0,
        batch: bool = False,
    ) -> None:
        interval = arguments.beats(lease, heartbeat)
        if executor is not None:
            arguments.check_executor(executor)
        arguments.check_time_limit(time_limit)
        super().__init__(Connections(database, fallbacks, run_mapping, batch=batch, time_limit=time_limit))
        self._finalizer = Finalizer(self._connections, spool)
        self._owns_executor = executor is None
        self._executor = ThreadPoolExecutor(thread_name_prefix="statelatch") if executor is None else executor
        self._subscriptions = Subscriptions()
        self._executions = Executions()
        self._pulse = Pulse(self._connections, self._executions, self._subscriptions, lease)
        self._heartbeat = Heartbeat(self._pulse.beat, interval)
        self._terms = worker.Terms(
            lease=lease, retry=interval, closing=threading.Event(), connections=self._connections
        )

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
        raises anything else. Arguments and result are kept in the row where they are JSON of moderate size. A run
        that no connection lets begin waits until one does, or the manager is shut down. If this call is interrupted,
        by Ctrl-C for instance, the run is cancelled: nobody would hold its handle.

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
            OutcomeUnknownError: it did not answer at COMMIT; if the row was written, it was asked to be cancelled.
            RequestError: no function that runs when it is called, a key or name that is too long or no text,
                attempts below 1.
            RuntimeError: the manager is shut down.
            Exception: whatever the executor raised when it refused; the run is `failed` with that cause.
        """
        if name is None or name == "":
            name = arguments.name_of(function)
        arguments.check_start(function, key, name, max_attempts)
        if self._executions.closing.is_set():
            raise RuntimeError(CLOSED)
        params = endings.jsonable({"args": list(args), "kwargs": kwargs}, largest=LARGEST_PARAMS)
        execution = Execution(new_run_id(), _worker_name(), self._subscriptions)
        values = {"id": execution.run_id, "key": key, "name": name, "max_attempts": max_attempts, "params": params}
        try:
            execution.gone.add_done_callback(lambda _: self._forget(execution))
            self._executions.add(execution)
            self._connections.ask(lambda runs: plans.create(runs, values)).unwrap()
            self._submit(execution, worker.Call(function, args, kwargs))
            return RunHandle(self, execution)
        except BaseException as error:
            self._not_started(execution, error)
            raise

    def _submit(self, execution: Execution, call: worker.Call) -> None:
        try:
            self._executions.promise(execution)
            self._heartbeat.start()
            future = self._executor.submit(self._work, execution, call)
        except Exception as error:
            execution.request_cancel()  # the executor may have taken it all the same
            worker.finish(execution, endings.failed(error), self._finalizer)
            raise
        future.add_done_callback(lambda done: self._fallen_out(execution, done))

    def _not_started(self, execution: Execution, error: BaseException) -> None:
        """End what may have been written, or be running, as cancelled; its caller has no handle."""
        execution.promised = False
        if execution.over:
            return
        if _wrote_nothing(error):
            self._forget(execution)
            return
        token = mint()
        answer: Answer[Cancellation] = Answer(None)
        try:
            answer = self._connections.ask(lambda runs: plans.cancel(runs, execution.run_id, token, force=False))
        finally:
            execution.abandon(of_cancelled(execution.run_id, answer))
            execution.request_cancel()

    def _work(self, execution: Execution, call: worker.Call) -> None:
        if execution.enter():
            try:
                worker.work(execution, call, self._finalizer, self._terms)
            finally:
                execution.leave()

    def _fallen_out(self, execution: Execution, future: Future[None]) -> None:
        """The executor dropped the work, or could not run it: say so, or nobody will.

        Whatever interrupted it after its function had ended, the word that was due stays what it was.
        """
        if execution.finalized.done():
            return
        if execution.word is not None:
            worker.say(execution, execution.word, self._finalizer)
        elif future.cancelled():
            worker.finish(execution, endings.cancelled(), self._finalizer)
        elif error := future.exception():
            worker.finish(execution, endings.failed(error), self._finalizer)

    def _forget(self, execution: Execution) -> None:
        self._executions.forget(execution)
        self._end_if_over()

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
            ConnectionFailureError: no connection answered. A function of this process is asked to stop all the
                same; what it then writes, `RunCancelled` for instance, needs no request in the row. Its subclass
                `CancelRequestedError` if the request is written, and what came of it could not be found out.
        """
        token = mint()
        answer = of_request(run_id, self._connections.ask(lambda runs: plans.cancel(runs, run_id, token, force=force)))
        execution = self._executions.get(run_id)
        if execution is not None and answer.refusal is None:
            if answer.result is not None and answer.result.written:
                execution.close(of_cancelled(run_id, answer))
            execution.request_cancel()
        return answer.unwrap()

    def recover(self) -> list[Finalized]:
        """Write the last words that the spool keeps, oldest first, over the connections as usual.

        Call it when the database is back: at the start of a process, or now and then. Each word goes with the token
        that it had from the beginning, so that one which had been written after all, or which another process
        recovers at the same time, is written once.

        Returns:
            What became of each: `APPLIED`; `NO_OP` if the run had ended meanwhile, with the state that the database
            holds; `SPOOLED` if it stays in the spool, with the reason as `error`: no connection answered, there is no
            such run (in another database, perhaps), or the database refused this write, or did not come to it within
            the time limit, for somebody's lock. Empty without a spool. What another process has recovered meanwhile
            is told there.

        Raises:
            SpoolError: the spool cannot be read; nothing was written.
        """
        told = self._finalizer.recover()
        for said in told:
            if said.outcome is not Outcome.SPOOLED:
                self._executions.written(said.run_id)
        return told

    def keep_pending(self) -> list[UUID]:
        """Put the last words that are being written into the spool, for a process that cannot wait for the database.

        It goes on being asked; what it writes all the same is recognised by `recover`.

        Returns:
            The runs whose last words are kept; none without a spool, or if it does not take them, which is logged.
        """
        return self._finalizer.keep_pending()

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
        unsaved = self._executions.unsaved(run_id)
        if unsaved is not None:  # its row does not tell
            subscription.deliver(unsaved)
            return
        try:
            answer = self._connections.ask(lambda runs: load(runs.of_mapping, run_id))
            run = self._connections.primary.mapping.restored(answer.unwrap().values)
            if run.finished_at is None:
                self._pulse.watch(subscription)
                self._heartbeat.start()
        except BaseException:
            subscription.close()
            raise
        if run.finished_at is not None:
            self._subscriptions.publish(of_row(run, answer.via))

    # -- the end --------------------------------------------------------------------------------------------

    def shutdown(self, *, wait: bool = True, cancel: bool = False) -> None:
        """Take no more runs, and let those that there are come to their end.

        The heart beats until the last one is over; then who watches runs of other processes is let go.

        Args:
            wait: return when all are over, their last words are written and their functions have stopped.
            cancel: ask all of them to stop first.

        Raises:
            RuntimeError: a run's own function, or its hook, would wait for itself; nothing was done.
        """
        if wait:
            self._wait_for_all(cancel=cancel)
            self._end()
            return
        self._close(cancel=cancel)
        if self._owns_executor:
            self._executor.shutdown(wait=False)
        self._end_if_over()

    def _wait_for_all(self, *, cancel: bool) -> None:
        if self._executions.is_here() or self._connections.is_here:
            raise RuntimeError("a run cannot wait for its own end; call shutdown(wait=False), or in another thread")
        for execution in self._close(cancel=cancel):
            if execution.awaited:
                execution.gone.result()
                execution.finalized.result()
        if self._owns_executor:  # afterwards: joining a thread that still works must not be interrupted
            self._executor.shutdown(wait=True)

    def _end_if_over(self) -> None:
        if self._executions.closing.is_set() and not len(self._executions):
            self._end()

    def _end(self) -> None:
        self._heartbeat.stop()
        self._pulse.end()
        self._connections.close()

    def _close(self, *, cancel: bool) -> list[Execution]:
        executions = self._executions.close()
        for execution in reversed(executions) if cancel else ():  # those that wait first: they must not begin now
            if not execution.over:
                self._cancel_at_shutdown(execution)
        self._terms.closing.set()  # afterwards: what still waits for a database ends as cancelled then
        return executions

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
        """Wait for all runs; after an exception, or at Ctrl-C while waiting, cancel them first."""
        try:
            self._wait_for_all(cancel=error is not None)
        except BaseException:
            self._wait_for_all(cancel=True)
            raise
        finally:
            self._end()


def _wrote_nothing(error: BaseException) -> bool:
    """Whether this answer to an INSERT means that there is no row."""
    answers = NotAppliedError | RequestError | ConnectionFailureError
    return isinstance(error, answers) and not isinstance(error, OutcomeUnknownError)


def _worker_name() -> str:
    """Owner of one attempt's lease: no other attempt, anywhere, ever has this name."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}:{uuid4().hex}"
