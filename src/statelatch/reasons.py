"""PURE: why an event is interpreted, if it is: what in it only python-statemachine can carry out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statelatch import framework
from statelatch.writes import set_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    from statemachine.transition import Transition

    from statelatch.mapping import MachineMapping
    from statelatch.statements import EventStatements

__all__ = ["has_eventless", "machine_reasons", "reasons_of"]


def reasons_of(event: EventStatements) -> Iterable[str]:
    """Why this event needs Python, if it does."""
    mapping = event.mapping
    yield from machine_reasons(mapping)
    for edge in event.edges:
        yield from (guard.reason for guard in edge.guards if guard.truth is None)
        yield from (f"action {name!r} is Python" for name in _actions(mapping, edge.transition))
        if edge.truth().raises is not None and mapping.machine.catch_errors_as_events:
            yield f"guards of {edge.transition} may raise, and the chart catches errors as events"
    translated = all(guard.truth for edge in event.edges for guard in edge.guards)
    if translated and set_order(event.sets) is None:
        yield "a guard reads a column that the event assigns, so that one UPDATE cannot order its writes"


def machine_reasons(mapping: MachineMapping) -> Iterable[str]:
    """Why every event of this machine needs Python, if it does."""
    if has_eventless(mapping):
        yield f"{mapping.machine.__name__} has eventless transitions"
    if framework.has_own_init(mapping.machine):
        yield f"the __init__ of {mapping.machine.__name__} may add listeners and attributes"
    if framework.has_listeners(mapping.machine):
        yield f"{mapping.machine.__name__} has listeners"


def has_eventless(mapping: MachineMapping) -> bool:
    """Whether the machine may move before it takes an event."""
    return any(transition.is_eventless for state in mapping.states.values() for transition in state.transitions)


def _actions(mapping: MachineMapping, transition: Transition) -> Iterable[str]:
    """Callbacks that a compiled UPDATE would skip."""
    names = mapping.machine_names | mapping.model_names
    target = transition.target or transition.source
    groups = [transition.validators, transition.before, transition.on, transition.after]
    groups += [transition.source.exit, target.enter, target.invoke, mapping.machine.prepare]
    for group in groups:
        for spec in group:
            if framework.would_call(spec, names):
                yield str(spec)
