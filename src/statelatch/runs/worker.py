"""One attempt, in the thread that runs it: claim the run, call the function, write the last word.

Nothing escapes: whatever the function, its hooks or the databases do ends in one `Finalized`.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from statelatch.errors import ConnectionFailureError, TransitionRefusedError
from statelatch.interrupts import pass_on
from statelatch.runs import context, endings
from statelatch.runs.answers import Answer, finalized, of_driver
from statelatch.runs.last_word import LastWord
from statelatch.runs.plans import progress_params
from statelatch.tokens import mint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from threading import Event

    from statelatch.records import Transitioned
    from statelatch.runs.connections import Connections
    from statelatch.runs.endings import Ending
    from statelatch.runs.execution import Execution
    from statelatch.runs.finalizer import Finalizer

__all__ = ["Call", "Terms", "finish", "say", "work"]

logger = logging.getLogger("statelatch.runs")


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Any:
        """Call it.

        Raises:
            TypeError: what it returned is still to be run.
        """
        value = self.function(*self.args, **self.kwargs)
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError("the function returned a coroutine, which does not run in a thread; run it inside")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a manager's runs are claimed.

    Attributes:
        lease: seconds for which a worker holds its run.
        retry: seconds after which a claim that no connection answered is tried again.
        closing: set when the manager shuts down: then it is not.
        connections: over which it is claimed.
    """

    lease: float
    retry: float
    closing: Event
    connections: Connections


def work(execution: Execution, call: Call, finalizer: Finalizer, terms: Terms) -> None:
    """Run one attempt from claim to last word."""
    claim = _claimed(execution, terms)
    if claim.refusal is not None:
        _not_started(execution, claim, finalizer)
    elif claim.via is None:
        finish(execution, _unclaimed(execution, claim), finalizer)
    elif execution.cancel_requested.is_set():  # by somebody whom no connection answered
        execution.claimed = True
        finish(execution, endings.cancelled(), finalizer)
    else:
        execution.started()
        finish(execution, _called(execution, call), finalizer)


def _claimed(execution: Execution, terms: Terms) -> Answer[Transitioned]:
    """Claim the run; nothing has been done yet, so wait until some connection answers."""
    token, params = mint(), {"worker": execution.worker, "lease": terms.lease}
    while _is_outage(claim := terms.connections.send(execution.run_id, "start", token, params)):
        if terms.closing.is_set():
            break
        logger.warning("run %s: not started, no connection answered; next try in %s s", execution.run_id, terms.retry)
        terms.closing.wait(terms.retry)
    return claim


def _is_outage(claim: Answer[Transitioned]) -> bool:
    """Whether waiting may help: what is no connection's failure, a missing table for instance, stays as it is."""
    return claim.via is None and any(isinstance(failure, ConnectionFailureError) for failure in claim.failures)


def _unclaimed(execution: Execution, claim: Answer[Transitioned]) -> Ending:
    if execution.cancel_requested.is_set():
        return endings.cancelled()
    error = claim.failures[-1]
    return replace(endings.failed(of_driver(error)), exception=error)


def _called(execution: Execution, call: Call) -> Ending:
    try:
        with context.entered(execution):
            value = call()
    except BaseException as error:  # noqa: BLE001  a thread's SystemExit ends its run, too
        return endings.raised(error)
    finally:
        execution.stopped()
    return endings.completed(execution.run_id, value)


def _not_started(execution: Execution, claim: Answer[Transitioned], finalizer: Finalizer) -> None:
    """The run may not start: it was cancelled while it waited, or is about to be."""
    refusal = claim.refusal
    if isinstance(refusal, TransitionRefusedError) and refusal.state == "pending":
        finish(execution, endings.cancelled(), finalizer)
        return
    execution.refusal = refusal
    said = finalized(execution.run_id, "cancelled", claim, None)
    logger.info("run %s never started: %s", execution.run_id, refusal)
    execution.close(said)


def finish(execution: Execution, ending: Ending, finalizer: Finalizer) -> None:
    """Write a run's last word, or keep it, and tell everybody.

    Never raises for what a database did. An interrupt is passed on when the run is over.
    """
    word = _last_word(execution, ending)
    execution.ending, execution.word = ending, word
    say(execution, word, finalizer)


def say(execution: Execution, word: LastWord, finalizer: Finalizer) -> None:
    """The same of a word that is there already, if what came in between kept it from its end."""
    said, answer = finalizer.write(word)
    execution.refusal = answer.refusal
    execution.close(said)
    pass_on(answer.interrupts)


def _last_word(execution: Execution, ending: Ending) -> LastWord:
    """A cancel of a run that this worker may not have claimed asks for no lease."""
    owned = execution.claimed or ending.event != "cancel"
    return LastWord(
        run_id=execution.run_id,
        event=ending.event,
        token=mint(),
        worker=execution.worker if owned else None,
        params={**ending.params, **progress_params(execution.last_progress)},
        target=ending.target,
        error=ending.error,
    )
