"""PURE: one call of `send`: what stays the same through its tries, and what the database's answers mean for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from statelatch.commands import Row
from statelatch.errors import (
    ConnectionFailureError,
    OutcomeUnknownError,
    OvertakenError,
    Phase,
    Reason,
    RowNotFoundError,
    StaleVersionError,
    TransitionRefusedError,
)
from statelatch.event_statements import EventStatements
from statelatch.labels import (
    AT_COLUMN,
    EXPECTED,
    STATE_COLUMN,
    TOKEN_COLUMN,
    VERSION_COLUMN,
    guard_column,
    raises_column,
)
from statelatch.records import Transitioned
from statelatch.requests import bound_parameters
from statelatch.tokens import source_number

if TYPE_CHECKING:
    from uuid import UUID

    from statelatch.records import LogEntry

__all__ = ["Lost", "Sending", "explained"]

Unknown = TypeVar("Unknown", bound=OutcomeUnknownError)

OVERTAKEN = "the row has moved on since, and without a log nobody can tell whether by this write"
GONE = "the row is gone, and without a log nobody can tell whether it was written before"


@dataclass(frozen=True, slots=True)
class Lost:
    """The row changed between reading and writing; nothing was written.

    Attributes:
        version: that the row has now.
        state: likewise.
        unanswered: not the row has changed, but the acknowledgement was lost, and the write has not landed.
    """

    version: int
    state: Any
    unanswered: OutcomeUnknownError | None = None


@dataclass(slots=True)
class Sending:
    """One call of `send`: what stays the same through its tries.

    Attributes:
        resent: it may have been sent before.
        base: the version that the last try asked for; None if it took any.
        lost: the last try that was not acknowledged: a later failure does not mean that nothing was written.
        may_follow: nobody can say that it will not land after all, when it has been looked for.
        pinned: the version at which it had not landed: a later try must find the row there.
    """

    statements: EventStatements
    key: Any
    expected_version: int | None
    token: UUID
    resent: bool
    params: Mapping[str, Any]
    variants: Sequence[UUID]
    key_values: Mapping[str, Any]
    recorded: Mapping[str, Any]
    base: int | None = None
    lost: OutcomeUnknownError | None = None
    may_follow: bool = False
    pinned: int | None = None

    @property
    def table(self) -> str:
        """Name of the table, as messages give it."""
        return self.statements.mapping.table

    def parameters(self, names: Mapping[str, bool], version: int | None) -> dict[str, Any]:
        """Everything that a statement of this event binds."""
        bound = {**self.key_values, **dict(zip(self.statements.token_parameters, self.variants, strict=True))}
        if version is not None:
            bound[EXPECTED] = version
        bound.update(self.recorded)
        if names:
            bound.update(bound_parameters(self.statements.event, names, self.params))
        return bound

    def transitioned(self, source: Any, target: Any, version: int, at: datetime) -> Transitioned:
        """The transition that was applied."""
        token = self.variants[self.statements.leaves.index(source)]
        return Transitioned(
            key=self.key,
            event=self.statements.event,
            source=source,
            target=target,
            version=version,
            token=token,
            at=at,
        )

    def mine(self, row: Row) -> Transitioned | None:
        """The transition, if the row's token and state say that it was this call's."""
        leaves = self.statements.leaves
        number = source_number(self.token, row[TOKEN_COLUMN], len(leaves))
        if number is None or row[STATE_COLUMN] not in self.statements.reaches(leaves[number]):
            return None
        return self.transitioned(leaves[number], row[STATE_COLUMN], row[VERSION_COLUMN], row[AT_COLUMN])

    def entered(self, entry: LogEntry) -> Transitioned:
        """The transition that an entry of this call tells."""
        return Transitioned(
            key=self.key,
            event=self.statements.event,
            source=entry.source,
            target=entry.target,
            version=entry.version,
            token=entry.token,
            at=entry.at,
        )

    def stale(self, version: int, state: Any, expected: int | None) -> StaleVersionError:
        """Somebody else was faster."""
        return StaleVersionError(
            table=self.table,
            key=self.key,
            event=self.statements.event,
            expected_version=expected,
            actual_version=version,
            state=state,
        )

    def refused(self, version: int, state: Any, guards: tuple[str, ...]) -> TransitionRefusedError:
        """The event has no transition from this state, or these guards are false."""
        sources = self.statements.sources
        return TransitionRefusedError(
            table=self.table,
            key=self.key,
            event=self.statements.event,
            state=state,
            version=version,
            reason=Reason.GUARD if state in sources else Reason.STATE,
            guards=guards,
            sources=sources,
        )

    def missing(self) -> RowNotFoundError | OvertakenError:
        """There is no such row; there may have been one when a lost try came to it."""
        if self.lost is not None and self.statements.of_mapping.log is None:
            return self.overtaken(self.lost, GONE)
        return RowNotFoundError(table=self.table, key=self.key, event=self.statements.event)

    def check_followed(self, version: int, state: object) -> None:
        """Refuse to explain a row in which the lost try may have landed, and been overtaken, since it was looked for.

        Raises:
            OvertakenError: it may.
        """
        if self.lost is None or not self.may_follow or self.pinned is None or self.statements.of_mapping.log:
            return
        if version > self.pinned + 1 and state in self.statements.onward:
            raise self.overtaken(self.lost)

    def overtaken(self, lost: OutcomeUnknownError, detail: str = OVERTAKEN) -> OvertakenError:
        """Nobody can tell any more what became of the lost try."""
        told = self.unknown(lost, OvertakenError, detail)
        told.__cause__ = lost
        return told

    def unknown(
        self,
        error: ConnectionFailureError,
        kind: type[Unknown] = OutcomeUnknownError,
        detail: str | None = None,
    ) -> Unknown:
        """The call's outcome is unknown, for this reason."""
        return kind(
            phase=error.phase if self.lost is None else Phase.COMMIT,
            database=error.database,
            detail=detail or error.detail,
            token=self.token,
            key=self.key,
            event=self.statements.event,
            expected_version=self.base,
            session=None if self.lost is None else self.lost.session,
        )

    def given_up(self, lost: Lost) -> StaleVersionError | TransitionRefusedError:
        """What is told when the last try was lost as well."""
        if lost.version == self.expected_version:  # a guard was false at each moment of writing, and true in between
            return self.refused(lost.version, lost.state, ())
        return self.stale(lost.version, lost.state, self.expected_version)


