"""PURE: `paths`: the ways of a machine from its initial state to its ends, for parametrised tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from statemachine import StateChart

from statelatch.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from statemachine import State

__all__ = ["Path", "Step", "paths"]


class Step(NamedTuple):
    """One transition of a path.

    Attributes:
        event: what to send; None where the machine moves on by itself: send nothing.
        source: value of the state that is left.
        target: value of the state that is entered.
    """

    event: str | None
    source: Any
    target: Any


class Path(tuple[Step, ...]):
    """Steps from the initial state to a terminal one; as text, and so as pytest's id of it, its states and events."""

    __slots__ = ()

    def __str__(self) -> str:
        """`new-pay-paid-ship-shipped`."""
        words = [str(self[0].source)] if self else []
        for step in self:
            words += [step.event or "", str(step.target)]
        return "-".join(words)

    @property
    def __name__(self) -> str:
        """What pytest looks for when it makes an id."""
        return str(self)


def paths(machine: type[StateChart[Any]]) -> list[Path]:
    """Every simple path, which visits no state twice, from the initial state to each terminal one.

    Guards are not evaluated: a test of a path must see to it that they hold. Between the same two states each event
    makes a path of its own. The number of paths may grow exponentially with that of the states.

    Args:
        machine: a flat `StateMachine` or `StateChart` class.

    Returns:
        The paths, in the order in which the machine declares its transitions.

    Raises:
        ConfigurationError: it is no such class, it has no terminal state, or none that can be reached.
    """
    if not (isinstance(machine, type) and issubclass(machine, StateChart)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"paths: expected a StateMachine or StateChart class, found {machine!r}")
    states = [*machine.states_map.values()]
    for state in states:
        if state.parent is not None:
            raise ConfigurationError(f"paths: expected a flat machine, found {state.id!r} within {state.parent.id!r}")
    ends = [state.id for state in states if state.final]
    if not ends:
        raise ConfigurationError(
            f"paths: {machine.__name__} has no terminal state; declare at least one with State(final=True)"
        )
    found = [Path(steps) for steps in _ways(next(state for state in states if state.initial), ())]
    if not found:
        raise ConfigurationError(
            f"paths: no terminal state of {machine.__name__} ({', '.join(ends)}) can be reached; add a transition"
        )
    return found


def _ways(state: State, before: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """The paths that begin with these steps, which lead to this state."""
    if state.final:
        yield before
        return
    visited = {step.source for step in before} | {state.value}
    for step, target in _steps(state).items():
        if target.value not in visited:
            yield from _ways(target, (*before, step))


def _steps(state: State) -> dict[Step, State]:
    """Where each event may lead; transitions that differ in their guards alone are one step."""
    steps: dict[Step, State] = {}
    for transition in state.transitions:
        for target in [] if transition.initial or not transition.target else [transition.target]:
            for event in [None] if transition.is_eventless else transition.events:
                steps[Step(None if event is None else str(event), state.value, target.value)] = target
    return steps
