"""PURE: the table of requests on SQLite and MariaDB: VALUES, with a bound parameter in each cell.

The text grows with the rows; the server compares and stores each value as it would one of `send`, because the driver
binds it in the same way. A statement is compiled once, with one row of marked parameters; the text of that row is
repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, column, literal_column, select, values
from sqlalchemy.types import NullType

from statelatch.prepared import Prepared
from statelatch.request_tables import ROWS, TABLE, Cell, Columns, Over, Statement

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Executable, Select
    from sqlalchemy.engine.interfaces import DBAPICursor

__all__ = ["OverValues"]

KEPT = 8
"""Texts of different lengths that a statement keeps: batches mostly have the same size, and one rest."""

_NAMED = re.compile(r"%\(([^)]+)\)s")
"""A parameter as SQLAlchemy writes it for PyMySQL, by name; PyMySQL takes them by order as well."""


class OverValues(Over):
    """A statement over VALUES.

    Args:
        cells: the columns.
        make: makes the statement.
        dialect: of the engine that will send it.
    """

    def __init__(self, cells: Sequence[Cell], make: Statement, dialect: Dialect) -> None:
        self._cells, self._make = cells, make
        self._lengthened: dict[int, str] = {}
        self._dialect = dialect
        marks = tuple(bindparam(cell.name, None, type_=NullType()) for cell in cells)
        super().__init__(self.made([marks]), dialect)

    def made(self, rows: Sequence[tuple[Any, ...]]) -> Executable:
        """The statement with these rows as SQLAlchemy has it.

        The names of the columns need a WITH. It stands within: MariaDB has none before UPDATE, and for a statement that
        begins with one, Python's sqlite3 neither opens a transaction nor counts rows.
        """
        names = [column(cell.name, cell.kind) for cell in self._cells]
        named: Any = values(*names, name="latch_values").data(rows)
        rows_of = select(named.cte("latch_values", nesting=True))
        table = _limited_on_sqlite(rows_of, self._dialect).subquery(TABLE)
        return self._make(dict(table.c.items()))

    def filled(self, columns: Mapping[str, Sequence[Any]]) -> tuple[Prepared, Mapping[str, Any]]:
        """A statement for this number of rows, which it has with it."""
        rows = list(zip(*(columns[cell.name] for cell in self._cells), strict=True))
        return _Filled(self, rows, self._dialect), {}

    def text(self, count: int) -> str:
        """The text with so many rows, its parameters in their order."""
        if count not in self._lengthened:
            mark = "?" if self._dialect.paramstyle == "qmark" else "%s"
            row = f"({', '.join([mark] * len(self._cells))})"
            before, found, after = self._ordered[0].partition(f"VALUES {row}")
            assert found, "SQLAlchemy spells VALUES otherwise"  # noqa: S101
            if len(self._lengthened) > KEPT:
                self._lengthened.clear()
            self._lengthened[count] = f"{before}VALUES {', '.join([row] * count)}{after}"
        return self._lengthened[count]

    def parameters(self, rows: Sequence[Sequence[Any]], others: Mapping[str, Any]) -> Sequence[Any]:
        """The parameters with these rows, in their order."""
        bound, names = super().bound(others), self._ordered[1]
        ordered = [bound[name] for name in names] if isinstance(bound, Mapping) else bound
        before = names.index(self._cells[0].name)
        return (*ordered[:before], *chain.from_iterable(rows), *ordered[before + len(self._cells) :])

    @cached_property
    def _ordered(self) -> tuple[str, Sequence[str]]:
        """The text with one row whose parameters have an order, and their names."""
        if self._dialect.positional:
            return self.sql, self._order
        return _NAMED.sub("%s", self.sql), _NAMED.findall(self.sql)


def _limited_on_sqlite(rows: Select[Any], dialect: Dialect) -> Select[Any]:
    """All rows, with a limit that tells SQLite how many there are at most.

    It would else take them for a million, if it knows by ANALYZE that the entity's table has fewer, and read that from
    end to end to make a Bloom filter of it.
    """
    return rows.limit(literal_column(str(ROWS))) if dialect.name == "sqlite" else rows


class _Filled(Prepared):
    """A statement over VALUES, with its rows."""

    is_varying = True

    def __init__(self, template: OverValues, rows: Sequence[Sequence[Any]], dialect: Dialect) -> None:
        super().__init__(template.statement, dialect)
        self._template, self._rows = template, rows

    @property
    def statement(self) -> Executable:
        """As SQLAlchemy has it: made only where SQLAlchemy is to carry it out."""
        rows = [tuple(bindparam(None, cell, type_=NullType()) for cell in row) for row in self._rows]
        return self._template.made(rows)

    @property
    def is_select(self) -> bool:
        return self._template.is_select

    @cached_property
    def direct(self) -> bool:
        return self._template.direct

    @cached_property
    def sql(self) -> str:
        return self._template.text(len(self._rows))

    def bound(self, parameters: Mapping[str, Any]) -> Sequence[Any]:
        return self._template.parameters(self._rows, parameters)

    def rows(self, cursor: DBAPICursor) -> Columns:
        return self._template.rows(cursor)
