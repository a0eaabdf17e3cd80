"""PURE: the UPDATE of `send_where`: an event's own, with the caller's criteria in the place of the key.

State and guards are checked where it writes, row by row, as for a single row; its count is the number of rows moved.
One token serves them all: each source state leaves its variant of it (`statelatch.tokens`), and by these the moved rows
are found again in the same transaction, while nobody else can move them.

A `limit` takes the first rows by key. PostgreSQL passes over those that another transaction is writing (SKIP LOCKED):
callers at the same time get different rows, at once. MariaDB has that for SELECT only, and its UPDATE waits, as does
SQLite, where one writes at a time.

What is the same for each call is made once and kept.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ColumnElement, Executable, Select, Update, bindparam, select, tuple_, update

from statelatch.event_statements import EventStatements
from statelatch.expressions import first_rows, now
from statelatch.labels import AT_COLUMN
from statelatch.parameters import parameters_of
from statelatch.reasons import actions_of, reasons_of
from statelatch.spooled import CHUNK
from statelatch.statements import Statements
from statelatch.writes import set_order

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from statelatch.prepared import Prepared

__all__ = ["BulkStatements", "EventInBulk"]


class BulkStatements:
    """The statements of a mapping for many rows at once.

    Args:
        statements: those for single rows.
    """

    def __init__(self, statements: Statements) -> None:
        self.of_mapping = statements
        self._events: dict[str, EventInBulk] = {}

    def event(self, name: str) -> EventInBulk:
        """The statements of one event.

        Raises:
            RequestError: the machine has no such event.
        """
        if name not in self._events:
            self._events[name] = EventInBulk(self.of_mapping.event(name))
        return self._events[name]


class EventInBulk:
    """One event: what stands in the way of one UPDATE, and the statements if nothing does."""

    def __init__(self, event: EventStatements) -> None:
        self.event = event
        self.mapping = event.mapping
        self._reasons: dict[frozenset[str], tuple[str, ...]] = {}

    @cached_property
    def actions(self) -> tuple[str, ...]:
        """The callbacks that the UPDATE would skip."""
        edges = self.event.edges
        return tuple(dict.fromkeys(name for edge in edges for name in actions_of(self.mapping, edge.transition)))

    def reasons(self, waived: frozenset[str]) -> tuple[str, ...]:
        """Why the event cannot be one UPDATE, even if these of its `actions` may be skipped."""
        if waived not in self._reasons:
            self._reasons[waived] = tuple(dict.fromkeys(reasons_of(self.event, waived=waived)))
        return self._reasons[waived]

    @cached_property
    def parameters(self) -> Mapping[str, bool]:
        """The event's own parameters, and whether each is required."""
        return parameters_of([self._movable])

    def moving(self, criteria: Collection[ColumnElement[bool]], limit: int | None) -> tuple[Executable | Prepared, ...]:
        """What moves every row, or the first, that the event and the criteria admit, and enters it into the log."""
        if not criteria and limit is None:
            return self._moving_all
        return self.event.logged(self._update(criteria, limit), self._is_mine)

    @cached_property
    def _moving_all(self) -> tuple[Prepared, ...]:
        return tuple(map(self.event.of_mapping.prepared, self.event.logged(self._movable, self._is_mine)))

    @cached_property
    def keys(self) -> Select[Any]:
        """The keys of the rows that this call has moved."""
        named = zip(self.mapping.key_attributes, self.mapping.key_columns, strict=True)
        keys = (column.label(name) for name, column in named)
        return select(*keys).where(self._is_mine).execution_options(yield_per=CHUNK)

    @cached_property
    def outcomes(self) -> Select[Any]:
        """The same with what a `Transitioned` tells."""
        *outcome, _ = self.event.of_mapping.outcome
        at = select(now()).scalar_subquery()  # once: to PostgreSQL each chunk that is read is a statement of its own
        return self.keys.add_columns(*outcome, at.label(AT_COLUMN))

    @cached_property
    def _where(self) -> tuple[ColumnElement[bool], ...]:
        return (*self.mapping.of_class, self.event.anywhere)

    @cached_property
    def _movable(self) -> Update:
        """The UPDATE of every row that may move."""
        sets, order = self.event.sets, set_order(self.event.sets)
        assert order is not None, "this is one of the `reasons` for which the call was refused"  # noqa: S101
        moving = update(cast("Any", self.mapping.mapper.local_table)).where(*self._where)
        return moving.ordered_values(*((column, sets[column]) for column in order))

    def _update(self, criteria: Collection[ColumnElement[bool]], limit: int | None) -> Update:
        if limit is None:
            return self._movable.where(*criteria)
        columns, dialect = self.mapping.key_columns, self.event.of_mapping.dialect.name
        if dialect in {"mysql", "mariadb"}:
            return self._movable.where(*criteria).ext(first_rows(columns, limit))
        first = select(*columns).where(*self._where, *criteria).order_by(*columns).limit(limit)
        if dialect == "postgresql":
            first = _locked_on_postgresql(first)
        return self._movable.where(columns[0].in_(first) if len(columns) == 1 else tuple_(*columns).in_(first))

    @cached_property
    def _is_mine(self) -> ColumnElement[bool]:
        """The rows that this call has moved."""
        token = self.mapping.columns[self.mapping.token]
        return token.in_([bindparam(name, type_=token.type) for name in self.event.token_parameters])


def _locked_on_postgresql(first: Select[Any]) -> Select[Any]:
    """The rows that are free, locked: what holds of them goes on to hold.

    A CTE that locks is evaluated once. A subquery PostgreSQL may evaluate again and again, each time with other rows:
    the UPDATE would move more than the limit. On SQLite it could not be one: Python's sqlite3 counts no rows, and
    begins no transaction, for a statement that starts with WITH.
    """
    return select(*first.with_for_update(skip_locked=True).cte("latch_first").columns)
