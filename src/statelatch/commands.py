"""What a plan yields, and what it is sent: the protocol between `statelatch.plans` and `statelatch.drive`."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Executable

    from statelatch.interpreter import Firing

__all__ = ["Execute", "Fire", "Plan", "Reply", "Row"]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Execute:
    """Statements of one transaction of its own, committed together.

    It ends early, still committing, after a statement that matched no row.

    Attributes:
        statements: each with its parameters.
        token: what the transaction leaves in the row, for an `OutcomeUnknownError`.
        key: which row, likewise.
    """

    statements: tuple[tuple[Executable, Mapping[str, Any]], ...]
    token: UUID | None = None
    key: object = None

    @property
    def writes(self) -> bool:
        """Whether a lost answer leaves open what was written."""
        return not all(getattr(statement, "is_select", False) for statement, _ in self.statements)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a transaction answered: rows matched by its first statement, rows returned by its last."""

    matched: int
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Fire:
    """Run the Python machine for one row; the reply is `Fired` or `Refused`."""

    firing: Firing


Result = TypeVar("Result")
Plan = Generator[Execute | Fire, Any, Result]
