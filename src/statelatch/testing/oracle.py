"""What an event must do to a row, by python-statemachine itself, in memory: no SQL, and nothing of the product's ways.

The machine is built on an instance of the entity that holds the row's values, through its documented interface; so
whatever statelatch makes of the event, one UPDATE or the machine's run, is compared with the machine as its author
knows it. Callbacks are run, too: they must not do more to the world than to their model.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from statemachine.exceptions import TransitionNotAllowed

from statelatch.testing.stored import same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statemachine import State
    from statemachine.transition import Transition

    from statelatch.mapping import MachineMapping

__all__ = ["Foretold", "Moves", "Raises", "Refuses", "foretell", "guards_of", "leaves", "targets_of", "varies"]

RUNS = 10
"""How often a callback is run to see whether it makes the same each time: a coin shows both sides."""


@dataclass(frozen=True, slots=True)
class Moves:
    """The event is taken.

    Attributes:
        target: value of the state in which the machine is afterwards.
        changes: the columns that callbacks changed.
        steps: the events that fired and the ids of the states that were entered, in order: what `assigns` may name.
    """

    target: Any
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuses:
    """No transition leaves the state by this event, or the guards are false."""


@dataclass(frozen=True, slots=True)
class Raises:
    """A guard, validator or callback raises: the row must not move."""

    error: Exception


Foretold = Moves | Refuses | Raises


@dataclass
class _Watch:
    """A listener that writes down the transitions that were selected and taken."""

    selected: bool = False
    reached: list[Any] = field(default_factory=list[Any])
    steps: list[str] = field(default_factory=list[str])

    def before_transition(self, event: Any = None) -> None:
        """An eventless transition, which follows by itself, is not the event's."""
        self.selected = self.selected or event is not None

    def on_transition(self, source: State, target: State | None = None, event: Any = None) -> None:
        """An internal transition without a target stays where it is."""
        self.reached.append((target or source).value)
        if event is not None:
            self.steps.append(str(event))

    def on_enter_state(self, state: State) -> None:
        """An internal transition to itself enters nothing."""
        self.steps.append(state.id)


def foretell(mapping: MachineMapping, values: Mapping[str, Any], event: str, params: Mapping[str, Any]) -> Foretold:
    """What the event must do.

    Args:
        mapping: the machine and the entity.
        values: the row's columns, by attribute name.
        event: name of the event.
        params: its parameters.
    """
    watch, model = _Watch(), mapping.restored(deepcopy(dict(values)))
    try:
        machine = mapping.machine(model, state_field=mapping.state, listeners=[watch])
        if machine.catch_errors_as_events and not _handles_errors(mapping):
            machine.catch_errors_as_events = False  # else it would swallow what a callback raises
        machine.send(event, **params)  # pyright: ignore[reportUnknownMemberType]
    except TransitionNotAllowed as error:
        return Raises(error) if watch.selected else Refuses()
    except Exception as error:  # noqa: BLE001  whatever a guard or callback raises
        return Raises(error)
    target = getattr(model, mapping.state)
    source = values[mapping.state]
    if not (watch.selected and watch.reached) or target == source != watch.reached[-1]:
        return Refuses()  # or it caught an error, and stayed where it was
    found = {name: getattr(model, name, None) for name in mapping.columns if name != mapping.state}
    changes = {name: value for name, value in found.items() if not same(value, values.get(name))}
    return Moves(target, changes, tuple(watch.steps))


def varies(
    mapping: MachineMapping, values: Mapping[str, Any], event: str, params: Mapping[str, Any], column: str
) -> bool:
    """Whether callbacks make now this of a column, now that: by chance, or by the clock."""
    found = [foretell(mapping, values, event, params) for _ in range(RUNS)]
    made = [each.changes.get(column, values[column]) for each in found if isinstance(each, Moves)]
    return any(not same(made[0], other) for other in made)


def leaves(mapping: MachineMapping, state: object, event: str) -> bool:
    """Whether the machine has a transition from this state by this event, whatever its guards say."""
    return bool(_leaving(mapping, state, event))


def guards_of(mapping: MachineMapping, state: object, event: str) -> set[str]:
    """The guards that may keep the event from leaving this state, as the machine spells them."""
    return {str(guard) for transition in _leaving(mapping, state, event) for guard in transition.cond}


def targets_of(mapping: MachineMapping, state: object, event: str) -> set[Any]:
    """Where the event may lead from this state by itself, whatever the guards say."""
    return {(each.target or each.source).value for each in _leaving(mapping, state, event)}


def _handles_errors(mapping: MachineMapping) -> bool:
    return any(leaves(mapping, state, "error.execution") for state in mapping.states)


def _leaving(mapping: MachineMapping, state: object, event: str) -> list[Transition]:
    return [each for each in mapping.states[state].transitions if not each.initial and each.match(event)]
