"""SQL expressions that each dialect spells in its own way.

Every branch for one database is a function here, named after it. The clock is always the database's,
in UTC, to the microsecond where the database has them, and the same for a whole statement.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ClauseElement,
    Column,
    DateTime,
    Double,
    Enum,
    Float,
    Integer,
    String,
    literal,
    type_coerce,
)
from sqlalchemy.dialects.mysql import DATETIME as MYSQL_DATETIME
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import SyntaxExtension, visitors
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Update
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.operators import OperatorType

__all__ = [
    "StoredState",
    "UTCDateTime",
    "exact_float",
    "exact_name",
    "exact_text",
    "first_rows",
    "from_now",
    "has_cte",
    "moment",
    "name_in",
    "now",
]


_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """An instant: aware datetimes in, UTC-aware datetimes out, microseconds kept on every database.

    `DateTime(timezone=True)` keeps a zone on PostgreSQL alone: SQLite and MariaDB store the digits and drop it.

    Raises:
        ValueError: a naive datetime was bound; say which zone it is in.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL keeps the zone; MariaDB needs to be told to keep microseconds."""
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(MYSQL_DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Send UTC; only PostgreSQL is sent the zone as well."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected an aware datetime, found the naive {value!r}; say which zone it is in")
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return UTC, whatever the session's time zone is."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Moment(UTCDateTime):
    """An instant told in microseconds since 1970: a number is read many times faster than a date."""

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in {"postgresql", "sqlite"}:
            return dialect.type_descriptor(cast("TypeEngine[Any]", BigInteger()))
        return super().load_dialect_impl(dialect)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if isinstance(value, int):
            return _UNIX_EPOCH + timedelta(microseconds=value)
        return super().process_result_value(value, dialect)


class StoredState(TypeDecorator[Any]):
    """A state read from an Enum column: a member where the Enum knows the value, else the text that is stored.

    Args:
        kind: the column's type.
        states: the machine's state values.
    """

    impl = String
    cache_ok = True

    def __init__(self, kind: Enum, states: tuple[Any, ...]) -> None:
        super().__init__()
        self.kind, self.states = kind, states

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """The state whose stored text this is."""
        stored = cast("Any", self.kind).bind_processor(dialect) or str
        return next((state for state in self.states if stored(state) == value), value)


class from_now(FunctionElement[datetime]):  # noqa: N801  used like sqlalchemy.func
    """The database's time, some seconds from now; negative seconds lie in the past.

    Args:
        seconds: a number, or an SQL expression that yields one.
    """

    type = UTCDateTime()
    inherit_cache = True
    name = "from_now"

    def __init__(self, seconds: float | ColumnElement[Any]) -> None:
        double: Double[float] = Double()  # MariaDB's FLOAT would round a year's lease to seconds
        offset = seconds if isinstance(seconds, ColumnElement) else literal(float(seconds), double)
        super().__init__(type_coerce(offset, double))


class now(FunctionElement[datetime]):  # noqa: N801  used like sqlalchemy.func
    """The database's time: UTC, microseconds, the same throughout one statement."""

    type = UTCDateTime()
    inherit_cache = True
    name = "now"


class moment(FunctionElement[datetime]):  # noqa: N801  used like sqlalchemy.func
    """The same time as `now`, in the form in which it is read back fastest."""

    type = _Moment()
    inherit_cache = True
    name = "moment"


class last_number(FunctionElement[int]):  # noqa: N801  used like sqlalchemy.func
    """The key that the database has counted for the last row which this connection inserted, where it can tell."""

    type = Integer()
    inherit_cache = True
    name = "last_number"


class exact_text(FunctionElement[str]):  # noqa: N801  used like sqlalchemy.func
    """Text compared as Python does: by code point, case and trailing blanks included."""

    type = String()
    inherit_cache = True
    name = "exact_text"


class exact_name(FunctionElement[str]):  # noqa: N801  used like sqlalchemy.func
    """A state's text, to be compared for equality: to the letter, whatever the collation of its column."""

    type = String()
    inherit_cache = True
    name = "exact_name"


class name_in(FunctionElement[bool]):  # noqa: N801  used like sqlalchemy.func
    """A text column holds one of these states, to the letter.

    Args:
        column: the state column.
        values: of the states.
    """

    type = Boolean()
    inherit_cache = True
    name = "name_in"

    def __init__(self, column: Column[Any], values: Collection[str]) -> None:
        super().__init__(column.in_(values), exact_name(column).in_(values), column)

    def self_group(self, against: OperatorType | None = None) -> name_in:
        """As it is: where booleans are numbers, SQLAlchemy would compare it with 1, and no index would be used."""
        return self


class exact_float(FunctionElement[float]):  # noqa: N801  used like sqlalchemy.func
    """A float compared as Python does, which reads a single-precision 0.1 as 0.1; NULL where it is not a number."""

    type = Float()
    inherit_cache = True
    name = "exact_float"


class first_rows(SyntaxExtension, ClauseElement):  # noqa: N801  used like sqlalchemy.dialects.mysql.limit
    """The end of an UPDATE that takes the first rows of those that it finds; only MySQL and MariaDB have one.

    Args:
        columns: by which the rows are ordered.
        limit: how many.
    """

    _traverse_internals = [  # noqa: RUF012  as SQLAlchemy has it
        ("columns", InternalTraversal.dp_clauseelement_tuple),
        ("limit", InternalTraversal.dp_clauseelement),
    ]

    def __init__(self, columns: Sequence[Column[Any]], limit: int) -> None:
        self.columns = tuple(columns)
        self.limit = literal(limit, Integer())

    def apply_to_update(self, update_stmt: Update) -> None:
        """Take the place behind WHERE."""
        update_stmt.apply_syntax_extension_point(lambda existing: [*existing, self], "post_criteria")


