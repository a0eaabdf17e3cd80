"""Rows and their log as they are in the database, read by plain SELECTs of SQLAlchemy: not by the product."""

from __future__ import annotations

import pickle
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ClauseElement, bindparam, select, tuple_
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.exc import SQLAlchemyError

from statelatch.closing import Closing
from statelatch.expressions import now
from statelatch.log import key_attributes, log_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Column, ColumnElement, Connection, Engine, Select
    from sqlalchemy.orm import Mapper

    from statelatch.mapping import MachineMapping

__all__ = ["Stored", "Table", "same"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """A row, and its log if there is one.

    Attributes:
        key: primary key.
        state: the state's value.
        version: of the row.
        token: of the last transition.
        values: every column, by attribute name.
        log: its entries, by attribute name, in the order of their versions; None without a log.
        read_at: when it was read, by the database's clock.
        converted: what its database makes of a value in one of its columns.
    """

    key: Any
    state: Any
    version: int
    token: UUID | None
    values: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...] | None
    read_at: datetime | None = field(default=None, repr=False)
    converted: Callable[[str, Any], Any] | None = field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        """Whether the row is the same; it may have been read at another time."""
        if not isinstance(other, Stored) or _known_by(self) != _known_by(other):
            return False
        return all(same(value, other.values[name]) for name, value in self.values.items()) and same(self.log, other.log)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def holds(self, name: str, value: object) -> bool:
        """Whether this column is what its database makes of a value: rounded, or as its type reads it back.

        Of an SQL expression, and of a type that makes something else of a value each time, nothing is known.
        """
        found = self.values[name]
        if same(value, found) or isinstance(value, ClauseElement):
            return True
        if self.converted is None:
            return False
        try:
            made = self.converted(name, value)
            return same(made, found) or not same(made, self.converted(name, value))
        except SQLAlchemyError:  # it does not take the value
            return False


def same(one: object, other: object) -> bool:
    """Whether two values are equal, or, as NaN and objects without an equality are not, pickled alike."""
    with suppress(Exception):
        if one == other:
            return True
    with suppress(Exception):
        return pickle.dumps(one) == pickle.dumps(other)
    return False


def _known_by(row: Stored) -> tuple[object, ...]:
    return row.key, row.state, row.version, row.token


KEYS = "latch_keys"
READ_AT = "latch_read_at"


class Table(Closing):
    """The rows of a mapping, seen over a connection of its own on which each SELECT is a transaction.

    Args:
        mapping: whose.
        engine: where.
    """

    def __init__(self, mapping: MachineMapping, engine: Engine) -> None:
        self._mapping = mapping
        self._engine = engine

    @cached_property
    def _connection(self) -> Connection:
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def row(self, key: object) -> Stored | None:
        """One row; None if there is none."""
        return next(iter(self.rows([key])), None)

    def rows(self, keys: Sequence[object]) -> list[Stored]:
        """Those of these keys that there are, in no order."""
        if not keys:
            return []
        mapping = self._mapping
        rows = [(row.pop(READ_AT), row) for row in self._read(self._select, keys)]
        logs = self._logs(keys)
        return [
            Stored(
                key=(key := mapping.key_of(row)),
                state=row[mapping.state],
                version=row[mapping.version],
                token=row[mapping.token],
                values=row,
                log=None if logs is None else tuple(logs.get(key, ())),
                read_at=at,
                converted=partial(self.converted, key),
            )
            for at, row in rows
        ]

    @cached_property
    def _select(self) -> Select[Any]:
        mapping = self._mapping
        columns = (column.label(name) for name, column in mapping.columns.items())
        return select(*columns, now().label(READ_AT)).where(_is_one_of(mapping.key_columns))

    @cached_property
    def _select_log(self) -> Select[Any]:
        columns = cast("Mapper[Any]", inspect_entity(self._mapping.log)).columns
        names = key_attributes(self._mapping)
        read = select(*(columns[name].label(name) for name in log_attributes(self._mapping)))
        return read.where(_is_one_of([columns[name] for name in names])).order_by(columns["version"])

    def key_of(self, token: UUID) -> Any:
        """The key of the row that has this token; None if there is none."""
        mapping = self._mapping
        columns = (mapping.columns[name].label(name) for name in mapping.key_attributes)
        found = self._connection.execute(select(*columns).where(mapping.columns[mapping.token] == token)).mappings()
        return next((mapping.key_of(dict(row)) for row in found.all()), None)

    def change(self, key: object, values: Mapping[str, object]) -> None:
        """Write columns of a row, as somebody would who knows nothing of statelatch."""
        mapping = self._mapping
        table: Any = mapping.mapper.local_table
        changes = {mapping.columns[name]: value for name, value in values.items()}
        update = table.update().where(_is_one_of(mapping.key_columns)).values(changes)
        self._connection.execute(update, {KEYS: [key]})

    def converted(self, key: object, name: str, value: object) -> Any:
        """What the database makes of a value in a column of this row, which stays as it is.

        Raises:
            SQLAlchemyError: it does not take the value.
        """
        column = self._mapping.columns[name].label(name)
        self._connection.exec_driver_sql("BEGIN")
        try:
            self.change(key, {name: value})
            (row,) = self._read(select(column).where(_is_one_of(self._mapping.key_columns)), [key])
        finally:
            self._connection.exec_driver_sql("ROLLBACK")
        return row[name]

    def close(self) -> None:
        """Close the connection."""
        if "_connection" in vars(self):
            self._connection.close()

    def _logs(self, keys: Sequence[object]) -> dict[object, list[Mapping[str, Any]]] | None:
        if self._mapping.log is None:
            return None
        names = key_attributes(self._mapping)
        logs: dict[object, list[Mapping[str, Any]]] = {}
        for entry in self._read(self._select_log, keys):
            key = [entry[name] for name in names]
            logs.setdefault(tuple(key) if len(key) > 1 else key[0], []).append(entry)
        return logs

    def _read(self, query: Select[Any], keys: Sequence[object]) -> list[dict[str, Any]]:
        found = self._connection.execute(query, {KEYS: list(keys)})
        return [dict(row) for row in cast("Iterable[Mapping[str, Any]]", found.mappings())]


def _is_one_of(columns: Sequence[Column[Any]]) -> ColumnElement[bool]:
    """The criterion that a row has one of the keys that are bound."""
    if len(columns) == 1:
        return columns[0].in_(bindparam(KEYS, expanding=True))
    return tuple_(*columns).in_(bindparam(KEYS, expanding=True))
