"""PURE: the transition log. An entry for every applied transition, written in the transaction that applies it.

Theory of operation. An entry is made by the database out of the row that the UPDATE has just written: key, version,
state, token, and its clock. So an entry cannot say anything else than the row, nobody has to send it, and where no row
was moved, none is written. What the row does not tell is said by an `Entry`: expressions over that row.

- PostgreSQL: one statement. The UPDATE is a CTE whose RETURNING is inserted (`in_one`).
- Elsewhere, an INSERT ... SELECT after the UPDATE, in the same transaction (`appended`). Until the transaction ends
  the rows are locked by the UPDATE: what the SELECT reads is what the UPDATE wrote.

(key, version) is unique. If it is there already, somebody has written the log or the version by hand: the driver's
IntegrityError is raised, and the transition is rolled back with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    Insert,
    Select,
    Update,
    bindparam,
    case,
    insert,
    literal,
    null,
    or_,
    select,
    type_coerce,
    types,
)
from sqlalchemy import cast as type_cast
from sqlalchemy import inspect as inspect_entity

from statelatch.expressions import StoredState, exact_name, now
from statelatch.records import LogEntry
from statelatch.requests import check_actor, check_data
from statelatch.writes import token_parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Mapper

    from statelatch.commands import Row
    from statelatch.mapping import MachineMapping

__all__ = [
    "ACTOR",
    "CREATED",
    "DATA",
    "KEY",
    "NAMES",
    "Entry",
    "TransitionLog",
    "key_attributes",
    "key_is",
    "log_attributes",
]

KEY = "latch_key"
ACTOR, DATA = "latch_log_actor", "latch_log_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an entry says beyond the row: expressions over the row as the UPDATE has left it; None is left out.

    Attributes:
        event: name of the event.
        source: value of the state that was left.
        actor: who asked for it.
        data: what the caller recorded with it.
    """

    event: ColumnElement[Any] | None = None
    source: ColumnElement[Any] | None = None
    actor: ColumnElement[Any] | None = None
    data: ColumnElement[Any] | None = None


CREATED = Entry()
"""A new row is entered by no event, and leaves no state."""


