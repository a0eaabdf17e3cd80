"""PURE: what a call may ask for. What it may not is a `RequestError`, before any statement is sent."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import ClauseElement

from statelatch.errors import RequestError
from statelatch.guards import NOT_PARAMETERS, event_parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, String

    from statelatch.comparisons import Compared
    from statelatch.mapping import MachineMapping

__all__ = [
    "bound_parameters",
    "check_actor",
    "check_changes",
    "check_compared",
    "check_data",
    "check_datetimes",
    "check_new",
    "check_params",
    "check_proof",
]


def check_new(mapping: MachineMapping, values: Mapping[str, Any]) -> None:
    """Refuse what a new row cannot be made of."""
    check_datetimes(values)
    for name in values:
        if name not in mapping.columns:
            raise RequestError(
                f"{mapping.table}: no column {name!r}; it has {', '.join(mapping.columns)}; nothing was written"
            )
        if name in {mapping.state, mapping.version, mapping.token}:
            raise RequestError(f"{mapping.table}: {name!r} is written by statelatch; leave it out; nothing was written")
        if mapping.columns[name].computed is not None:
            raise RequestError(f"{mapping.table}: {name!r} is a generated column; leave it out; nothing was written")


def check_params(event: str, params: Mapping[str, Any]) -> None:
    """Refuse parameters that python-statemachine would not pass on."""
    check_datetimes(params)
    if reserved := NOT_PARAMETERS & set(params):
        raise RequestError(
            f"{event!r}: {', '.join(sorted(reserved))} cannot be a parameter, python-statemachine has an argument of "
            "that name; nothing was written. Give it another name."
        )


def check_proof(expected_version: object, token: object) -> None:
    """Refuse a version that is no integer, and a token that is no UUID."""
    if expected_version is not None and type(expected_version) is not int:
        raise RequestError(f"expected_version: expected an integer, found {expected_version!r}; nothing was written")
    if token is not None and not isinstance(token, UUID):
        raise RequestError(f"token: expected a UUID, found {token!r}; nothing was written")


def check_changes(changes: Mapping[str, Any]) -> None:
    """Refuse what callbacks may set on a row in a session, but not here."""
    check_datetimes(changes)
    for name, value in changes.items():
        if isinstance(value, ClauseElement):
            raise RequestError(
                f"{name}: a callback set it to the SQL expression {value}; nothing was written. "
                "Set a value there, or name the expression in the mapping's `assigns`."
            )


def bound_parameters(event: str, names: Mapping[str, bool], params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the event's parameters that a statement binds.

    Raises:
        RequestError: a required one is missing.
    """
    missing = [name for name, required in names.items() if required and name not in params]
    if missing:
        raise RequestError(
            f"{event!r} needs {', '.join(map(repr, missing))}, found {', '.join(params) or 'no parameters'}; "
            "nothing was written. Pass it as a keyword argument."
        )
    return {event_parameter(name): params[name] for name in names if name in params}


def check_compared(event: str, compared: Mapping[str, Iterable[Compared]], params: Mapping[str, Any]) -> None:
    """Refuse parameters on which SQL and Python would not agree where a guard compares them."""
    for name, places in compared.items():
        for place in places:
            if name in params and not place.takes(params[name]):
                raise RequestError(
                    f"{event!r}: a guard compares the parameter {name!r} with values of kind {place.latch_kind}, "
                    f"found {params[name]!r}; nothing was written. Pass a value of that kind, or None."
                )


def check_datetimes(values: Mapping[str, Any]) -> None:
    """Refuse naive datetimes: every instant is in UTC, and a naive one does not say where it is."""
    for name, value in values.items():
        if isinstance(value, datetime) and value.tzinfo is None:
            raise RequestError(f"{name}: naive datetime {value!r}; say which zone it is in; nothing was written")


def check_actor(column: Column[Any], actor: object) -> None:
    """Refuse what the log's column for the actor cannot hold."""
    if actor is None:
        return
    if not isinstance(actor, str):
        raise RequestError(f"actor: expected text for {column}, found {actor!r}; nothing was written")
    length: int | None = cast("String", column.type).length
    if length is not None and len(actor) > length:
        raise RequestError(
            f"actor: it has {len(actor)} characters, {column} holds {length}; nothing was written. Shorten it, or "
            "lengthen the column."
        )
    _check_text("actor", actor)


def check_data(column: Column[Any], data: object) -> None:
    """Refuse what is no JSON."""
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{_culprit(data)}: {error}; nothing was written. {column} holds JSON: pass text, numbers, booleans, None, "
            "lists and dicts of these."
        ) from error
    for text in _texts(data):
        _check_text("data", text)


def _culprit(data: object) -> str:
    """Which part of the data is no JSON, as Python would spell it."""
    path, part = "data", data
    for _ in range(20):  # what refers to itself has no end
        found = next(((key, inner) for key, inner in _parts(part) if not _is_json(inner)), None)
        if found is None:
            return path
        key, part = found
        path += f"[{key!r}]"
    return "data"


def _parts(data: object) -> Iterable[tuple[object, object]]:
    match data:
        case dict():
            return cast("dict[object, object]", data).items()
        case list() | tuple():
            return enumerate(cast("Sequence[object]", data))
        case _:
            return ()


def _is_json(data: object) -> bool:
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _texts(data: object) -> Iterator[str]:
    """Every text in it, keys included."""
    if isinstance(data, str):
        yield data
    for key, part in _parts(data):
        yield from (*_texts(key), *_texts(part))


def _check_text(name: str, text: str) -> None:
    """Refuse text that PostgreSQL does not store: NUL, and halves of surrogate pairs."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(
            f"{name}: {text!r} contains NUL or half a surrogate pair, which no database stores as text; "
            "nothing was written. Take it out."
        )
