"""The connections of a manager, in the order in which they are tried: primary, the same anew, fallbacks."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, Engine

from statelatch.adapter import PersistenceAdapter
from statelatch.engines import is_in_memory
from statelatch.errors import ConfigurationError
from statelatch.runs.plans import Answer, through
from statelatch.runs.statements import RunStatements

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from statelatch.mapping import MachineMapping
    from statelatch.plans import Plan

__all__ = ["Connections"]

Result = TypeVar("Result")
Source = PersistenceAdapter | Engine | URL | str

PRIMARY, RECONNECTED = "primary", "reconnected"


class Connections:
    """Adapters to one database, by the name under which `Finalized.via` reports them."""

    def __init__(self, primary: Source, fallbacks: Sequence[Source], mapping: Callable[[], MachineMapping]) -> None:
        self._own: list[PersistenceAdapter] = []
        self.primary = self._adapter(primary, mapping)
        self._adapters = {PRIMARY: self.primary}
        for number, source in enumerate(fallbacks, start=1):
            self._adapters[f"fallback {number}"] = self._adapter(source, lambda: self.primary.mapping)
        self._runs: dict[Any, RunStatements] = {}

    @property
    def vias(self) -> tuple[str, ...]:
        """Their names, in the order in which they are tried."""
        return (PRIMARY, RECONNECTED, *(via for via in self._adapters if via != PRIMARY))

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
        with self._open(via) as adapter:
            return adapter.run(plan(self._statements(via, adapter)))

    def _statements(self, via: str, adapter: PersistenceAdapter) -> RunStatements:
        key = PRIMARY if via == RECONNECTED else via
        if key not in self._runs:
            self._runs[key] = RunStatements(adapter.statements)
        return self._runs[key]

    @contextmanager
    def _open(self, via: str) -> Generator[PersistenceAdapter]:
        if via != RECONNECTED:
            yield self._adapters[via]
            return
        with self.primary.reconnected() as adapter:
            yield adapter

    def _adapter(self, source: Source, mapping: Callable[[], MachineMapping]) -> PersistenceAdapter:
        if isinstance(source, PersistenceAdapter):
            adapter = source
        else:
            adapter = PersistenceAdapter(source, mapping())
            self._own.append(adapter)
        if is_in_memory(adapter.engine):
            raise ConfigurationError(
                "runs are written from several threads, and a database in memory belongs to one connection; "
                "use a file: sqlite:///runs.db"
            )
        return adapter
