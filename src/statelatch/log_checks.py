"""What must hold of a mapping's log, checked when the mapping is built, after the mapping itself.

What is wrong is a `ConfigurationError` that says what to change. Most of it would come up only at the first transition
that needs it (a long event name, a late state, another writer), and would then stand in the way of that transition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    JSON,
    Column,
    Enum,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.dialects import mysql

from statelatch.checks import bits, check_entity, misfit
from statelatch.errors import ConfigurationError
from statelatch.expressions import UTCDateTime
from statelatch.log import NAMES, key_attributes, log_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Mapper
    from sqlalchemy.types import TypeEngine

    from statelatch.mapping import MachineMapping

__all__ = ["check_log"]

Columns = dict[str, Column[Any]]

MIXIN = "the mixin `TransitionLogColumns` brings it"


def check_log(mapping: MachineMapping) -> None:
    """Raise `ConfigurationError` for what the log could not keep."""
    if mapping.log is None:
        return
    check_entity(mapping.log, "log")
    columns = _columns(mapping)
    _check_types(columns)
    _check_keys(mapping, columns)
    _check_unique(mapping, columns)
    _check_values(mapping, columns)
    _check_others(columns)


def _columns(mapping: MachineMapping) -> Columns:
    """The log's columns by attribute."""
    log = cast("type[Any]", mapping.log)
    mapper = cast("Mapper[Any]", inspect_entity(log))
    if taken := set(NAMES).intersection(key_attributes(mapping)):
        raise ConfigurationError(
            f"{mapping.entity.__name__}: {', '.join(sorted(taken))} in its primary key, and a log has a column of that "
            "name for itself; give that attribute another name"
        )
    found = {prop.key: prop.columns[0] for prop in mapper.column_attrs if isinstance(prop.columns[0], Column)}
    for name in log_attributes(mapping):
        if name not in found:
            how = MIXIN if name in NAMES else f"declare it like {_key_of(mapping, name)}, the key of what is logged"
            raise ConfigurationError(f"log: {log.__name__} has no column {name!r}; {how}")
    return {name: found[name] for name in log_attributes(mapping)}


def _key_of(mapping: MachineMapping, name: str) -> Column[Any]:
    return mapping.key_columns[key_attributes(mapping).index(name)]


def _check_types(columns: Columns) -> None:
    expected: dict[str, tuple[bool, str]] = {
        "version": (isinstance(columns["version"].type, Integer), "Integer"),
        "token": (isinstance(kind := columns["token"].type, Uuid) and kind.as_uuid, "Uuid, as_uuid"),
        "at": (isinstance(columns["at"].type, UTCDateTime), "UTCDateTime, which keeps zone and microseconds"),
        "event": (_is_text(columns["event"]), "text"),
        "actor": (_is_text(columns["actor"]), "text"),
        "data": (isinstance(columns["data"].type, JSON), "JSON"),
    }
    for name, (holds, kind) in expected.items():
        if not holds:
            raise ConfigurationError(f"{columns[name]}: expected {kind}, found {columns[name].type!r}; {MIXIN}")
    for name in ("event", "source", "actor", "data"):
        if not columns[name].nullable:
            raise ConfigurationError(
                f"{columns[name]}: it is NOT NULL, and not every entry has one; the creation of a row has no event and "
                "leaves no state. Make it nullable"
            )


def _is_text(column: Column[Any]) -> bool:
    return isinstance(column.type, String) and not isinstance(column.type, Enum)


def _check_keys(mapping: MachineMapping, columns: Columns) -> None:
    pairs = [(columns[name], _key_of(mapping, name)) for name in key_attributes(mapping)]
    for column, logged in (*pairs, (columns["version"], mapping.columns[mapping.version])):
        if problem := _unlike(column.type, logged.type):
            raise ConfigurationError(f"{column}: {problem}; declare it like {logged}, which it is to hold")


def _unlike(kind: TypeEngine[Any], logged: TypeEngine[Any]) -> str | None:
    """What keeps a column of the first type from holding every value of the second, told apart as there."""
    match kind, logged:
        case Enum(), Enum():
            return None if _stored(kind) == _stored(logged) else "the two Enums differ"
        case Integer(), Integer():
            return None if bits(kind) >= bits(logged) else f"{kind!r} is narrower than {logged!r}"
        case Uuid(), Uuid():
            alike = (kind.as_uuid, kind.native_uuid) == (logged.as_uuid, logged.native_uuid)
            return None if alike else f"{kind!r} stores another form than {logged!r}"
        case String(), String() if not isinstance(kind, Enum) and not isinstance(logged, Enum):
            if kind.length is not None and (logged.length is None or kind.length < logged.length):
                return f"{kind!r} is shorter than {logged!r}"
            alike = _collations(kind) == _collations(logged)
            return None if alike else f"{kind!r} has another collation than {logged!r}"
        case _:
            return None if type(kind) is type(logged) else f"expected {logged!r}, found {kind!r}"


def _stored(kind: Enum) -> tuple[Any, ...]:
    return kind.enums, kind.name, kind.native_enum


def _collations(kind: String) -> list[str | None]:
    """Where a log's key folds letters that the row's does not, two rows would have one history."""
    dialects: list[Any] = [mysql.dialect(), mysql.dialect(is_mariadb=True)]
    return [kind.collation, *(getattr(kind.dialect_impl(each), "collation", None) for each in dialects)]


def _check_unique(mapping: MachineMapping, columns: Columns) -> None:
    together = {columns[name] for name in (*key_attributes(mapping), "version")}
    table = columns["version"].table
    if not any(together == unique for unique in _unique(table)):
        names = ", ".join(columns[name].name for name in (*key_attributes(mapping), "version"))
        raise ConfigurationError(
            f"{table}: ({names}) are not unique together; make them the primary key, or add a UniqueConstraint. "
            "Two writers could otherwise log one version twice"
        )


def _unique(table: Table) -> Iterator[set[Column[Any]]]:
    """Sets of columns that the database keeps unique; an index over some of the rows is none."""
    for constraint in table.constraints:
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint):
            yield set(constraint.columns)
    for index in table.indexes:
        if index.unique and not any(name.endswith("_where") for name in index.dialect_kwargs):
            yield set(index.columns)


def _check_values(mapping: MachineMapping, columns: Columns) -> None:
    """States and events fit, and what is copied from the state column is read as it was written."""
    for event in mapping.events:
        if problem := misfit(columns["event"].type, event):
            raise ConfigurationError(f"{columns['event']}: the event {event!r} does not fit: {problem}")
    state = mapping.columns[mapping.state]
    for name in ("source", "target"):
        kind = columns[name].type
        for value in mapping.states:
            if problem := misfit(kind, value):
                raise ConfigurationError(
                    f"{columns[name]}: the state value {value!r} does not fit: {problem}. Declare it with a "
                    f"mapped_column like {state}"
                )
        if isinstance(kind, Enum) and not (isinstance(state.type, Enum) and _stored(kind) == _stored(state.type)):
            raise ConfigurationError(f"{columns[name]}: it is another Enum than {state}; give both the same type")


def _check_others(columns: Columns) -> None:
    """Columns that only the user knows of: an entry is inserted without them."""
    table = columns["version"].table
    known = set(columns.values())
    for column in table.columns:
        made = column.server_default is not None or column.computed is not None or column.identity is not None
        is_counted = column is table.autoincrement_column
        if column in known or is_counted:
            continue
        if column.default is not None or not (column.nullable or made):
            raise ConfigurationError(
                f"{column}: an entry is written by the database, without this column; give it a server_default, or "
                "make it nullable without a default"
            )
