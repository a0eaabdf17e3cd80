"""PURE: why an event is interpreted, if it is: what in it only python-statemachine can carry out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statelatch import framework
from statelatch.writes import set_order

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from statemachine.callbacks import CallbackSpec
    from statemachine.transition import Transition

    from statelatch.event_statements import EventStatements
    from statelatch.mapping import MachineMapping

__all__ = ["actions_of", "has_eventless", "machine_reasons", "reasons_of"]


def reasons_of(event: EventStatements, *, waived: Collection[str] = ()) -> Iterable[str]:
    """Why this event needs Python, if it does; `waived` are actions that it may do without."""
    mapping = event.mapping
    yield from machine_reasons(mapping)
    for edge in event.edges:
        yield from (guard.reason for guard in edge.guards if guard.truth is None)
        names = _called(mapping, edge.transition.validators)
        yield from (f"validator {name!r} is Python" for name in names)
        names = actions_of(mapping, edge.transition)
        yield from (f"action {name!r} is Python" for name in names if name not in waived)
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


def actions_of(mapping: MachineMapping, transition: Transition) -> Iterable[str]:
    """Callbacks that a compiled UPDATE would skip. Validators are none: they decide whether the row moves."""
    target = transition.target or transition.source
    groups = [transition.before, transition.on, transition.after]
    groups += [transition.source.exit, target.enter, target.invoke, mapping.machine.prepare]
    for group in groups:
        yield from _called(mapping, group)


def _called(mapping: MachineMapping, group: Iterable[CallbackSpec]) -> Iterable[str]:
    names = mapping.machine_names | mapping.model_names
    return (str(spec) for spec in group if framework.would_call(spec, names))
