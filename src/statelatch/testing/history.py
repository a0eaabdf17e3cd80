"""PURE: `check_history`: can everything that clients were told about a row be true?

What an answer claims is written down in `statelatch.testing.claims`, the search for an order of the claims is in
`statelatch.testing.linearization`; what no order explains is brought down to what matters by
`statelatch.testing.reduction`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from statelatch.errors import StaleVersionError, StatelatchError, TransitionRefusedError
from statelatch.records import Snapshot, Transitioned
from statelatch.testing.claims import contradiction, left_twice, statements_of
from statelatch.testing.reduction import Core, core_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from statelatch.testing.operations import Operation

__all__ = ["HistoryError", "check_history"]


class HistoryError(StatelatchError, AssertionError):
    """No order of the operations explains what their clients were told: the adapter has lied to one of them.

    Attributes:
        key: primary key of the row.
        operations: the smallest history that cannot be explained, in the order of the calls.
        initial: version and state before them; None if that is not known.
    """

    def __init__(
        self, *, key: object, operations: Sequence[Operation], initial: tuple[int, Any] | None, verdict: str
    ) -> None:
        self.key, self.operations, self.initial = key, tuple(operations), initial
        super().__init__("\n".join([f"key {key!r}: {verdict}:", *_table(self.operations)]))


def check_history(operations: Iterable[Operation], *, initial: Iterable[Snapshot] | None = None) -> None:
    """Check that an order of the concurrent operations exists which explains every answer.

    Each answer is compared with its call, and each row is judged by itself. Nobody but the clients of this history has
    written the rows, and none was deleted. Where so many outcomes are unknown that 100,000 steps of search do not tell,
    the history is believed.

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
    for operation in sorted(operations, key=lambda each: each.called):
        if operation.returned is not None and operation.returned < operation.called:
            raise ValueError(f"expected an operation that returns after its call, found {operation}; use one clock")
        if operation.key is not None:
            rows[operation.key].append(operation)
    _check_answers([operation for asked in rows.values() for operation in asked], known)
    for key, asked in rows.items():
        core = core_of(statements_of(asked), known.get(key))
        if core is not None:
            raise _unexplained(key, asked, core, known.get(key))


def _check_answers(operations: Sequence[Operation], known: Mapping[object, tuple[int, Any]]) -> None:
    """Each by itself, and tokens.

    Raises:
        HistoryError: one is not the answer of its call.
    """
    for operation in operations:
        if wrong := contradiction(operation):
            verdict = f"this answer cannot be true, whatever others did; {wrong}"
            raise HistoryError(
                key=operation.key, operations=[operation], initial=known.get(operation.key), verdict=verdict
            )
    for first, second in left_twice(operations):
        verdict = f"one token was left twice; expected one transition for it, found another to key {second.key!r}"
        raise HistoryError(key=first.key, operations=[first, second], initial=known.get(first.key), verdict=verdict)


def _unexplained(key: object, asked: Sequence[Operation], core: Core, initial: tuple[int, Any] | None) -> HistoryError:
    """The error: the operations that are told, and what is said of the others."""
    needed = {id(each) for one in core.statements for each in one.operations}
    told = [each for each in asked if id(each) in needed]
    others = len(asked) - len(told)
    beside = f", whatever the other {others} of this row {'did' if core.is_whole else 'saw'}" if others else ""
    if not core.is_whole:
        beside += ", as long as they changed no more than they say"
    if not core.is_smallest:
        beside += " (not reduced to the end: fewer of them may do)"
    before = "in any state" if initial is None else f"at version {initial[0]} in state {initial[1]!r}"
    verdict = (
        f"no order of these {len(told)} operations explains every answer{beside}. "
        "Expected: each transition makes one version out of the one before while its call lasts, and nobody sees "
        f"another row than there was. Found, with the row before {before}"
    )
    return HistoryError(key=key, operations=told, initial=initial, verdict=verdict)


_ROWS = 50
"""Operations that a message prints."""


def _table(operations: Sequence[Operation]) -> Iterator[str]:
    """The history, a line for each operation."""
    rows = [("called", "returned", "client", "asked", "told"), *map(_cells, operations[:_ROWS])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(map(str.ljust, row, widths)).rstrip()
    if len(operations) > _ROWS:
        yield f"  ... and {len(operations) - _ROWS} more, in `operations`"


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
