"""PURE: the criteria that a caller adds to an event's own conditions: which are taken, and in what form.

Rules:

- A criterion narrows; it never widens. It stands in parentheses, for text of the caller's may hold an OR.
- It reads the entity's table. Another is asked in an EXISTS or a subquery: joined to it, one row could be met twice.
- Its parameters have values, and are renamed: SQLAlchemy takes two of one name for one, and ours have names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import Alias, BindParameter, Boolean, ClauseElement, SelectBase, literal, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.types import NullType

from statelatch.errors import RequestError
from statelatch.expressions import has_cte

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql.elements import SQLCoreOperations
    from sqlalchemy.sql.roles import ExpressionElementRole

    from statelatch.mapping import MachineMapping

__all__ = ["Criterion", "checked"]

Criterion: TypeAlias = "ExpressionElementRole[bool | None] | SQLCoreOperations[bool | None]"
"""What SQLAlchemy's `where` takes: a comparison, a boolean column, a hybrid, `text`."""


def checked(mapping: MachineMapping, criteria: Iterable[object]) -> list[ColumnElement[bool]]:
    """The criteria, ready to stand beside an event's own conditions.

    Raises:
        RequestError: one is no SQL expression, reads another table, or has a parameter without a value.
    """
    return [_checked(mapping, criterion) for criterion in criteria]


def _checked(mapping: MachineMapping, criterion: object) -> ColumnElement[bool]:
    clause = _clause(mapping, criterion)
    read = select(literal(1)).where(cast("Any", clause)).get_final_froms()
    others = [each for each in read if each != mapping.mapper.local_table]
    if others:
        names = ", ".join(map(_spoken, others))
        raise RequestError(
            f"{mapping.table}: the criterion {clause} reads {names}; expected columns of {mapping.entity.__name__} "
            "alone; nothing was written. Ask about other rows in an EXISTS or a subquery."
        )
    grouped: Any = Grouping(cast("Any", visitors.replacement_traverse(clause, {}, _renamed)))
    return grouped


def _clause(mapping: MachineMapping, criterion: object) -> ClauseElement:
    """The criterion as SQLAlchemy's `where` takes it."""
    try:
        is_sql = isinstance(criterion, ClauseElement) or hasattr(criterion, "__clause_element__")
        if isinstance(criterion, SelectBase) or not is_sql:
            raise ArgumentError(f"found {criterion!r}")
        clause = select(literal(1)).where(cast("Any", criterion)).whereclause
    except ArgumentError as error:
        raise RequestError(
            f"{mapping.table}: expected criteria as SQLAlchemy's where() takes them, for instance "
            f"{mapping.entity.__name__}.{mapping.version} > 1; {error}; nothing was written"
        ) from error
    kind = getattr(clause, "type", None)
    if not isinstance(kind, Boolean | NullType):
        raise RequestError(
            f"{mapping.table}: expected a condition, found {clause}, of type {kind!r}; nothing was written. "
            "Compare it with something."
        )
    if has_cte(cast("ClauseElement", clause)):
        raise RequestError(
            f"{mapping.table}: the criterion {clause} has a CTE, which an UPDATE does not have on every database; "
            "nothing was written. Write it as a subquery."
        )
    if empty := _empty(clause):
        raise RequestError(
            f"{mapping.table}: the criterion {clause} has no value for {', '.join(empty)}; nothing was written. "
            "Give the bindparam its value; parameters of the call are those of the event."
        )
    return cast("ClauseElement", clause)


def _empty(clause: Any) -> list[str]:
    """Names of the parameters that have no value."""
    bound = [cast("BindParameter[Any]", node) for node in visitors.iterate(clause) if isinstance(node, BindParameter)]
    return [str(each.key) for each in bound if each.required]


def _spoken(read: Any) -> str:
    return f"an alias of {cast('Any', read).element}" if isinstance(read, Alias) else str(read)


def _renamed(element: object, **_: object) -> BindParameter[Any] | None:
    """A parameter under a name that no other has."""
    if not isinstance(element, BindParameter) or element.unique:
        return None
    bound = cast("BindParameter[Any]", element)
    return BindParameter(
        bound.key,
        bound.value,
        bound.type,
        unique=True,
        callable_=bound.callable,
        expanding=bound.expanding,
        literal_execute=bound.literal_execute,
    )
