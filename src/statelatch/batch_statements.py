"""PURE: one event for many rows, each with a request of its own: the statements of `send`, over a table of requests.

Theory of operation. A batch sends what `send` sends. In the same UPDATE, INSERT and SELECT, each bound parameter that
differs from request to request becomes a column of the table of requests (`statelatch.request_tables`); nothing else
is changed. So a request in a batch is decided as it would be alone.

- Each request has a token of its own, and each row is written by one request at most: by its token the outcome of a
  request is recognised, and by the token's variant the state that was left.
- In the diagnosis, which also reads rows that were not written, each request has a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Integer,
    String,
    Update,
    and_,
    bindparam,
    column,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import TypeCoerce

from statelatch.event_statements import TIME_ONLY
from statelatch.expressions import moment
from statelatch.labels import AT_COLUMN, EXPECTED
from statelatch.log import KEY
from statelatch.parameters import bound_in
from statelatch.request_arrays import OverArrays, element_of
from statelatch.request_tables import Cell, Over
from statelatch.request_values import OverValues
from statelatch.writes import set_order

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Executable
    from sqlalchemy.types import TypeEngine

    from statelatch.event_statements import EventStatements

__all__ = ["NUMBER", "BatchedEvent", "Carried", "Shape"]

NUMBER = "latch_number"


@dataclass(frozen=True, slots=True)
class Shape:
    """What requests that share a statement have in common.

    Attributes:
        carried: bound parameters that differ from request to request, beside key, version and token.
        versioned: whether some of them expect a version.
        resent: whether some of them may have been sent before.
    """

    carried: frozenset[str]
    versioned: bool
    resent: bool


class BatchedEvent:
    """The statements of one event for many requests.

    Args:
        event: one that is compiled.
    """

    def __init__(self, event: EventStatements) -> None:
        self.event = event
        self._writing: dict[Shape, tuple[Carried, ...]] = {}
        self._diagnosis: dict[Shape, Carried] = {}

    @cached_property
    def tells_target(self) -> bool:
        """Whether the event has several targets, so that the state is read back."""
        return len({target for _, target in self.event.pairs}) > 1

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """What a bound parameter is where a request does not name it."""
        return {
            bound.key: bound.effective_value
            for clause in (self.event.update, self.event.diagnosed)
            for bound in bound_in(cast("Any", clause))
            if not bound.required
        }

    def writing(self, shape: Shape) -> tuple[Carried, ...]:
        """The statements of one transaction: the UPDATE, its entries in the log, and what reads the outcome."""
        if shape not in self._writing:
            self._writing[shape] = tuple(self._carried(each, shape) for each in self._written(shape))
        return self._writing[shape]

    def diagnosis(self, shape: Shape) -> Carried:
        """What is `diagnosed` of each request's row, with the number of the request."""
        if shape not in self._diagnosis:
            number = bindparam(NUMBER, type_=Integer()).label(NUMBER)
            asked = self.event.diagnosed.add_columns(number).where(self.event.of_mapping.at_key)
            self._diagnosis[shape] = self._carried(asked, shape)
        return self._diagnosis[shape]

    @cached_property
    def packs_time(self) -> bool:
        """Whether the UPDATE leaves its time in LAST_INSERT_ID: a column of equal dates is slow to read."""
        of_mapping = self.event.of_mapping
        is_told = of_mapping.log is not None or of_mapping.update_returning
        return of_mapping.has_last_insert_id and not is_told and set_order(self._packed) is not None

    @cached_property
    def _packed(self) -> dict[Column[Any], ColumnElement[Any]]:
        packing, nothing = TIME_ONLY
        version = self.event.mapping.columns[self.event.mapping.version]
        return {**self.event.sets, version: packing.column(version, nothing)}

    def _written(self, shape: Shape) -> Iterator[Executable]:
        of_mapping, moving = self.event.of_mapping, self._moving(shape)
        if of_mapping.log is None:
            yield moving.returning(*self._outcome) if of_mapping.update_returning else moving
        else:
            anew = [self._unlogged] if shape.resent else []
            *before, entries = self.event.logged(moving, self._moved, *anew)
            yield from (*before, of_mapping.returning_logged(cast("Any", entries)))
        if not of_mapping.tells_outcome:
            yield select(*self._outcome).where(self._moved)

    def _moving(self, shape: Shape) -> Update:
        event, columns = self.event, self.event.mapping.columns
        moving = update(cast("Any", event.mapping.mapper.local_table)).where(event.of_mapping.at_key, event.anywhere)
        if shape.versioned:
            version = columns[event.mapping.version]
            expected = bindparam(EXPECTED, type_=version.type)
            moving = moving.where(or_(version == expected, expected.is_(None)))
        if shape.resent or event.repeats:
            token = columns[event.mapping.token]
            moving = moving.where(or_(token.is_(None), and_(*(token != mine for mine in self._tokens))))
        if shape.resent:
            moving = moving.where(event.unlogged)
        sets = self._packed if self.packs_time else event.sets
        order = set_order(sets)
        assert order is not None, "else the event were interpreted"  # noqa: S101
        return moving.ordered_values(*((column, sets[column]) for column in order))

    @cached_property
    def _outcome(self) -> list[ColumnElement[Any]]:
        """What is read back. The time, which is the same for all, is computed once."""
        state, version, token, _ = self.event.of_mapping.outcome
        time = [] if self.packs_time else [select(moment()).scalar_subquery().label(AT_COLUMN)]
        return [*([state] if self.tells_target else []), version, token, *time]

    @cached_property
    def _tokens(self) -> list[BindParameter[Any]]:
        kind = self.event.mapping.columns[self.event.mapping.token].type
        return [bindparam(name, type_=kind) for name in self.event.token_parameters]

    @cached_property
    def _moved(self) -> ColumnElement[bool]:
        """The row of a request that carries its token."""
        token = self.event.mapping.columns[self.event.mapping.token]
        return and_(self.event.of_mapping.at_key, or_(*(token == mine for mine in self._tokens)))

    @cached_property
    def _unlogged(self) -> ColumnElement[bool]:
        """The row was moved just now, and not when the request was sent before."""
        mapping, log = self.event.mapping, self.event.of_mapping.log
        assert log is not None, "only with a log is it asked for"  # noqa: S101
        same = [key == own for key, own in zip(log.keys, mapping.key_columns, strict=True)]
        return ~exists().where(*same, log.columns["version"] == mapping.columns[mapping.version])

    def _carried(self, statement: Executable, shape: Shape) -> Carried:
        return Carried(statement, shape.carried | self._always, self.event.of_mapping.dialect)

    @cached_property
    def _always(self) -> frozenset[str]:
        keys = (f"{KEY}_{n}" for n in range(len(self.event.mapping.key_columns)))
        return frozenset({*keys, *self.event.token_parameters, EXPECTED, NUMBER})


