"""Paths: every simple way to an end, and what has none."""

from typing import Any

import pytest
from statemachine import State, StateChart, StateMachine

from statelatch.errors import ConfigurationError
from statelatch.runs.lifecycle import RunLifecycle
from statelatch.testing.paths import Step, paths


class Parcel(StateMachine):
    """With a loop, an event of two targets, a transition of two events, and an edge that is there twice."""

    packed = State(initial=True)
    held = State(value=2)
    sent = State(final=True)

    ship = packed.to(sent, cond="light") | packed.to(held) | held.to(sent, cond="light") | held.to(sent)
    wait = packed.to(packed) | held.to(packed)
    express = held.to(sent)

    def light(self) -> bool:
        """A guard, which is not asked."""
        raise AssertionError


class Moving(StateChart[Any]):
    """Moves on by itself."""

    begun = State(initial=True)
    middle = State()
    done = State(final=True)

    go = begun.to(middle)
    middle.to(done)


class Endless(StateMachine):
    """Goes round."""

    day = State(initial=True)
    night = State()

    turn = day.to(night) | night.to(day)


class Nested(StateChart[Any]):
    """A state within a state."""

    class outer(State.Compound):  # noqa: N801
        """The outer one."""

        inner = State(initial=True)

    over = State(final=True)
    stop = outer.to(over)  # pyright: ignore[reportUnknownMemberType]


def test_every_simple_path_to_an_end() -> None:
    """No state comes twice, each event and target makes a path, and guards make none."""
    assert [
        (Step("ship", "packed", "sent"),),
        (Step("ship", "packed", 2), Step("ship", 2, "sent")),
        (Step("ship", "packed", 2), Step("express", 2, "sent")),
    ] == paths(Parcel)


def test_a_step_without_an_event_is_none_to_send() -> None:
    """Where the machine moves on by itself, the step has no event."""
    assert [(Step("go", "begun", "middle"), Step(None, "middle", "done"))] == paths(Moving)


@pytest.mark.parametrize("path", paths(RunLifecycle))
def test_paths_are_good_as_ids(path: tuple[Step, ...], request: pytest.FixtureRequest) -> None:
    """A parametrised test is called by its path, without any `ids`."""
    assert str(path) in request.node.name
    assert str(path).startswith("pending-")


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (Endless, "Endless has no terminal state; declare at least one with State"),
        (Nested, "expected a flat machine, found 'inner' within 'outer'"),
        (object, "expected a StateMachine or StateChart class, found <class 'object'>"),
    ],
)
def test_what_has_no_paths_is_refused(machine: Any, message: str) -> None:
    """A machine without an end, a nested one and no machine at all: an error that says so."""
    with pytest.raises(ConfigurationError, match=message):
        paths(machine)
