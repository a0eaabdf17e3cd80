"""Run python-statemachine for one row, and tell what it did. No SQL, no connection.

A machine is built for one unit of work and thrown away, whatever happened. Its model is an instance of the
entity in no session: callbacks read and change columns, hybrids work, and nothing can be flushed. What it
may not do is load more: a relationship that was not loaded raises SQLAlchemy's `DetachedInstanceError`.
"""

from __future__ import annotations

import asyncio
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ClauseElement
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value
from statemachine.exceptions import TransitionNotAllowed

from statelatch import framework
from statelatch.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Mapper
    from statemachine import StateChart
    from statemachine.transition import Transition

__all__ = ["Fired", "Firing", "Refused", "Step", "build_machine", "detached"]


_JSON = (dict, list, int, float)


@dataclass(frozen=True, slots=True)
class Step:
    """One transition that the machine took."""

    transition: Transition
    event: str | None


@dataclass(frozen=True, slots=True)
class Fired:
    """What a macrostep did.

    Attributes:
        steps: the transitions, in order: the event's own, then what followed from it.
        source: value of the state that the machine was in.
        target: value of the state that the machine is in now.
        changes: the columns that callbacks changed, by attribute name; the state is not among them.
    """

    steps: tuple[Step, ...]
    source: Any
    target: Any
    changes: Mapping[str, Any]

    @property
    def reached(self) -> Any:
        """Value of the state that the last transition leads to."""
        last = self.steps[-1].transition
        return (last.target or last.source).value

    @property
    def taken_back(self) -> bool:
        """Whether the machine is where it was although its last transition leads elsewhere."""
        return self.target == self.source != self.reached


@dataclass(frozen=True, slots=True)
class Refused:
    """The machine took no transition; `guards` are those that were false."""

    guards: tuple[str, ...]


@dataclass(slots=True)
class _Recorder:
    """A listener that writes down whether an event selected a transition, and each that was taken.

    A guard may be called as any attribute of a listener is: no column is named like these.
    """

    latch_steps: list[Step] = field(default_factory=list[Step])
    latch_selected: bool = False

    def before_transition(self, event: Any = None) -> None:
        self.latch_selected = self.latch_selected or event is not None

    def on_transition(self, transition: Transition, event: Any = None) -> None:
        """Not `after_transition`: where a chart catches errors, what raises there takes nothing back."""
        self.latch_steps.append(Step(transition, None if event is None else str(event)))


def detached(entity: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of the entity with these column values, in no session."""
    mapper = cast("Mapper[Any]", inspect_entity(entity))
    instance: Any = mapper.class_manager.new_instance()
    for attribute, value in values.items():
        set_committed_value(instance, attribute, value)
    make_transient_to_detached(instance)
    for attribute, value in values.items():  # it expires what it finds: put the values back
        set_committed_value(instance, attribute, value)
    return instance


def build_machine(
    machine: type[StateChart[Any]], model: object, state_field: str, listeners: tuple[object, ...] = ()
) -> StateChart[Any]:
    """A machine on this model; its state is the model's own attribute.

    A chart that catches errors as events, but has no transition for them, would swallow a callback's
    exception. There it is let through: the caller must learn of it, and nothing is written.

    Raises:
        RequestError: its callbacks are coroutines, and this thread's event loop is running already.
    """
    instance = machine(cast("Any", model), state_field=state_field, listeners=list(listeners))
    if framework.has_async_callbacks(instance) and _in_event_loop():
        raise RequestError(
            f"{machine.__name__} has async callbacks, and this thread runs an event loop already; nothing was written. "
            "Call from another thread, for instance with asyncio.to_thread."
        )
    if instance.catch_errors_as_events and not framework.handles_errors(machine):
        instance.catch_errors_as_events = False
    return instance


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Firing:
    """One event for one row, ready to run.

    Args:
        machine: the machine's class.
        entity: the declarative class.
        state_field: attribute that holds the state.
        values: the row's columns, by attribute name.
        event: name of the event; None enters the initial state.
        params: the event's keyword arguments.
    """

    machine: type[StateChart[Any]]
    entity: type[Any]
    state_field: str
    values: Mapping[str, Any]
    event: str | None
    params: Mapping[str, Any]

    def run(self) -> Fired | Refused:
        """Run the machine on a copy of the values. What a callback raises is raised."""
        model = detached(self.entity, {name: deepcopy(value) for name, value in self.values.items()})
        recorder = _Recorder()
        machine = build_machine(self.machine, model, self.state_field, (recorder,))
        if self.event is None:
            machine.activate_initial_state()  # has happened already, unless callbacks are coroutines
            return self._fired(model, recorder)
        try:
            framework.send(machine, self.event, self.params)
        except TransitionNotAllowed:
            if recorder.latch_selected:  # not our event: a callback sent another one, which was refused
                raise
        if not recorder.latch_selected or not recorder.latch_steps:
            return Refused(framework.false_guards(machine, self.event, self.params))
        return self._fired(model, recorder)

    def _fired(self, model: Any, recorder: _Recorder) -> Fired:
        changes = {
            name: value
            for name, old in self.values.items()
            if name != self.state_field and _differs(value := getattr(model, name), old)
        }
        source, target = self.values[self.state_field], getattr(model, self.state_field)
        return Fired(tuple(recorder.latch_steps), source, target, changes)


def _differs(value: object, old: object) -> bool:
    """Whether the column is to be written. To Python `{"done": 0}` equals `{"done": False}`; JSON tells them apart."""
    if isinstance(value, ClauseElement):
        return True
    return bool(value != old) or (isinstance(value, _JSON) and repr(cast("object", value)) != repr(old))
