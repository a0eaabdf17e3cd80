"""What the steps of `lifecycle_rules` are about: rows as they must be, what is asked of them, calls to be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

from statelatch.testing.calls import Call, Span, fail
from statelatch.testing.logs import check_log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statelatch.testing.stored import Stored

__all__ = ["Asked", "Attempt", "Row", "Version"]


class Version(StrEnum):
    """Which version a client asks for."""

    def __repr__(self) -> str:
        """As it is written in a program."""
        return f"Version.{self.name}"

    ANY = "any"  # whatever the row is at
    CURRENT = "current"  # the row's
    SEEN = "seen"  # the last that this client has learned of: others may have moved the row
    STALE = "stale"  # the one before the row's
    AHEAD = "ahead"  # one that the row has never had


@dataclass(eq=False)
class Row:
    """A row of this world, as it must be.

    Attributes:
        stored: what it is.
        seen: the version that each client has last learned of.
        tokens: those that its transitions have left.
    """

    stored: Stored
    seen: dict[int, int] = field(default_factory=dict[int, int])
    tokens: set[UUID | None] = field(default_factory=set["UUID | None"])

    def __repr__(self) -> str:
        """Its key: within other arguments Hypothesis does not print it by its name."""
        return f"<row {self.stored.key!r}>"

    def becomes(self, *rows: Stored) -> None:
        """It went through these, one after the other; a token is never left twice."""
        for before, after in pairwise((self.stored, *rows)):
            if before.version != after.version:
                if after.token in self.tokens:
                    fail(f"the row {after.key!r}", "a token that it never had", after.token)
                self.tokens.add(after.token)
        self.stored = rows[-1]
        check_log(self.stored)


@dataclass(frozen=True)
class Asked:
    """What a client wants of a row."""

    row: Row
    event: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: Version = Version.ANY


@dataclass(eq=False)
class Attempt:
    """A call that can be repeated: it had a token of its client's own.

    Attributes:
        row: which row.
        call: what was asked.
        done: the row before and after its transition; None if it was not applied.
    """

    row: Row
    call: Call
    done: Span | None
