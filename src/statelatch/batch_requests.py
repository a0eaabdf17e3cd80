"""PURE: what a batch asks for: checked, grouped by event, in the order in which it is carried out.

Requests of one key are taken in their order: a *round* holds one of each key, and each round is answered before the
next. Between different keys there is no order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from statelatch.batch_checks import check_proofs, compiled_events, key_columns, listed
from statelatch.event_requests import Asked, EventRequests, Portion, picker
from statelatch.labels import EXPECTED
from statelatch.tokens import mint

if TYPE_CHECKING:
    from uuid import UUID

    from statelatch.records import Request
    from statelatch.statements import Statements

__all__ = ["Batch"]


class Batch:
    """All requests of one call.

    Args:
        statements: of the mapping.
        requests: as the caller gave them.

    Attributes:
        requests: the same, in a list.
        tokens: the token of each, as an integer.

    Raises:
        RequestError: one of them cannot be carried out as it was written; nothing was written.
    """

    def __init__(self, statements: Statements, requests: Iterable[Request]) -> None:
        self.requests = listed(requests)
        keys, events = [each.key for each in self.requests], [each.event for each in self.requests]
        versions, tokens = [each.expected_version for each in self.requests], [each.token for each in self.requests]
        params = [each.params for each in self.requests]
        columns = {**key_columns(statements.mapping, keys), EXPECTED: versions}
        check_proofs(versions, tokens)
        of_events = compiled_events(statements, events)
        self.tokens = _token_numbers(tokens, max(len(each.leaves) for each in of_events.values()))
        self._events: list[EventRequests] = []
        for event, numbers in _grouped(events).items():
            pick = picker(numbers)
            own = {bind: pick(column) for bind, column in columns.items()}
            asked = Asked(numbers, own, pick(params), pick(self.tokens), resent=any(tokens))
            self._events.append(EventRequests(of_events[event].batched, asked))

    def portions(self) -> Iterator[Portion]:
        """What is carried out, in this order."""
        for of_round in self._rounds():
            for of_event, places in of_round:
                yield from of_event.portions(places)

    def _rounds(self) -> Sequence[Sequence[tuple[EventRequests, Sequence[int]]]]:
        """For each round, the requests of each event."""
        keys = set[object]().union(*(each.row_keys for each in self._events))
        if len(keys) == len(self.requests):
            return [[(each, range(len(each.numbers))) for each in self._events]]
        rounds: list[dict[EventRequests, list[int]]] = []
        seen: dict[object, int] = {}
        for of_event, place in self._in_order():
            key = of_event.row_keys[place]
            number = seen[key] = seen.get(key, -1) + 1
            if number == len(rounds):
                rounds.append({})
            rounds[number].setdefault(of_event, []).append(place)
        return [list(each.items()) for each in rounds]

    def _in_order(self) -> Iterator[tuple[EventRequests, int]]:
        found = [(number, each, place) for each in self._events for place, number in enumerate(each.numbers)]
        return ((each, place) for _, each, place in sorted(found, key=itemgetter(0)))


def _token_numbers(tokens: Sequence[UUID | None], sources: int) -> Sequence[int]:
    """A token for each request: its own, or the next of a series with room for the variants of the source states.

    The series takes the place of the last 32 bits of a UUID version 7, which are random: those before it are a time and
    a counter (RFC 9562, section 6.2), never the same for two calls in a process, and random between processes.
    """
    step = 1 << (sources - 1).bit_length()
    first = mint().int >> 32 << 32
    minted = range(first, first + step * len(tokens), step)
    if not any(tokens):
        return minted
    return [own if token is None else token.int for token, own in zip(tokens, minted, strict=True)]


def _grouped(events: Sequence[str]) -> Mapping[str, Sequence[int]]:
    """The numbers of each event's requests."""
    if len(set(events)) == 1:
        return {events[0]: range(len(events))}
    grouped: dict[str, list[int]] = {}
    for number, event in enumerate(events):
        grouped.setdefault(event, []).append(number)
    return grouped
