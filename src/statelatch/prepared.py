"""A statement compiled once, for a DBAPI cursor: SQLAlchemy's types, without its execution of each call.

`Connection.execute` costs a Python program about as long as SQLite takes for an UPDATE. What it does per call that
is the same for each call, is done here once: the text, the order of the parameters, what converts each of them, and
what converts each column that comes back. What differs from call to call (lists in IN, Python defaults of columns)
is left to SQLAlchemy: such a statement is not `direct`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.exc import CompileError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sqlalchemy import BindParameter, Dialect, Executable
    from sqlalchemy.engine.interfaces import DBAPICursor
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine

__all__ = ["DRIVERS", "Prepared"]

DRIVERS = frozenset({"pysqlite", "psycopg", "pymysql", "mysqldb"})
"""Drivers whose cursor takes what SQLAlchemy compiles for them; with others, SQLAlchemy does more than that."""


class Prepared:
    """A statement for one dialect, compiled when it is first sent: only then is the server's version known.

    Args:
        statement: SELECT or UPDATE.
        dialect: of the engine that will send it.
    """

    is_varying = False
    """Whether SQLAlchemy would compile it anew for each call."""

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        self._statement = statement
        self._dialect = dialect
        self._processors: list[Callable[[Any], Any] | None] | None = None

    @property
    def statement(self) -> Executable:
        """The statement as SQLAlchemy has it."""
        return self._statement

    @property
    def is_select(self) -> bool:
        """Whether it only reads."""
        return bool(getattr(self.statement, "is_select", False))

    @cached_property
    def direct(self) -> bool:
        """Whether a cursor can take it as it is, whatever the parameters."""
        if getattr(self._dialect, "driver", None) not in DRIVERS:
            return False
        try:
            compiled = self._compiled
        except CompileError:  # an IN whose list is a parameter
            return False
        called = any(bound.callable for bound in compiled.binds.values())
        lists = compiled.post_compile_params or compiled.literal_execute_params
        return not (called or lists or compiled.prefetch)

    @cached_property
    def sql(self) -> str:
        """The text, in the driver's parameter style."""
        return str(self._compiled)

    def bound(self, parameters: Mapping[str, Any]) -> Sequence[Any] | Mapping[str, Any]:
        """The parameters as the driver takes them; those that the statement lacks are left out.

        Raises:
            KeyError: a required one is missing.
        """
        values = list(self._constants)
        for place, name, convert, required in self._binds:
            if required or name in parameters:
                value = parameters[name]
                values[place] = value if convert is None else convert(value)
        return values if self._names is None else dict(zip(self._names, values, strict=True))

    def rows(self, cursor: DBAPICursor) -> Collection[Mapping[str, Any]]:
        """All rows that the cursor holds, by column name."""
        fetched = cursor.fetchall()
        if self._processors is None:
            self._processors = self._result_processors(cursor)
        processors, names = self._processors, self._columns
        return [
            {
                name: value if convert is None else convert(value)
                for name, convert, value in zip(names, processors, row, strict=True)
            }
            for row in fetched
        ]

    @cached_property
    def _compiled(self) -> SQLCompiler:
        return cast("SQLCompiler", cast("Any", self.statement).compile(dialect=self._dialect))

    @cached_property
    def _order(self) -> list[str]:
        """Names of the parameters, as often and in the order in which the text has them, or each once."""
        compiled = self._compiled
        return list(compiled.positiontup or ()) if compiled.positional else list(compiled.bind_names.values())

    @cached_property
    def _names(self) -> list[str] | None:
        """Names of the parameters, for a driver that binds by name."""
        escaped = self._compiled.escaped_bind_names
        return None if self._compiled.positional else [escaped.get(name, name) for name in self._order]

    @cached_property
    def _constants(self) -> list[Any]:
        """What is bound if nothing is given: literals, and defaults."""
        bounds = [self._compiled.binds[name] for name in self._order]
        values = [(bound.effective_value, self._conversion(bound)) for bound in bounds]
        return [value if convert is None else convert(value) for value, convert in values]

    @cached_property
    def _binds(self) -> list[tuple[int, str, Callable[[Any], Any] | None, bool]]:
        """Of each parameter that may be given: its place, name, conversion, and whether it must be."""
        bounds = [self._compiled.binds[name] for name in self._order]
        return [
            (place, bound.key, self._conversion(bound), bound.required)
            for place, bound in enumerate(bounds)
            if not bound.unique
        ]

    def _conversion(self, bound: BindParameter[Any]) -> Callable[[Any], Any] | None:
        return bound.type.dialect_impl(self._dialect).bind_processor(self._dialect)

    @cached_property
    def _exported(self) -> list[tuple[str, TypeEngine[Any]]]:
        columns = cast("Any", self.statement).exported_columns
        return [(column.key, column.type) for column in columns]

    @cached_property
    def _columns(self) -> list[str]:
        return [name for name, _ in self._exported]

    def _result_processors(self, cursor: DBAPICursor) -> list[Callable[[Any], Any] | None]:
        return [
            kind.dialect_impl(self._dialect).result_processor(self._dialect, about[1])
            for (_, kind), about in zip(self._exported, cursor.description or (), strict=True)
        ]
