"""What one heartbeat does: it keeps leases, saves progress, and learns of cancel requests and of others' ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakSet

from statelatch.runs import plans
from statelatch.runs.answers import of_row
from statelatch.runs.executions import CLOSED
from statelatch.runs.plans import Beat

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from statelatch.runs.connections import Connections
    from statelatch.runs.execution import Execution
    from statelatch.runs.executions import Executions
    from statelatch.runs.model import RunColumns
    from statelatch.runs.subscriptions import Subscription, Subscriptions

__all__ = ["Pulse"]


class Pulse:
    """Looks at the runs of this process, and at those of other processes that somebody here watches.

    Args:
        connections: the database.
        executions: the runs of this process.
        subscriptions: who is to be told of the ends of others.
        lease: seconds for which a worker holds its run.
    """

    def __init__(
        self, connections: Connections, executions: Executions, subscriptions: Subscriptions, lease: float
    ) -> None:
        self._connections = connections
        self._executions = executions
        self._subscriptions = subscriptions
        self._lease = lease
        self._lock = threading.RLock()
        self._foreign: WeakSet[Subscription] = WeakSet()
        self._ended = False
        self._renewed = time.monotonic()

    def watch(self, subscription: Subscription) -> None:
        """Tell a subscription the end of a run of another process.

        Raises:
            RuntimeError: the manager is shut down: nobody would tell it.
        """
        with self._lock:
            if self._ended:
                raise RuntimeError(CLOSED)
            self._foreign.add(subscription)
        subscription.keep(self)

    def end(self) -> None:
        """There will be no more beats: let go of those who watch runs of other processes."""
        with self._lock:
            self._ended = True
        for watching in self._watched().values():
            for subscription in watching:
                subscription.close()

    def beat(self) -> None:
        """One heartbeat.

        Raises:
            Exception: of the first connection, if none answered.
        """
        executions, watched = self._executions.claimed(), self._watched()
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
        answer = self._connections.ask(lambda runs: plans.beat(runs, told))
        runs = [self._connections.primary.mapping.restored(row) for row in answer.unwrap()]
        if renew:
            self._renewed = began
        for execution, progress in unsaved:
            execution.saved(progress)
        self._ask_to_stop([run for run in runs if run.id in executions], executions)
        self._tell_ends({run.id: run for run in runs}, watched, answer.via)

    def _watched(self) -> dict[UUID, list[Subscription]]:
        """Who watches which run of another process. One that is over has left its registry."""
        watched: dict[UUID, list[Subscription]] = {}
        with self._lock:
            for subscription in list(self._foreign):
                watched.setdefault(subscription.run_id, []).append(subscription)
        return {run_id: each for run_id, each in watched.items() if self._subscriptions.wanted(run_id)}

    def _ask_to_stop(self, runs: list[RunColumns], executions: Mapping[UUID, Execution]) -> None:
        """Those that were asked to, or that are another worker's by now."""
        for run in runs:
            execution = executions[run.id]
            if run.status != "running" or run.cancel_requested or not run.holds_lease(execution.worker):
                execution.request_cancel(aside=True)

    def _tell_ends(
        self, runs: Mapping[UUID, RunColumns], watched: Mapping[UUID, list[Subscription]], via: str | None
    ) -> None:
        for run_id, watching in watched.items():
            run = runs.get(run_id)
            if run is None:  # its row is gone: there will be no end to tell
                for subscription in watching:
                    subscription.close()
            elif run.finished_at is not None:
                self._subscriptions.publish(of_row(run, via))
