"""PURE: what the run manager asks of one database, as plans for `statelatch.drive`: they yield statements.

Which connection is asked, and what its answer means, is decided in `answers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from statelatch import plans
from statelatch.commands import Execute, Plan, Reply
from statelatch.errors import (
    ActiveRunExistsError,
    ConnectionFailureError,
    OutcomeUnknownError,
    Reason,
    TransitionRefusedError,
)
from statelatch.faults import is_duplicate
from statelatch.records import Transitioned
from statelatch.retrying import once, retried
from statelatch.runs.records import Cancellation, Progress

if TYPE_CHECKING:
    from sqlalchemy import Executable

    from statelatch.records import Snapshot
    from statelatch.runs.statements import RunStatements

__all__ = [
    "Beat",
    "CancelRequestedError",
    "beat",
    "cancel",
    "cancel_own",
    "create",
    "progress_params",
    "select",
]

TRIES = 3


class CancelRequestedError(OutcomeUnknownError):
    """A run was asked to stop, and then the database did not answer: what became of the run is not known.

    The request is written: the run's worker will see it. Cancel the run again to learn what has become of it.
    """

    def _message(self) -> str:
        return (
            f"{self.database} did not answer ({self.phase}): {self.detail}. The request to cancel run {self.key} is "
            "written, and its worker will see it; whether it has ended is not known. Cancel it again to learn that."
        )


def create(runs: RunStatements, values: Mapping[str, Any]) -> Plan[Snapshot]:
    """Insert a pending run; the database refuses a second active one of the same key.

    The id is the caller's and new: if a row has it, an earlier try with a lost answer was written.

    Raises:
        ActiveRunExistsError: the key is busy, with the id of the run that holds it.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return (yield from plans.create(runs.of_mapping, values))
        except Exception as error:
            if not is_duplicate(error):
                raise
            own = yield from select(runs.watch, ids=[values["id"]])
            if own:
                return (yield from plans.load(runs.of_mapping, values["id"]))
            holders = yield from select(runs.holder, run_key=values.get("key"))
            if holders:
                raise ActiveRunExistsError(run_key=values["key"], run_id=holders[0]["id"]) from error
            if not tries_left:  # each time the holder had ended before we could name it
                raise
    raise AssertionError("the last try returns or raises")


def select(statement: Any, **parameters: Any) -> Plan[Sequence[Mapping[str, Any]]]:
    """Read rows."""
    reply = yield from _executed(statement, parameters)
    return list(reply.rows)


def _executed(statement: Executable, parameters: Mapping[str, Any]) -> Plan[Reply]:
    """One statement, begun anew when the database breaks it off for the sake of another."""
    return retried(once(Execute(((statement, parameters),))))


def cancel(runs: RunStatements, run_id: UUID, token: UUID, *, force: bool) -> Plan[Cancellation]:
    """Ask a run to stop; end it at once if it has not started, or by `force`.

    A run with a cancel request cannot start any more, so the state that is read after the request decides.

    Raises:
        RowNotFoundError: there is no such run.
        TransitionRefusedError: it has ended; nothing was written.
        CancelRequestedError: only the request is known to be written.
    """
    key = runs.of_mapping.mapping.key_values(run_id)
    asked = bool((yield from _executed(runs.request_cancel, key)).matched)
    try:
        return (yield from _cancelled(runs, run_id, token, asked=asked, force=force))
    except ConnectionFailureError as error:
        if not asked:
            raise
        raise CancelRequestedError(
            phase=error.phase, database=error.database, detail=error.detail, token=token, key=run_id, event="cancel"
        ) from error.__cause__


