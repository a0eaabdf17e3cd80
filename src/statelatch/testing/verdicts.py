"""PURE: does an answer agree with what was written, and with what the machine does?

Rules. Whatever a call answers,

- it has written one transition at most, the one that the machine takes (`written`);
- a `Transitioned` is the one that was written; after any refusal or failure there is none;
- a refusal is what the machine, or the version, says of the row as it is in the end;
- without a fault there is no failure; the outcome is unknown only if the connection was cut, and no other was had, or
  the row has moved on and has no log: else it could have been found out.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, IntegrityError

from statelatch.errors import (
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    OvertakenError,
    Reason,
    StaleVersionError,
    StatelatchError,
    TransitionRefusedError,
)
from statelatch.records import Transitioned
from statelatch.testing.calls import Call, LifecycleError, Span, Trouble, fail
from statelatch.testing.logs import check_moment
from statelatch.testing.oracle import Moves, Raises, foretell, guards_of, leaves
from statelatch.testing.written import foretold, shown, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statelatch.mapping import MachineMapping
    from statelatch.testing.stored import Stored

__all__ = ["check_again", "check_answer", "check_unknown"]

CALM = Trouble()


def check_answer(
    mapping: MachineMapping, call: Call, answer: object, spans: Sequence[Span], trouble: Trouble = CALM
) -> Span | None:
    """Check that an answer agrees with the row and the machine.

    Args:
        mapping: the machine.
        call: what was asked.
        answer: what was told: the `Transitioned`, or whatever was raised.
        spans: the row, before and after.
        trouble: what went wrong meanwhile.

    Returns:
        The span in which it has written; None if it has not.

    Raises:
        LifecycleError: it does not agree.
    """
    done, row = written(mapping, call, spans), spans[-1].after
    if isinstance(answer, Transitioned):
        _check_transition(call, answer, done, row)
    elif isinstance(answer, OutcomeUnknownError):
        check_unknown(call, answer, trouble, may_be_overtaken=_may_be_overtaken(call, done, spans))
    elif isinstance(answer, Exception):
        _check_not_written(call, answer, done)
        if isinstance(answer, NotAppliedError):
            _check_refusal(mapping, call, answer, spans, trouble)
        elif not isinstance(answer, ConnectionFailureError):
            _check_error(mapping, call, answer, spans, trouble)
        elif not trouble.struck:
            fail(call, "an answer: the database was there", repr(answer))
    return done


def check_unknown(
    what: object, answer: OutcomeUnknownError, trouble: Trouble, *, may_be_overtaken: bool = False
) -> None:
    """The outcome could not be found out.

    Args:
        what: was done.
        answer: that it is unknown.
        trouble: what went wrong meanwhile.
        may_be_overtaken: nobody could tell any more.

    Raises:
        LifecycleError: it could.
    """
    is_overtaken = may_be_overtaken and isinstance(answer, OvertakenError)
    if not trouble.cut or not (trouble.cut_off or is_overtaken):
        fail(what, "an answer: the outcome could be found out over another connection", repr(answer))


def check_again(call: Call, answer: object, done: Span) -> None:
    """A repeated call is told what the first has done.

    Raises:
        LifecycleError: it is told something else.
    """
    expected = call.event, done.before.state, done.after.state, done.after.version, done.after.token
    if not isinstance(answer, Transitioned):
        fail(f"{call}, repeated with its token", f"what it had done, {expected}", repr(answer))
    told = answer.event, answer.source, answer.target, answer.version, answer.token
    if told != expected:
        fail(f"{call}, repeated with its token", f"what it had done, {expected}", told)


def _may_be_overtaken(call: Call, done: Span | None, spans: Sequence[Span]) -> bool:
    """Whether the row may have moved on since it was written: nobody knows at which version one UPDATE has found it."""
    row = spans[-1].after
    if row.log is not None or (done is not None and done.after.version == row.version):
        return False
    has_moved_on = any(one.after.version != other.before.version for one, other in pairwise(spans))
    first = 1 if call.expected_version is None else call.expected_version
    return has_moved_on or (call.compiled and row.version > first + 1)


def _check_transition(call: Call, answer: Transitioned, done: Span | None, row: Stored) -> None:
    if done is None:
        fail(call, f"the row at version {answer.version}, as it was answered", f"version {row.version}, {row.state!r}")
    before, after = done
    told = answer.key, answer.event, answer.version, answer.source, answer.target, answer.token
    stored = after.key, call.event, after.version, before.state, after.state, after.token
    if told != stored:
        fail(call, f"an answer like the row, {stored}", told)
    if not answer.committed:
        fail(call, "a durable transition", "committed=False")
    check_moment(f"the time of {call}", answer.at, done)


def _check_not_written(call: Call, answer: BaseException, done: Span | None) -> None:
    if done is not None:
        found = f"{done.after.state!r} at version {done.after.version}"
        fail(call, f"nothing written: it was answered {type(answer).__name__}", found)


def _check_refusal(
    mapping: MachineMapping, call: Call, answer: NotAppliedError, spans: Sequence[Span], trouble: Trouble
) -> None:
    """It is the right one, and tells the row as it is."""
    row, expected = spans[-1].after, call.expected_version
    match answer:
        case StaleVersionError():
            told = answer.actual_version, answer.state
            is_due = expected != row.version and (expected is not None or trouble.struck)
            if answer.expected_version != expected:
                fail(call, f"a refusal that tells the version {expected} that was expected", answer.expected_version)
        case TransitionRefusedError():
            told = answer.version, answer.state
            is_due = expected in {None, row.version} and _refuses(mapping, call, spans)
            _check_reason(mapping, call, answer, row)
        case _:
            told, is_due = None, False
    if not is_due:
        found = f"{answer!r} at version {row.version} in state {row.state!r} with {shown(row)}"
        fail(call, f"another answer: the machine says {foretell(mapping, row.values, call.event, call.params)}", found)
    if (answer.key, answer.event, told) != (call.key, call.event, (row.version, row.state)):
        found = answer.key, answer.event, told
        fail(call, f"a refusal that tells the row, {(row.version, row.state)}", found)


def _check_reason(mapping: MachineMapping, call: Call, answer: TransitionRefusedError, row: Stored) -> None:
    """It is the machine's: the states that the event leaves, and guards that keep it from leaving this one."""
    if (answer.reason is Reason.GUARD) != leaves(mapping, row.state, call.event):
        fail(call, "the reason why the machine refuses", f"{answer.reason} in state {row.state!r}")
    sources = [state for state in mapping.states if leaves(mapping, state, call.event)]
    if sorted(map(repr, answer.sources)) != sorted(map(repr, sources)):
        fail(call, f"the states that it leaves, {sources}", answer.sources)
    guards = guards_of(mapping, row.state, call.event)
    if not guards.issuperset(answer.guards):
        fail(call, f"guards of the state {row.state!r}, {sorted(guards)}", answer.guards)


def _refuses(mapping: MachineMapping, call: Call, spans: Sequence[Span]) -> bool:
    """Whether the machine refuses; an event that needs Python may have been decided on the row as it was read."""
    if not call.foretold:
        return True
    seen = [spans[-1].after] if call.compiled else [row for span in spans for row in span]
    return any(not isinstance(each, Moves) for each in foretold(mapping, call, seen))


def _check_error(
    mapping: MachineMapping, call: Call, answer: Exception, spans: Sequence[Span], trouble: Trouble
) -> None:
    """It is what the machine raises, or the driver: of a fault that a new connection does not mend, of a constraint."""
    if trouble.struck and isinstance(answer, DBAPIError):
        return
    ways = foretold(mapping, call, [row for span in spans for row in span])
    may_move = not call.foretold or any(isinstance(each, Moves) for each in ways)
    if isinstance(answer, IntegrityError) and may_move:
        return
    raised = [type(each.error) for each in ways if isinstance(each, Raises)]
    if isinstance(answer, StatelatchError) or type(answer) not in raised:
        raise LifecycleError(f"{call}: expected an answer, found {answer!r}; the machine says {ways}") from answer
