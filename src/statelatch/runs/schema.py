"""Create the runs table, safely when several processes do it at once. Larger schemas want Alembic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DBAPIError

from statelatch.runs.model import Run

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.orm import Mapper

    from statelatch.adapter import PersistenceAdapter

__all__ = ["create_tables"]


def create_tables(database: Engine | PersistenceAdapter) -> None:
    """Create the table of the runs unless it exists.

    Args:
        database: an engine for the table of `Run`, or an adapter for the table of its own entity.

    Raises:
        sqlalchemy.exc.DBAPIError: the database refused, as the driver raised it.
    """
    engine = database if isinstance(database, Engine) else database.engine
    mapper: Mapper[Any] = inspect(Run) if isinstance(database, Engine) else database.mapping.mapper
    table = cast("Table", mapper.local_table)
    try:
        table.create(engine, checkfirst=True)
    except DBAPIError:
        if not inspect(engine).has_table(table.name, schema=table.schema):  # else another process was faster
            raise
