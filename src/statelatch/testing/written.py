"""PURE: is what a call has written what the machine does, and nothing beside it?

A row is watched in *spans*, stretches of time in which nobody else wrote: two if somebody overtook the call. It has
written in one of them at most: one transition, by one version, with a new token; the columns that `assigns` and
callbacks write have their values, and no other has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter
from sqlalchemy.types import NullType

from statelatch.testing.calls import Call, LifecycleError, Span, fail
from statelatch.testing.logs import check_entry
from statelatch.testing.oracle import Foretold, Moves, foretell, targets_of, varies
from statelatch.testing.stored import same
from statelatch.tokens import source_number
from statelatch.writes import clause_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Column

    from statelatch.mapping import MachineMapping
    from statelatch.testing.stored import Stored

__all__ = ["assigned", "foretold", "is_by_the_way", "shown", "written"]

_VARIANTS = 256
"""More states than any event leaves: tokens that differ by less are variants of one."""

_BY_TRIGGER = "if a trigger writes it, declare the column with server_onupdate=FetchedValue()"


def written(mapping: MachineMapping, call: Call, spans: Sequence[Span]) -> Span | None:
    """The span in which the call has written, after a check of what it wrote; None if it has not.

    Raises:
        LifecycleError: it wrote twice, or what the machine does not do.
    """
    found = [span for span in spans if span.before.version != span.after.version]
    for span in spans:
        if span not in found and span.before != span.after:
            fail(call, f"the row and its log unchanged at version {span.before.version}", _difference(span))
    if len(found) > 1:
        fail(call, "one transition at most", f"two: versions {found[0].after.version} and {found[1].after.version}")
    for span in found:
        _check_write(mapping, call, span, [each.before for each in spans])
        check_entry(call, span)
    return found[0] if found else None


def foretold(mapping: MachineMapping, call: Call, rows: Sequence[Stored]) -> list[Foretold]:
    """What the machine makes of the event on each of these rows."""
    return [foretell(mapping, row.values, call.event, call.params) for row in rows]


def assigned(mapping: MachineMapping, call: Call, steps: Sequence[str]) -> dict[str, Any]:
    """What `assigns` write for these events and states, in order; an SQL expression stays one."""
    return {
        name: _value(mapping.columns[name], value, call.params)
        for step in steps
        for name, value in mapping.assigns.get(step, {}).items()
    }


def is_by_the_way(column: Column[Any], *, is_told: bool = False) -> bool:
    """Whether each UPDATE writes the column, or the database does, whatever the event; unless it is told what."""
    return column.computed is not None or column.server_onupdate is not None or not (is_told or column.onupdate is None)


def _check_write(mapping: MachineMapping, call: Call, span: Span, seen: Sequence[Stored]) -> None:
    """One transition, by one version, of the machine's."""
    before, after = span
    if mapping.states[before.state].final:
        fail(call, f"the terminal state {before.state!r} to hold", f"{after.state!r} at version {after.version}")
    if after.version != before.version + 1:
        fail(call, f"version {before.version + 1} after {before.version}", after.version)
    if call.expected_version not in {None, before.version}:
        fail(call, f"nothing written at version {before.version}", f"{after.state!r} at version {after.version}")
    if after.token is None or after.token == before.token:
        fail(call, "a new token in the row", after.token)
    if call.token is not None and source_number(call.token, after.token, _VARIANTS) is None:
        fail(call, f"the token {call.token}, or a variant of it", after.token)
    if call.foretold:
        _check_foretold(mapping, call, span, [before] if call.compiled else seen)
    elif after.state not in (targets := targets_of(mapping, before.state, call.event)):
        fail(call, f"one of {targets}, from {before.state!r}", repr(after.state))


def _check_foretold(mapping: MachineMapping, call: Call, span: Span, seen: Sequence[Stored]) -> None:
    """What the machine makes of one of the rows that the call may have read is what is in the row."""
    before, after = span
    ways = foretold(mapping, call, seen)
    targets = [each.target for each in ways if isinstance(each, Moves)]
    if after.state not in targets:
        found = f"{after.state!r}, from {before.state!r} with {shown(before)}"
        fail(call, f"{targets[0]!r}" if targets else "a refusal", found)
    wrong: list[str | None] = [
        _wrong(mapping, call, span, row, {**each.changes, **assigned(mapping, call, each.steps)})
        for row, each in zip(seen, ways, strict=True)
        if isinstance(each, Moves) and each.target == after.state
    ]
    if None not in wrong:
        raise LifecycleError(wrong[0])


def _wrong(mapping: MachineMapping, call: Call, span: Span, seen: Stored, expected: Mapping[str, Any]) -> str | None:
    """The first column that is not as it must be, as a message; None if there is none."""
    before, after = span
    for name, column in mapping.columns.items():
        if name in {mapping.state, mapping.version, mapping.token} or is_by_the_way(column, is_told=name in expected):
            continue
        is_right = after.holds(name, expected.get(name, before.values[name]))
        if not is_right and not varies(mapping, seen.values, call.event, call.params, name):
            due = (
                f"{expected[name]!r}" if name in expected else f"{before.values[name]!r}, as it was: nobody assigns it"
            )
            return f"{call}: expected the column {name!r} {due}, found {after.values[name]!r} ({_BY_TRIGGER})"
    return None


def _value(column: Column[Any], value: object, params: Mapping[str, Any]) -> object:
    """A constant, or what a bindparam of the column's type is given; else the SQL expression."""
    clause = clause_of(value)
    if not isinstance(clause, BindParameter):
        return value if clause is None else clause
    if not isinstance(clause.type, NullType) and not isinstance(column.type, type(clause.type)):
        return clause
    return params.get(clause.key, clause.effective_value)


def _difference(span: Span) -> str:
    """What has changed, in a few words."""
    before, after = span
    changed = {name: value for name, value in after.values.items() if not same(before.values[name], value)}
    entries = "" if same(before.log, after.log) else f", and {len(after.log or ())} entries in the log"
    return f"{changed} instead of { ({name: before.values[name] for name in changed}) }{entries}"


def shown(row: Stored) -> str:
    """The columns of a row that have a value."""
    return ", ".join(f"{name}={value!r}" for name, value in row.values.items() if value is not None)
