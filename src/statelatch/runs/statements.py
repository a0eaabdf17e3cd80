"""PURE: what the run manager sends besides the events of the lifecycle.

Cancel request, heartbeat and progress are plain guarded writes: each checks in its WHERE clause that the run is
still what the writer takes it for, and none touches the version.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, Update, bindparam, func, select, update

from statelatch.expressions import from_now, now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement

    from statelatch.statements import Statements

__all__ = ["RunStatements"]


class RunStatements:
    """The plain statements of one mapping, made once and kept."""

    def __init__(self, statements: Statements) -> None:
        self.of_mapping = statements
        self._columns = statements.mapping.columns
        self._table: Any = statements.mapping.mapper.local_table
        self._active = statements.mapping.in_state("pending", "running")
        self._running = statements.mapping.in_state("running")

    @cached_property
    def request_cancel(self) -> Update:
        """Ask an active run to stop; the first request's time is kept."""
        return self._requested(self.of_mapping.at_key, self._active)

    @cached_property
    def request_own_cancel(self) -> Update:
        """The same, by the run's own worker."""
        return self._requested(self.of_mapping.at_key, self._running, self._owned_by("worker"))

    def _requested(self, *criteria: ColumnElement[bool]) -> Update:
        asked = self._columns["cancel_requested_at"]
        return update(self._table).where(*criteria).values({asked: func.coalesce(asked, now())})

    @cached_property
    def renew_lease(self) -> Update:
        """Extend a run's lease, while its worker holds it.

        One run at a time: of several, MariaDB may look at every row of the table, and it locks what it looks at.
        """
        lease = {self._columns["lease_expires_at"]: from_now(bindparam("lease"))}
        return update(self._table).where(self.of_mapping.at_key, self._running, self._owned_by("worker")).values(lease)

    @cached_property
    def save_progress(self) -> Update:
        """Write how far a run is, while its worker holds it."""
        names = ("progress_current", "progress_total", "progress_step")
        values: dict[Any, Any] = {self._columns[name]: bindparam(f"latch_{name}") for name in names}
        return update(self._table).where(self.of_mapping.at_key, self._running, self._owned_by("worker")).values(values)

    @cached_property
    def watch(self) -> Select[Any]:
        """What a heartbeat looks at, of these runs."""
        names = ("id", "status", "version", "lease_owner", "cancel_requested_at", "finished_at", "error")
        return select(*(self._columns[name].label(name) for name in names)).where(
            self._columns["id"].in_(bindparam("ids", expanding=True))
        )

    @cached_property
    def holder(self) -> Select[Any]:
        """The run that holds a key."""
        return select(*self.of_mapping.row).where(self._columns["active_key"] == bindparam("run_key"))

    @cached_property
    def current_or_latest(self) -> Select[Any]:
        """The run that holds a key, else the newest that had it."""
        key, active = self._columns["key"], self._columns["active_key"]
        rows = select(*self.of_mapping.row).where(key == bindparam("run_key"))
        return rows.order_by(active.is_(None), *self._newest_first).limit(1)

    def listing(self, filters: Mapping[str, object], limit: int | None) -> Select[Any]:
        """Runs whose columns have these values, newest first."""
        criteria = [self._columns[name] == value for name, value in filters.items()]
        return select(*self.of_mapping.row).where(*criteria).order_by(*self._newest_first).limit(limit)

    @property
    def _newest_first(self) -> tuple[ColumnElement[Any], ...]:
        return (self._columns["created_at"].desc(), self._columns["id"].desc())

    def _owned_by(self, parameter: str) -> ColumnElement[bool]:
        return self._columns["lease_owner"] == bindparam(parameter)
