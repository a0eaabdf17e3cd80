"""PURE: what an answer claims about its row, and what in it cannot be true of any row.

Rules. A row is an object with a version and a state.

- A `Transitioned` made its version out of the one before, between its call and its return; a `create` made version 1.
- A refusal, a missing row and a `Snapshot` have seen the row, and changed nothing.
- A `ConnectionFailureError`, or any other exception, changed nothing, ever, and has seen nothing.
- An `OutcomeUnknownError`, or no answer at all, may have made one version, at any time after the call.
- Calls with one token are one: it was applied once, whoever was told so, or not at all.

An answer *contradicts* its call if it is that of another key, event, version or token, or what no row can be; and two
contradict each other if one token was left twice. For that no order need be sought.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from statelatch.errors import (
    OutcomeUnknownError,
    Reason,
    RowNotFoundError,
    StaleVersionError,
    TransitionRefusedError,
)
from statelatch.records import Snapshot, Transitioned
from statelatch.testing.linearization import ABSENT, Claim, Maybe, Saw, Wrote
from statelatch.testing.operations import Operation, Verb
from statelatch.tokens import source_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from uuid import UUID

__all__ = ["Statement", "contradiction", "left_twice", "statements_of"]


@dataclass(frozen=True, slots=True)
class Statement:
    """What an operation, or several with one token, claims about its row.

    Attributes:
        operations: whose claim it is.
        claim: None if it claims nothing but that nothing was changed.
        forgotten: what is left to reckon with if the answer is not believed; None if it cannot have written.
    """

    operations: tuple[Operation, ...]
    claim: Claim | None
    forgotten: Maybe | None = None

    @property
    def tells(self) -> bool:
        """Whether it tells how the row was."""
        return isinstance(self.claim, Wrote | Saw)

    @property
    def unseen(self) -> Claim | None:
        """What is left if only what it changed is believed, not what it has seen."""
        if isinstance(self.claim, Wrote):
            return self.forgotten
        return None if self.tells else self.claim

    def overlaps(self, begin: float, end: float) -> bool:
        """Whether it may have changed or seen anything between these times."""
        return any(each and each.called <= end and each.returned >= begin for each in (self.claim, self.forgotten))


def statements_of(operations: Sequence[Operation]) -> list[Statement]:
    """What the operations on one row claim, tokens taken into account; in the order of the operations."""
    by_token: defaultdict[object, list[Statement]] = defaultdict(list)
    for number, operation in enumerate(operations):
        statement = _statement(operation)
        proof = _proof(operation) if isinstance(statement.claim, Wrote | Maybe) else None
        by_token[proof or number].append(statement)
    return [*map(_merged, by_token.values())]


def _proof(operation: Operation) -> UUID | None:
    """The token of this call, if it is known."""
    answer = operation.answer
    if operation.token is None and isinstance(answer, OutcomeUnknownError | Transitioned):
        return answer.token
    return operation.token


def _merged(statements: Sequence[Statement]) -> Statement:
    """Calls with one token are one call: from the first of them to the first that was told of its effect."""
    first, *others = statements
    if not others:
        return first
    operations = tuple(operation for each in statements for operation in each.operations)
    told = [each.claim for each in statements if isinstance(each.claim, Wrote)]
    if not told:
        return replace(first, operations=operations)
    called, returned = operations[0].called, min(claim.returned for claim in told)
    return Statement(operations, replace(told[0], called=called, returned=returned), Maybe(called, returned))


def _statement(operation: Operation) -> Statement:
    """What one operation claims."""
    answer, called = operation.answer, operation.called
    returned = math.inf if operation.returned is None else operation.returned
    forgotten = None if operation.verb is Verb.LOAD else Maybe(called, returned)
    match answer:
        case Transitioned():
            wrote = Wrote(called, returned, answer.version, answer.source, answer.target)
            return Statement((operation,), wrote, forgotten)
        case Snapshot() if operation.verb is Verb.CREATE:
            wrote = Wrote(called, returned, answer.version, ABSENT, answer.state)
            return Statement((operation,), wrote, forgotten)
        case Snapshot():
            return Statement((operation,), Saw(called, returned, answer.version, answer.state), forgotten)
        case StaleVersionError():
            return Statement((operation,), Saw(called, returned, answer.actual_version, answer.state), forgotten)
        case TransitionRefusedError():
            return Statement((operation,), Saw(called, returned, answer.version, answer.state), forgotten)
        case RowNotFoundError():
            return Statement((operation,), Saw(called, returned, 0, ABSENT), forgotten)
        case Exception() if not isinstance(answer, OutcomeUnknownError):
            return Statement((operation,), None, forgotten)
        case _:
            return _unanswered(operation)


def _unanswered(operation: Operation) -> Statement:
    """The client does not know what became of it, and no more do we."""
    if operation.verb is Verb.LOAD:
        return Statement((operation,), None)
    creates = operation.verb is Verb.CREATE
    expected = 0 if creates else operation.expected_version
    anything = Maybe(operation.called)
    able = replace(anything, expected=expected, moves=operation.moves, creates=creates)
    return Statement((operation,), able, anything)


_REPEATED: Final = {
    Transitioned: ("key", "event", "token"),
    Snapshot: ("key",),
    StaleVersionError: ("key", "event", "expected_version"),
    TransitionRefusedError: ("key", "event"),
    RowNotFoundError: ("key", "event"),
    OutcomeUnknownError: ("key", "event", "token"),
}
"""What an answer repeats of its call; but for the version only as far as both know it."""


def contradiction(operation: Operation) -> str | None:
    """What this answer cannot be: it is not that of its call, or of any row; None if it may be true."""
    for name in _repeated(type(operation.answer)):
        asked, told = getattr(operation, name), getattr(operation.answer, name)
        is_known = name == "expected_version" or (asked is not None and told is not None)
        is_same = _is_variant(operation, told) if name == "token" else asked == told
        if is_known and not is_same:
            return f"expected the {name} {asked}, found {told}"
    return next(_impossible(operation), None)


@cache
def _repeated(kind: type) -> tuple[str, ...]:
    return next((names for each, names in _REPEATED.items() if issubclass(kind, each)), ())


def _is_variant(operation: Operation, told: UUID | None) -> bool:
    """Whether this is the token that was sent, as one of the event's source states writes it."""
    sources = _SOURCES if operation.moves is None else len(operation.moves)
    return operation.token is None or source_number(operation.token, told, sources) is not None


