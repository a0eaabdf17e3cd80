"""A run by a part of its id, as a person types or pastes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, String, cast, func, or_, select

from statelatch.errors import RequestError, RowNotFoundError
from statelatch.runs import plans

if TYPE_CHECKING:
    from statelatch.adapter import PersistenceAdapter

__all__ = ["SHORTEST", "find_run"]

SHORTEST = 4
DIGITS = 32
NAMED = 3
"""How many of the runs that fit are named."""


def find_run(adapter: PersistenceAdapter, given: str) -> UUID:
    """The id of the one run whose id is this, or begins or ends with it.

    Args:
        adapter: of the runs.
        given: hexadecimal digits, with or without hyphens.

    Raises:
        RowNotFoundError: no run has such an id.
        RequestError: too short, or several runs fit.
    """
    digits = given.replace("-", "").lower()
    if len(digits) < SHORTEST:
        raise RequestError(f"run id: expected at least {SHORTEST} characters of it, found {given!r}")
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},{DIGITS}}}", digits):
        raise RowNotFoundError(table=adapter.mapping.table, key=given)
    if len(digits) == DIGITS:
        return UUID(digits)
    return _only(adapter, given, [row["id"] for row in adapter.run(plans.select(_fitting(adapter, digits)))])


def _fitting(adapter: PersistenceAdapter, digits: str) -> Select[Any]:
    column = adapter.mapping.columns["id"]
    text: ColumnElement[str] = func.replace(cast(column, String(36)), "-", "", type_=String())
    fits = or_(text.startswith(digits), text.endswith(digits))
    return select(column.label("id")).where(fits).order_by(column.desc()).limit(NAMED + 1)


def _only(adapter: PersistenceAdapter, given: str, ids: list[UUID]) -> UUID:
    if not ids:
        raise RowNotFoundError(table=adapter.mapping.table, key=given)
    if len(ids) > 1:
        named = ", ".join(map(str, ids[:NAMED])) + (", ..." if len(ids) > NAMED else "")
        raise RequestError(f"run id: expected one run, found several that {given!r} fits: {named}; say more of it")
    return ids[0]
