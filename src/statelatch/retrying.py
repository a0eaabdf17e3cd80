"""PURE: which failures are worth another try, how many, and how long to wait before it.

Nothing is tried again that cannot succeed: an answer of the database is no failure, and a connection that is gone is
for the caller to replace. The waits grow and are random, so that those who were in each other's way do not meet again;
the library `tenacity` reckons them ("full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar

from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_random_exponential

from statelatch.commands import Execute, Pause, Plan, Reply
from statelatch.errors import ConnectionFailureError
from statelatch.faults import Passing, ReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["TRIES", "insisted", "once", "pauses", "raise_final", "retried"]

Result = TypeVar("Result")

TRIES = 3
"""How often a lost race, or a transaction that the database broke off, is begun anew."""

RETRYING = Retrying(stop=stop_after_attempt(TRIES), wait=wait_random_exponential(multiplier=0.05, max=1.0))


def retried(attempt: Callable[[], Plan[Result]]) -> Plan[Result]:
    """Begin a plan anew, a few times, when what was in its way may pass.

    Raises:
        ConnectionFailureError: it has not passed.
        sqlalchemy.exc.DBAPIError: likewise, and no other connection would help: the disk is full, or takes no writes.
    """
    try:
        return (yield from attempt())  # nearly always the only one, so it costs nothing more
    except Passing as error:
        return (yield from _again(attempt, error, Passing))


def insisted(attempt: Callable[[], Plan[Result]]) -> Plan[Result]:
    """The same for what only asks, and is worth a few tries even if nobody answers.

    Raises:
        ConnectionFailureError: nobody has; whatever the driver said of it.
    """
    try:
        return (yield from attempt())
    except ConnectionFailureError as error:
        failure = error
    try:
        return (yield from _again(attempt, failure, ConnectionFailureError))
    except DBAPIError as error:
        raise ConnectionFailureError(
            phase=failure.phase, database=failure.database, detail=str(error.orig or error)
        ) from error


def once(transaction: Execute) -> Callable[[], Plan[Reply]]:
    """A plan of one transaction."""

    def attempt() -> Plan[Reply]:
        return (yield transaction)

    return attempt


def pauses() -> Iterator[Pause]:
    """What to wait before each try but the first."""
    state = RetryCallState(RETRYING, fn=None, args=(), kwargs={})
    while not RETRYING.stop(state):
        yield Pause(RETRYING.wait(state))
        state.prepare_for_next_attempt()


def _again(
    attempt: Callable[[], Plan[Result]], error: ConnectionFailureError, kind: type[ConnectionFailureError]
) -> Plan[Result]:
    for pause in pauses():
        yield pause
        try:
            return (yield from attempt())
        except kind as failure:
            if isinstance(failure, ReadOnly) and isinstance(error, ReadOnly):  # the new connection led to no other
                error = failure
                break
            error = failure
    raise_final(error)


def raise_final(error: ConnectionFailureError) -> NoReturn:
    """Raise what this failure is when there are no more tries."""
    cause = error.__cause__
    final = error.final(cause) if isinstance(error, Passing) else error
    if final is cause:
        raise final
    raise final from cause
