"""The `Run` entity: its columns, and what each guard of the lifecycle means, in Python and in SQL.

Each guard is a hybrid: the Python half judges a loaded row, the SQL half stands in the WHERE clause of the
UPDATE. Heartbeat, progress and the cancel request are plain guarded writes that do not touch the version.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Computed,
    Index,
    Integer,
    String,
    Uuid,
    and_,
    bindparam,
    case,
)
from sqlalchemy import column as named
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

from statelatch.columns import TransitionColumns, UTCDateTime, from_now, now, state_text
from statelatch.errors import ConfigurationError
from statelatch.mapping import MachineMapping
from statelatch.runs.lifecycle import RunLifecycle

__all__ = ["ACTIVE", "Base", "Run", "RunColumns", "run_mapping"]

ACTIVE = ("pending", "running")
"""The states in which a run holds its key."""

KEY_LENGTH = 255
ERROR_LENGTH = 1024


def new_run_id() -> UUID:
    """A run's id: UUID version 7 (RFC 9562), made by the client and ordered by time."""
    return uuid_utils.compat.uuid7()


class RunColumns(TransitionColumns):
    """Mixin: the columns and guards of a run. Put it on an entity of your own, or use `Run`.

    Every text is a `state_text`, so that MariaDB takes any character, whatever the database's own set is: a
    failure must not be lost for the letters of its message.
    """

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True, default=new_run_id)
    name: Mapped[str | None] = mapped_column(state_text(KEY_LENGTH), default=None)
    key: Mapped[str | None] = mapped_column(state_text(KEY_LENGTH), default=None)
    status: Mapped[str] = mapped_column(state_text(16))
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=1)
    lease_owner: Mapped[str | None] = mapped_column(state_text(KEY_LENGTH), default=None)
    lease_expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime(), default=None)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UTCDateTime(), default=None)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=now())
    started_at: Mapped[datetime | None] = mapped_column(UTCDateTime(), default=None)
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime(), default=None)
    error: Mapped[str | None] = mapped_column(state_text(ERROR_LENGTH), default=None)
    error_type: Mapped[str | None] = mapped_column(state_text(KEY_LENGTH), default=None)
    progress_current: Mapped[int | None] = mapped_column(BigInteger(), default=None)
    progress_total: Mapped[int | None] = mapped_column(BigInteger(), default=None)
    progress_step: Mapped[str | None] = mapped_column(state_text(ERROR_LENGTH), default=None)
    params: Mapped[Any | None] = mapped_column(JSON(none_as_null=True), default=None)
    result: Mapped[Any | None] = mapped_column(JSON(none_as_null=True), default=None)

    @declared_attr
    @classmethod
    def active_key(cls) -> Mapped[str | None]:
        """The key while the run is active, else NULL: unique, so that a key has one active run at most."""
        holds = case((named("status", String()).in_(ACTIVE), named("key", String())))
        return mapped_column(state_text(KEY_LENGTH), Computed(holds, persisted=True), unique=True)

    @hybrid_property
    def startable(self) -> bool:
        """Nobody asked for it to be cancelled."""
        return self.cancel_requested_at is None

    @startable.inplace.expression
    @classmethod
    def _startable(cls) -> ColumnElement[bool]:
        return cls.cancel_requested_at.is_(None)

    @hybrid_property
    def unclaimed(self) -> bool:
        """No worker has ever taken it, or the one that had it gave it back."""
        return self.lease_owner is None

    @unclaimed.inplace.expression
    @classmethod
    def _unclaimed(cls) -> ColumnElement[bool]:
        return cls.lease_owner.is_(None)

    @hybrid_property
    def cancel_requested(self) -> bool:
        """Somebody asked for it to be cancelled."""
        return self.cancel_requested_at is not None

    @cancel_requested.inplace.expression
    @classmethod
    def _cancel_requested(cls) -> ColumnElement[bool]:
        return cls.cancel_requested_at.is_not(None)

    @hybrid_method
    def holds_lease(self, worker: str) -> bool:
        """This worker, of this attempt, holds the run."""
        return self.lease_owner is not None and self.lease_owner == worker

    @holds_lease.inplace.expression
    @classmethod
    def _holds_lease(cls, worker: Any) -> ColumnElement[bool]:
        return cls.lease_owner == worker

    @hybrid_property
    def lease_expired(self) -> bool:
        """Its worker has not been heard of in time."""
        return self.lease_expires_at is not None and self.lease_expires_at < datetime.now(UTC)

    @lease_expired.inplace.expression
    @classmethod
    def _lease_expired(cls) -> ColumnElement[bool]:
        return and_(cls.lease_expires_at.is_not(None), cls.lease_expires_at < now())

    @hybrid_property
    def attempts_used_up(self) -> bool:
        """It has been started as often as it may be."""
        return self.attempt >= self.max_attempts

    @attempts_used_up.inplace.expression
    @classmethod
    def _attempts_used_up(cls) -> ColumnElement[bool]:
        return cls.attempt >= cls.max_attempts


