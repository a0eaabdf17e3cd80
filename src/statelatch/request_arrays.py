"""PURE: the table of requests on PostgreSQL: an array for each column, and `unnest`.

The text of a statement is the same for any number of rows. Arrays of plain values are sent as text that is spelled
here: the driver would take many times as long, value by value.

- A column has the type that PostgreSQL would take a single such parameter for, in `send`.
- Each array is a subquery, so that the planner does not see how long it is. If it did, it would read a hundred thousand
  rows from end to end to find a thousand of them by their keys.
- An array of arrays would be taken for one with two dimensions: arrays are sent as texts, and cast row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, cast, column, func, select
from sqlalchemy.types import Enum, NullType, String, UserDefinedType

from statelatch.errors import RequestError
from statelatch.guards import PARAMETER
from statelatch.request_tables import TABLE, Cell, Over, Statement

if TYPE_CHECKING:
    from sqlalchemy import Dialect

    from statelatch.prepared import Prepared

__all__ = ["OverArrays", "element_of"]


class OverArrays(Over):
    """A statement over arrays.

    Args:
        cells: the columns.
        elements: types of theirs, as `element_of` tells them.
        make: makes the statement.
        dialect: of the engine that will send it.
    """

    def __init__(self, cells: Sequence[Cell], elements: Sequence[str], make: Statement, dialect: Dialect) -> None:
        self._elements = {cell.name: element for cell, element in zip(cells, elements, strict=True)}
        arrays = [
            select(cast(bindparam(name, type_=NullType()), _Named(f"{_listed(element)[0]}[]"))).scalar_subquery()
            for name, element in self._elements.items()
        ]
        names = [column(cell.name, cell.kind) for cell in cells]
        table = func.unnest(*arrays).table_valued(*names).render_derived(name=TABLE)
        row: dict[str, ColumnElement[Any]] = {}
        for name, element in self._elements.items():
            given, listed = table.c[name], _listed(element)[1]
            row[name] = cast(given, _Named(listed)) if listed else given
        super().__init__(make(row), dialect)

    def filled(self, columns: Mapping[str, Sequence[Any]]) -> tuple[Prepared, Mapping[str, Any]]:
        """The statement itself; its parameters are the arrays."""
        return self, {name: _array(columns[name], element) for name, element in self._elements.items()}


class _Named(UserDefinedType[Any]):
    """A type by its name."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """The name itself."""
        return self.name


def element_of(cell: Cell, given: Sequence[Any], dialect: Dialect) -> str:
    """PostgreSQL's type for the values of a column; that of a column of arrays ends in `[]`.

    A text's length and a number's precision are left away: a cast would cut a value that is too long, where the column
    that it is written to refuses it.

    Raises:
        RequestError: values that PostgreSQL keeps in columns of different types.
    """
    if cell.cast is not None:
        return cell.cast
    kinds = set(map(type, given)) - {NoneType}
    found = {_element_of(kind, cell, given, dialect) for kind in kinds} or {"TEXT"}
    if len(found) > 1 and found <= set(_NUMBERS):
        return max(found, key=_NUMBERS.index)
    if len(found) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise RequestError(
            f"{_name(cell)}: found values of types {names}, for which PostgreSQL has no type in common; nothing was "
            "written. Send them in batches of their own."
        )
    return found.pop()


def _element_of(kind: type, cell: Cell, given: Sequence[Any], dialect: Dialect) -> str:
    if kind is int:
        largest = max(abs(value) for value in given if type(value) is int)
        return _NUMBERS[0 if largest < 2**31 else 1 if largest < 2**63 else 2]
    if kind is datetime:
        is_local = any(type(value) is datetime and value.tzinfo is None for value in given)
        return "TIMESTAMP" if is_local else "TIMESTAMPTZ"
    if kind in _ELEMENTS:
        return _ELEMENTS[kind]
    is_enum = isinstance(cell.kind, Enum) and cell.kind.native_enum
    if kind is str and isinstance(cell.kind, String | NullType) and not is_enum:
        return "TEXT"
    if isinstance(cell.kind, NullType):
        raise RequestError(
            f"{_name(cell)}: values of type {kind.__name__} have no type in SQL; nothing was written. Give the "
            "parameter one: bindparam(..., type_=...)."
        )
    return cell.kind.compile(dialect)


def _name(cell: Cell) -> str:
    return cell.bind.removeprefix(PARAMETER)


_NUMBERS = ("INTEGER", "BIGINT", "NUMERIC", "FLOAT8")
"""Each takes what those before it hold."""

_ELEMENTS = {
    float: "FLOAT8",
    Decimal: "NUMERIC",
    bool: "BOOLEAN",
    bytes: "BYTEA",
    UUID: "UUID",
    date: "DATE",
    time: "TIME",
    timedelta: "INTERVAL",
}


def _listed(element: str) -> tuple[str, str | None]:
    """The type in which a column is sent, and the one to which each of its values is cast then."""
    return ("TEXT", element) if element.endswith("[]") else (element, None)


def _array(given: Sequence[Any], element: str) -> str | list[Any]:
    """A column as PostgreSQL's text of an array, or as a list for the driver to adapt.

    See https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO.
    """
    if element.endswith("[]"):
        return _array([None if each is None else _array(each, "") for each in given], "TEXT")
    kinds = set(map(type, given))
    if kinds == {str}:
        return _texts(given)
    told = kinds - {NoneType}
    if len(told) > 1 or not told <= _SPELLED.keys() or (float in told and element != "FLOAT8"):
        return list(given)
    if len(kinds) == 1:
        return f"{{{','.join(map(_SPELLED[kinds.pop()], given))}}}"
    return f"{{{','.join([_SPELLED[type(value)](value) for value in given])}}}"


def _texts(given: Sequence[str]) -> str | list[str]:
    """An array of texts, escaped all at once; the driver tells of a NUL, which PostgreSQL has not."""
    joined = "\0".join(given)
    if joined.count("\0") != len(given) - 1:
        return list(given)
    if '"' in joined or "\\" in joined:
        joined = joined.replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + joined.replace("\0", '","') + '"}'


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_SPELLED: dict[type, Callable[[Any], str]] = {
    int: str,
    float: repr,
    bool: repr,
    str: _text,
    UUID: lambda value: f"{value.int:032x}",
    datetime: datetime.isoformat,
    NoneType: lambda _: "NULL",
}
"""Values whose text within an array is known here."""
