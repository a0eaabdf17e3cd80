"""PURE: does an answer agree with what was written, and with what the machine does?

Rules. A call is watched as one or two *spans* of its row, stretches of time in which nobody else wrote: two if somebody
overtook it. Whatever it answers,

- it has written in one span at most, one transition, the one that the machine takes there, and nothing beside it;
- a `Transitioned` is the one that was written; after any refusal or failure there is none;
- a refusal is what the machine, or the version, says of the row as it is in the end;
- without a fault there is no failure, and without a lost acknowledgement no unknown outcome;
- a log has an entry for each version, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from sqlalchemy.exc import DBAPIError

from statelatch.errors import (
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    Reason,
    StaleVersionError,
    StatelatchError,
    TransitionRefusedError,
)
from statelatch.records import Transitioned
from statelatch.testing.oracle import Foretold, Moves, Raises, foretell, leaves
from statelatch.tokens import source_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from statelatch.mapping import MachineMapping
    from statelatch.testing.stored import Stored

__all__ = ["Call", "LifecycleError", "Span", "check_answer", "check_batch", "check_log", "fail", "written"]

_VARIANTS = 256
"""More states than any event leaves: tokens that differ by less are variants of one."""


class LifecycleError(StatelatchError, AssertionError):
    """An answer does not agree with the row, the log or the machine."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of `send`.

    Attributes:
        key: of the row.
        event: name of the event.
        params: its parameters.
        expected_version: as it is sent.
        token: as it is sent; None lets the adapter make one.
        compiled: it is one UPDATE, decided by the row where it is written.
    """

    key: Any
    event: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expected_version: int | None = None
    token: UUID | None = None
    compiled: bool = True

    def __str__(self) -> str:
        """The call as a message has it."""
        at = "" if self.expected_version is None else f" at version {self.expected_version}"
        return f"{self.event!r} to {self.key!r}{at}"


class Span(NamedTuple):
    """A row before and after a stretch of time in which nobody but the call wrote it."""

    before: Stored
    after: Stored


def fail(what: object, expected: object, found: object) -> NoReturn:
    """Raise the error that says so."""
    raise LifecycleError(f"{what}: expected {expected}, found {found}")


def written(mapping: MachineMapping, call: Call, spans: Sequence[Span]) -> Span | None:
    """The span in which the call has written, after a check of what it wrote; None if it has not.

    Raises:
        LifecycleError: it wrote twice, or what the machine does not do.
    """
    found = [span for span in spans if span.before.version != span.after.version]
    for span in spans:
        if span not in found:
            _check_untouched(call, span)
    if len(found) > 1:
        fail(call, "one transition at most", f"two: versions {found[0].after.version} and {found[1].after.version}")
    for span in found:
        _check_write(mapping, call, span, [each.before for each in spans])
    return found[0] if found else None


def _check_untouched(call: Call, span: Span) -> None:
    if span.before != span.after:
        fail(call, f"the row and its log unchanged at version {span.before.version}", _difference(span))


def _check_write(mapping: MachineMapping, call: Call, span: Span, seen: Sequence[Stored]) -> None:
    """One transition, by one version, of the machine's."""
    before, after = span
    if mapping.states[before.state].final:
        fail(call, f"the terminal state {before.state!r} to hold", f"{after.state!r} at version {after.version}")
    if after.version != before.version + 1:
        fail(call, f"version {before.version + 1} after {before.version}", after.version)
    if call.expected_version not in {None, before.version}:
        fail(call, f"nothing written at version {before.version}", f"{after.state!r} at version {after.version}")
    foretold = _foretold(mapping, call, [before] if call.compiled else seen)
    targets = [each.target for each in foretold if isinstance(each, Moves)]
    if after.state not in targets:
        found = f"{after.state!r}, from {before.state!r} with {_shown(before)}"
        fail(call, f"{targets[0]!r}" if targets else "a refusal", found)
    if after.token is None or after.token == before.token:
        fail(call, "a new token in the row", after.token)
    if call.token is not None and source_number(call.token, after.token, _VARIANTS) is None:
        fail(call, f"the token {call.token}, or a variant of it", after.token)
    moves = [each for each in foretold if isinstance(each, Moves)]
    _check_columns(mapping, call, span, frozenset(chain.from_iterable(each.changes for each in moves)))


