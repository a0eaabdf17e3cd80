"""What a plan yields, and what it is sent: the protocol between `statelatch.plans` and `statelatch.drive`."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Executable

    from statelatch.interpreter import Firing
    from statelatch.prepared import Prepared
    from statelatch.records import Transitioned

__all__ = ["Applied", "Command", "Execute", "Fire", "Pause", "Plan", "Reply", "Row"]

Row = Mapping[str, Any]


@dataclass(slots=True)
class Execute:
    """Statements of one transaction of its own, committed together.

    If the first matches no row, the others are not sent.

    Attributes:
        statements: each with its parameters.
        token: what the transaction leaves in the row, for an `OutcomeUnknownError`.
        key: which row, likewise.
        whole: even a single statement is a transaction: what it answers is read before it is durable.
        fresh: on a connection that is made for it and closed after it: those that there are may be the reason.
        seconds: for all of it, connecting included; None leaves it to the adapter.
    """

    statements: tuple[tuple[Executable | Prepared, Mapping[str, Any]], ...]
    token: UUID | None = None
    key: object = None
    whole: bool = False
    fresh: bool = False
    seconds: float | None = None

    @property
    def writes(self) -> bool:
        """Whether a lost answer leaves open what was written."""
        return not all(getattr(statement, "is_select", False) for statement, _ in self.statements)


@dataclass(slots=True)
class Reply:
    """What a transaction answered.

    Attributes:
        matched: rows matched by its first statement.
        rows: returned by the last statement that returned any; those of a SELECT with the option `yield_per` lie in a
            file (`SpooledRows`).
        number: what its first statement left in LAST_INSERT_ID, where the database has that.
    """

    matched: int
    rows: Collection[Row] = ()
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Fire:
    """Run the Python machine for one row; the reply is `Fired` or `Refused`."""

    firing: Firing


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds, so that what is in the way may pass. The reply is None."""

    seconds: float


@dataclass(slots=True)
class Applied:
    """These transitions are durable: the adapter's `after_commit` hooks are due. The reply is None."""

    transitions: Iterable[Transitioned]


Result = TypeVar("Result")
Command = Execute | Fire | Pause | Applied
Plan = Generator[Command, Any, Result]
