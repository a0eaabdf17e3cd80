"""PURE: truth values and comparisons in SQL that answer as Python does, on every row and every database.

- NULL is None: false in a condition, equal to itself, and `None < 3` raises.
- Text is compared by code point, whatever the collation; a float as Python reads it; a truth value as 0 or 1.
- An Enum column and a constant are compared here, in Python, member by member; so are two constants.
- Values of unlike kinds, and those that a database keeps otherwise than Python reads them, are not compared in
  SQL: decimals are floats on SQLite, CHAR is padded on PostgreSQL, MariaDB orders UUIDs in its own way.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Case,
    Column,
    ColumnElement,
    Integer,
    and_,
    case,
    false,
    func,
    literal,
    not_,
    or_,
    true,
    types,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import AsBoolean, BinaryExpression, BooleanClauseList, False_, True_
from sqlalchemy.sql.functions import coalesce

from statelatch.expressions import UTCDateTime, exact_float, exact_text
from statelatch.kinds import (
    COMPARISONS,
    NUMBERS,
    check_text,
    is_equality,
    is_of_kind,
    kind_of,
    kind_of_parameter,
    members_of,
)
from statelatch.truth import Truth, Untranslatable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Compared", "compare", "never_null", "truth_of"]

Side = ColumnElement[Any] | object
"""One side of a comparison: SQL, or a constant."""


def truth_of(value: Side) -> Truth:
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
            return Truth(_among(column, [member for member in members_of(kind) if member]))
        case types.String() as kind:
            check_text(kind)
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
        case True_() | False_():
            return True
        case BindParameter(unique=True, value=value):  # a constant, or the items of an IN
            items = cast("list[object]", value) if clause.expanding else [cast("object", value)]
            return all(item is not None for item in items)
        case coalesce():
            return any(never_null(part) for part in clause.clauses)
        case AsBoolean():
            return never_null(clause.element)
        case Case():
            return all(never_null(part) for part in (*(then for _, then in clause.whens), clause.else_))
        case BooleanClauseList():
            return all(never_null(part) for part in clause.clauses)
        case BinaryExpression(operator=operators.is_ | operators.is_not):
            return True
        case BinaryExpression(operator=operators.custom_op()):
            return False
        case BinaryExpression() if operators.is_comparison(clause.operator):
            return never_null(clause.left) and never_null(clause.right)
        case _:
            return False


def compare(left: Side, comparison: ast.cmpop, right: Side) -> Truth:
    """One comparison. `==` and `!=` know None; the orderings raise for it, as Python does.

    Raises:
        Untranslatable: the two sides are of kinds that SQL does not compare as Python does.
    """
    left, right = _typed(left, right), _typed(right, left)
    columns = [cast("ColumnElement[Any]", side) for side in (left, right) if isinstance(side, ColumnElement)]
    if not columns:
        return _answered(comparison, left, right)
    if left is None or right is None:
        return _with_none(columns[0], comparison)
    if len(columns) == 1 and isinstance(columns[0].type, types.Enum):
        return _by_member(columns[0], comparison, left, right)
    left, right = _comparable(left, right, ordered=not is_equality(comparison))
    if is_equality(comparison):
        same = _equal(left, right, columns)
        return Truth(same if isinstance(comparison, ast.Eq) else not_(same))
    holds, unknown = COMPARISONS[type(comparison)](left, right), [c for c in columns if not never_null(c)]
    if not unknown:
        return Truth(holds)
    return Truth(func.coalesce(holds, false()), or_(*(column.is_(None) for column in unknown)))


def _answered(comparison: ast.cmpop, left: object, right: object) -> Truth:
    """Two constants."""
    try:
        holds = COMPARISONS[type(comparison)](left, right)
    except TypeError:
        return Truth(false(), true())
    return Truth(true() if holds else false())


def _with_none(column: ColumnElement[Any], comparison: ast.cmpop) -> Truth:
    if not is_equality(comparison):
        return Truth(false(), true())
    return Truth(column.is_(None) if isinstance(comparison, ast.Eq) else column.is_not(None))


def _by_member(column: ColumnElement[Any], comparison: ast.cmpop, left: Side, right: Side) -> Truth:
    """An Enum column and a constant: what Python says of each value that the column may have."""
    holding: list[object] = []
    raising: list[object] = []
    null = () if never_null(column) else (None,)
    for value in (*members_of(cast("types.Enum", column.type)), *null):
        sides = (value, right) if left is column else (left, value)
        try:
            if COMPARISONS[type(comparison)](*sides):
                holding.append(value)
        except Exception:  # noqa: BLE001  whatever the comparison of a member raises, the guard raises
            raising.append(value)
    return Truth(_among(column, holding), _among(column, raising) if raising else None)


def _among(column: ColumnElement[Any], values: list[object]) -> ColumnElement[bool]:
    """Where the column has one of these values, None for NULL; never NULL."""
    members = [value for value in values if value is not None]
    found = column.in_(members) if members else false()
    if len(members) < len(values):
        return or_(column.is_(None), found)
    return found if never_null(column) else func.coalesce(found, false())


def _typed(value: Any, other: Any) -> Any:
    """A parameter of no type gets the type of what it is compared with, so that None can be told from it."""
    if not (isinstance(value, BindParameter) and isinstance(cast("Any", value).type, types.NullType)):
        return cast("object", value)
    if not isinstance(other, ColumnElement) or isinstance(other, BindParameter):
        raise Untranslatable("it compares a parameter with something that is no column")
    return Compared(cast("BindParameter[Any]", value), cast("ColumnElement[Any]", other).type)


class Compared(BindParameter[Any]):
    """A parameter of the event that a guard compares, with the kind of values for which SQL and Python agree.

    The database would make of another kind's value what the column holds: of 2.5 the integer 2.

    Args:
        bound: the parameter, of no type.
        type_: of what it is compared with.

    Raises:
        Untranslatable: there are no such values, or its default is none.
    """

    inherit_cache = True

    def __init__(self, bound: BindParameter[Any], type_: types.TypeEngine[Any]) -> None:
        self.latch_kind = kind_of_parameter(type_)
        wide = BigInteger() if self.latch_kind == "integer" else type_
        if bound.required:
            super().__init__(bound.key, type_=wide, required=True)
        else:
            super().__init__(bound.key, bound.value, type_=wide)
            if not self.takes(bound.value):
                raise Untranslatable(f"the default of its parameter, {bound.value!r}, is no {self.latch_kind}")

    def takes(self, value: object) -> bool:
        """Whether SQL and Python agree on this value."""
        return value is None or is_of_kind(value, self.latch_kind)


_ALIKE = (
    {"integer", "big integer"},
    {"integer", "float"},
)
"""Kinds that compare alike in Python and in SQL. SQL would round a big integer to a float."""

_EXACT: dict[str, Callable[[Any], ColumnElement[Any]]] = {"text": exact_text, "float": exact_float}


def _as_number(side: Side) -> Side:
    """A truth value as the number that it equals in Python."""
    return sql_cast(cast("ColumnElement[Any]", side), Integer()) if isinstance(side, ColumnElement) else int(bool(side))


def _comparable(left: Side, right: Side, *, ordered: bool) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    kinds = {kind_of(left), kind_of(right)}
    if "truth" in kinds and kinds & NUMBERS:
        left, right = (_as_number(side) if kind_of(side) == "truth" else side for side in (left, right))
        kinds = kinds - {"truth"} | {"integer"}
    if "enum" in kinds or (len(kinds) > 1 and not any(kinds <= alike for alike in _ALIKE)):
        raise Untranslatable(f"it compares {' with '.join(sorted(kinds))}")
    if ordered and kinds & {"uuid", "uuid as text"}:
        raise Untranslatable("it orders UUIDs, which MariaDB orders otherwise")
    sides = [
        cast("ColumnElement[Any]", side) if isinstance(side, ColumnElement) else literal(side) for side in (left, right)
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