class TransitionLog:
    """The statements that write and read a mapping's log.

    Args:
        mapping: one that has a log.
    """

    def __init__(self, mapping: MachineMapping) -> None:
        self.mapping = mapping
        mapper = cast("Mapper[Any]", inspect_entity(mapping.log))
        self._table = cast("Any", mapper.local_table)
        self.columns = {name: mapper.columns[name] for name in log_attributes(mapping)}
        self.keys = tuple(self.columns[name] for name in key_attributes(mapping))

    def entry(self, event: str, sources: Sequence[object]) -> Entry:
        """What an UPDATE of this event leaves, by one call: the source is told by the variant of the call's token.

        Args:
            event: its name.
            sources: the states that it may leave, in the order of the token's variants.
        """
        columns, token = self.columns, self.mapping.columns[self.mapping.token]
        first, *others = (literal(source, columns["source"].type) for source in sources)
        whens = [token == bindparam(token_parameter(n), type_=token.type) for n in range(1, len(sources))]
        return Entry(
            event=literal(event, columns["event"].type),
            source=case(*zip(whens, others, strict=True), else_=first) if others else first,
            actor=bindparam(ACTOR, type_=columns["actor"].type),
            data=bindparam(DATA, type_=columns["data"].type),
        )

    def in_one(self, update: Update, entry: Entry) -> Insert:
        """The UPDATE and the entries of the rows that it moves, as one statement, for PostgreSQL.

        It inserts exactly one entry for each row moved: let it return `outcome`, or count its rows.

        Args:
            update: without RETURNING.
            entry: may refer to whatever the UPDATE's RETURNING may.
        """
        kind = self.columns["source"].type
        typed = replace(entry, source=type_cast(entry.source, kind))  # a parameter of an Enum has no type of its own
        values = self._values(typed)
        moved = cast("Any", update.returning(*values.values())).cte("latch_moved")
        inserted = self._inserted(values, select(*moved.columns))
        return inserted.execution_options(preserve_rowcount=True)  # SQLAlchemy would not keep an INSERT's

    def appended(self, entry: Entry, *criteria: ColumnElement[bool]) -> Insert:
        """The entries of rows that an UPDATE has moved before in this transaction.

        Args:
            entry: what the row does not tell.
            criteria: which rows: those that this call has moved, and no others.
        """
        values = self._values(entry)
        return self._inserted(values, select(*values.values()).where(*criteria))

    def created_in_one(self, row: Insert, read: Sequence[ColumnElement[Any]]) -> Insert:
        """The INSERT of a new row and its first entry, as one statement, for PostgreSQL.

        To SQLAlchemy it must be an INSERT: a default of the user's may ask for the parameters of one.

        Args:
            row: the INSERT, without RETURNING.
            read: labelled columns of the new row to be returned.
        """
        values, names = self._values(CREATED), [str(column.key) for column in read]
        created = cast("Any", row.returning(*read, *values.values())).cte("latch_created").columns
        entry = self._inserted(values, select(*(created[value.name] for value in values.values())))
        told = (select(created[name]).scalar_subquery().label(name) for name in names)
        return cast("Insert", entry.returning(*told))

    @cached_property
    def outcome(self) -> tuple[Column[Any], ...]:
        """Where an entry holds what is read back of a transition, in the order of `Statements.outcome`."""
        return tuple(self.columns[name] for name in ("target", "version", "token", "at"))

    @cached_property
    def history(self) -> Select[Any]:
        """The entries of one row, oldest first."""
        columns = (self._as_stored(column).label(name) for name, column in self.columns.items())
        return select(*columns).where(*key_is(self.keys)).order_by(self.columns["version"])

    def has_token(self, sources: int) -> ColumnElement[bool]:
        """A criterion: an entry has one of so many variants of a token."""
        token = self.columns["token"]
        return or_(*(token == bindparam(token_parameter(n), type_=token.type) for n in range(sources)))

    def recorded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What an entry takes over from the parameters of an event, as its statements bind it.

        Raises:
            RequestError: it cannot be stored; nothing was written.
        """
        actor, data = params.get("actor"), params.get("data")
        check_actor(self.columns["actor"], actor)
        check_data(self.columns["data"], data)
        return {ACTOR: actor, DATA: null() if data is None else data}

    def entry_of(self, key: object, row: Row) -> LogEntry:
        """An entry as `history` has read it."""
        return LogEntry(key=key, **{name: row[name] for name in NAMES})

    def _as_stored(self, column: Column[Any]) -> ColumnElement[Any]:
        """The column; a state that its Enum no longer knows is read as it is: what happened, happened."""
        if isinstance(column.type, types.Enum) and column in {self.columns["source"], self.columns["target"]}:
            return type_coerce(column, StoredState(column.type, tuple(self.mapping.states)))
        return column

    def _values(self, entry: Entry) -> dict[Column[Any], Any]:
        """Each column of the log with what is written there, labelled, over the entity's row."""
        mapping, row = self.mapping, self.mapping.columns
        values: dict[str, ColumnElement[Any] | None] = {
            **dict(zip(key_attributes(mapping), mapping.key_columns, strict=True)),
            "version": row[mapping.version],
            "event": entry.event,
            "source": entry.source,
            "target": row[mapping.state],
            "token": row[mapping.token],
            "at": now(),
            "actor": entry.actor,
            "data": entry.data,
        }
        return {
            self.columns[name]: value.label(f"latch_log_{name}") for name, value in values.items() if value is not None
        }

    def _inserted(self, values: Mapping[Column[Any], object], rows: Any) -> Insert:
        return insert(self._table).from_select(list(values), rows, include_defaults=False)


NAMES = ("version", "event", "source", "target", "token", "at", "actor", "data")
"""Attributes of a log beside its key."""


def key_attributes(mapping: MachineMapping) -> tuple[str, ...]:
    """Attributes of the log that hold the row's key: `key`; of a composite one, an attribute for each of its own."""
    return ("key",) if len(mapping.key_columns) == 1 else mapping.key_attributes


def log_attributes(mapping: MachineMapping) -> tuple[str, ...]:
    """Every attribute that a log needs."""
    return (*key_attributes(mapping), *NAMES)


def key_is(columns: Sequence[Column[Any]]) -> list[ColumnElement[bool]]:
    """Criteria: these columns hold the key, to the letter."""
    criteria: list[ColumnElement[bool]] = []
    for n, column in enumerate(columns):
        given = bindparam(f"{KEY}_{n}", type_=column.type)
        criteria.append(column == given)
        if isinstance(column.type, types.String):  # the first finds it by index, the second is exact
            criteria.append(exact_name(column) == exact_name(given))
    return criteria