def explained(sending: Sending, row: Row | None, version: int | None) -> Transitioned | Lost:
    """What the diagnosis of an UPDATE that matched no row means.

    Args:
        sending: the call.
        row: what was `diagnosed`; None if there is no such row.
        version: the one that the UPDATE asked for.

    Raises:
        NotAppliedError: why the row did not move.
        OvertakenError: nobody can say why.
        UnknownStateError: it holds a state that the machine lacks.
    """
    statements = sending.statements
    if row is None:
        raise sending.missing()
    if mine := sending.mine(row):
        return mine
    state, actual = row[STATE_COLUMN], row[VERSION_COLUMN]
    statements.mapping.known_state(sending.key, state)
    sending.check_followed(actual, state)
    if sending.expected_version not in {None, actual}:
        raise sending.stale(actual, state, sending.expected_version)
    if version not in {None, actual}:
        return Lost(actual, state)
    false_guards = _false_guards(statements, row, state)
    if false_guards is not None:
        raise sending.refused(actual, state, false_guards)
    return Lost(actual, state)


def _false_guards(statements: EventStatements, row: Row, state: object) -> tuple[str, ...] | None:
    """The guards that the diagnosis found false, one for each edge of the state; None if an edge may be taken.

    After an edge whose guards raise in Python, the machine does not come to the next.
    """
    found: list[str] = []
    for number, edge in enumerate(statements.edges):
        if edge.source == state:
            guard = _false_guard(statements, row, number)
            if guard is None:
                return None
            found.append(guard)
            if row.get(raises_column(number)):
                break
    return tuple(found)


def _false_guard(statements: EventStatements, row: Row, number: int) -> str | None:
    """The first guard of an edge that the diagnosis found false."""
    guards = enumerate(statements.edges[number].guards)
    return next(
        (guard.label for m, guard in guards if guard.truth is not None and not row[guard_column(number, m)]),
        None,
    )
