"""Clients of `lifecycle_rules`: adapters with injectors on their engines, which one example leaves for the next.

To prepare its statements costs an adapter more than to send them; so they are kept while examples follow one another.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from statelatch.adapter import PersistenceAdapter
from statelatch.closing import Closing
from statelatch.errors import ConfigurationError
from statelatch.testing.injector import FaultInjector
from statelatch.testing.stored import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import Engine

    from statelatch.mapping import MachineMapping

__all__ = ["Client", "Clients"]


@dataclass(frozen=True, eq=False)
class Client:
    """A process that works on the rows."""

    adapter: PersistenceAdapter
    injector: FaultInjector


class Clients(Closing):
    """Clients that nobody needs at the moment, and the table as an outsider sees it.

    Args:
        mapping: what all of them have.
        adapter_factory: makes a new adapter.
    """

    def __init__(self, mapping: MachineMapping, adapter_factory: Callable[[], PersistenceAdapter]) -> None:
        self._mapping = mapping
        self._factory = adapter_factory
        self._idle: list[Client] = []
        self._injectors: dict[Engine, FaultInjector] = {}
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
        return Client(adapter, self._injectors[engine])

    def give_back(self, client: Client) -> None:
        """It may be taken again."""
        self._idle.append(client)

    def dead(self, client: Client) -> None:
        """Its process has died, and its connections with it; an engine that others have, too, stays."""
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
        if "table" in vars(self):
            self.table.close()
            self._outsider.close()
            del self.table, self._outsider

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
