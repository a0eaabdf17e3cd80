"""PURE: edges, the transitions of a flat machine with what SQL can check of their guards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statelatch import framework
from statelatch.guards import translate
from statelatch.truth import Truth, Untranslatable, all_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from statemachine import State
    from statemachine.transition import Transition

    from statelatch.mapping import MachineMapping

__all__ = ["Edge", "Guard", "edge_of", "edges_of", "reachable"]


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard of an edge: as the machine spells it, in SQL, or why it has no SQL."""

    label: str
    truth: Truth | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """One transition of a flat machine. `enters` is False where the target's entry is not run again."""

    transition: Transition
    source: Any
    target: Any
    enters: bool
    guards: tuple[Guard, ...]

    def truth(self) -> Truth:
        """All guards that SQL can check."""
        return all_of(guard.truth for guard in self.guards if guard.truth is not None)


def edges_of(mapping: MachineMapping, event: str) -> Iterable[Edge]:
    """The transitions of an event, in the order in which the machine tries them."""
    for state in mapping.states.values():
        for transition in state.transitions:
            if not transition.initial and transition.match(event):
                yield edge_of(mapping, transition)


def edge_of(mapping: MachineMapping, transition: Transition) -> Edge:
    """One transition as an edge."""
    source: State = transition.source
    target: State = transition.target or source
    enters = framework.enters(mapping.machine, transition)
    return Edge(transition, source.value, target.value, enters, _guards(mapping, transition))


def reachable(mapping: MachineMapping, states: Iterable[object]) -> frozenset[object]:
    """The states that can be reached from any of these by one transition or several, whatever the guards say."""
    found: set[object] = set()
    open_ones = [mapping.states[value] for value in states]
    while open_ones:
        for transition in open_ones.pop().transitions:
            for target in transition.targets or [transition.source]:
                if not transition.initial and target.value not in found:
                    found.add(target.value)
                    open_ones.append(target)
    return frozenset(found)


def _guards(mapping: MachineMapping, transition: Transition) -> tuple[Guard, ...]:
    guards: list[Guard] = []
    for spec in transition.cond:
        try:
            guards.append(Guard(str(spec), translate(spec, mapping)))
        except Untranslatable as finding:
            guards.append(Guard(str(spec), None, str(finding)))
    return tuple(guards)
