"""`simulate_conflict`: another writer who is faster, at the moment at which it matters."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from statelatch.adapter import PersistenceAdapter
from statelatch.testing.fault import InjectionError
from statelatch.testing.injector import FaultInjector
from statelatch.testing.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Generator

    from statelatch.records import Transitioned

__all__ = ["Conflict", "simulate_conflict"]


class Conflict:
    """The other writer.

    Attributes:
        transition: what it has done; None before.
    """

    def __init__(self) -> None:
        self.transition: Transitioned | None = None

    @property
    def fired(self) -> int:
        """How often it was faster: once, or not yet."""
        return 0 if self.transition is None else 1


@contextmanager
def simulate_conflict(
    adapter: PersistenceAdapter | Recorder, key: Any, event: str, **params: Any
) -> Generator[Conflict]:
    """Let another connection send an event just before the next UPDATE of this adapter reaches the database.

    Args:
        adapter: whose UPDATE is overtaken, within a `with`. In the history of a `Recorder` the other's event is noted,
            too.
        key: of the row that the other moves; most often that which the adapter is about to move.
        event: what the other sends.
        params: the event's parameters.

    Returns:
        The other writer, in a `with`: its `fired` and `transition` tell what it has done.

    Raises:
        FaultNotFiredError: at the end of the `with`: the adapter has sent no UPDATE.
        InjectionError: nothing can be injected into this adapter's engine; the message says what to use instead.
        StatelatchError: what the other's event was answered, raised where the UPDATE was to be sent: make a row for
            which it is applied.
    """
    conflict = Conflict()
    with ExitStack() as stack:
        overtaken = adapter.adapter if isinstance(adapter, Recorder) else adapter
        if not isinstance(overtaken, PersistenceAdapter):
            raise InjectionError(
                f"simulate_conflict: expected a PersistenceAdapter, or a Recorder of one, got {adapter!r}"
            )
        injector = stack.enter_context(FaultInjector(overtaken))
        other = stack.enter_context(overtaken.reconnected())
        sender = Recorder(other, adapter.history, client="another") if isinstance(adapter, Recorder) else other

        def overtake() -> None:
            conflict.transition = sender.send(key, event, **params)

        stack.enter_context(injector.before("UPDATE", overtake))
        yield conflict
