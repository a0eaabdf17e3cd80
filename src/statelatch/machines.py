"""Build a machine on a row, with a listener that writes down what it does. No SQL, no connection.

The machine's model is an instance of the entity in no session: callbacks read and change columns, hybrids work, and
nothing can be flushed. What it may not do is load more: a relationship that was not loaded raises SQLAlchemy's
`DetachedInstanceError`.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import inspect as inspect_entity
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state

from statelatch import framework
from statelatch.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Mapper
    from statemachine import StateChart
    from statemachine.transition import Transition

__all__ = ["Recorder", "build_machine", "detached", "empty", "fill", "refuse_in_event_loop"]

BUILDING = RLock() if sys.version_info < (3, 12) else nullcontext()
"""A machine that is built parses its guards, and in Python 3.11 threads that parse at the same time break each other
off with a `SystemError` (https://github.com/python/cpython/issues/106905)."""


@dataclass(slots=True)
class Recorder:
    """A listener that writes down whether an event selected a transition, and each that was taken.

    A guard may be called as any attribute of a listener is: no column is named like these.
    """

    latch_steps: list[tuple[Transition, str | None]] = field(default_factory=list["tuple[Transition, str | None]"])
    latch_selected: bool = False

    def before_transition(self, event: Any = None) -> None:
        """An eventless transition has no event."""
        self.latch_selected = self.latch_selected or event is not None

    def on_transition(self, transition: Transition, event: Any = None) -> None:
        """Not `after_transition`: where a chart catches errors, what raises there takes nothing back."""
        self.latch_steps.append((transition, None if event is None else str(event)))


def build_machine(
    machine: type[StateChart[Any]], model: object, state_field: str, listeners: tuple[object, ...] = ()
) -> StateChart[Any]:
    """A machine on this model; its state is the model's own attribute.

    A chart that catches errors as events, but has no transition for them, would swallow a callback's
    exception. There it is let through: the caller must learn of it, and nothing is written.

    Raises:
        RequestError: its callbacks are coroutines, and this thread's event loop is running already.
    """
    with BUILDING:
        instance = machine(cast("Any", model), state_field=state_field, listeners=list(listeners))
    refuse_in_event_loop(instance)
    if instance.catch_errors_as_events and not framework.handles_errors(machine):
        instance.catch_errors_as_events = False
    return instance


def refuse_in_event_loop(machine: StateChart[Any]) -> None:
    """Raise `RequestError` if coroutines would have to be awaited where a loop runs already."""
    if framework.has_async_callbacks(machine) and _in_event_loop():
        raise RequestError(
            f"{type(machine).__name__} has async callbacks, and this thread runs an event loop already; nothing was "
            "written. Call from another thread, for instance with asyncio.to_thread."
        )


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def detached(entity: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of the entity with these column values, in no session."""
    instance = cast("Mapper[Any]", inspect_entity(entity)).class_manager.new_instance()
    _load(instance, values)
    return instance


def fill(instance: object, values: Mapping[str, Any]) -> None:
    """Make an emptied instance a detached one with these column values."""
    cast("Mapper[Any]", inspect_entity(type(instance))).class_manager.setup_instance(instance)
    _load(instance, values)


def _load(instance: object, values: Mapping[str, Any]) -> None:
    """As if the values had just been loaded; an attribute without one is expired."""
    vars(instance).update(values)
    make_transient_to_detached(instance)


def empty(instance: object) -> None:
    """Take everything out of an instance, and SQLAlchemy's state of it; a dictionary that somebody kept stays full."""
    state = instance_state(instance)
    object.__setattr__(instance, "__dict__", {})
    del state.obj  # this weak reference calls a method of the state: a circle that only the collector would break
