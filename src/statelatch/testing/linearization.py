"""PURE: is there an order of claims about one row that makes all of them true?

Theory of operation. Linearizability (Herlihy & Wing, 1990) asks for a moment within each operation at which it took
effect. In general that is a search over orders (Wing & Gong, 1993; Lowe, 2017). Here it is a short one, because
versions tell the order of the writes (Gibbons & Korach, 1997): write `v` leads from version v-1 to v, and what has
*seen* version v lies between the writes v and v+1. So each write has a window of time:

    latest call of (write v, what saw v-1)  <=  moment of v  <=  earliest return of (write v, what saw v)

and an order exists if and only if moments can be chosen in these windows that never go back. What is left to find
is who wrote the versions that nobody claims: each was written by one of those that may have had an effect (`Maybe`).
Those that can have done *anything* are taken in the order in which their time ends, which is exact: two of them can
always be exchanged. The others are tried depth first, with a memo; of those that can do the same only the one that was
called first, for their time has no end.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from statelatch.testing.operations import Moves

__all__ = ["ABSENT", "Claim", "Maybe", "Saw", "Wrote", "is_explained"]


class _Absent:
    def __repr__(self) -> str:
        return "no row"


ABSENT: Final = _Absent()
"""The state of a row that has not been created: version 0."""


@dataclass(frozen=True, slots=True)
class Wrote:
    """It made this version, between these times."""

    called: float
    returned: float
    version: int
    source: Any
    target: Any


@dataclass(frozen=True, slots=True)
class Saw:
    """The row was so at a moment between these times."""

    called: float
    returned: float
    version: int
    state: Any


@dataclass(frozen=True, slots=True)
class Maybe:
    """It made one version between these times, or none.

    Attributes:
        expected: the version that it can have left; None: any.
        moves: the states that it can have left and reached; None: any.
    """

    called: float
    returned: float = math.inf
    expected: int | None = None
    moves: Moves | None = None

    def reaches(self, states: States) -> States:
        """The states in which it can leave a row that is in one of these."""
        if self.moves is None:
            return None
        sources = self.moves.keys() if states is None else states & self.moves.keys()
        nothing: frozenset[Any] = frozenset()
        return nothing.union(*(self.moves[source] for source in sources))

    @property
    def is_anything(self) -> bool:
        """Whether nothing is known of what it did."""
        return self.expected is None and self.moves is None

    @property
    def ability(self) -> object:
        """What it can have done: equal where it is the same."""
        return self.expected, self.moves and frozenset(self.moves.items())


Claim = Wrote | Saw | Maybe
States = frozenset[Any] | None
"""In which states a row may be; None: in any."""


class Window(NamedTuple):
    """When a version was made, by whom, if somebody claims it, and the states in which it was seen."""

    version: int
    earliest: float
    latest: float
    wrote: Wrote | None
    seen: States


class Node(NamedTuple):
    """How far the search has come: versions below have been made, by some of those that may have."""

    place: int
    earliest: float
    states: States
    used: int  # which of those that can have done anything, as bits
    spent: tuple[int, ...]  # how many of each ability


LONGEST = 100_000
"""Steps of a search. Beyond, it is given up and the claims are believed: a checker must not accuse on suspicion."""


def is_explained(claims: Iterable[Claim], initial: tuple[int, Any] | None = None) -> bool:
    """Whether an order exists.

    Args:
        claims: about one row; a `Maybe` whose time ends can have done anything.
        initial: version and state before all of them; None if that is not known.
    """
    claims = list(claims)
    able_to_anything = [Maybe(each.called, each.returned) if isinstance(each, Maybe) else each for each in claims]
    if not _Row(able_to_anything, initial).search():
        return False  # it is found out without a search
    return able_to_anything == claims or _Row(claims, initial).search()


class _Row:
    """The claims about one row, by version."""

    def __init__(self, claims: Sequence[Claim], initial: tuple[int, Any] | None) -> None:
        self._seen: defaultdict[int, list[Saw]] = defaultdict(list)
        self._wrote: dict[int, Wrote] = {}
        self._maybe = [claim for claim in claims if isinstance(claim, Maybe)]
        self._is_written_twice = False
        for claim in claims:
            if isinstance(claim, Saw):
                self._seen[claim.version].append(claim)
            elif isinstance(claim, Wrote):
                self._is_written_twice |= claim.version in self._wrote
                self._wrote[claim.version] = claim
        versions = [*self._seen, *self._wrote, *(version - 1 for version in self._wrote)]
        self._first = min(versions, default=0) if initial is None else initial[0]
        self._last = max(versions, default=self._first)
        self._is_before_first = min(versions, default=self._first) < self._first
        self._initial = self._states_seen(self._first)
        if initial is not None:
            self._initial = _common(self._initial, frozenset({initial[1]}))

    @property
    def _is_possible(self) -> bool:
        """Whether versions alone leave a chance."""
        unclaimed = self._last - self._first - len(self._wrote)
        return not self._is_written_twice and not self._is_before_first and unclaimed <= len(self._maybe)

    def _states_seen(self, version: int) -> States:
        states = {claim.state for claim in self._seen[version]}
        return (frozenset(states) if len(states) == 1 else frozenset()) if states else None

    @cached_property
    def _windows(self) -> list[Window]:
        """Windows whose bounds never go back: a moment chosen in one leaves those of the others as they are."""
        windows: list[Window] = []
        earliest = -math.inf
        for version in range(self._first + 1, self._last + 1):
            wrote = self._wrote.get(version)
            calls = [claim.called for claim in self._seen[version - 1]]
            returns = [claim.returned for claim in self._seen[version]]
            if wrote:
                calls.append(wrote.called)
                returns.append(wrote.returned)
            earliest = max(earliest, *calls, -math.inf)
            windows.append(Window(version, earliest, min([*returns, math.inf]), wrote, self._states_seen(version)))
        latest = math.inf
        for number in reversed(range(len(windows))):
            latest = min(latest, windows[number].latest)
            windows[number] = windows[number]._replace(latest=latest)
        return windows

    def search(self) -> bool:
        """Whether those that may have had an effect can have made the versions that nobody claims."""
        if not self._is_possible:
            return False
        start = Node(0, -math.inf, self._initial, 0, (0,) * len(self._able))
        stack, visited = [start], {start}
        while stack:
            if len(visited) > LONGEST:
                return True
            reached = self._advanced(stack.pop())
            if reached is None:
                continue
            if reached.place == len(self._windows):
                return True
            for node in self._choices(reached):
                if node not in visited:
                    visited.add(node)
                    stack.append(node)
        return False

    def _advanced(self, node: Node) -> Node | None:
        """Go over the versions that are claimed, up to one that is not; None where it is no way."""
        index, states = node.place, node.states
        if states == frozenset():
            return None
        while index < len(self._windows):
            window = self._windows[index]
            if max(node.earliest, window.earliest) > window.latest:
                return None
            if window.wrote is None:
                break
            if states is not None and window.wrote.source not in states:
                return None
            states = _common(window.seen, frozenset({window.wrote.target}))
            if not states:
                return None
            index += 1
        return node._replace(place=index, states=states)

    def _choices(self, node: Node) -> Iterator[Node]:
        """Each that may have made the next version."""
        window = self._windows[node.place]
        if (number := self._next_anything(max(node.earliest, window.earliest), window.latest, node.used)) is not None:
            states = _common(window.seen, None)
            yield node._replace(place=node.place + 1, states=states, used=node.used | 1 << number)
        for kind, alike in enumerate(self._able):
            spent = node.spent[kind]
            if spent == len(alike) or alike[spent].called > window.latest:
                continue
            if alike[spent].expected not in {None, window.version - 1}:
                continue
            spending = (*node.spent[:kind], spent + 1, *node.spent[kind + 1 :])
            states = _common(window.seen, alike[spent].reaches(node.states))
            earliest = max(node.earliest, alike[spent].called)
            yield Node(node.place + 1, earliest, states, node.used, spending)

    def _next_anything(self, earliest: float, latest: float, used: int) -> int | None:
        """The one whose time ends first of those that may have come between these times and are not used yet."""
        called, ends, called_by = self._anything
        begun = called_by[bisect_right(called, latest)]
        over = bisect_left(ends, earliest)
        left = (begun & ~used) >> over
        return over + (left & -left).bit_length() - 1 if left else None

    @cached_property
    def _anything(self) -> tuple[list[float], list[float], list[int]]:
        """Of those that can have done anything: when they were called, and when their time ends, each in order.

        They are numbered as they end; for each number of calls the bits say whose those are.
        """
        numbered = sorted((each for each in self._maybe if each.is_anything), key=lambda each: each.returned)
        calls = sorted((each.called, number) for number, each in enumerate(numbered))
        called_by = list(accumulate((1 << number for _, number in calls), int.__or__, initial=0))
        return [called for called, _ in calls], [each.returned for each in numbered], called_by

    @cached_property
    def _able(self) -> list[list[Maybe]]:
        """The others, by what they can have done, in the order of their calls."""
        alike: defaultdict[object, list[Maybe]] = defaultdict(list)
        for each in sorted(self._maybe, key=lambda each: each.called):
            if not each.is_anything:
                alike[each.ability].append(each)
        return list(alike.values())


def _common(one: States, other: States) -> States:
    """The states that are in both."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
