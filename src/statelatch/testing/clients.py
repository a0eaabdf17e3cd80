"""Clients of `lifecycle_rules`: adapters with injectors on their engines, which one example leaves for the next.

To prepare its statements costs an adapter more than to send them; so they are kept while examples follow one another.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from statelatch.adapter import PersistenceAdapter
from statelatch.closing import Closing
from statelatch.errors import ConfigurationError
from statelatch.testing.fault import DEADLY, Fault
from statelatch.testing.injector import FaultInjector
from statelatch.testing.stored import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from sqlalchemy import Engine

    from statelatch.mapping import MachineMapping
    from statelatch.records import Transitioned

__all__ = ["Client", "Clients"]


@dataclass(frozen=True, eq=False)
class Client:
    """A process that works on the rows.

    Attributes:
        adapter: what it calls.
        injector: what goes wrong there.
        hooked: the transitions for which its `after_commit` hook was called.
    """

    adapter: PersistenceAdapter
    injector: FaultInjector
    hooked: list[Transitioned]


class Clients(Closing):
    """Clients that nobody needs at the moment, and the table as an outsider sees it.

    Args:
        mapping: what all of them have.
        adapter_factory: makes a new adapter.
        asked: the faults that were asked for by name, each of which their database must have.
    """

    def __init__(
        self,
        mapping: MachineMapping,
        adapter_factory: Callable[[], PersistenceAdapter],
        asked: Collection[Fault] = (),
    ) -> None:
        self._mapping = mapping
        self._factory = adapter_factory
        self._asked = asked
        self._idle: list[Client] = []
        self._injectors: dict[Engine, FaultInjector] = {}
        self._living: Counter[Engine] = Counter()
        self._keepers = 0

    @cached_property
    def table(self) -> Table:
        """The rows, read by plain SELECTs."""
        return Table(self._mapping, self._outsider.engine)

    @cached_property
    def _outsider(self) -> PersistenceAdapter:
        return self._made()

    def take(self) -> Client:
        """A client, used or new."""
        return self._idle.pop() if self._idle else self.born()

    def born(self) -> Client:
        """A new client."""
        adapter = self._made()
        engine = adapter.lines.engine
        if engine not in self._injectors:
            self._injectors[engine] = FaultInjector(adapter)
            self._check_asked(self._injectors[engine])
        self._living[engine] += 1
        hooked: list[Transitioned] = []
        adapter.after_commit(hooked.append)
        return Client(adapter, self._injectors[engine], hooked)

    def give_back(self, client: Client) -> None:
        """It may be taken again."""
        self._idle.append(client)

    def dead(self, client: Client) -> None:
        """Its process has died, and its connections with it; an engine that others have, too, stays."""
        engine = client.adapter.lines.engine
        self._living[engine] -= 1
        if not self._living[engine]:
            del self._living[engine]
            self._injectors.pop(engine).close()
        client.adapter.close()

    @contextmanager
    def kept(self) -> Generator[None]:
        """Within this, what one example has left is there for the next."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            self.close()

    def close(self) -> None:
        """Close everything, unless another example is to follow."""
        if self._keepers:
            return
        while self._injectors:
            self._injectors.popitem()[1].close()
        while self._idle:
            self._idle.pop().adapter.close()
        self._living.clear()
        if "table" in vars(self):
            self.table.close()
            self._outsider.close()
            del self.table, self._outsider

    def _check_asked(self, injector: FaultInjector) -> None:
        """A fault that can never fire would leave a green test that shows nothing of it."""
        possible = DEADLY.union(injector.faults)  # those that strike at COMMIT can where one is sent
        if impossible := [fault for fault in Fault if fault in self._asked and fault not in possible]:
            names = ", ".join(f"Fault.{fault.name}" for fault in Fault if fault in possible)
            raise ConfigurationError(
                f"faults: Fault.{impossible[0].name} cannot happen on this engine of {injector.engine.dialect.name}; "
                f"those that can are {names}"
            )

    def _made(self) -> PersistenceAdapter:
        adapter = self._factory()
        if not isinstance(adapter, PersistenceAdapter):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"adapter_factory: expected it to return a PersistenceAdapter, found {adapter!r}")
        if adapter.statements.mapping is not self._mapping:
            raise ConfigurationError(
                "adapter_factory: expected an adapter of the mapping that the rules were made from, found one of "
                f"{adapter.statements.mapping!r}; pass the same object to both"
            )
        return adapter
