"""PURE: truth values and comparisons in SQL that answer as Python does, on every row and every database.

- NULL is None: false in a condition, equal to itself, and `None < 3` raises.
- Text is compared by code point, whatever the collation; a float as Python reads it.
- Values of unlike types, and those that a database keeps otherwise than Python reads them, are not compared in
  SQL: decimals are floats on SQLite, CHAR is padded on PostgreSQL, MariaDB orders UUIDs in its own way.
"""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    and_,
    bindparam,
    case,
    false,
    func,
    literal,
    not_,
    or_,
    true,
    types,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList

from statelatch.expressions import UTCDateTime, exact_float, exact_text
from statelatch.truth import Truth, Untranslatable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["compare", "never_null", "truth_of"]

_ORDERINGS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def truth_of(value: ColumnElement[Any] | object) -> Truth:
    """Python's truth value: NULL, zero and empty text are false.

    Raises:
        Untranslatable: the type's truth value in SQL is not Python's.
    """
    if not isinstance(value, ColumnElement):
        return Truth(true() if value else false())
    column = cast("ColumnElement[Any]", value)
    match column.type:
        case types.Boolean():
            return Truth(column if never_null(column) else func.coalesce(column, false()))
        case types.Integer() | types.Float():
            return Truth(func.coalesce(column, 0) != 0)
        case types.Enum() as kind:
            members = cast("Iterable[object]", kind.enum_class or kind.enums)
            return Truth(func.coalesce(column.in_([member for member in members if member]), false()))
        case types.CHAR():
            raise Untranslatable("PostgreSQL pads CHAR with blanks")
        case types.String():
            return Truth(func.coalesce(exact_text(column) != exact_text(literal("")), false()))
        case types.DateTime() | types.Date() | types.Time() | types.Uuid() | UTCDateTime():
            return Truth(column.is_not(None))
        case other:
            raise Untranslatable(f"the truth value of the SQL type {other!r} is not Python's")


def never_null(clause: object) -> bool:
    """Whether the expression has a value on every row, so that nothing need stand in for NULL."""
    match clause:
        case Column():
            return not clause.nullable
        case BooleanClauseList():
            return all(never_null(part) for part in clause.clauses)
        case BinaryExpression(operator=operators.is_ | operators.is_not):
            return True
        case BinaryExpression() if operators.is_comparison(clause.operator):
            return never_null(clause.left) and never_null(clause.right)
        case _:
            return False


def _kind(value: ColumnElement[Any] | object) -> str:
    """The class of values that Python compares with one another."""
    if isinstance(value, ColumnElement):
        return _column_kind(cast("ColumnElement[Any]", value).type)
    kinds: dict[type, str] = {bool: "truth", int: "integer", float: "float", str: "text"}
    return "big integer" if _is_big(value) else kinds.get(type(value), type(value).__name__)


def _column_kind(of: types.TypeEngine[Any]) -> str:
    match of:
        case types.Boolean():
            return "truth"
        case types.BigInteger():
            return "big integer"
        case types.Integer():
            return "integer"
        case types.Float():
            return "float"
        case types.Enum():
            return "enum"
        case types.CHAR():
            raise Untranslatable("PostgreSQL pads CHAR with blanks")
        case types.String():
            return "text"
        case UTCDateTime():
            return "instant"
        case types.DateTime() as kind:
            return "zoned time" if kind.timezone else "local time"
        case types.Date():
            return "date"
        case types.Uuid() as kind:
            return "uuid" if kind.as_uuid else "uuid as text"
        case other:
            raise Untranslatable(f"values of the SQL type {other!r} are not compared in SQL")


def compare(left: ColumnElement[Any] | object, comparison: ast.cmpop, right: ColumnElement[Any] | object) -> Truth:
    """One comparison. `==` and `!=` know None; the orderings raise for it, as Python does.

    Raises:
        Untranslatable: values of unlike types, or a constant compared with a constant.
    """
    left, right = _typed(left, right), _typed(right, left)
    columns = [cast("ColumnElement[Any]", side) for side in (left, right) if isinstance(side, ColumnElement)]
    if not columns:
        raise Untranslatable("it compares two constants")
    equality = isinstance(comparison, ast.Eq | ast.NotEq)
    if equality and (left is None or right is None):
        same = columns[0].is_(None)
    else:
        left, right = _comparable(left, right, ordered=not equality)
        if not equality:
            holds, unknown = _ORDERINGS[type(comparison)](left, right), [c for c in columns if not never_null(c)]
            if not unknown:
                return Truth(holds)
            return Truth(func.coalesce(holds, false()), or_(*(column.is_(None) for column in unknown)))
        same = _equal(left, right, columns)
    return Truth(same if isinstance(comparison, ast.Eq) else not_(same))


def _typed(value: Any, other: Any) -> Any:
    """A parameter of no type gets the type of what it is compared with, so that None can be told from it."""
    if not (isinstance(value, BindParameter) and isinstance(cast("Any", value).type, types.NullType)):
        return cast("object", value)
    if not isinstance(other, ColumnElement) or isinstance(other, BindParameter):
        raise Untranslatable("it compares a parameter with something that is no column")
    bound, kind = cast("BindParameter[Any]", value), cast("ColumnElement[Any]", other).type
    return bindparam(bound.key, type_=kind) if bound.required else bindparam(bound.key, bound.value, type_=kind)


_ALIKE = (
    {"integer", "big integer"},
    {"integer", "float"},
)
"""Kinds that compare alike in Python and in SQL. SQL would round a big integer to a float."""

_EXACT: dict[str, Callable[[Any], ColumnElement[Any]]] = {"text": exact_text, "float": exact_float}


def _is_big(value: object) -> bool:
    """Whether a number is an integer that a float may not hold."""
    return type(value) is int and abs(value) > 2**53


def _comparable(left: Any, right: Any, *, ordered: bool) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    kinds = {_kind(left), _kind(right)}
    if "enum" in kinds or (len(kinds) > 1 and not any(kinds <= alike for alike in _ALIKE)):
        raise Untranslatable(f"it compares {' with '.join(sorted(kinds))}")
    if ordered and kinds & {"uuid", "uuid as text"}:
        raise Untranslatable("it orders UUIDs, which MariaDB orders otherwise")
    sides: list[ColumnElement[Any]] = [
        side if isinstance(side, ColumnElement) else literal(side) for side in (left, right)
    ]
    exact = next((_EXACT[kind] for kind in kinds if kind in _EXACT), None)
    if exact is not None:
        sides = [exact(side) for side in sides]
    return sides[0], sides[1]


def _equal(
    left: ColumnElement[Any], right: ColumnElement[Any], columns: list[ColumnElement[Any]]
) -> ColumnElement[bool]:
    """Equal, or both None; never NULL."""
    if all(never_null(column) for column in columns):
        return left == right
    if len(columns) == 1:
        return func.coalesce(left == right, false())
    both_null = and_(columns[0].is_(None), columns[1].is_(None))
    return case((both_null, true()), else_=func.coalesce(left == right, false()))
