"""The connections of a manager, in the order in which they are tried: primary, the same anew, fallbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import URL, Engine

from statelatch.adapter import PersistenceAdapter
from statelatch.engines import is_in_memory
from statelatch.errors import ConfigurationError
from statelatch.runs.lifecycle import RunLifecycle
from statelatch.runs.model import RunColumns
from statelatch.runs.plans import Answer, through
from statelatch.runs.statements import RunStatements

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from statelatch.commands import Plan
    from statelatch.mapping import MachineMapping

__all__ = ["Connections"]

Result = TypeVar("Result")
Source = PersistenceAdapter | Engine | URL | str

PRIMARY, RECONNECTED = "primary", "reconnected"


class Connections:
    """Adapters to one database, by the name under which `Finalized.via` reports them."""

    def __init__(self, primary: Source, fallbacks: Sequence[Source], mapping: Callable[[], MachineMapping]) -> None:
        self._own: list[PersistenceAdapter] = []
        self.primary = self._adapter(primary, mapping)
        self._adapters = {PRIMARY: self.primary, RECONNECTED: self.primary}
        for number, source in enumerate(fallbacks, start=1):
            self._adapters[f"fallback {number}"] = self._adapter(source, lambda: self.primary.mapping)
        self._runs: dict[PersistenceAdapter, RunStatements] = {}

    @property
    def vias(self) -> tuple[str, ...]:
        """Their names, in the order in which they are tried."""
        return tuple(self._adapters)

    def ask(self, plan: Callable[[RunStatements], Plan[Result]]) -> Answer[Result]:
        """Run a plan over the first connection that answers."""
        order: Generator[str, Result, Answer[Result]] = through(self.vias)
        try:
            via = next(order)
            while True:
                try:
                    reply = self._run(via, plan)
                except Exception as error:  # noqa: BLE001  `through` decides
                    via = order.throw(error)
                else:
                    via = order.send(reply)
        except StopIteration as stop:
            return stop.value

    def close(self) -> None:
        """Close the connections that were made here."""
        for adapter in self._own:
            adapter.close()

    def _run(self, via: str, plan: Callable[[RunStatements], Plan[Result]]) -> Result:
        """All but the first try is on new connections: those of a pool may have died long ago."""
        adapter = self._adapters[via]
        asked = plan(self._statements(adapter))
        if via == PRIMARY:
            return adapter.run(asked)
        with adapter.reconnected() as anew:
            return anew.run(asked)

    def _statements(self, adapter: PersistenceAdapter) -> RunStatements:
        if adapter not in self._runs:
            self._runs[adapter] = RunStatements(adapter.statements)
        return self._runs[adapter]

    def _adapter(self, source: Source, mapping: Callable[[], MachineMapping]) -> PersistenceAdapter:
        if isinstance(source, PersistenceAdapter):
            adapter = source
        else:
            adapter = PersistenceAdapter(source, mapping())
            self._own.append(adapter)
        machine, entity = adapter.mapping.machine, adapter.mapping.entity
        if not (issubclass(machine, RunLifecycle) and issubclass(entity, RunColumns)):
            raise ConfigurationError(
                f"expected an adapter with a run mapping, found {machine.__name__} on {entity.__name__}; "
                "make it with run_mapping(YourEntity)"
            )
        if is_in_memory(adapter.engine):
            raise ConfigurationError(
                "runs are written from several threads, and a database in memory belongs to one connection; "
                "use a file: sqlite:///runs.db"
            )
        return adapter