_SOURCES: Final = 256
"""More states than any event leaves."""


def _impossible(operation: Operation) -> Iterator[str]:
    """What no row can have answered to this call."""
    answer, expected = operation.answer, operation.expected_version
    match answer:
        case Transitioned() if operation.verb is Verb.SEND:
            yield from _no_move(operation, answer)
        case Snapshot() if operation.verb is Verb.CREATE:
            if answer.version != 1:
                yield f"expected a new row at version 1, found version {answer.version}"
        case Snapshot() if operation.verb is Verb.LOAD:
            yield from _no_version(answer.version)
        case StaleVersionError():
            yield from _no_version(answer.actual_version)
            if answer.actual_version == expected:
                yield f"expected another version than {expected}, which is not stale"
        case TransitionRefusedError():
            yield from _no_version(answer.version)
            yield from _no_refusal(operation, answer)
        case None | BaseException():
            return
        case _:
            kind = "a Transitioned" if operation.verb is Verb.SEND else "a Snapshot"
            yield f"expected {kind} or an exception, found {answer!r}"


def _no_version(version: int) -> Iterator[str]:
    if version < 1:
        yield f"expected version 1, at which each row begins, or a later one, found {version}"


def _no_move(operation: Operation, done: Transitioned) -> Iterator[str]:
    """What the machine, the version that was asked for, or the adapter's promises do not allow."""
    expected, moves = operation.expected_version, operation.moves
    if not done.committed:
        yield "expected a transition that is durable, found committed=False"
    if expected not in {None, done.version - 1}:
        yield f"expected version {expected} to be left, found version {done.version} made"
    if done.version < 2:
        yield f"expected version 2 or a later one, found {done.version}: an event makes no row"
    if moves is not None and done.target not in moves.get(done.source, ()):
        yield f"expected a transition of the machine, found {done.source!r} -> {done.target!r}"


def _no_refusal(operation: Operation, refused: TransitionRefusedError) -> Iterator[str]:
    """Another error would have been due: of the version, or of the state instead of the guards."""
    expected, moves, sources = operation.expected_version, operation.moves, refused.sources
    if expected not in {None, refused.version}:
        yield f"expected a StaleVersionError, found version {refused.version} refused, asked was version {expected}"
    if moves is not None and set(sources) != set(moves):
        yield f"expected an event that leaves {', '.join(map(repr, moves))}, found {', '.join(map(repr, sources))}"
    due = Reason.GUARD if refused.state in sources else Reason.STATE
    if refused.reason is not due:
        yield f"expected the reason {due} in state {refused.state!r}, found {refused.reason}"


def left_twice(operations: Iterable[Operation]) -> Iterator[tuple[Operation, Operation]]:
    """Calls whose transitions have left one token twice: at two versions, in two rows, or for two calls.

    Who sends one token with two calls has to answer for it: then it is one call, or must be left in both rows.
    """
    found: dict[UUID, tuple[Operation, Transitioned]] = {}
    for operation in operations:
        if isinstance(operation.answer, Transitioned):
            for token in {operation.answer.token, operation.token or operation.answer.token}:
                first, told = found.setdefault(token, (operation, operation.answer))
                made = first.token is None, operation.token is None
                is_one = _effect(told) == _effect(operation.answer)
                if first is not operation and (any(made) if first.key != operation.key else all(made) or not is_one):
                    yield first, operation


def _effect(done: Transitioned) -> tuple[Any, ...]:
    return done.version, done.source, done.target
