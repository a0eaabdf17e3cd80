"""PURE: is a new row what was asked for?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import FetchedValue
from sqlalchemy.exc import DBAPIError, IntegrityError

from statelatch.errors import ConfigurationError, ConnectionFailureError, OutcomeUnknownError
from statelatch.reasons import has_eventless
from statelatch.records import Snapshot
from statelatch.testing.calls import Trouble, fail
from statelatch.testing.fault import ProcessDied
from statelatch.testing.stored import same
from statelatch.testing.verdicts import check_unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statelatch.mapping import MachineMapping
    from statelatch.testing.stored import Stored

__all__ = ["check_created", "check_snapshot", "check_taken", "is_failure"]


def check_created(
    mapping: MachineMapping, columns: Mapping[str, Any], answer: object, row: Stored | None, trouble: Trouble
) -> None:
    """Check what `create` has answered.

    Args:
        mapping: the machine and the entity.
        columns: what was asked for.
        answer: what was told.
        row: the row that has been made; None if there is none, or it could not be found.
        trouble: what went wrong meanwhile.

    Raises:
        LifecycleError: it does not agree with the row.
        ConfigurationError: the columns are not such as `create` takes.
    """
    if isinstance(answer, Snapshot):
        if row is None:
            fail("create", f"the row {answer.key!r}, as it was answered", "none")
        check_snapshot(answer, row)
    elif isinstance(answer, OutcomeUnknownError):
        if row is not None or answer.key is not None or not trouble.cut:  # else nobody knows where to look
            check_unknown("create", answer, trouble)
    elif not isinstance(answer, ProcessDied) and row is not None:
        fail("create", f"no row: it was answered {type(answer).__name__}", row)
    elif isinstance(answer, ConnectionFailureError) and not trouble.struck:
        fail("create", "an answer: the database was there", repr(answer))
    elif not isinstance(answer, IntegrityError) and not (trouble.struck and is_failure(answer)):
        cause = answer if isinstance(answer, BaseException) else None
        raise ConfigurationError(f"values: create({dict(columns)}) raised {answer!r}") from cause
    if row is not None:
        _check_new(mapping, columns, row)


def check_taken(before: Stored, after: Stored | None, answer: object, trouble: Trouble) -> None:
    """There was a row of this key.

    Raises:
        LifecycleError: it is another now, or the answer does not say so.
    """
    if before != after:
        fail(f"the row {before.key!r}, whose key a new row was to have", before, after)
    if not isinstance(answer, IntegrityError) and not (trouble.struck and is_failure(answer)):
        fail(f"create of {before.key!r}, which is there", "an IntegrityError", repr(answer))


def check_snapshot(snapshot: Snapshot, row: Stored) -> None:
    """It is the row.

    Raises:
        LifecycleError: it is not.
    """
    told = snapshot.key, snapshot.state, snapshot.version
    is_whole = snapshot.values.keys() == row.values.keys()
    if told != (row.key, row.state, row.version) or not (is_whole and same(dict(snapshot.values), dict(row.values))):
        fail(f"the snapshot of {row.key!r}", row, snapshot)


def is_failure(answer: object) -> bool:
    """Whether a call failed as it may after a fault: a driver's error is none that another connection would mend."""
    return isinstance(answer, ConnectionFailureError | ProcessDied | DBAPIError)


def _check_new(mapping: MachineMapping, columns: Mapping[str, Any], row: Stored) -> None:
    """It is at version 1 in the initial state, and has the columns that it was given."""
    if row.version != 1 or not (row.state == mapping.initial or has_eventless(mapping)):
        found = f"version {row.version} in state {row.state!r}"
        fail("create", f"version 1 in state {mapping.initial!r}", found)
    for name, value in columns.items():
        is_fetched = type(mapping.columns[name].server_default) is FetchedValue
        if not is_fetched and not row.holds(name, value):
            hint = "if a trigger writes it, declare the column with server_default=FetchedValue()"
            fail("create", f"the column {name!r} {value!r}, as it was given", f"{row.values[name]!r} ({hint})")
