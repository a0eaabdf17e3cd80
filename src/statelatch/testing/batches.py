"""PURE: do the answers of a batch to the requests for one row agree with it, one after the other?

Theory of operation. Requests for one row are applied in their order, so that each is judged as a call of its own on the
row that the one before has left. That row nobody has seen: it is made up out of the answer, and what `assigns` write.
Where columns were written in between of which nothing is known, guards are not judged; all else is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import ClauseElement

from statelatch.records import Transitioned
from statelatch.testing.calls import Call, Span, Trouble, fail
from statelatch.testing.fault import ProcessDied
from statelatch.testing.oracle import Moves, guards_of
from statelatch.testing.verdicts import CALM, check_answer
from statelatch.testing.written import assigned, foretold, is_by_the_way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from statelatch.mapping import MachineMapping
    from statelatch.testing.stored import Stored

__all__ = ["check_batch"]


def check_batch(
    mapping: MachineMapping, told: Sequence[tuple[Call, object]], span: Span, trouble: Trouble = CALM
) -> list[Span]:
    """Check the answers of a batch to the requests for one row.

    Args:
        mapping: the machine.
        told: the requests, in order, with their answers.
        span: the row before and after the batch.
        trouble: what went wrong meanwhile.

    Returns:
        What each request has found and left: of those after which the process died, the whole.

    Raises:
        LifecycleError: they do not agree.
    """
    if len(told) == 1:
        ((call, answer),) = told
        check_answer(mapping, call, answer, [span], trouble)
        return [span]
    if any(isinstance(answer, ProcessDied) for _, answer in told):
        _check_prefix(mapping, len(told), span)
        return [span]
    last = max((n for n, (_, answer) in enumerate(told) if isinstance(answer, Transitioned)), default=None)
    if last is None and span.before != span.after:
        fail(f"the row {span.after.key!r}, for which a batch applied nothing", span.before, span.after)
    found: list[Span] = []
    row, unknown = span.before, frozenset[str]()
    for n, (call, answer) in enumerate(told):
        is_known = not (unknown and guards_of(mapping, row.state, call.event))
        asked, after = replace(call, foretold=call.foretold and is_known), row
        if n == last:
            after = span.after
        elif isinstance(answer, Transitioned):
            after, unknown = _left(mapping, asked, answer, Span(row, span.after), unknown)
        found.append(Span(row, after))
        check_answer(mapping, asked, answer, found[-1:], trouble)
        row = replace(after, read_at=span.before.read_at)
    return found


def _check_prefix(mapping: MachineMapping, count: int, span: Span) -> None:
    """So many requests at most have been applied, to a row that had not ended."""
    before, after = span
    most = before.version + (0 if mapping.states[before.state].final else count)
    if not before.version <= after.version <= most or (before.version == after.version and before != after):
        fail(f"the row {after.key!r} after {count} requests", f"{before}, or up to version {most}", after)


def _left(
    mapping: MachineMapping, call: Call, answer: Transitioned, span: Span, unknown: frozenset[str]
) -> tuple[Stored, frozenset[str]]:
    """The row as a transition must have left it, and the columns of which that is not known: they are as in the end."""
    row, end = span
    if answer.target not in mapping.states:
        fail(call, f"a state that {mapping.machine.__name__} has", repr(answer.target))
    ways = [way for way in foretold(mapping, call, [row]) if isinstance(way, Moves)] if call.foretold else []
    steps = ways[0].steps if ways else (call.event, mapping.states[answer.target].id)
    written = assigned(mapping, call, steps)
    known = {name for name, value in written.items() if ways and not isinstance(value, ClauseElement)}
    unknown = (unknown - known) | (written.keys() - known)
    unknown |= {name for name, column in mapping.columns.items() if is_by_the_way(column)}
    own = {mapping.state: answer.target, mapping.version: answer.version, mapping.token: answer.token}
    values = {**row.values, **written, **{name: end.values[name] for name in unknown}, **own}
    log = None if end.log is None else end.log[: answer.version]
    left = replace(
        row,
        state=answer.target,
        version=answer.version,
        token=answer.token,
        values=values,
        log=log,
        read_at=end.read_at,
    )
    return left, unknown
