"""The connections of a manager, in the order in which they are tried: primary, the same anew, fallbacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from sqlalchemy import URL, Engine

from statelatch import plans
from statelatch.adapter import PersistenceAdapter
from statelatch.batcher import Batcher
from statelatch.engines import is_in_memory
from statelatch.errors import ConfigurationError
from statelatch.runs.answers import Answer, Interruption, through
from statelatch.runs.lifecycle import RunLifecycle
from statelatch.runs.model import RunColumns
from statelatch.runs.plans import cancel_own
from statelatch.runs.statements import RunStatements

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from uuid import UUID

    from statelatch.commands import Plan
    from statelatch.mapping import MachineMapping
    from statelatch.records import Transitioned
    from statelatch.runs.last_word import LastWord

__all__ = ["Connections", "file_of"]

Result = TypeVar("Result")
Source = PersistenceAdapter | Engine | URL | str

PRIMARY, RECONNECTED = "primary", "reconnected"


class Connections:
    """Adapters to one database, by the name under which `Finalized.via` reports them.

    Args:
        primary: tried first.
        fallbacks: tried in order after the primary, and after the primary anew.
        mapping: makes the mapping for what is no adapter yet.
        batch: whether events that are sent at the same time go over the primary together.
        time_limit: seconds for each transaction.
    """

    def __init__(
        self,
        primary: Source,
        fallbacks: Sequence[Source],
        mapping: Callable[[], MachineMapping],
        *,
        batch: bool,
        time_limit: float,
    ) -> None:
        self._own: list[PersistenceAdapter] = []
        self._time_limit = time_limit
        self.primary = self._adapter(primary, mapping)
        self._adapters = {PRIMARY: self.primary, RECONNECTED: self.primary}
        for number, source in enumerate(fallbacks, start=1):
            self._adapters[f"fallback {number}"] = self._adapter(source, lambda: self.primary.mapping)
        self._runs: dict[PersistenceAdapter, RunStatements] = {}
        self._batcher = Batcher(self.primary) if batch else None

    @property
    def vias(self) -> tuple[str, ...]:
        """Their names, in the order in which they are tried."""
        return tuple(self._adapters)

    @property
    def files(self) -> set[Path]:
        """Those of SQLite databases."""
        files = {file_of(adapter.lines.engine.url) for adapter in self._adapters.values()}
        return {file.resolve() for file in files if file is not None}

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that writes for others, which wait for it."""
        return self._batcher is not None and self._batcher.is_here

    def ask(self, plan: Callable[[RunStatements], Plan[Result]], *, insists: bool = False) -> Answer[Result]:
        """Run a plan over the first connection that answers.

        Args:
            plan: which.
            insists: an interrupt, such as Ctrl-C, is a failure like any other, and the next connection is asked.
        """
        return self._first(lambda via: self._run(via, plan), insists=insists)

    def send(
        self, run_id: UUID, event: str, token: UUID, params: Mapping[str, Any], *, insists: bool = False
    ) -> Answer[Transitioned]:
        """Send an event over the first connection that answers, over the primary together with others.

        The same token over each: what had landed unacknowledged is recognised, not repeated.
        """
        batcher = self._batcher

        def plan(runs: RunStatements) -> Plan[Transitioned]:
            return plans.send(runs.of_mapping, run_id, event, expected_version=None, token=token, params=params)

        def over(via: str) -> Transitioned:
            if batcher is None or via != PRIMARY or not self._is_compiled(event):
                return self._run(via, plan)
            return batcher.send(run_id, event, token=token, **params)

        return self._first(over, insists=insists)

    def say(self, word: LastWord, *, insists: bool) -> Answer[Transitioned]:
        """Write a run's last word over the first connection that answers; what it `insists` on, see `ask`."""
        if word.event == "cancel":
            return self.ask(
                lambda runs: cancel_own(runs, word.run_id, word.token, word.worker, word.params), insists=insists
            )
        params = {**word.params, "worker": word.worker}
        return self.send(word.run_id, word.event, word.token, params, insists=insists)

    def close(self) -> None:
        """Write what is still collected, and close the connections that were made here."""
        batcher, self._batcher = self._batcher, None  # who comes later sends alone
        if batcher is not None:
            batcher.close()
        for adapter in self._own:
            adapter.close()

    def _is_compiled(self, event: str) -> bool:
        """Not if the lifecycle has callbacks of the user's."""
        return self.primary.statements.event(event).compiled

    def _first(self, over: Callable[[str], Result], *, insists: bool) -> Answer[Result]:
        """Try one connection after the other, by name."""
        order: Generator[str, Result, Answer[Result]] = through(self.vias)
        try:
            via = next(order)
            while True:
                try:
                    reply = over(via)
                except Exception as error:  # noqa: BLE001  `through` decides
                    via = order.throw(error)
                except BaseException as interrupt:
                    if not insists:
                        raise
                    via = order.throw(Interruption(interrupt))
                else:
                    via = order.send(reply)
        except StopIteration as stop:
            return stop.value

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
        return adapter.limited(self._time_limit)


def file_of(url: URL) -> Path | None:
    """The file of an SQLite database; None if it is another one, or in memory."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or not name or ":memory:" in name or url.query.get("mode") == "memory":
        return None
    return Path(unquote(name.removeprefix("file:"))) if name.startswith("file:") else Path(name)