def has_cte(clause: ClauseElement) -> bool:
    """Whether it brings a WITH along: MariaDB has none in an UPDATE, and sqlite3 neither begins nor counts for one."""
    return any(isinstance(node, CTE) for node in visitors.iterate(clause))


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: SQLCompiler, **_: Any) -> str:
    return "statement_timestamp()"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(now, "mysql", "mariadb")
def _now_mariadb(element: now, compiler: SQLCompiler, **_: Any) -> str:
    return "utc_timestamp(6)"


@compiles(moment)
def _moment(element: moment, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(now(), **kw)


@compiles(moment, "sqlite")
def _moment_sqlite(element: moment, compiler: SQLCompiler, **_: Any) -> str:
    """SQLite counts whole milliseconds, which a Julian day tells exactly."""
    return "1000 * CAST(round(86400000 * (julianday('now') - 2440587.5)) AS INTEGER)"


@compiles(moment, "postgresql")
def _moment_postgresql(element: moment, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST(extract(epoch FROM {compiler.process(now(), **kw)}) * 1000000 AS BIGINT)"


@compiles(last_number, "sqlite")
def _last_number_sqlite(element: last_number, compiler: SQLCompiler, **_: Any) -> str:
    return "last_insert_rowid()"


@compiles(last_number, "mysql", "mariadb")
def _last_number_mariadb(element: last_number, compiler: SQLCompiler, **_: Any) -> str:
    return "last_insert_id()"


@compiles(from_now, "postgresql")
def _from_now_postgresql(element: from_now, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = f"CAST({compiler.process(element.clauses, **kw)} AS FLOAT8)"
    return f"(statement_timestamp() + make_interval(secs => {seconds}))"


@compiles(from_now, "sqlite")
def _from_now_sqlite(element: from_now, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = f"CAST({compiler.process(element.clauses, **kw)} AS FLOAT)"
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {seconds} || ' seconds')"


@compiles(from_now, "mysql", "mariadb")
def _from_now_mariadb(element: from_now, compiler: SQLCompiler, **kw: Any) -> str:
    microseconds = f"round(1000000 * ({compiler.process(element.clauses, **kw)}))"
    return f"(utc_timestamp(6) + interval {microseconds} microsecond)"


@compiles(exact_text)
def _exact_text_sqlite(element: exact_text, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} COLLATE BINARY)"


@compiles(exact_text, "postgresql")
def _exact_text_postgresql(element: exact_text, compiler: SQLCompiler, **kw: Any) -> str:
    return f'({compiler.process(element.clauses, **kw)} COLLATE "C")'


@compiles(exact_name)
@compiles(exact_float)
def _as_it_is(element: exact_name | exact_float, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(exact_name, "mysql", "mariadb")
def _exact_name_mariadb(element: exact_name, compiler: SQLCompiler, **kw: Any) -> str:
    """A column whose collation compares to the letter, trailing blanks included, is found by its index."""
    (name,) = element.clauses
    if isinstance(name, Column) and _collation(name, compiler).endswith("_nopad_bin"):
        return compiler.process(element.clauses, **kw)
    return _exact_text_mariadb(element, compiler, **kw)


@compiles(exact_text, "mysql", "mariadb")
def _exact_text_mariadb(element: exact_text | exact_name, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST(CONVERT({compiler.process(element.clauses, **kw)} USING utf8mb4) AS BINARY)"


@compiles(name_in)
def _name_in(element: name_in, compiler: SQLCompiler, **kw: Any) -> str:
    plain, _, _ = element.clauses
    return compiler.process(plain, **kw)


@compiles(name_in, "mysql", "mariadb")
def _name_in_mariadb(element: name_in, compiler: SQLCompiler, **kw: Any) -> str:
    """The plain IN finds the rows by an index; where the collation folds letters, it finds too many."""
    plain, exact, column = element.clauses
    found = compiler.process(plain, **kw)
    exactly = _collation(cast("Column[Any]", column), compiler).endswith("_bin")
    return found if exactly else f"({found} AND {compiler.process(exact, **kw)})"


def _collation(column: Column[Any], compiler: SQLCompiler) -> str:
    return getattr(column.type.dialect_impl(compiler.dialect), "collation", None) or ""


@compiles(exact_float, "postgresql")
def _exact_float_postgresql(element: exact_float, compiler: SQLCompiler, **kw: Any) -> str:
    return f"nullif(CAST(CAST({compiler.process(element.clauses, **kw)} AS TEXT) AS FLOAT8), 'NaN')"


@compiles(exact_float, "mysql", "mariadb")
def _exact_float_mariadb(element: exact_float, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(concat({compiler.process(element.clauses, **kw)}) + 0e0)"


@compiles(first_rows)
def _first_rows_mariadb(element: first_rows, compiler: SQLCompiler, **kw: Any) -> str:
    columns = ", ".join(compiler.process(column, **kw) for column in element.columns)
    return f"ORDER BY {columns} LIMIT {compiler.process(element.limit, **kw)}"
