"""Reuse: whatever callbacks do, a machine that is used again does what a new one does, step by step."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect as inspect_entity
from statemachine import State, StateChart, StateMachine

from statelatch.interpreter import Fired, Refused
from tests.desks import ROW, Counting, Machine, Order, built, fresh, run

Acts = Mapping[str, list[str]]


class World:
    """Some rows, and what became of them, on machines that are used again or on new ones."""

    def __init__(self, kind: Machine, send: Callable[..., Fired | Refused]) -> None:
        self.machine: Machine = type(kind.__name__, (kind,), {})
        self.send = send
        self.rows: dict[int, dict[str, Any]] = {
            number: {**ROW, "id": number, "amount": number * 60, "data": {"tags": [number]}} for number in range(3)
        }
        self.kept: list[Order] = []
        self.seen: list[str] = []

    def step(self, number: int, event: str, acts: Acts) -> str:
        """Send an event to a row, keep what it changes, and tell what happened."""
        try:
            outcome = self.send(self.machine, event, self.rows[number], acts=acts, world=self)
        except (Exception, KeyboardInterrupt) as error:
            return repr(error)
        if isinstance(outcome, Refused):
            return repr(outcome)
        self.rows[number] |= {**outcome.changes, "stage": outcome.target}
        taken = [(step.event, step.transition.source.id, step.transition.target) for step in outcome.steps]
        return repr((taken, outcome.source, outcome.target, outcome.changes))

    def left(self) -> list[str]:
        """The models that callbacks kept, as they are in the end."""
        return [repr({name: vars(model)[name] for name in ROW if name in vars(model)}) for model in self.kept]


class Wild:
    """Callbacks that write down what they find, and do what the event's parameters say."""

    def meet(self, phase: str, model: Order, acts: Acts, world: World) -> None:
        """Come to a phase of an event."""
        machine: Any = self
        attributes = sorted(vars(self))
        columns = {name: value for name, value in vars(model).items() if not name.startswith("_sa_")}
        found = attributes, machine.history_values, machine.is_terminated, len(machine.active_listeners)
        marked = hasattr(machine.draft, "visited"), inspect_entity(model).modified
        world.seen.append(repr((phase, columns, found, marked)))
        for act in acts.get(phase, ()):
            ACTS[act](machine, model, world)

    def before_act(self, model: Order, acts: Acts, world: World) -> None:
        """Before."""
        self.meet("before", model, acts, world)

    def on_act(self, model: Order, acts: Acts, world: World) -> None:
        """On."""
        self.meet("on", model, acts, world)

    def on_enter_held(self, model: Order, acts: Acts, world: World) -> None:
        """Enter."""
        self.meet("enter", model, acts, world)

    def after_act(self, model: Order, acts: Acts, world: World) -> None:
        """After."""
        self.meet("after", model, acts, world)


class WildMachine(Wild, StateMachine, metaclass=Counting):
    """Refuses by raising."""

    draft = State(initial=True)
    held = State()
    sent = State(final=True)

    act = draft.to(held, unless="rich") | held.to(draft, cond="note")
    end = draft.to(sent) | held.to(sent)


class WildChart(Wild, StateChart[Any], metaclass=Counting):
    """Handles errors, and moves by itself."""

    draft = State(initial=True)
    held = State()
    sent = State(final=True)

    held.to(draft, cond="rich")
    act = draft.to(held) | held.to(draft, cond="note")
    end = draft.to(sent) | held.to(sent)
    error_execution = draft.to(sent) | held.to(sent)


class WildLater(WildMachine):
    """Has coroutines."""

    async def on_exit_draft(self) -> None:
        """Wait a while."""
        await asyncio.sleep(0)


def send_event(event: str) -> Callable[[Any, Order, World], None]:
    """A callback that sends an event to its own row."""

    def send(machine: Any, _: Order, world: World) -> None:
        machine.send(event, acts={}, world=world)

    return send


def send_internally(machine: Any, _: Order, world: World) -> None:
    """A callback that raises an event within its own."""
    machine.raise_("end", acts={}, world=world)


def send_elsewhere(_: Any, model: Order, world: World) -> None:
    """A callback that sends an event to another row."""
    other = {**world.rows[(model.id + 1) % 3], "stage": "draft"}
    world.seen.append(repr(run(world.machine, "end", other, acts={}, world=world)))


def interrupt(*_: object) -> None:
    """A callback that is interrupted."""
    raise KeyboardInterrupt


def fail(*_: object) -> None:
    """A callback that fails."""
    raise ZeroDivisionError


Act = Callable[[Any, Any, World], object]

SENDING: dict[str, Act] = {
    "send act": send_event("act"),
    "send end": send_event("end"),
    "send internally": send_internally,
}
"""What has to be awaited in a machine of coroutines."""

ACTS: dict[str, Act] = {
    **SENDING,
    "set a column": lambda _, model, __: setattr(model, "note", "set"),
    "unset the amount": lambda _, model, __: setattr(model, "amount", None),
    "set an attribute": lambda _, model, __: setattr(model, "unmapped", 1),
    "change the document": lambda _, model, __: model.data["tags"].append("changed"),
    "delete a column": lambda _, model, __: model.__dict__.pop("note", None),
    "mark the machine": lambda machine, _, __: setattr(machine, "marked", 1),
    "mark a state": lambda machine, _, __: setattr(machine.draft, "visited", True),
    "write history": lambda machine, _, __: machine.history_values.update(h=[]),
    "allow everything": lambda machine, _, __: setattr(machine, "allow_event_without_transition", True),
    "add a listener": lambda machine, _, __: machine.add_listener(object()),
    "keep the model": lambda _, model, world: world.kept.append(model),
    "send elsewhere": send_elsewhere,
    "fail": fail,
    "interrupt": interrupt,
}


def steps(acts: set[str]) -> st.SearchStrategy[list[tuple[int, str, Acts]]]:
    """Events for rows in turn, with what callbacks do in each phase."""
    phases = st.sampled_from(["before", "on", "enter", "after"])
    doing = st.dictionaries(phases, st.lists(st.sampled_from(sorted(acts)), max_size=2), max_size=2)
    return st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["act", "act", "act", "end"]), doing), max_size=8)


@pytest.mark.parametrize(
    ("kind", "acts"), [(WildMachine, {*ACTS}), (WildChart, {*ACTS}), (WildLater, ACTS.keys() - SENDING)]
)
def test_a_machine_that_is_used_again_does_what_a_new_one_does(kind: Machine, acts: set[str]) -> None:
    """Random events on rows in turn, with callbacks that do anything: each step is as on a new machine."""
    spared = 0

    @settings(max_examples=100, deadline=None)
    @given(steps(acts))
    def agree(taken: list[tuple[int, str, Acts]]) -> None:
        nonlocal spared
        again, anew = World(kind, run), World(kind, fresh)
        for step in taken:
            assert anew.step(*step) == again.step(*step)
            assert anew.seen == again.seen
        assert (anew.rows, anew.left()) == (again.rows, again.left())
        spared += built(anew.machine) - built(again.machine)

    agree()
    assert spared > 50
