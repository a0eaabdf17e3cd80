"""PURE: `check_history`: can everything that clients were told about a row be true?

Rules. A row is an object with a version and a state. What each answer claims about it is written down here, the search
for an order of the claims is in `statelatch.testing.linearization`:

- a `Transitioned` made its version out of the one before, between its call and its return; a `create` made version 1;
- a refusal, a missing row and a `Snapshot` have seen the row, and changed nothing;
- a `ConnectionFailureError`, or any other exception, changed nothing, ever, and has seen nothing;
- an `OutcomeUnknownError`, or no answer at all, may have made one version, at any time after the call;
- calls with one token are one: it was applied once, whoever was told so, or not at all.

What no order explains is reduced to what matters. The answer of an operation can be *forgotten*: then the operation may
have done anything once, or nothing, while it lasted. If the rest is still not explained, it is no part of the error.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from statelatch.errors import (
    OutcomeUnknownError,
    Reason,
    RowNotFoundError,
    StaleVersionError,
    StatelatchError,
    TransitionRefusedError,
)
from statelatch.records import Snapshot, Transitioned
from statelatch.testing.linearization import ABSENT, Claim, Maybe, Saw, Wrote, is_explained
from statelatch.testing.operations import Operation, Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

__all__ = ["HistoryError", "check_history"]


class HistoryError(StatelatchError, AssertionError):
    """No order of the operations explains what their clients were told: the adapter has lied to one of them.

    Attributes:
        key: primary key of the row.
        operations: the smallest history that cannot be explained, in the order of the calls.
        initial: version and state before them; None if that is not known.
    """

    def __init__(self, *, key: object, operations: tuple[Operation, ...], initial: object, others: int) -> None:
        self.key, self.operations, self.initial, self.others = key, operations, initial, others
        super().__init__(_message(key, operations, cast("tuple[int, Any] | None", initial), others))


def check_history(operations: Iterable[Operation], *, initial: Iterable[Snapshot] | None = None) -> None:
    """Check that an order of the concurrent operations exists which explains every answer.

    Each row is judged by itself. Nobody but the clients of this history has written the rows, and none was deleted.
    Where so many outcomes are unknown that 100,000 steps of search do not tell, the history is believed.

    Args:
        operations: what was asked and told, in any order; a `History` for instance.
        initial: rows as they were before the first operation; what is not told there, and not created in the history,
            may have been in any state at any version.

    Raises:
        HistoryError: there is no such order; the message prints the smallest history that has none.
        ValueError: an operation returned before it was called: its times are not of one clock.
    """
    known = {snapshot.key: (snapshot.version, snapshot.state) for snapshot in initial or ()}
    rows: defaultdict[object, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.returned is not None and operation.returned < operation.called:
            raise ValueError(f"expected an operation that returns after its call, found {operation}; use one clock")
        if operation.key is not None:
            rows[operation.key].append(operation)
    for key, asked in rows.items():
        statements = _statements(sorted(asked, key=lambda each: each.called))
        core = _core(statements, known.get(key))
        if core is not None:
            told = tuple(sorted((each for one in core for each in one.operations), key=lambda each: each.called))
            others = len(asked) - len(told)
            raise HistoryError(key=key, operations=told, initial=known.get(key), others=others)


@dataclass(frozen=True, slots=True)
class Statement:
    """What an operation, or several with one token, claims about its row.

    Attributes:
        operations: whose claim it is.
        claim: None if it claims nothing.
        forgotten: what is left to reckon with if the answer is forgotten.
        is_impossible: no row whatever could have given these answers.
    """

    operations: tuple[Operation, ...]
    claim: Claim | None
    forgotten: Maybe | None = None
    is_impossible: bool = False


def _statements(operations: Sequence[Operation]) -> list[Statement]:
    """What the operations on one row claim, tokens taken into account."""
    by_token: defaultdict[object, list[Statement]] = defaultdict(list)
    for number, operation in enumerate(operations):
        statement = _statement(operation)
        has_effect = isinstance(statement.claim, Wrote | Maybe)
        by_token[(_proof(operation) if has_effect else None) or number].append(statement)
    return [*map(_merged, by_token.values()), *map(_merged, _left_twice(operations))]


def _left_twice(operations: Sequence[Operation]) -> list[list[Statement]]:
    """Calls whose transitions have left one token at two versions, with whatever tokens they were sent."""
    by_version: defaultdict[UUID, dict[int, Operation]] = defaultdict(dict)
    for operation in operations:
        if isinstance(operation.answer, Transitioned):
            by_version[operation.answer.token][operation.answer.version] = operation
    return [list(map(_statement, twice.values())) for twice in by_version.values() if len(twice) > 1]


def _proof(operation: Operation) -> UUID | None:
    """The token of this call, if it is known."""
    answer = operation.answer
    if operation.token is None and isinstance(answer, OutcomeUnknownError):
        return answer.token
    return operation.token


def _merged(statements: Sequence[Statement]) -> Statement:
    """Calls with one token are one call: from the first of them to the first that was told of its effect."""
    first, *others = statements
    if not others:
        return first
    told = [each.claim for each in statements if isinstance(each.claim, Wrote)]
    operations = tuple(operation for each in statements for operation in each.operations)
    called = operations[0].called
    if not told:
        return replace(first, operations=operations)
    returned = min(claim.returned for claim in told)
    return Statement(
        operations,
        replace(told[0], called=called, returned=returned),
        Maybe(called, returned),
        is_impossible=any(each.is_impossible for each in statements)
        or len({(claim.version, claim.source, claim.target) for claim in told}) > 1,
    )


def _statement(operation: Operation) -> Statement:
    """What one operation claims."""
    answer, called = operation.answer, operation.called
    returned = math.inf if operation.returned is None else operation.returned
    forgotten = None if operation.verb is Verb.LOAD else Maybe(called, returned)
    match answer:
        case Transitioned():
            wrote = Wrote(called, returned, answer.version, answer.source, answer.target)
            return Statement((operation,), wrote, forgotten, _is_no_move(operation, wrote))
        case Snapshot() if operation.verb is Verb.CREATE:
            wrote = Wrote(called, returned, answer.version, ABSENT, answer.state)
            return Statement((operation,), wrote, forgotten, answer.version != 1)
        case Snapshot():
            return Statement((operation,), Saw(called, returned, answer.version, answer.state))
        case StaleVersionError():
            saw = Saw(called, returned, answer.actual_version, answer.state)
            return Statement((operation,), saw, forgotten, answer.actual_version == operation.expected_version)
        case TransitionRefusedError():
            saw = Saw(called, returned, answer.version, answer.state)
            return Statement((operation,), saw, forgotten, _is_no_refusal(operation, answer))
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
    expected = 0 if operation.verb is Verb.CREATE else operation.expected_version
    anything = Maybe(operation.called)
    return Statement((operation,), replace(anything, expected=expected, moves=operation.moves), anything)


def _is_no_move(operation: Operation, wrote: Wrote) -> bool:
    """Whether the machine, or the version that was asked for, do not allow this transition."""
    if operation.expected_version not in {None, wrote.version - 1}:
        return True
    return operation.moves is not None and wrote.target not in operation.moves.get(wrote.source, ())


def _is_no_refusal(operation: Operation, refused: TransitionRefusedError) -> bool:
    """Whether another error would have been due: of the version, or of the state instead of the guards."""
    if operation.expected_version not in {None, refused.version}:
        return True
    return (refused.reason is Reason.GUARD) != (refused.state in refused.sources)


def _core(statements: list[Statement], initial: tuple[int, Any] | None) -> list[Statement] | None:
    """The smallest part of them that cannot be explained, whatever the others did; None if all can be explained.

    It is found as delta debugging does it (Zeller & Hildebrandt, 2002): half of them are forgotten at once, then
    quarters, in the end one by one.
    """
    for statement in statements:
        if statement.is_impossible:
            return [statement]
    forgotten: list[Maybe] = []
    if _are_explained(statements, forgotten, initial):
        return None
    size = len(statements)
    while size > 1:
        size = (size + 1) // 2
        start = 0
        while start < len(statements):
            rest = statements[:start] + statements[start + size :]
            left = [each.forgotten for each in statements[start : start + size] if each.forgotten is not None]
            if _are_explained(rest, forgotten + left, initial):
                start += size
            else:
                statements, forgotten = rest, forgotten + left
    return statements


def _are_explained(statements: Iterable[Statement], forgotten: list[Maybe], initial: tuple[int, Any] | None) -> bool:
    claims: list[Claim] = [each.claim for each in statements if each.claim is not None]
    return is_explained(claims + forgotten, initial)


def _message(key: object, operations: Sequence[Operation], initial: tuple[int, Any] | None, others: int) -> str:
    """The history as a table, and what is wrong with it."""
    beside = f", whatever the other {others} of this row did" if others else ""
    before = "in any state" if initial is None else f"at version {initial[0]} in state {initial[1]!r}"
    rows = [("called", "returned", "client", "asked", "told"), *map(_cells, operations)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    verdict = (
        f"key {key!r}: no order of these {len(operations)} operations explains every answer{beside}. "
        "Expected: each transition makes one version out of the one before while its call lasts, and nobody sees "
        f"another row than there was. Found, with the row before {before}:"
    )
    return "\n".join([verdict, *(f"  {line}" for line in table)])


def _cells(operation: Operation) -> tuple[str, str, str, str, str]:
    returned = "never" if operation.returned is None else f"{operation.returned:g}"
    return f"{operation.called:g}", returned, operation.client, operation.asked(), _told(operation.answer)


def _told(answer: object) -> str:
    """An answer in a few words."""
    match answer:
        case None:
            return "nothing"
        case Transitioned():
            return f"{answer.source!r} -> {answer.target!r}, version {answer.version}"
        case Snapshot():
            return f"version {answer.version}, {answer.state!r}"
        case StaleVersionError():
            return f"StaleVersionError: version {answer.actual_version}, {answer.state!r}"
        case TransitionRefusedError():
            return f"TransitionRefusedError ({answer.reason}): version {answer.version}, {answer.state!r}"
        case _:
            return type(answer).__name__
