"""PURE: many requests as one table within a statement.

Theory of operation. What `send` binds as a parameter is here a column of the table `latch_requests`, which has a row
for each request. The statement itself brings it along:

- PostgreSQL: arrays (`statelatch.request_arrays`);
- SQLite and MariaDB: VALUES (`statelatch.request_values`).

A value is converted by its SQLAlchemy type before it comes into the table, as `send` would have it converted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, bindparam
from sqlalchemy.types import TypeEngine

from statelatch.labels import AT_COLUMN
from statelatch.prepared import Prepared

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Executable
    from sqlalchemy.engine.interfaces import DBAPICursor

    from statelatch.commands import Row

__all__ = ["ROWS", "TABLE", "Cell", "Columns", "Over", "Statement"]

TABLE = "latch_requests"

ROWS = 1000
"""Requests that one statement carries at most."""

Statement = Callable[[Mapping[str, ColumnElement[Any]]], "Executable"]
"""Makes the statement, given the table's columns by the names of the cells."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of the table.

    Attributes:
        name: in the statement.
        bind: name of the bound parameter whose place it takes.
        kind: type of that parameter.
        values: what has the same values, in whatever statement: the name and the type.
        convert: what makes a value of it one of the driver's.
        cast: PostgreSQL's type to which SQLAlchemy casts such a parameter, if it does.
    """

    name: str
    bind: str
    kind: TypeEngine[Any]
    values: tuple[str, str]
    convert: Callable[[Any], Any] | None
    cast: str | None

    @classmethod
    def of(cls, name: str, bind: str, kind: TypeEngine[Any], dialect: Dialect) -> Cell:
        """The column for a parameter of this name and type."""
        convert = kind.dialect_impl(dialect).bind_processor(dialect)
        if dialect.name != "postgresql":
            return cls(name, bind, kind, (bind, repr(kind)), convert, None)
        told = _CAST.search(str(bindparam("given", type_=kind).compile(dialect=dialect)))
        cast_to = told[1] if told else None
        if convert is not None and cast_to in {"JSON", "JSONB"}:
            convert = _as_json_text(convert, dialect)
        return cls(name, bind, kind, (bind, repr(kind)), convert, cast_to)


_CAST = re.compile(r"\)s::([A-Z][A-Z0-9 ]*(?:\([0-9, ]+\))?[A-Z ]*(?:\[\])*)")
"""A parameter as SQLAlchemy casts it for psycopg."""


def _as_json_text(convert: Callable[[Any], Any], dialect: Dialect) -> Callable[[Any], Any]:
    """The text of a document that psycopg would make of its wrapper when it sends it."""
    serialize: Callable[[Any], str] = getattr(dialect, "_json_serializer", None) or json.dumps

    def converted(value: Any) -> Any:
        made = convert(value)
        return serialize(made.obj) if hasattr(made, "obj") else made

    return converted


class Columns(Collection["Row"]):
    """Rows, kept column by column."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], count: int) -> None:
        self._columns, self._count = columns, count

    @classmethod
    def of(cls, rows: Collection[Row]) -> Columns:
        """The same rows; those that SQLAlchemy has read come one by one."""
        if isinstance(rows, Columns):
            return rows
        names = next(iter(rows)).keys() if rows else ()
        return cls({name: [row[name] for row in rows] for name in names}, len(rows))

    def __getitem__(self, name: str) -> Sequence[Any]:
        """One column."""
        return self._columns[name]

    def where(self, chosen: Sequence[bool]) -> Columns:
        """Those rows for which this is true."""
        columns = {name: list(compress(column, chosen)) for name, column in self._columns.items()}
        return Columns(columns, sum(chosen))

    def __len__(self) -> int:
        """How many rows there are."""
        return self._count

    def __iter__(self) -> Iterator[Row]:
        """Row by row."""
        return (dict(zip(self._columns, row, strict=True)) for row in zip(*self._columns.values(), strict=True))

    def __contains__(self, item: object) -> bool:
        """Whether one of the rows equals this."""
        return any(item == row for row in self)


class Over(Prepared):
    """A statement over the table of requests.

    Args:
        statement: made for this table, whatever its rows.
        dialect: of the engine that will send it.
    """

    def filled(self, columns: Mapping[str, Sequence[Any]]) -> tuple[Prepared, Mapping[str, Any]]:
        """The statement with these rows, given as columns by the names of the cells, and its parameters."""
        raise NotImplementedError

    def rows(self, cursor: DBAPICursor) -> Columns:
        """All rows that the cursor holds. The time is the same for a whole statement, and converted once."""
        fetched = cursor.fetchall()
        if self._processors is None:
            self._processors = self._result_processors(cursor)
        columns: dict[str, Sequence[Any]] = {}
        for name, convert, told in zip(self._columns, self._processors, zip(*fetched, strict=True), strict=False):
            if convert is None:
                columns[name] = told
            elif name == AT_COLUMN:
                columns[name] = (convert(told[0]),) * len(told)
            else:
                columns[name] = list(map(convert, told))
        return Columns(columns, len(fetched))
