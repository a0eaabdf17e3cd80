"""Run python-statemachine for one row, and tell what it did. No SQL, no connection.

A machine is built for one unit of work and thrown away, whatever happened. Its model is an instance of the
entity in no session: callbacks read and change columns, hybrids work, and nothing can be flushed. What it
may not do is load more: a relationship that was not loaded raises SQLAlchemy's `DetachedInstanceError`.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import inspect as inspect_entity
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value
from statemachine.exceptions import TransitionNotAllowed

from statelatch import framework

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Mapper
    from statemachine import StateChart
    from statemachine.transition import Transition

__all__ = ["Fired", "Firing", "Refused", "Step", "build_machine", "detached"]


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
        target: value of the state that the machine is in now.
        changes: the columns that callbacks changed, by attribute name; the state is not among them.
    """

    steps: tuple[Step, ...]
    target: Any
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """The machine took no transition; `guards` are those that were false."""

    guards: tuple[str, ...]


@dataclass(slots=True)
class _Recorder:
    """A listener that writes down whether a transition was selected, and each that was taken."""

    steps: list[Step] = field(default_factory=list[Step])
    selected: bool = False

    def before_transition(self) -> None:
        self.selected = True

    def after_transition(self, transition: Transition, event: Any = None) -> None:
        self.steps.append(Step(transition, None if event is None else str(event)))


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
    """
    instance = machine(cast("Any", model), state_field=state_field, listeners=list(listeners))
    if instance.catch_errors_as_events and not framework.handles_errors(machine):
        instance.catch_errors_as_events = False
    return instance


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
        """Run the machine. What a callback raises is raised."""
        before = {name: deepcopy(value) for name, value in self.values.items()}
        model, recorder = detached(self.entity, dict(self.values)), _Recorder()
        machine = build_machine(self.machine, model, self.state_field, (recorder,))
        if self.event is None:
            return self._fired(model, recorder, before)
        try:
            framework.send(machine, self.event, self.params)
        except TransitionNotAllowed:
            if recorder.selected:  # not our event: a callback sent another one, which was refused
                raise
        if not recorder.steps:
            return Refused(framework.false_guards(machine, self.event, self.params))
        return self._fired(model, recorder, before)

    def _fired(self, model: Any, recorder: _Recorder, before: Mapping[str, Any]) -> Fired:
        changes = {
            name: value
            for name, old in before.items()
            if name != self.state_field and (value := getattr(model, name)) != old
        }
        return Fired(tuple(recorder.steps), getattr(model, self.state_field), changes)