class Carried:
    """A statement of `send`, for many requests.

    Args:
        statement: for one.
        names: of the bound parameters that become columns.
        dialect: of the engine that will send it.

    Attributes:
        cells: its columns.
        others: names of the parameters that are the same for all requests.
    """

    def __init__(self, statement: Executable, names: frozenset[str], dialect: Dialect) -> None:
        self._statement, self._names, self._dialect = statement, names, dialect
        self._found: dict[tuple[str, str], Cell] = {}
        self._made: dict[tuple[str, ...], Over] = {}
        self._swapped(lambda cell: column(cell.name, cell.kind))
        self.cells = tuple(self._found.values())
        bound = bound_in(cast("Any", statement))
        self.others = frozenset(each.key for each in bound if not each.unique) - names

    def elements(self, column_of: Callable[[Cell], Sequence[Any]]) -> tuple[str, ...]:
        """PostgreSQL's types for the columns with these values; elsewhere a column has none.

        Raises:
            RequestError: some column has none, for its values.
        """
        if self._dialect.name != "postgresql":
            return ()
        return tuple(element_of(cell, column_of(cell), self._dialect) for cell in self.cells)

    def over(self, elements: tuple[str, ...]) -> Over:
        """The statement over the table whose columns have these types."""
        if elements not in self._made:
            if elements:
                self._made[elements] = OverArrays(self.cells, elements, self._made_of, self._dialect)
            else:
                self._made[elements] = OverValues(self.cells, self._made_of, self._dialect)
        return self._made[elements]

    def _made_of(self, row: Mapping[str, ColumnElement[Any]]) -> Executable:
        return self._swapped(lambda cell: self._as_bound(row[cell.name], cell.kind))

    def _as_bound(self, given: ColumnElement[Any], kind: TypeEngine[Any]) -> ColumnElement[Any]:
        """A column in the place of a parameter, in the SQL that its type puts around parameters."""
        sent = cast("Any", kind.dialect_impl(self._dialect))
        around = sent.bind_expression(given)
        if around is None and self._dialect.name in {"mysql", "mariadb"} and isinstance(sent, String):
            return func.coalesce(given)  # of a bare column MariaDB takes what fits, without a word
        return given if around is None else around

    def _swapped(self, into: Callable[[Cell], ColumnElement[Any]]) -> Executable:
        """The statement with something else in the place of each parameter that becomes a column."""

        def swap(element: object, **_: object) -> ColumnElement[Any] | None:
            inner: object = element.clause if isinstance(element, TypeCoerce) else element
            if not isinstance(inner, BindParameter) or inner.key not in self._names:
                return None
            kind = cast("ColumnElement[Any]", element).type
            return into(self._cell(inner.key, kind))

        return cast("Executable", visitors.replacement_traverse(cast("Any", self._statement), {}, swap))

    def _cell(self, bind: str, kind: TypeEngine[Any]) -> Cell:
        same = (bind, repr(kind))
        if same not in self._found:
            self._found[same] = Cell.of(f"latch_c{len(self._found)}", bind, kind, self._dialect)
        return self._found[same]
