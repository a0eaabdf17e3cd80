"""PURE: the part of a history that is told: the few operations that no order explains, whatever the others did.

Theory of operation. An answer that is no part of the error can be *forgotten*: then its operation may have done
anything once, or nothing, while it lasted. What is left when no further answer can be forgotten is the error. To forget
is to claim less, so that the answers, in order, have a shortest start that cannot be explained: the last of these is
needed. It is found by halving, and so is the next one, among those before it, the latest first (compare QuickXplain,
Junker, 2004).

Two things can be forgotten: what an answer has *seen*, and its word for what it *changed*: a failure changed nothing,
an unknown outcome what its event can do. Where thousands of outcomes are unknown, each of them could be the culprit. So
there are two steps:

1. The few whose answers contradict each other: if they do so whatever all others changed, that is all. Otherwise
   the others' word is believed.
2. The *suspects*, whose word must be believed for it: if one of them had done anything else, all could be true. Where
   they are many, none of them is told.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from statelatch.testing.claims import Statement
from statelatch.testing.linearization import Saw, Wrote, is_explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from statelatch.testing.linearization import Claim

    Explained = Callable[[Sequence[Statement]], bool]

__all__ = ["Core", "core_of"]

CLAIMS: Final = 1_000_000
"""Claims that are looked at in all searches of a reduction; what is not needless by then is told."""
STEPS: Final = 10_000
"""Steps of each search: what it does not explain is proven, what it may explain is believed to be explained."""
SUSPECTS: Final = 10
"""More of them are not told."""


@dataclass(frozen=True, slots=True)
class Core:
    """The part of a row's history that is told.

    Attributes:
        statements: which cannot all be true.
        is_whole: whatever the others did; otherwise only whatever they saw.
        is_smallest: none of them is needless; otherwise there was no time to find out.
    """

    statements: Sequence[Statement]
    is_whole: bool
    is_smallest: bool


def core_of(statements: Sequence[Statement], initial: tuple[int, Any] | None) -> Core | None:
    """What of these cannot be explained, as little as possible; None if all can be.

    Args:
        statements: about one row, in the order of their calls.
        initial: version and state before; None if that is not known.
    """
    before = [Statement((), Saw(-math.inf, -math.inf, *initial))] if initial else []
    if is_explained([each.claim for each in (*before, *statements) if each.claim]):
        return None
    return _Reduction(before, statements).core()


class _Reduction:
    """What cannot be explained, on the way to its core."""

    def __init__(self, before: Sequence[Statement], statements: Sequence[Statement]) -> None:
        self._before, self._statements = before, [*before, *statements]
        self._always: Sequence[Statement] = []
        self._left = CLAIMS

    def core(self) -> Core:
        """The two steps, and what both leave once more, with the row before."""
        everything = self._statements
        needed = sorted((each for each in everything if each.tells), key=_version)
        if self._are_explained_at_most(needed):
            needed = self._found(needed, self._are_explained_at_their_word)
            doubtful = [each for each in _without(self._statements, needed) if each.forgotten != each.unseen]
            suspects = self._needed(doubtful, partial(self._are_explained_with, needed), most=SUSPECTS)
            if suspects is None:
                return Core(needed, is_whole=False, is_smallest=self._left > 0)
            needed = [*needed, *suspects]
        else:
            needed = self._found(needed, self._are_explained_at_most)
        self._statements, self._always = everything, self._before
        needed = self._needed(_without(needed, self._before), self._are_explained_at_most) or needed
        return Core(needed, is_whole=True, is_smallest=self._left > 0)

    def _found(self, statements: list[Statement], are_explained: Explained) -> list[Statement]:
        stretch = self._stretch(statements, are_explained)
        return self._needed(stretch, are_explained) or stretch

    def _stretch(self, statements: list[Statement], are_explained: Explained) -> list[Statement]:
        """A stretch of them that cannot be explained; of no half of it is that known."""
        half = (len(statements) + 1) // 2
        for start in (len(statements) - half, half // 2, 0) if half < len(statements) else ():
            stretch = statements[start : start + half]
            if not are_explained(stretch):
                return self._stretch(stretch, are_explained)
        begin = min(each.claim.called for each in statements if each.claim)
        end = max(each.claim.returned for each in statements if each.claim)
        self._statements = [each for each in self._statements if each.overlaps(begin, end)]
        return statements

    def _needed(
        self, statements: Sequence[Statement], are_explained: Explained, most: int | None = None
    ) -> list[Statement] | None:
        """Those of them without each of which the others can be explained; None if they are more."""
        needed: list[Statement] = []
        rest = list(statements)
        while rest and are_explained(needed):
            if len(needed) == most:
                return None
            if not self._left:
                return [*needed, *rest]
            size = _shortest(rest, needed, are_explained)
            needed.append(rest[size - 1])
            rest = rest[: size - 1]
            if len(needed) == 1:
                rest.reverse()
        return needed

    def _are_explained_at_most(self, kept: Sequence[Statement]) -> bool:
        """Whether there is an order if the others did what they like."""
        kept = [*self._always, *kept]
        return self._is_explained(kept, [each.forgotten for each in _without(self._statements, kept)])

    def _are_explained_at_their_word(self, kept: Sequence[Statement]) -> bool:
        """Whether there is an order if the others changed what they say, whatever they saw."""
        return self._is_explained(kept, [each.unseen for each in _without(self._statements, kept)])

    def _are_explained_with(self, needed: Sequence[Statement], kept: Sequence[Statement]) -> bool:
        """Whether there is one if those that are kept changed what they say, and the others what they like."""
        others = [each.forgotten for each in _without(self._statements, [*needed, *kept])]
        return self._is_explained(needed, [*others, *(each.unseen for each in kept)])

    def _is_explained(self, kept: Sequence[Statement], left: Iterable[Claim | None]) -> bool:
        if not self._left:
            return True
        claims = [claim for claim in (*(each.claim for each in kept), *left) if claim is not None]
        self._left = max(0, self._left - len(claims))
        return is_explained(claims, longest=STEPS)


def _shortest(rest: Sequence[Statement], needed: Sequence[Statement], are_explained: Explained) -> int:
    """The length of the shortest start of the rest that cannot be explained together with what is needed."""
    sizes = range(len(rest))
    return bisect_left(sizes, True, lo=1, key=lambda size: not are_explained([*rest[:size], *needed]))


def _without(statements: Iterable[Statement], kept: Iterable[Statement]) -> list[Statement]:
    those = set(map(id, kept))
    return [each for each in statements if id(each) not in those]


def _version(statement: Statement) -> int:
    claim = statement.claim
    return claim.version if isinstance(claim, Wrote | Saw) else 0
