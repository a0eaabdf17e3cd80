"""Frozen results: what the verbs of statelatch return. No behaviour, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

__all__ = ["Explanation", "Snapshot", "Transitioned"]


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
