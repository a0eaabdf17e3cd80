"""PURE: what a call may ask for. What it may not is a `RequestError`, before any statement is sent."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import ClauseElement

from statelatch.errors import RequestError
from statelatch.guards import NOT_PARAMETERS, event_parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statelatch.mapping import MachineMapping

__all__ = ["bound_parameters", "check_changes", "check_datetimes", "check_new", "check_params", "check_proof"]


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


def check_datetimes(values: Mapping[str, Any]) -> None:
    """Refuse naive datetimes: every instant is in UTC, and a naive one does not say where it is."""
    for name, value in values.items():
        if isinstance(value, datetime) and value.tzinfo is None:
            raise RequestError(f"{name}: naive datetime {value!r}; say which zone it is in; nothing was written")
