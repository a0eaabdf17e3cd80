"""The oracle: what python-statemachine itself makes of an event, in memory."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import JSON
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateChart, StateMachine
from statemachine.exceptions import TransitionNotAllowed

from statelatch import MachineMapping
from statelatch.columns import TransitionColumns, state_text
from statelatch.testing.oracle import Moves, Raises, Refuses, foretell, guards_of, leaves, targets_of, varies
from tests.lights import Crossing, Light
from tests.orders import Order, OrderFlow


class Base(DeclarativeBase):
    """Base of the entity here."""


class Task(TransitionColumns, Base):
    """A task."""

    __tablename__ = "oracle_tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    note: Mapped[str | None]
    tags: Mapped[Any] = mapped_column(JSON())


class Calling(StateMachine):
    """With callbacks of each kind."""

    todo = State(initial=True)
    doing = State()
    done = State(final=True)

    begin = todo.to(doing)
    wait = todo.to(todo)
    end = doing.to(done, validators="is_ready")
    give_up = todo.to(doing)
    finish = todo.to(done)

    def on_begin(self, model: Task, note: str = "begun") -> None:
        """Write columns."""
        model.note = note
        model.tags["seen"] = True

    def is_ready(self) -> None:
        """Refuse by raising."""
        raise ValueError("not ready")

    def on_give_up(self) -> None:
        """Send another event, which is refused: that is no refusal of this one."""
        self.send("begin")  # pyright: ignore[reportUnknownMemberType]


class Tolerant(StateChart[Any]):
    """Ignores events that lead nowhere, swallows what callbacks raise unless hindered, moves by itself."""

    todo = State(initial=True)
    doing = State()
    done = State(final=True)

    begin = todo.to(doing)
    doing.to(done, cond="note")
    stop = todo.to(done)

    def on_stop(self) -> None:
        """Fail."""
        raise ZeroDivisionError


class Catching(StateChart[Any]):
    """Has a transition for errors in one of its states."""

    todo = State(initial=True)
    doing = State()
    done = State(final=True)

    begin = todo.to(doing)
    stop = doing.to(doing) | todo.to(done)
    error_execution = doing.to(done)

    def before_begin(self) -> None:
        """Fail."""
        raise ZeroDivisionError

    def on_stop(self) -> None:
        """Fail."""
        raise ZeroDivisionError


CALLING, TOLERANT, CATCHING = (MachineMapping(machine=each, entity=Task) for each in (Calling, Tolerant, Catching))
CROSSING = MachineMapping(machine=Crossing, entity=Light)
ORDERS = MachineMapping(machine=OrderFlow, entity=Order, state="stage")

TASK: dict[str, Any] = {"id": 1, "state": "todo", "version": 1, "transition_token": None, "note": None, "tags": {}}
LIGHT: dict[str, Any] = {
    "stopped_at": None,
    "id": 1,
    "state": "green",
    "version": 1,
    "transition_token": None,
    "broken": False,
    "by": None,
}
ORDER: dict[str, Any] = {**dict.fromkeys(ORDERS.columns), "stage": "draft", "amount": 1, "visits": 0}

WRITES = Moves("doing", {"note": "begun", "tags": {"seen": True}}, ("begin", "doing"))
BY_ERROR = Moves("done", steps=("stop", "doing", "error.execution", "done"))

FORETOLD = [
    pytest.param(CROSSING, LIGHT, "step", {}, Moves("yellow", steps=("step", "yellow")), id="it moves"),
    pytest.param(CROSSING, {**LIGHT, "broken": True}, "step", {}, Refuses(), id="its guard is false"),
    pytest.param(CROSSING, {**LIGHT, "state": "off"}, "end", {}, Refuses(), id="it has ended"),
    pytest.param(CROSSING, LIGHT, "blink", {}, Refuses(), id="another state"),
    pytest.param(
        ORDERS,
        {**ORDER, "stage": "paid 100%", "limit": 2},
        "ship",
        {},
        Moves("sent", steps=("ship", "sent")),
        id="the first target",
    ),
    pytest.param(
        ORDERS,
        {**ORDER, "stage": "paid 100%", "limit": 0},
        "ship",
        {},
        Moves("held", steps=("ship", "held")),
        id="the second target",
    ),
    pytest.param(
        ORDERS,
        {**ORDER, "owner": "me"},
        "claim",
        {"owner": "me"},
        Moves("draft", steps=("claim", "draft")),
        id="with a parameter",
    ),
    pytest.param(ORDERS, {**ORDER, "owner": "me"}, "claim", {"owner": "you"}, Refuses(), id="with another parameter"),
    pytest.param(CALLING, TASK, "begin", {}, WRITES, id="it writes columns"),
    pytest.param(
        ORDERS, {**ORDER, "stage": "held"}, "touch", {}, Moves("held", steps=("touch",)), id="it enters nothing"
    ),
    pytest.param(CALLING, TASK, "wait", {}, Moves("todo", steps=("wait", "todo")), id="it stays where it is"),
    pytest.param(
        TOLERANT,
        {**TASK, "note": "x"},
        "begin",
        {},
        Moves("done", steps=("begin", "doing", "done")),
        id="it moves on by itself",
    ),
    pytest.param(TOLERANT, TASK, "begin", {}, Moves("doing", steps=("begin", "doing")), id="it does not move on"),
    pytest.param(TOLERANT, {**TASK, "state": "doing"}, "begin", {}, Refuses(), id="it would be ignored"),
    pytest.param(CATCHING, TASK, "begin", {}, Refuses(), id="it catches an error, and stays"),
    pytest.param(CATCHING, {**TASK, "state": "doing"}, "stop", {}, BY_ERROR, id="it moves by an error"),
]


@pytest.mark.parametrize(("mapping", "values", "event", "params", "expected"), FORETOLD)
def test_what_the_machine_does_is_foretold(
    mapping: MachineMapping, values: dict[str, Any], event: str, params: dict[str, Any], expected: object
) -> None:
    """The machine itself decides, on these values, without changing them."""
    before = repr(values)

    assert foretell(mapping, values, event, params) == expected
    assert before == repr(values)


@pytest.mark.parametrize(
    ("mapping", "values", "event", "error"),
    [
        (ORDERS, {**ORDER, "stage": "paid 100%"}, "ship", TypeError),  # None is compared
        (CALLING, {**TASK, "state": "doing"}, "end", ValueError),
        (CALLING, TASK, "give_up", TransitionNotAllowed),
        (TOLERANT, TASK, "stop", ZeroDivisionError),
    ],
)
def test_what_raises_is_told(mapping: MachineMapping, values: dict[str, Any], event: str, error: type) -> None:
    """What a guard, a validator or a callback raises is no refusal by the machine."""
    foretold = foretell(mapping, values, event, {})

    assert isinstance(foretold, Raises)
    assert type(foretold.error) is error


def test_which_states_an_event_leaves() -> None:
    """Guards do not count."""
    assert [state for state in CROSSING.states if leaves(CROSSING, state, "stop")] == ["green", "yellow"]


def test_which_guards_it_has_and_where_it_leads() -> None:
    """Guards as the machine spells them, and each target."""
    assert guards_of(CROSSING, "green", "step") == {"!broken"}
    assert guards_of(CROSSING, "yellow", "step") == set()
    assert targets_of(ORDERS, "paid 100%", "ship") == {"sent", "held"}


def test_what_varies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column in which a callback writes now this, now that, as by chance or by the clock."""
    numbers = iter(range(1000))

    def on_begin(_machine: object, model: Task) -> None:
        model.note = str(next(numbers) // 3)

    monkeypatch.setattr(Calling, "on_begin", on_begin)

    assert varies(CALLING, TASK, "begin", {}, "note")
    assert not varies(CALLING, TASK, "begin", {}, "tags")