class Base(DeclarativeBase):
    """The declarative base of statelatch's own tables."""


class Run(RunColumns, Base):
    """A run: one execution of one function, with its whole story in one row."""

    __tablename__ = "statelatch_runs"
    __table_args__ = (
        Index("ix_statelatch_runs_key_created", "key", "created_at"),
        {"mysql_charset": "utf8mb4", "mariadb_charset": "utf8mb4"},
    )


def run_mapping(entity: type[Any] = Run) -> MachineMapping:
    """The run lifecycle on an entity that has `RunColumns`.

    Args:
        entity: a declarative class with the mixin.

    Raises:
        ConfigurationError: the entity lacks the mixin, or changed a column so that the lifecycle cannot work.
    """
    if not (isinstance(entity, type) and issubclass(entity, RunColumns)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"entity: expected a declarative class with the mixin RunColumns, found {entity!r}")
    mapping = MachineMapping(machine=RunLifecycle, entity=entity, state="status", assigns=_assigns(entity))
    for name, column in inspect_entity(Run).columns.items():
        _check_column(mapping, name, column)
    return mapping


KINDS = (String, Integer, UTCDateTime, Uuid, JSON)


def _check_column(mapping: MachineMapping, name: str, expected: Column[Any]) -> None:
    """An entity may redefine a column, but not so that a write or the generated column would not find it.

    SQLite takes a name that it does not know, in quotes, for a text: every run would hold the same key.
    """
    column = mapping.columns.get(name)
    of = f"{mapping.entity.__name__}.{name}"
    if column is None:
        raise ConfigurationError(f"{of}: expected the column of RunColumns, found none; leave it to the mixin")
    kind = next(kind for kind in KINDS if isinstance(expected.type, kind))
    if not isinstance(column.type, kind):
        raise ConfigurationError(
            f"{of}: expected a column of type {kind.__name__}, found {column.type!r}; leave it to the mixin RunColumns"
        )
    if name in {"key", "status", "active_key"} and column.name != name:
        raise ConfigurationError(
            f"{of}: expected a column named {name!r}, to which the generated column active_key refers, "
            f"found {column.name!r}; leave out its name"
        )
    length, needed = (getattr(each.type, "length", None) for each in (column, expected))
    if length is not None and needed is not None and length < needed:
        raise ConfigurationError(f"{of}: expected room for {needed} characters, found {length}; make it longer")
    if expected.computed is not None and (column.computed is None or not _is_unique(column)):
        raise ConfigurationError(
            f"{of}: expected the generated, unique column of RunColumns: without it a key may have two active runs; "
            "leave it to the mixin"
        )


def _is_unique(column: Column[Any]) -> bool:
    return bool(column.unique) or any(
        [*index.columns] == [column] for index in getattr(column.table, "indexes", ()) if index.unique
    )


def _assigns(entity: type[Any]) -> dict[str, dict[str, object]]:
    """What each state and event of the lifecycle writes besides the state."""
    said = bindparam("progress_current", None, type_=BigInteger()).is_not(None)
    progress = {  # all three of one report, or what the last heartbeat saved
        name: case((said, bindparam(name, None, type_=getattr(entity, name).type)), else_=getattr(entity, name))
        for name in ("progress_current", "progress_total", "progress_step")
    }
    ended = {"finished_at": now(), "lease_expires_at": None, **progress}
    no_error = {"error": None, "error_type": None}
    return {
        "pending": {"lease_owner": None, "lease_expires_at": None, **no_error},
        "running": {**no_error, "finished_at": None},
        "start": {
            "lease_owner": bindparam("worker"),
            "lease_expires_at": from_now(bindparam("lease")),
            "attempt": entity.attempt + 1,
            "started_at": now(),
        },
        "completed": {**ended, **no_error},
        "complete": {"result": bindparam("result", None)},
        "failed": {**ended, "error": bindparam("error", None), "error_type": bindparam("error_type", None)},
        "cancelled": {**ended, **no_error},
    }
