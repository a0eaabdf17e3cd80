"""PURE: which values Python compares with one another, by the SQL types and the constants that hold them.

Rules:

- A kind is a class of values that compare alike in Python and in SQL.
- A type whose values a database keeps otherwise than Python reads them has no kind, nor has a constant that some
  database cannot be sent: both raise `Untranslatable`.
- A constant is *unlike* a type if Python would give the same answer for every value of that type because it
  cannot compare the two at all. Types whose values are anybody's guess (JSON, custom types) are not judged.
"""

from __future__ import annotations

import ast
import math
import operator
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import ColumnElement, types

from statelatch.expressions import UTCDateTime
from statelatch.truth import Untranslatable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = [
    "COMPARISONS",
    "NUMBERS",
    "check_text",
    "is_equality",
    "is_of_kind",
    "kind_of",
    "kind_of_parameter",
    "members_of",
    "unlike",
]

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
"""What a guard may compare with; the parser of python-statemachine takes no other."""

NUMBERS = frozenset({"integer", "big integer", "float"})

_NOT_PYTHON_TEXT = {
    "CHAR": "PostgreSQL pads CHAR with blanks",
    "NCHAR": "PostgreSQL pads CHAR with blanks",
    "CITEXT": "PostgreSQL compares CITEXT without case",
    "SET": "a SET of MariaDB's is no text in Python",
}
"""Text types whose values are not compared as Python does, by SQLAlchemy's names for them."""


def is_equality(comparison: ast.cmpop) -> bool:
    """Whether it is `==` or `!=`, which Python answers for any two values."""
    return isinstance(comparison, ast.Eq | ast.NotEq)


def kind_of(value: ColumnElement[Any] | object) -> str:
    """The kind of a column's values, or of a constant.

    Raises:
        Untranslatable: it has none.
    """
    if isinstance(value, ColumnElement):
        return _column_kind(cast("ColumnElement[Any]", value).type)
    match value:
        case bool():
            return "truth"
        case int():
            if not -(2**63) <= value < 2**63:
                raise Untranslatable(f"no database has an integer like {value}")
            return "big integer" if abs(value) > 2**53 else "integer"
        case float():
            if not math.isfinite(value):
                raise Untranslatable(f"MariaDB has no number {value}")
            return "float"
        case str():
            if "\x00" in value or not _is_unicode(value):
                raise Untranslatable(f"PostgreSQL has no text {value!r}")
            return "text"
        case _:
            return type(value).__name__


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _column_kind(of: types.TypeEngine[Any]) -> str:
    kinds = [_type_kind(variant) for variant in _variants(of)]
    if len(set(kinds)) > 1 and not set(kinds) <= {"truth", "integer", "big integer"}:
        raise Untranslatable(f"it compares {' or '.join(sorted(set(kinds)))}, depending on the database")
    return "big integer" if "big integer" in kinds else kinds[0]


def _variants(of: types.TypeEngine[Any]) -> tuple[types.TypeEngine[Any], ...]:
    """The type, and what it is on other databases."""
    return (of, *of._variant_mapping.values())  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _type_kind(of: types.TypeEngine[Any]) -> str:
    match of:
        case types.Boolean():
            return "truth"
        case types.BigInteger():
            return "big integer"
        case types.Integer():
            return "integer"
        case types.Float(asdecimal=False):
            return "float"
        case types.Enum():
            return "enum"
        case types.String():
            check_text(of)
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


def check_text(of: types.String) -> None:
    """Raise `Untranslatable` if this text is on some database not what Python reads."""
    for variant in _variants(of):
        if problem := _NOT_PYTHON_TEXT.get(variant.__visit_name__):
            raise Untranslatable(problem)


def kind_of_parameter(of: types.TypeEngine[Any]) -> str:
    """The kind of values that an event's parameter may have where it is compared with this type.

    Raises:
        Untranslatable: none: some database drops their zone.
    """
    kind = _column_kind(of)
    if kind in {"zoned time", "local time"}:
        raise Untranslatable(f"it compares a parameter with a {kind}, of which some database drops the zone")
    return "integer" if kind == "big integer" else kind


def is_of_kind(value: object, kind: str) -> bool:
    """Whether every database is sent this value as Python has it, where values of the kind are compared."""
    match kind:
        case "truth":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        case "float":
            return _is_finite(value) or (is_of_kind(value, "integer") and abs(cast("int", value)) <= _EXACT_FLOAT)
        case "text" | "uuid as text":
            return isinstance(value, str) and "\x00" not in value and _is_unicode(value)
        case "instant":
            return isinstance(value, datetime) and value.tzinfo is not None
        case "date":
            return isinstance(value, date) and not isinstance(value, datetime)
        case "uuid":
            return isinstance(value, UUID)
        case _:
            return False


_EXACT_FLOAT = 2**53


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def members_of(of: types.Enum) -> Collection[object]:
    """What an Enum column may hold: members of its class, or text."""
    return tuple(cast("Collection[object]", of.enum_class or of.enums))


def unlike(of: types.TypeEngine[Any], comparison: ast.cmpop, constant: object) -> bool:
    """Whether Python cannot compare any value of this type with the constant: it is never equal, or always raises."""
    values = [_examples(variant) for variant in _variants(of)]
    if constant is None or not all(values):
        return False
    return not any(_compares(value, comparison, constant) for examples in values for value in examples)


def _compares(value: object, comparison: ast.cmpop, constant: object) -> bool:
    if is_equality(comparison):
        answers = (type(value).__eq__(value, constant), type(constant).__eq__(constant, value))
        return any(answer is not NotImplemented for answer in answers)
    try:
        COMPARISONS[type(comparison)](value, constant)
    except TypeError:
        return False
    return True


def _examples(of: types.TypeEngine[Any]) -> Collection[object]:
    """Values of the type that compare with what any of its values compares with; none if that is not known."""
    match of:
        case types.Enum():
            return members_of(of)
        case types.Boolean():
            return (True,)
        case types.Integer():
            return (0,)
        case types.Float(asdecimal=False) | types.Numeric(asdecimal=False):
            return (0.0,)
        case types.Float() | types.Numeric():
            return (Decimal(0),)
        case types.String():
            return ("",) if of.__visit_name__ != "SET" else ()
        case UTCDateTime() | types.DateTime():
            return (datetime.min,)
        case types.Date():
            return (date.min,)
        case types.Time():
            return (time.min,)
        case types.Uuid():
            return (UUID(int=0),) if of.as_uuid else ("",)
        case types.LargeBinary():
            return (b"",)
        case _:
            return ()
