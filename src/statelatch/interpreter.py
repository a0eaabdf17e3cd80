"""Run python-statemachine for one row, and tell what it did. No SQL, no connection.

The machine works on a copy of the row, and nothing of one row is left for the next: `statelatch.reuse` sees to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ClauseElement
from statemachine.exceptions import TransitionNotAllowed

from statelatch import framework, reuse
from statelatch.blueprints import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statemachine import StateChart
    from statemachine.transition import Transition

__all__ = ["Fired", "Firing", "Refused", "Step"]


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
        fitted = reuse.take(Kind(self.machine, self.entity, self.state_field), self.values)
        try:
            return self._run(fitted)
        except (KeyboardInterrupt, SystemExit):
            framework.abandon_event_loop(fitted.machine)
            raise

    def _run(self, fitted: reuse.Fitted) -> Fired | Refused:
        try:
            outcome = self._entered(fitted) if self.event is None else self._sent(fitted, self.event)
        except TransitionNotAllowed:
            if self.event is None or fitted.recorder.latch_selected:
                raise  # not our event: a callback sent another one, which was refused
            return Refused(framework.false_guards(fitted.machine, self.event, self.params))
        reuse.give_back(fitted)  # not after an exception of any kind: that throws the machine away
        return outcome

    def _entered(self, fitted: reuse.Fitted) -> Fired:
        fitted.machine.activate_initial_state()  # has happened already, unless callbacks are coroutines
        return self._fired(fitted)

    def _sent(self, fitted: reuse.Fitted, event: str) -> Fired | Refused:
        framework.send(fitted.machine, event, self.params)
        if fitted.recorder.latch_selected and fitted.recorder.latch_steps:
            return self._fired(fitted)
        return Refused(framework.false_guards(fitted.machine, event, self.params))

    def _fired(self, fitted: reuse.Fitted) -> Fired:
        model: object = fitted.model
        now = vars(model)
        changes = {
            name: value
            for name, old in self.values.items()
            if (value := now[name] if name in now else getattr(model, name)) is not old  # absent: a callback deleted it
            if name != self.state_field and _differs(value, old)
        }
        steps = tuple(Step(*taken) for taken in fitted.recorder.latch_steps)
        return Fired(steps, self.values[self.state_field], getattr(model, self.state_field), changes)


def _differs(value: object, old: object) -> bool:
    """Whether the column is to be written. To Python `{"done": 0}` equals `{"done": False}`; JSON tells them apart."""
    if isinstance(value, ClauseElement):
        return True
    return bool(value != old) or (isinstance(value, _JSON) and repr(cast("object", value)) != repr(old))
