"""Frozen results: what the verbs of statelatch return. No behaviour, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from statelatch.spooled import SpooledRows

__all__ = ["BulkResult", "Explanation", "LogEntry", "Request", "Snapshot", "Transitioned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A row as one SELECT saw it.

    Attributes:
        key: primary key; a tuple if it has several columns.
        state: the state's value.
        version: number of the row's last applied transition; 1 after `create`.
        values: every mapped column, by attribute name.
    """

    key: Any
    state: Any
    version: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One call of `send`, to be carried out by `send_batch` together with others.

    Attributes:
        key: primary key; a tuple if it has several columns.
        event: name of the event.
        expected_version: apply it only to this version of the row; by default to any.
        params: parameters of the event, by name.
        token: proof to leave in the row, a random UUID of this request's own; by default a new one. Give it if the
            request may have been sent before: what it wrote then is recognised, and reported as applied.
    """

    key: Any
    event: str
    expected_version: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    token: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitioned:
    """A transition that was applied and, unless `committed` is False, is durable.

    Attributes:
        key: primary key of the row.
        event: name of the event.
        source: value of the state that was left.
        target: value of the state that was entered.
        version: the row's version after this transition.
        token: the proof left in the row.
        at: when, by the database's clock, UTC.
        committed: False inside a caller's transaction, which may still be rolled back.
    """

    key: Any
    event: str
    source: Any
    target: Any
    version: int
    token: UUID
    at: datetime
    committed: bool = True


@dataclass(slots=True)
class _Draft:
    """A `Transitioned` that is being written: to make a frozen one takes five times as long, attribute by attribute."""

    key: Any
    event: str
    source: Any
    target: Any
    version: int
    token: UUID
    at: datetime
    committed: bool = True


def transitions(
    *,
    keys: Sequence[Any],
    event: str,
    sources: Iterable[Any],
    targets: Iterable[Any],
    versions: Sequence[int],
    tokens: Sequence[UUID],
    at: datetime,
) -> list[Transitioned]:
    """Many transitions of one event at one time, column by column."""
    drafts: list[Any] = list(map(_Draft, keys, repeat(event), sources, targets, versions, tokens, repeat(at)))
    for draft in drafts:
        draft.__class__ = Transitioned  # it has the same slots
    return drafts


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult:
    """What `send_where` has moved. It is durable.

    Attributes:
        event: name of the event.
        count: how many rows, each by one version; exact.
        token: the proof left in them; each source state has left its variant (`statelatch.tokens`).
        keys: their primary keys, in no order, tuples if they have several columns; None unless they were asked for.
            They lie in a temporary file: iterate over them as often as you like, `close` them or use them as a
            context manager. The file is gone at the latest with this object.
    """

    event: str
    count: int
    token: UUID
    keys: SpooledRows[Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One applied transition, as the log keeps it.

    Attributes:
        key: primary key of the row; a tuple if it has several columns.
        version: the row's version after this transition; 1 is its creation.
        event: name of the event; None for the creation.
        source: value of the state that was left; None for the creation.
        target: value of the state that was entered.
        token: the proof that was left in the row.
        at: when, by the database's clock, UTC.
        actor: the event's parameter of that name, if it was given.
        data: likewise; as JSON, so that tuples have become lists.
    """

    key: Any
    version: int
    event: str | None
    source: Any
    target: Any
    token: UUID
    at: datetime
    actor: str | None
    data: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How an event is carried out.

    Attributes:
        event: name of the event.
        compiled: True if the event is one guarded UPDATE; False if it needs the Python machine for the row.
        reasons: why it is interpreted, one line each; empty if compiled.
        sql: the UPDATE for the adapter's dialect. Of an interpreted event the form that is known
            beforehand: what the machine's callbacks change is added per row.
        dialect: name of that dialect.
    """

    event: str
    compiled: bool
    reasons: tuple[str, ...]
    sql: str
    dialect: str

    def __str__(self) -> str:
        """The explanation as a person reads it: the kind, the reasons, the SQL."""
        kind = "compiled" if self.compiled else "interpreted"
        lines = [
            f"{self.event}: {kind} ({self.dialect})",
            *(f"  because {reason}" for reason in self.reasons),
        ]
        return "\n".join([*lines, self.sql])
