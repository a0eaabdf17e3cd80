"""PURE: the requests of one event in a batch, as columns, and cut into portions.

- A column is converted by its type once, before anything is sent; what its type refuses is told with the number of the
  request. Portions pick their rows out of it.
- Within a portion the requests are sorted by key: batches which write the same rows lock them in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any

from sqlalchemy import CHAR, Uuid

from statelatch.batch_checks import check_params_of, numbered
from statelatch.batch_statements import NUMBER, BatchedEvent, Carried, Shape
from statelatch.errors import RequestError
from statelatch.guards import PARAMETER, event_parameter
from statelatch.labels import EXPECTED
from statelatch.log import ACTOR, DATA, KEY
from statelatch.request_tables import ROWS, Cell

if TYPE_CHECKING:
    from statelatch.prepared import Prepared
    from statelatch.request_tables import Cell

__all__ = ["Asked", "EventRequests", "Portion", "picker"]

CELLS = 32_000
"""Parameters that one statement carries on SQLite, which takes 32,766 (https://sqlite.org/limits.html)."""

TEXT = 1_000_000
"""Characters of text that one statement carries, unless one request has more: MariaDB refuses packets of 16 MB."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the requests of one event ask for, column by column.

    Attributes:
        numbers: of the requests, in their batch.
        columns: the keys and the expected versions, by the names of their bound parameters.
        params: of each.
        tokens: of each.
        resent: whether some request of the batch may have been sent before.
    """

    numbers: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    params: Sequence[Mapping[str, Any]]
    tokens: Sequence[int]
    resent: bool


class EventRequests:
    """The requests of one event.

    Args:
        batched: the event's statements.
        asked: what is asked for.

    Attributes:
        event: the event's statements for one row.
        numbers: of the requests, in their batch.
        tokens: of each.
        writing: the statements of a transaction that carries some of them.
        diagnosis: what tells why some of them did not move their row.

    Raises:
        RequestError: one of them cannot be carried out as it was written.
    """

    def __init__(self, batched: BatchedEvent, asked: Asked) -> None:
        self.event, self.numbers, self.tokens = batched.event, asked.numbers, asked.tokens
        self.tells_target, self.packs_time = batched.tells_target, batched.packs_time
        self.resent = asked.resent
        self._is_mixed = batched.event.of_mapping.dialect.name != "sqlite"
        differing, self._same = self._parameters(batched, asked.params)
        versioned = set(map(type, asked.columns[EXPECTED])) != {NoneType}
        self._differing = frozenset(differing)
        shape = Shape(self._differing, versioned, asked.resent)
        self.writing, self.diagnosis = batched.writing(shape), batched.diagnosis(shape)
        self._given = {**asked.columns, **differing, NUMBER: range(len(asked.numbers))}
        self._columns: dict[tuple[str, str], Sequence[Any]] = {}
        carried = (*self.writing, self.diagnosis)
        for cell in chain.from_iterable(each.cells for each in carried):
            if cell.values not in self._columns and not self._is_token(cell):
                self._columns[cell.values] = self._sent(cell)
        self._elements = {each: each.elements(lambda cell: self._columns.get(cell.values, ())) for each in carried}
        self.row_keys = self._row_keys()
        self._check_tokens()

    def portions(self, places: Sequence[int]) -> Iterator[Portion]:
        """These requests, sorted by key, in portions for one statement each."""
        try:
            ordered: Sequence[int] = sorted(places, key=self.row_keys.__getitem__)
        except TypeError:  # keys of a type that has no order
            ordered = places
        weights, most = self._weights(), self._most()
        start = weight = 0
        for end, place in enumerate(ordered):
            added = weights[place] if weights else 0
            if end - start == most or (end > start and weight + added > TEXT):
                yield Portion(self, ordered[start:end])
                start, weight = end, 0
            weight += added
        yield Portion(self, ordered[start:])

    def filled(self, carried: Carried, places: Sequence[int]) -> tuple[Prepared, Mapping[str, Any]]:
        """One of the statements with these requests, and its parameters."""
        pick = picker(places)
        tokens = pick(self.tokens)
        columns = {
            cell.name: self._variants(cell, tokens) if self._is_token(cell) else pick(self._columns[cell.values])
            for cell in carried.cells
        }
        prepared, parameters = carried.over(self._elements[carried]).filled(columns)
        same = {bind: value for bind, value in self._same.items() if bind in carried.others}
        return prepared, {**parameters, **same}

    def _most(self) -> int:
        if self.event.of_mapping.dialect.name != "sqlite":
            return ROWS
        return max(1, min(ROWS, CELLS // max(len(carried.cells) for carried in (*self.writing, self.diagnosis))))

    def _weights(self) -> Sequence[int] | None:
        """Characters of text in each request; None if they are few in all."""
        own = [column for (bind, _), column in self._columns.items() if bind in self._differing]
        texts = [column for column in own if set(map(type, column)) & {str, bytes}]
        lengths = [[len(value) if isinstance(value, str | bytes) else 0 for value in column] for column in texts]
        return None if sum(map(sum, lengths)) <= TEXT else [sum(each) for each in zip(*lengths, strict=True)]

    def _row_keys(self) -> Sequence[Any]:
        """What tells the row of each request from others: the key as the driver is sent it."""
        keys = (cell for cell in self.writing[0].cells if cell.bind.startswith(KEY))
        columns = {cell.bind: [_row_key(cell, each) for each in self._columns[cell.values]] for cell in keys}
        return next(iter(columns.values())) if len(columns) == 1 else list(zip(*columns.values(), strict=True))

    def owners(self, places: Sequence[int]) -> Mapping[int, int]:
        """Whose each variant of their tokens is: the place, times the source states, plus the source's number."""
        tokens, sources = picker(places)(self.tokens), len(self.event.leaves)
        if sources == 1:
            return dict(zip(tokens, places, strict=True))
        return {
            token ^ n: place * sources + n for place, token in zip(places, tokens, strict=True) for n in range(sources)
        }

    def _check_tokens(self) -> None:
        """Refuse tokens of which one could be taken for another's variant."""
        tokens = range(len(self.tokens))
        if self.resent and len(self.owners(tokens)) < len(tokens) * len(self.event.leaves):
            raise RequestError(
                f"{self.event.event!r}: two requests have tokens that differ in the last byte only; nothing was "
                "written. Give each a random UUID."
            )

    def _is_token(self, cell: Cell) -> bool:
        return cell.bind in self.event.token_parameters

    def _sent(self, cell: Cell) -> Sequence[Any]:
        """The values of a column as the driver is sent them. What the type refuses is told."""
        given, convert = self._given[cell.bind], cell.convert
        if convert is None:
            return _of_one_type(given) if self._is_mixed else given
        try:
            sent = list(map(convert, given))
            return _of_one_type(sent) if self._is_mixed else sent
        except Exception:
            self._blame(cell, given, convert)  # tells which
            raise

    def _blame(self, cell: Cell, given: Sequence[Any], convert: Callable[[Any], Any]) -> None:
        for number, value in zip(self.numbers, given, strict=True):
            try:
                convert(value)
            except Exception as error:
                name = cell.bind.removeprefix(PARAMETER)
                raise RequestError(
                    f"request {number}: {name}: expected what {cell.kind!r} takes, found {value!r} ({error}); nothing "
                    "was written"
                ) from error

    def _variants(self, cell: Cell, tokens: Sequence[int]) -> Sequence[str]:
        """The tokens for one source; as hexadecimal text, which every database takes for a UUID."""
        number = self.event.token_parameters.index(cell.bind)
        return [f"{token ^ number:032x}" for token in tokens]

    def _parameters(
        self, batched: BatchedEvent, params: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Sequence[Any]], dict[str, Any]]:
        """The event's parameters, checked: those that differ, a value for each request, and those that do not."""
        names = check_params_of(self.event, self.numbers, params)
        differing: dict[str, Sequence[Any]] = {}
        same: dict[str, Any] = {}
        for name in self.event.parameters:
            if name in names:
                bind = event_parameter(name)
                default = batched.defaults.get(bind)
                column = [each.get(name, default) for each in params]
                if set(map(type, column)) == {NoneType}:
                    same[bind] = None
                else:
                    differing[bind] = column
        if self.event.of_mapping.log is not None:
            self._record(params, names, differing, same)
        return differing, same

    def _record(
        self,
        params: Sequence[Mapping[str, Any]],
        names: set[str],
        differing: dict[str, Sequence[Any]],
        same: dict[str, Any],
    ) -> None:
        """What the entries in the log take over from the parameters."""
        log = self.event.of_mapping.log
        if log is None:
            return
        if not names & {"actor", "data"}:
            same.update(log.recorded({}))
            return
        recorded = [numbered(number, log.recorded, own) for number, own in zip(self.numbers, params, strict=True)]
        for bind in (ACTOR, DATA):
            differing[bind] = [each[bind] for each in recorded]


@dataclass(frozen=True, slots=True)
class Portion:
    """Requests that one transaction carries: of one event, no key twice, sorted by key.

    Attributes:
        of: all requests of the event.
        places: which of them.
    """

    of: EventRequests
    places: Sequence[int]


def picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What picks these items out of a column."""
    if isinstance(places, range):
        return itemgetter(slice(places.start, places.stop, places.step))
    if len(places) == 1:
        return itemgetter(slice(places[0], places[0] + 1))
    return itemgetter(*places)


def _of_one_type(values: Sequence[Any]) -> Sequence[Any]:
    """Numbers of several types as one that holds them all: a table's column has one type, and rounds the others."""
    kinds = set(map(type, values)) - {NoneType}
    if len(kinds) < 2 or not kinds <= {bool, int, float, Decimal}:
        return values
    rounds = float in kinds and any(type(value) is int and abs(value) > EXACT for value in values)
    one = _decimal if Decimal in kinds or rounds else float if float in kinds else int
    return [None if value is None else one(value) for value in values]


EXACT = 2**53
"""Up to here a float holds every integer."""


def _decimal(value: Any) -> Decimal:
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _row_key(cell: Cell, sent: Any) -> Any:
    """A key as the database compares it, however it is spelled: two spellings are one row."""
    if isinstance(cell.kind, CHAR) and isinstance(sent, str):
        return sent.rstrip(" ")
    if isinstance(cell.kind, Uuid) and isinstance(sent, str):
        return sent.replace("-", "").lower()
    return getattr(sent, "obj", sent)  # psycopg's Binary, which compares by identity
