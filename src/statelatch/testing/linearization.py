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
called first, for their time has no end. Before, they are all taken for able to do anything: if that does not suffice,
nothing does.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
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
        creates: whether it can have made the row, version 1.
    """

    called: float
    returned: float = math.inf
    expected: int | None = None
    moves: Moves | None = None
    creates: bool = True

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
    used: int = 0  # which of those that can have done anything, as bits
    spent: tuple[int, ...] = ()  # of those that can have left any version, how many with each moves


LONGEST = 100_000
"""Steps of a search. Beyond, it is given up and the claims are believed: a checker must not accuse on suspicion."""


def is_explained(claims: Iterable[Claim], initial: tuple[int, Any] | None = None, *, longest: int = LONGEST) -> bool:
    """Whether an order exists.

    Args:
        claims: about one row; a `Maybe` whose time ends can have done anything.
        initial: version and state before all of them; None if that is not known.
        longest: steps after which the claims are believed.
    """
    row = _Row(list(claims), initial)
    return row.is_possible and row.would_do and (row.is_anything or row.search(longest))


class _Row:
    """The claims about one row, by version."""

    def __init__(self, claims: Sequence[Claim], initial: tuple[int, Any] | None) -> None:
        self._seen: defaultdict[int, list[Saw]] = defaultdict(list)
        self._wrote: dict[int, Wrote] = {}
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
        state = initial[1] if initial else ABSENT
        known = None if initial is None and self._first else frozenset({state})
        self._initial = _common(self._states_seen(self._first), known)
        self._windows = self._windowed()
        self._unclaimed = [window for window in self._windows if window.wrote is None]
        self._maybe = self._timely(claim for claim in claims if isinstance(claim, Maybe))

    @property
    def is_possible(self) -> bool:
        """Whether versions alone leave a chance."""
        return not self._is_written_twice and not self._is_before_first and len(self._unclaimed) <= len(self._maybe)

    @property
    def is_anything(self) -> bool:
        """Whether each `Maybe` can have made any of the versions that nobody claims."""
        creates = any(window.version == 1 for window in self._unclaimed)
        return all(each.is_anything and (each.creates or not creates) for each in self._maybe)

    @property
    def would_do(self) -> bool:
        """Whether an order exists if each `Maybe` is taken for able to do anything."""
        node: Node | None = Node(0, -math.inf, self._initial)
        calls = sorted((each.called, each.returned) for each in self._maybe)
        begun, waiting = 0, list[tuple[float, float]]()
        while (node := self._advanced(node)) and node.place < len(self._windows):
            window = self._windows[node.place]
            earliest = max(node.earliest, window.earliest)
            while begun < len(calls) and calls[begun][0] <= window.latest:
                called, returned = calls[begun]
                heappush(waiting, (returned, called))
                begun += 1
            while waiting and waiting[0][0] < earliest:
                heappop(waiting)
            if not waiting:
                return False
            _, called = heappop(waiting)
            node = Node(node.place + 1, max(earliest, called), window.seen)
        return node is not None

    def search(self, longest: int) -> bool:
        """Whether those that may have had an effect can have made the versions that nobody claims."""
        start = Node(0, -math.inf, self._initial, 0, (0,) * len(self._able))
        stack, visited = [start], {start}
        while stack:
            if len(visited) > longest:
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

    def _states_seen(self, version: int) -> States:
        states = {claim.state for claim in self._seen.get(version, ())}
        return (frozenset(states) if len(states) == 1 else frozenset()) if states else None

    def _windowed(self) -> list[Window]:
        """Windows whose bounds never go back: a moment chosen in one leaves those of the others as they are."""
        windows: list[Window] = []
        earliest = -math.inf
        for version in range(self._first + 1, self._last + 1):
            wrote = self._wrote.get(version)
            calls = [claim.called for claim in self._seen.get(version - 1, ())]
            returns = [claim.returned for claim in self._seen.get(version, ())]
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

    def _timely(self, maybe: Iterable[Maybe]) -> list[Maybe]:
        """Those whose time, and version, is that of one that nobody claims."""
        if not self._unclaimed:
            return []
        earliest, latest = self._unclaimed[0].earliest, self._unclaimed[-1].latest
        left = {None, *(window.version - 1 for window in self._unclaimed)}
        return [each for each in maybe if each.called <= latest and each.returned >= earliest and each.expected in left]

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
        earliest = max(node.earliest, window.earliest)
        if (number := self._next_anything(earliest, window, node.used)) is not None:
            called = max(earliest, self._anything[number].called)
            yield Node(node.place + 1, called, _common(window.seen, None), node.used | 1 << number, node.spent)
        for each in self._expecting.get(window.version - 1, ()):
            yield from self._chosen(each, node, node.spent)
        for kind, alike in enumerate(self._able):
            spent = node.spent[kind]
            if spent < len(alike):
                yield from self._chosen(alike[spent], node, (*node.spent[:kind], spent + 1, *node.spent[kind + 1 :]))

    def _chosen(self, each: Maybe, node: Node, spent: tuple[int, ...]) -> Iterator[Node]:
        """The next node if this one has made the next version, and may have."""
        window = self._windows[node.place]
        if each.called <= window.latest and (each.creates or window.version > 1):
            states = _common(window.seen, each.reaches(node.states))
            yield Node(node.place + 1, max(node.earliest, each.called), states, node.used, spent)

    def _next_anything(self, earliest: float, window: Window, used: int) -> int | None:
        """The one whose time ends first of those that may have come into this window and are not used yet."""
        called, called_by, creators = self._begun
        begun = called_by[bisect_right(called, window.latest)]
        over = bisect_left(self._anything, earliest, key=lambda each: each.returned)
        left = (begun & ~used & (creators if window.version == 1 else -1)) >> over
        return over + (left & -left).bit_length() - 1 if left else None

    @cached_property
    def _anything(self) -> list[Maybe]:
        """Those that can have done anything, in the order in which their time ends."""
        return sorted((each for each in self._maybe if each.is_anything), key=lambda each: each.returned)

    @cached_property
    def _begun(self) -> tuple[list[float], list[int], int]:
        """When they were called, in order; for each number of calls whose those are, as bits; and who may create."""
        calls = sorted((each.called, number) for number, each in enumerate(self._anything))
        called_by = list(accumulate((1 << number for _, number in calls), int.__or__, initial=0))
        creators = sum(1 << number for number, each in enumerate(self._anything) if each.creates)
        return [called for called, _ in calls], called_by, creators

    @cached_property
    def _expecting(self) -> dict[int, list[Maybe]]:
        """By the version that they can have left: of those with the same moves the one that was called first."""
        first: dict[object, Maybe] = {}
        for each in self._maybe:
            ability = each.expected, each.creates, _moving(each)
            if each.expected is not None and first.setdefault(ability, each).called > each.called:
                first[ability] = each
        by_version: defaultdict[int, list[Maybe]] = defaultdict(list)
        for each in first.values():
            if each.expected is not None:
                by_version[each.expected].append(each)
        return by_version

    @cached_property
    def _able(self) -> list[list[Maybe]]:
        """The others, by what they can have done, in the order of their calls."""
        alike: defaultdict[object, list[Maybe]] = defaultdict(list)
        for each in sorted(self._maybe, key=lambda each: each.called):
            if each.expected is None and not each.is_anything:
                alike[each.creates, _moving(each)].append(each)
        return list(alike.values())


def _moving(each: Maybe) -> object:
    """Equal where the moves are."""
    return each.moves and frozenset(each.moves.items())


def _common(one: States, other: States) -> States:
    """The states that are in both."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