def _cancelled(runs: RunStatements, run_id: UUID, token: UUID, *, asked: bool, force: bool) -> Plan[Cancellation]:
    """What becomes of a run for which the request was written, or which had ended before."""
    snapshot = yield from _ended_by(runs, run_id, token)
    if snapshot is not None:
        if not asked:
            raise _refused(runs, snapshot, "cancel", Reason.STATE)
        if snapshot.state == "running" and not force:
            return Cancellation(run_id=run_id, state="running", version=snapshot.version, written=False)
    try:
        done = yield from _send(runs, run_id, "cancel", token, {})
    except TransitionRefusedError as refusal:
        if not asked or refusal.state != "cancelled":
            raise
        # it was active when we asked, and its worker, or another caller, was faster than we
        return Cancellation(run_id=run_id, state="cancelled", version=refusal.version, written=True)
    return Cancellation(run_id=run_id, state=done.target, version=done.version, written=True)


def cancel_own(
    runs: RunStatements, run_id: UUID, token: UUID, worker: str | None, params: Mapping[str, Any]
) -> Plan[Transitioned]:
    """The last word of a function that stopped because it was cancelled, or by its own decision.

    The request is written too, so that the guard of `cancel` holds. Of a running run only the worker that
    holds the lease may ask so.

    Args:
        runs: the statements.
        run_id: which run.
        token: the same over every connection.
        worker: owner of the lease; None for a run that has not started.
        params: further parameters of `cancel`.
    """
    key = runs.of_mapping.mapping.key_values(run_id)
    request = runs.request_cancel if worker is None else runs.request_own_cancel
    asked = yield from _executed(request, key if worker is None else {**key, "worker": worker})
    if not asked.matched:
        snapshot = yield from _ended_by(runs, run_id, token)
        if snapshot is not None:
            reason = Reason.GUARD if snapshot.state == "running" else Reason.STATE
            raise _refused(runs, snapshot, "cancel", reason, ("holds_lease",))
    return (yield from _send(runs, run_id, "cancel", token, params))


def _ended_by(runs: RunStatements, run_id: UUID, token: UUID) -> Plan[Snapshot | None]:
    """The run as it is; None if an earlier try with this token has ended it already."""
    snapshot = yield from plans.load(runs.of_mapping, run_id)
    sources = len(runs.of_mapping.event("cancel").sources)
    mine = plans.source_number(token, snapshot.values[runs.of_mapping.mapping.token], sources)
    return snapshot if mine is None else None


def _send(runs: RunStatements, run_id: UUID, event: str, token: UUID, params: Mapping[str, Any]) -> Plan[Transitioned]:
    return plans.send(runs.of_mapping, run_id, event, expected_version=None, token=token, params=params)


def _refused(
    runs: RunStatements, snapshot: Snapshot, event: str, reason: Reason, guards: tuple[str, ...] = ()
) -> TransitionRefusedError:
    return TransitionRefusedError(
        table=runs.of_mapping.mapping.table,
        key=snapshot.key,
        event=event,
        state=snapshot.state,
        version=snapshot.version,
        reason=reason,
        guards=guards if reason is Reason.GUARD else (),
        sources=runs.of_mapping.event(event).sources,
    )


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat tells and asks.

    Attributes:
        held: runs whose leases are extended, each with its worker.
        progress: what is to be saved, each with its worker.
        watched: ids of the runs to look at.
        lease: seconds.
    """

    held: Sequence[tuple[UUID, str]]
    progress: Sequence[tuple[str, Progress]]
    watched: Sequence[UUID]
    lease: float


def beat(runs: RunStatements, told: Beat) -> Plan[Sequence[Mapping[str, Any]]]:
    """Extend leases, save progress, and return the rows of the watched runs."""
    for run_id, worker in told.held:
        key = runs.of_mapping.mapping.key_values(run_id)
        yield from _executed(runs.renew_lease, {**key, "worker": worker, "lease": told.lease})
    for worker, progress in told.progress:
        key = runs.of_mapping.mapping.key_values(progress.run_id)
        values = {f"latch_{name}": value for name, value in progress_params(progress).items()}
        yield from _executed(runs.save_progress, {**key, **values, "worker": worker})
    return (yield from select(runs.watch, ids=list(told.watched))) if told.watched else []


def progress_params(progress: Progress | None) -> dict[str, object]:
    """A run's progress as its columns."""
    if progress is None:
        return {}
    return {
        "progress_current": progress.current,
        "progress_total": progress.total,
        "progress_step": progress.step,
    }