def _check_columns(mapping: MachineMapping, call: Call, span: Span, changes: frozenset[str]) -> None:
    """Nothing but what `assigns`, callbacks and the table itself write may have changed."""
    target = mapping.states[span.after.state].id
    assigned = {name for owner in (call.event, target) for name in mapping.assigns.get(owner, ())}
    own = {mapping.state, mapping.version, mapping.token}
    for name, column in mapping.columns.items():
        is_own = name in own or column.onupdate is not None or column.server_onupdate is not None
        if is_own or column.computed is not None or name in assigned or name in changes:
            continue
        if span.before.values[name] != span.after.values[name]:
            found = f"{span.after.values[name]!r} instead of {span.before.values[name]!r}"
            fail(call, f"the column {name!r} unchanged: nobody assigns it", found)


def check_answer(
    mapping: MachineMapping, call: Call, answer: object, spans: Sequence[Span], *, struck: bool
) -> Span | None:
    """Check that an answer agrees with the row and the machine.

    Args:
        mapping: the machine.
        call: what was asked.
        answer: what was told: the `Transitioned`, or whatever was raised.
        spans: the row, before and after.
        struck: a fault fired.

    Returns:
        The span in which it has written; None if it has not.

    Raises:
        LifecycleError: it does not agree.
    """
    done, row = written(mapping, call, spans), spans[-1].after
    if isinstance(answer, Transitioned):
        _check_transition(call, answer, done, row)
    elif isinstance(answer, NotAppliedError):
        _check_not_written(call, answer, done)
        _check_refusal(mapping, call, answer, spans, struck=struck)
    elif isinstance(answer, ConnectionFailureError):
        if not struck:
            fail(call, "an answer: the database was there", repr(answer))
        if not isinstance(answer, OutcomeUnknownError):
            _check_not_written(call, answer, done)
    elif isinstance(answer, Exception):
        _check_not_written(call, answer, done)
        _check_error(mapping, call, answer, spans, struck=struck)
    return done


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


def _check_not_written(call: Call, answer: BaseException, done: Span | None) -> None:
    if done is not None:
        found = f"{done.after.state!r} at version {done.after.version}"
        fail(call, f"nothing written: it was answered {type(answer).__name__}", found)


def _check_refusal(
    mapping: MachineMapping, call: Call, answer: NotAppliedError, spans: Sequence[Span], *, struck: bool
) -> None:
    """It is the right one, and tells the row as it is."""
    row, expected = spans[-1].after, call.expected_version
    match answer:
        case StaleVersionError():
            told = answer.actual_version, answer.state
            is_due = expected != row.version and (expected is not None or struck)
        case TransitionRefusedError():
            told = answer.version, answer.state
            is_due = expected in {None, row.version} and _refuses(mapping, call, spans)
            if (answer.reason is Reason.GUARD) != leaves(mapping, row.state, call.event):
                fail(call, "the reason why the machine refuses", f"{answer.reason} in state {row.state!r}")
        case _:
            told, is_due = None, False
    if not is_due:
        foretold = foretell(mapping, row.values, call.event, call.params)
        found = f"{answer!r} at version {row.version} in state {row.state!r} with {_shown(row)}"
        fail(call, f"another answer: the machine says {foretold}", found)
    if told != (row.version, row.state):
        fail(call, f"a refusal that tells the row, {(row.version, row.state)}", told)


