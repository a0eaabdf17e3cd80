"""PURE: what the run manager decides, as generators and functions without I/O.

- `create`, `cancel`, `cancel_own` and `beat` are plans for `statelatch.drive`: they yield statements.
- `through` orders connections: it yields the name of the next one to try and is sent its answer.
- `finalized` says what an answer means for the run, and `left_in_spool` of a word that stays there.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from statelatch import plans
from statelatch.commands import Execute, Plan, Reply
from statelatch.errors import (
    ActiveRunExistsError,
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    Reason,
    RowNotFoundError,
    TransitionRefusedError,
)
from statelatch.faults import is_duplicate
from statelatch.records import Transitioned
from statelatch.retrying import once, retried
from statelatch.runs.error_text import error_text
from statelatch.runs.records import Cancellation, Finalized, Outcome, Progress

if TYPE_CHECKING:
    from sqlalchemy import Executable

    from statelatch.records import Snapshot
    from statelatch.runs.last_word import LastWord
    from statelatch.runs.model import RunColumns
    from statelatch.runs.statements import RunStatements

__all__ = [
    "Answer",
    "Beat",
    "beat",
    "cancel",
    "cancel_own",
    "create",
    "finalized",
    "left_in_spool",
    "of_cancelled",
    "of_driver",
    "of_row",
    "select",
    "through",
]

logger = logging.getLogger("statelatch.runs")

Result = TypeVar("Result")
TRIES = 3
SPOOL = "spool"
"""What `Finalized.via` says of a word that no connection took, and that is kept."""


# -- one database -----------------------------------------------------------------------------------


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
    """
    key = runs.of_mapping.mapping.key_values(run_id)
    asked = yield from _executed(runs.request_cancel, key)
    snapshot = yield from _ended_by(runs, run_id, token)
    if snapshot is not None:
        if not asked.matched:
            raise _refused(runs, snapshot, "cancel", Reason.STATE)
        if snapshot.state == "running" and not force:
            return Cancellation(run_id=run_id, state="running", version=snapshot.version, written=False)
    try:
        done = yield from _send(runs, run_id, "cancel", token, {})
    except TransitionRefusedError as refusal:
        if not asked.matched or refusal.state != "cancelled":
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


# -- several connections ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer(Generic[Result]):
    """What the first connection that answered said: a result, or a refusal.

    Attributes:
        via: that connection; None if none answered.
        failures: the others' errors, in order.
    """

    via: str | None
    result: Result | None = None
    refusal: NotAppliedError | None = None
    failures: tuple[Exception, ...] = ()

    @property
    def is_outage(self) -> bool:
        """Whether nobody answered, to whatever one might ask; else the failure is one of what was asked."""
        return self.via is None and all(isinstance(failure, ConnectionFailureError) for failure in self.failures)

    def unwrap(self) -> Result:
        """The result; raises the refusal, or if none answered an unknown outcome, or else the first error.

        One that does not know whether it has written outweighs the others, which know that they have not.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.via is None:
            unknown = (failure for failure in self.failures if isinstance(failure, OutcomeUnknownError))
            raise next(unknown, self.failures[0])
        return self.result  # pyright: ignore[reportReturnType]  an answer without refusal has a result


def through(vias: Sequence[str]) -> Generator[str, Result, Answer[Result]]:
    """Try connections in order until one answers. A refusal is an answer: nothing is tried after it."""
    failures: list[Exception] = []
    for via in vias:
        try:
            result = yield via
        except NotAppliedError as refusal:
            return Answer(via, refusal=refusal, failures=tuple(failures))
        except Exception as error:  # noqa: BLE001  whatever it is, the next connection may answer
            logger.debug("%s: no answer (%s)", via, error_text(error))
            failures.append(error)
        else:
            return Answer(via, result=result, failures=tuple(failures))
    return Answer(None, failures=tuple(failures))


def finalized(
    run_id: UUID, target: str, answer: Answer[Transitioned], error: str | None, *, kept: bool = False
) -> Finalized:
    """What became of a run's last word.

    Args:
        run_id: which run.
        target: the state that was to be written.
        answer: what the connections said.
        error: text of the function's error, sanitized.
        kept: if no connection took it, it is in the spool.
    """
    state: str | None
    version: int | None
    via = answer.via
    match answer:
        case Answer(via=None):
            outcome, state, version = Outcome.SPOOLED if kept else Outcome.UNSAVED, None, None
            via = SPOOL if kept else None
            error = error or error_text(of_driver(answer.failures[-1]))
        case Answer(refusal=None):
            applied = answer.unwrap()
            outcome, state, version = Outcome.APPLIED, applied.target, applied.version
        case Answer(refusal=refusal):
            outcome, state, version = Outcome.NO_OP, *_held(refusal)
    return Finalized(run_id=run_id, target=target, outcome=outcome, state=state, version=version, via=via, error=error)


def left_in_spool(word: LastWord, answer: Answer[Transitioned]) -> Finalized | None:
    """What is told of a word that stays in the spool, and why; None if the answer settles it.

    A row that is not there settles nothing: it may be in another database.
    """
    if answer.via is None:
        reason = of_driver(answer.failures[-1])
    elif isinstance(answer.refusal, RowNotFoundError):
        reason = answer.refusal
    else:
        return None
    return Finalized(
        run_id=word.run_id,
        target=word.target,
        outcome=Outcome.SPOOLED,
        state=None,
        version=None,
        via=SPOOL,
        error=error_text(reason),
    )


def of_cancelled(run_id: UUID, answer: Answer[Cancellation]) -> Finalized:
    """What became of a run that a caller of this process cancelled."""
    done = answer.result
    if done is not None:
        outcome, state, version = Outcome.APPLIED, done.state, done.version
    elif answer.refusal is not None:
        outcome, state, version = Outcome.NO_OP, *_held(answer.refusal)
    else:
        outcome, state, version = Outcome.UNSAVED, None, None
    return Finalized(run_id=run_id, target="cancelled", outcome=outcome, state=state, version=version, via=answer.via)


def of_row(run: RunColumns, via: str | None) -> Finalized:
    """The end of a run that this process did not see, as the row tells it."""
    return Finalized(
        run_id=run.id,
        target=run.status,
        outcome=Outcome.APPLIED,
        state=run.status,
        version=run.version,
        via=via,
        error=run.error,
    )


def of_driver(error: Exception) -> BaseException:
    """What the driver said; SQLAlchemy would add the statement and its values."""
    return getattr(error, "orig", None) or error


def _held(refusal: NotAppliedError | None) -> tuple[str | None, int | None]:
    """The state and version that the database holds, as a refusal tells them."""
    if refusal is None or isinstance(refusal, RowNotFoundError):
        return None, None
    version = getattr(refusal, "version", getattr(refusal, "actual_version", None))
    return getattr(refusal, "state", None), version
