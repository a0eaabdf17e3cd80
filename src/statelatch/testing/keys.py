"""New keys, and what else a new row needs: which columns the database or the entity fill, and which nobody does."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import Column, Enum, Integer, SmallInteger, String, Uuid

from statelatch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statelatch.mapping import MachineMapping

__all__ = ["missing", "new_key", "unused_key"]


def new_key(mapping: MachineMapping, values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row's key that neither these values have, nor the entity or the database make: by chance.

    Raises:
        ConfigurationError: it is of a type of which no value can be made up, or other columns have no value.
    """
    if lacking := [name for name in missing(mapping) if name not in values]:
        raise ConfigurationError(
            f"values: expected a value for {', '.join(lacking)}, which {mapping.table} requires, found "
            f"{', '.join(values) or 'none'}; draw them, for instance st.fixed_dictionaries({{{lacking[0]!r}: ...}})"
        )
    keys = zip(mapping.key_attributes, mapping.key_columns, strict=True)
    return {name: _made_up(column) for name, column in keys if name not in values and not _is_filled(column)}


def unused_key(mapping: MachineMapping) -> Any:
    """A key that no row has: by chance.

    Raises:
        ConfigurationError: it is of a type of which no value can be made up.
    """
    made = [_made_up(column) for column in mapping.key_columns]
    return tuple(made) if len(made) > 1 else made[0]


def missing(mapping: MachineMapping) -> list[str]:
    """The columns that a new row must be given: required, in no key, and filled by nobody."""
    by_latch = {mapping.state, mapping.version, mapping.token, *mapping.key_attributes}
    discriminator = mapping.mapper.polymorphic_on
    return [
        name
        for name, column in mapping.columns.items()
        if not (name in by_latch or column.nullable or column is discriminator or _is_filled(column))
    ]


def _is_filled(column: Column[Any]) -> bool:
    """Whether the entity or the database make a value."""
    makes = column.default is not None or column.server_default is not None or column.computed is not None
    counted: Any = column.table
    return makes or column.identity is not None or counted.autoincrement_column is column


def _made_up(column: Column[Any]) -> object:
    kind = column.type
    if isinstance(kind, Uuid):
        return uuid4() if kind.as_uuid else str(uuid4())
    if isinstance(kind, Integer):
        return secrets.randbelow(2 ** (15 if isinstance(kind, SmallInteger) else 31) - 1) + 1
    if isinstance(kind, String) and not isinstance(kind, Enum):
        return uuid4().hex[: kind.length]
    raise ConfigurationError(
        f"{column}: expected a key that is an integer, a text or a UUID, found {kind!r}; let `values` draw it"
    )
