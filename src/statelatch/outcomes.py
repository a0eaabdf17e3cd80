"""PURE: how the outcome of one row's UPDATE comes back: source, target, version, and the database's time.

One round trip where the database allows it:

- UPDATE ... RETURNING (SQLite, PostgreSQL): only what the call does not know already is returned.
- MariaDB has none. There the UPDATE leaves one integer in LAST_INSERT_ID, which its acknowledgement carries: which
  pair of source and target, the time, and the version unless it is known (`Packed`).
- Else the row is read again in the same transaction.

The source is told by the token's variant (`statelatch.tokens`), or packed with the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Integer, case, func, literal_column, type_coerce

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from statelatch.edges import Edge

__all__ = ["EPOCH", "WINDOW", "Packed", "Packing", "Pair", "instant", "integer", "pair_number", "pairs_of"]

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Packed times are microseconds since then."""

TIME_BITS = 40
NUMBER_BITS = 22
WINDOW = 1 << TIME_BITS
LARGE = 1 << TIME_BITS + NUMBER_BITS
"""Added to a number that leaves no room for the time."""

Pair = tuple[Any, Any]


def pairs_of(edges: Sequence[Edge]) -> tuple[Pair, ...]:
    """The pairs of source and target between which an event moves, each once."""
    return tuple(dict.fromkeys((edge.source, edge.target) for edge in edges))


@dataclass(frozen=True, slots=True)
class Packed:
    """What one integer told.

    Attributes:
        pair: number of the pair of source and target.
        version: that the row has now; None if it was known.
        microseconds: since `EPOCH`, modulo `WINDOW` where the version is packed too; None if there was no room.
    """

    pair: int
    version: int | None
    microseconds: int | None


@dataclass(frozen=True, slots=True)
class Packing:
    """An integer of at most 63 bits for the outcome of an UPDATE.

    With the version, the time has `TIME_BITS`: 12 days, after which it begins anew (see `statelatch.clock`). A version
    times `pairs` beyond `NUMBER_BITS`, above four million, leaves it no room.

    Args:
        pairs: how many there are of source and target.
        versioned: whether the version is known beforehand, and not packed.
    """

    pairs: int
    versioned: bool

    def column(self, version: ColumnElement[int], pair: ColumnElement[int]) -> ColumnElement[int]:
        """The new version, spelled so that the integer is left in LAST_INSERT_ID on the way."""
        utc = func.utc_timestamp(integer(6))
        elapsed = func.timestampdiff(literal_column("microsecond"), literal_column("'2000-01-01'"), utc)
        time = type_coerce(elapsed, Integer())
        if self.versioned:
            packed = time * integer(self.pairs) + pair
        else:
            number = (version + integer(1)) * integer(self.pairs) + pair
            both = number * integer(WINDOW) + time % integer(WINDOW)
            packed = case((number < integer(1 << NUMBER_BITS), both), else_=integer(LARGE) + number)
        left = func.last_insert_id(packed).is_not(None)  # always true, which MariaDB counts as 1
        return version + type_coerce(left, Integer())

    def unpacked(self, number: int) -> Packed:
        """What the integer says."""
        if self.versioned:
            microseconds, pair = divmod(number, self.pairs)
            return Packed(pair, None, microseconds)
        number, microseconds = (number - LARGE, None) if number >= LARGE else divmod(number, WINDOW)
        version, pair = divmod(number, self.pairs)
        return Packed(pair, version, microseconds)


def integer(number: int) -> ColumnElement[int]:
    """A number that is part of the text."""
    return literal_column(str(number), Integer())


def pair_number(
    pairs: Sequence[Pair],
    whens: Sequence[tuple[ColumnElement[bool], Edge]],
    in_state: Callable[[Any], ColumnElement[bool]],
) -> ColumnElement[int]:
    """SQL for the number of the pair that an UPDATE takes; by the state alone where that decides it."""
    if len({source for source, _ in pairs}) == len(pairs):
        cases = [(in_state(source), integer(n)) for n, (source, _) in enumerate(pairs)]
    else:
        cases = [(when, integer(pairs.index((edge.source, edge.target)))) for when, edge in whens]
    *others, (_, last) = cases
    return case(*others, else_=last) if others else last


def instant(microseconds: int) -> datetime:
    """A packed time."""
    return EPOCH + timedelta(microseconds=microseconds)
