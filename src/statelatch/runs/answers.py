"""PURE: the order in which connections are asked, and what an answer means for a run. No I/O.

- `through` orders connections: it yields the name of the next one to try and is sent its answer.
- `finalized` says what an answer means for the run, and `left_in_spool` of a word that stays there.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from statelatch.errors import (
    NotAppliedError,
    OutcomeUnknownError,
    Phase,
    RowNotFoundError,
    TransitionRefusedError,
)
from statelatch.runs.error_text import error_text
from statelatch.runs.plans import CancelRequestedError
from statelatch.runs.records import Cancellation, Finalized, Outcome

if TYPE_CHECKING:
    from uuid import UUID

    from statelatch.records import Transitioned
    from statelatch.runs.last_word import LastWord
    from statelatch.runs.model import RunColumns

__all__ = [
    "Answer",
    "Interruption",
    "finalized",
    "left_in_spool",
    "of_cancelled",
    "of_driver",
    "of_request",
    "of_row",
    "through",
]

logger = logging.getLogger("statelatch.runs")

Result = TypeVar("Result")
SPOOL = "spool"
"""What `Finalized.via` says of a word that no connection took, and that is kept."""


class Interruption(Exception):  # noqa: N818  named after what it is
    """An interrupt came while a connection was asked; it may have written.

    Attributes:
        interrupt: what was raised, no `Exception`.
    """

    def __init__(self, interrupt: BaseException) -> None:
        self.interrupt = interrupt
        super().__init__(f"interrupted by {type(interrupt).__name__}")


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
        """Whether no connection was to be had: then none answers, whatever one asks.

        One that was had may have met a lock that lasted, or was lost: who asks next finds out.
        """
        return self.via is None and all(getattr(failure, "phase", None) is Phase.CONNECT for failure in self.failures)

    @property
    def interrupts(self) -> list[BaseException]:
        """What came in between."""
        return [failure.interrupt for failure in self.failures if isinstance(failure, Interruption)]

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


def of_request(run_id: UUID, answer: Answer[Cancellation]) -> Answer[Cancellation]:
    """The answer to a cancel, unless it is that the run has ended as cancelled, and our own request is why.

    It had been written over a connection that was lost, and the worker was faster than the next one.
    """
    refusal = answer.refusal
    requested = any(isinstance(failure, CancelRequestedError) for failure in answer.failures)
    if not requested or not isinstance(refusal, TransitionRefusedError) or refusal.state != "cancelled":
        return answer
    done = Cancellation(run_id=run_id, state="cancelled", version=refusal.version, written=True)
    return Answer(answer.via, result=done, failures=answer.failures)


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
