"""PURE: what the requests of a batch may ask for. What they may not is a `RequestError` with the request's number.

What is the same for many requests is checked once, for the first of them: where all keys are of one type, or the
parameters have the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from statelatch.errors import RequestError
from statelatch.parameters import bound_in
from statelatch.records import Request
from statelatch.requests import bound_parameters, check_compared, check_datetimes, check_params, check_proof

if TYPE_CHECKING:
    from sqlalchemy import Dialect

    from statelatch.event_statements import EventStatements
    from statelatch.mapping import MachineMapping
    from statelatch.statements import Statements

__all__ = [
    "check_bytes",
    "check_no_lists",
    "check_params_of",
    "check_proofs",
    "compiled_events",
    "key_columns",
    "listed",
    "numbered",
]

Result = TypeVar("Result")


def listed(requests: Iterable[object]) -> list[Request]:
    """The requests, if that is what they are, each with parameters by name."""
    given = list(requests)
    if not given:
        raise RequestError("expected requests, found an empty batch; nothing was written")
    _check_types("a Request", Request, given)
    asked = cast("list[Request]", given)
    _check_types("parameters by name", dict, [each.params for each in asked])
    return asked


def _check_types(expected: str, kind: type, values: Sequence[object]) -> None:
    if set(map(type, values)) == {kind}:
        return
    allowed = Mapping if kind is dict else kind
    for number, value in enumerate(values):
        if not isinstance(value, allowed):
            raise RequestError(f"request {number}: expected {expected}, found {value!r}; nothing was written")


def key_columns(mapping: MachineMapping, keys: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The keys, a column for each of theirs. Where all are of one type, the first stands for all."""
    several = len(mapping.key_columns)
    if several == 1:
        columns = [keys]
    elif set(map(type, keys)) == {tuple} and set(map(len, keys)) == {several}:
        columns = list(zip(*keys, strict=True))
    else:
        columns = []
    if columns and all(set(map(type, column)) in _PLAIN for column in columns):
        return dict(zip(numbered(0, mapping.key_values, keys[0]), columns, strict=True))
    checked = [numbered(number, mapping.key_values, key) for number, key in enumerate(keys)]
    return {bind: [each[bind] for each in checked] for bind in checked[0]}


_PLAIN = ({int}, {str}, {bytes}, {UUID})


def check_proofs(versions: Sequence[Any], tokens: Sequence[Any]) -> None:
    """Refuse versions that are no integers, and tokens that are no UUIDs or given twice."""
    if set(map(type, versions)) <= {int, NoneType} and set(map(type, tokens)) == {NoneType}:
        return
    seen: dict[UUID, int] = {}
    for number, (version, token) in enumerate(zip(versions, tokens, strict=True)):
        numbered(number, check_proof, version, token)
        if token is not None and seen.setdefault(token, number) != number:
            raise RequestError(
                f"request {number}: it has the token of request {seen[token]}; nothing was written. Give each its own."
            )


def compiled_events(statements: Statements, events: Sequence[Any]) -> dict[str, EventStatements]:
    """The statements of each event, which must be compiled."""
    _check_types("the name of an event", str, events)
    return {event: numbered(number, _compiled, statements, event) for event, number in first_uses(events).items()}


def _compiled(statements: Statements, event: str) -> EventStatements:
    of_event = statements.event(event)
    if of_event.reasons:
        raise RequestError(
            f"{event!r} needs the Python machine for each row, which a batch does not run: "
            f"{'; '.join(of_event.reasons)}; nothing was written. Use `send`."
        )
    check_no_lists(of_event)
    return of_event


def check_no_lists(event: EventStatements) -> None:
    """Refuse an event with a parameter that stands for a list: it is no column of a table of requests."""
    lists = [bound.key for bound in bound_in(event.anywhere) if bound.expanding and not bound.unique]
    if lists:
        raise RequestError(
            f"{event.event!r} has a parameter that stands for a list, {', '.join(map(repr, lists))}, which a batch "
            "cannot carry; nothing was written. Use `send`."
        )


def check_bytes(dialect: Dialect, params: Mapping[str, Any]) -> None:
    """Refuse bytes that MariaDB may cut without a word, in a batch alone."""
    for name, value in params.items() if dialect.name in {"mysql", "mariadb"} else ():
        if isinstance(value, bytes | bytearray) and len(value) > SHORTEST:
            raise RequestError(
                f"{name}: {len(value)} bytes; in a batch MariaDB would cut what does not fit, without a word; nothing "
                f"was written. Send what is longer than {SHORTEST} bytes with `send`."
            )


SHORTEST = 255
"""Bytes that the shortest of MariaDB's binary types holds."""


def check_params_of(event: EventStatements, numbers: Sequence[int], params: Sequence[Mapping[Any, Any]]) -> set[str]:
    """Refuse parameters that `send` would refuse; the names of all others.

    Args:
        event: of all these requests.
        numbers: of the requests.
        params: of each.
    """
    signatures: list[tuple[Any, ...]] = list(map(tuple, params))
    first = first_uses(signatures)
    for place in first.values():
        number, own = numbers[place], params[place]
        if not all(isinstance(name, str) for name in own):
            raise RequestError(f"request {number}: expected parameters by name, found {own!r}; nothing was written")
        numbered(number, check_params, event.event, own)
        numbered(number, bound_parameters, event.event, event.parameters, own)
    dialect = event.of_mapping.dialect
    if dialect.name in {"mysql", "mariadb"}:
        for number, own in zip(numbers, params, strict=True):
            numbered(number, check_bytes, dialect, own)
    if event.compared:
        for number, own in zip(numbers, params, strict=True):
            numbered(number, check_compared, event.event, event.compared, own)
    names = set[str]().union(*first)
    for name in names:
        kinds: set[type[object]] = {type(each[name]) for each in params if name in each}
        if any(issubclass(kind, datetime) for kind in kinds):
            for number, own in zip(numbers, params, strict=True):
                numbered(number, check_datetimes, own)
    return names


def first_uses(values: Sequence[Result]) -> Mapping[Result, int]:
    """Where each of the values comes first."""
    return dict(zip(reversed(values), reversed(range(len(values))), strict=True))


def numbered(number: int, check: Callable[..., Result], *arguments: Any) -> Result:
    """Check, and tell the number of the request that it is about."""
    try:
        return check(*arguments)
    except RequestError as error:
        raise RequestError(f"request {number}: {error}") from None
