"""PURE: the order of steps of `history`: what has become of one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statelatch.commands import Execute, Plan, Reply
from statelatch.errors import RequestError, RowNotFoundError
from statelatch.retrying import retried

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statelatch.log import TransitionLog
    from statelatch.records import LogEntry
    from statelatch.statements import Statements

__all__ = ["history"]


def history(statements: Statements, key: Any) -> Plan[list[LogEntry]]:
    """The entries of one row, oldest first: see `PersistenceAdapter.history`."""
    mapping, log = statements.mapping, statements.log
    if log is None:
        raise RequestError(
            f"{mapping.table}: its mapping keeps no log, so nothing is known of what has been; build the "
            "MachineMapping with log=..., an entity made with TransitionLogColumns"
        )
    values = mapping.key_values(key)
    return (yield from retried(lambda: _entries(statements, log, key, values)))


def _entries(statements: Statements, log: TransitionLog, key: Any, values: Mapping[str, Any]) -> Plan[list[LogEntry]]:
    """A row that is gone may have left its entries; one that is older than the log has none."""
    reply: Reply = yield Execute(((log.history, values),))
    if not reply.rows:
        row: Reply = yield Execute(((statements.load, values),))
        if not row.rows:
            raise RowNotFoundError(table=statements.mapping.table, key=key, event="history")
        reply = yield Execute(((log.history, values),))  # it may have been created just now
    return [log.entry_of(key, entry) for entry in reply.rows]