def _refuses(mapping: MachineMapping, call: Call, spans: Sequence[Span]) -> bool:
    """Whether the machine refuses; an event that needs Python may have been decided on the row as it was read."""
    seen = [spans[-1].after] if call.compiled else [row for span in spans for row in span]
    return any(not isinstance(each, Moves) for each in _foretold(mapping, call, seen))


def _check_error(
    mapping: MachineMapping, call: Call, answer: Exception, spans: Sequence[Span], *, struck: bool
) -> None:
    """It is what the machine raises, or what the driver does after a fault that no other connection would mend."""
    if isinstance(answer, StatelatchError) or not (struck and isinstance(answer, DBAPIError)):
        foretold = _foretold(mapping, call, [row for span in spans for row in span])
        raised = [type(each.error) for each in foretold if isinstance(each, Raises)]
        if type(answer) not in raised:
            raise LifecycleError(
                f"{call}: expected an answer, found {answer!r}; the machine says {foretold}"
            ) from answer


def _foretold(mapping: MachineMapping, call: Call, rows: Sequence[Stored]) -> list[Foretold]:
    return [foretell(mapping, row.values, call.event, call.params) for row in rows]


def check_batch(mapping: MachineMapping, told: Sequence[tuple[Call, object]], span: Span, *, struck: bool) -> None:
    """Check the answers of a batch to the requests for one row.

    Args:
        mapping: the machine.
        told: the requests, in order, with their answers.
        span: the row before and after the batch.
        struck: a fault fired.

    Raises:
        LifecycleError: they do not agree. Of several requests for one row that are between others, only that each
            transition follows on the one before: what the machine makes of the columns in between nobody has seen.
    """
    if len(told) == 1:
        ((call, answer),) = told
        check_answer(mapping, call, answer, [span], struck=struck)
        return
    before, after = span
    done = sorted((each for _, each in told if isinstance(each, Transitioned)), key=lambda each: each.version)
    version, state = before.version, before.state
    for each in done:
        if struck and each.version > version + 1:
            version, state = each.version - 1, each.source  # one that was interrupted, and overwritten within the batch
        if (each.version, each.source) != (version + 1, state):
            fail(f"{each.event!r} to {each.key!r} in a batch", f"version {version + 1} out of {state!r}", each)
        version, state = each.version, each.target
    if not struck and (version, state) != (after.version, after.state):
        fail(f"the row {after.key!r} after a batch", f"version {version} in state {state!r}", after)
    if mapping.states[before.state].final and before != after:
        fail(f"the row {after.key!r}", f"the terminal state {before.state!r} to hold", after)


def check_log(row: Stored) -> None:
    """A log has one entry for each version, in which the last is the row.

    Raises:
        LifecycleError: a gap, a duplicate, or an entry that says something else than the row.
    """
    if row.log is None:
        return
    versions = [entry["version"] for entry in row.log]
    if versions != list(range(1, row.version + 1)):
        fail(f"the log of {row.key!r}", f"an entry for each version up to {row.version}", versions)
    if len({entry["token"] for entry in row.log}) != len(row.log):
        fail(f"the log of {row.key!r}", "a token for each entry", [str(entry["token"]) for entry in row.log])
    for earlier, later in zip(row.log, row.log[1:], strict=False):
        if earlier["target"] != later["source"]:
            fail(
                f"the log of {row.key!r}", f"{earlier['target']!r} left at version {later['version']}", later["source"]
            )
    last = row.log[-1]
    if (last["target"], last["token"]) != (row.state, row.token):
        fail(f"the log of {row.key!r}", f"the row, {(row.state, row.token)}", (last["target"], last["token"]))


def _difference(span: Span) -> str:
    """What has changed, in a few words."""
    before, after = span
    changed = {name: value for name, value in after.values.items() if before.values[name] != value}
    entries = "" if before.log == after.log else f", and {len(after.log or ())} entries in the log"
    return f"{changed} instead of {_only(before, changed)}{entries}"


def _only(row: Stored, names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.values[name] for name in names}


def _shown(row: Stored) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in row.values.items() if value is not None)
