"""What is read of runs, whichever process they are of: each time anew, from the first connection that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statelatch.plans import load
from statelatch.runs import arguments, plans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from statelatch.commands import Plan
    from statelatch.runs.connections import Connections
    from statelatch.runs.model import RunColumns
    from statelatch.runs.statements import RunStatements

__all__ = ["RunReader"]


class RunReader:
    """Reads runs; a `RunManager` is one. What it returns are instances of the mapped entity, in no session."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def get(self, run_id: UUID) -> RunColumns:
        """The run, read now; an instance of the mapped entity in no session.

        Raises:
            RowNotFoundError: there is no such run.
            ConnectionFailureError: the database did not answer.
        """
        snapshot = self._connections.ask(lambda runs: load(runs.of_mapping, run_id)).unwrap()
        return self._connections.primary.mapping.restored(snapshot.values)

    def active(self, key: str) -> RunColumns | None:
        """The run that holds the key, if one does."""
        held = arguments.check_text("key", key)
        return self._first(lambda runs: plans.select(runs.holder, run_key=held))

    def current_or_latest(self, key: str) -> RunColumns | None:
        """The run that holds the key, else the newest that ever did."""
        held = arguments.check_text("key", key)
        return self._first(lambda runs: plans.select(runs.current_or_latest, run_key=held))

    def runs(
        self, *, key: str | None = None, name: str | None = None, status: str | None = None, limit: int | None = None
    ) -> list[RunColumns]:
        """Runs, newest first.

        Args:
            key: only those that have it.
            name: only those that have it.
            status: only those in this state.
            limit: at most so many.

        Raises:
            RequestError: no such state, a key or name that is no text, or a limit below 0.
            ConnectionFailureError: the database did not answer.
        """
        mapping = self._connections.primary.mapping
        if status is not None:
            mapping.in_state(status)
        arguments.check_limit(limit)
        for label, text in (("key", key), ("name", name)):
            if text is not None:
                arguments.check_text(label, text)
        asked = {"key": key, "name": name, "status": status}
        filters = {column: value for column, value in asked.items() if value is not None}
        rows = self._connections.ask(lambda runs: plans.select(runs.listing(filters, limit))).unwrap()
        return [mapping.restored(row) for row in rows]

    def _first(self, plan: Callable[[RunStatements], Plan[Sequence[Mapping[str, Any]]]]) -> RunColumns | None:
        rows = self._connections.ask(plan).unwrap()
        return self._connections.primary.mapping.restored(rows[0]) if rows else None
