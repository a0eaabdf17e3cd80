"""Reuse: what a callback leaves behind, in every place that there is, is not found by the next row's callback."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import pytest
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from statelatch.interpreter import Fired
from tests.desks import OTHER, Customer, Desk, Order, built, fresh, nothing, run

Leak = Callable[[Any, Any], object]

LEFT: list[Any] = []
"""What callbacks keep."""

BY_MODEL: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
CONTEXT: ContextVar[Any] = ContextVar("CONTEXT", default=None)


@lru_cache
def remembered(model: Order) -> int | None:
    """A function that remembers its arguments."""
    return model.amount


@pytest.fixture
def desk() -> type[Desk]:
    """A class of the test's own, of which no machine waits."""

    class Own(Desk):
        """The same."""

    return Own


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Nothing is kept from test to test."""
    yield
    for kept in LEFT:
        if isinstance(kept, threading.Event):
            kept.set()
    LEFT.clear()
    BY_MODEL.clear()
    remembered.cache_clear()
    CONTEXT.set(None)


def rename_known_state(machine: Any, _: Order) -> None:
    """Change what the machine has looked up before."""
    assert machine.draft.name == "Draft"
    machine.draft.name = "Gone"


def keep_in_session(_: Any, model: Order) -> None:
    """Put the model into a session."""
    session = Session()
    session.add(model)
    LEFT.append(session)


def keep_in_thread(_: Any, model: Order) -> None:
    """Give the model to a thread that goes on."""
    stop = threading.Event()

    def wait(_: Order) -> None:
        stop.wait(10)

    threading.Thread(target=wait, args=(model,), daemon=True).start()
    LEFT.append(stop)


def leave_events(machine: Any, _: Order) -> None:
    """Send events that come after the end."""
    machine.send("again")
    machine.raise_("again")


GONE: dict[str, Leak] = {
    "nothing": nothing,
    "a column": lambda _, model: setattr(model, "note", "leaked"),
    "an attribute of the model": lambda _, model: setattr(model, "unmapped", 1),
    "a document": lambda _, model: model.data["tags"].append("leaked"),
    "no column": lambda _, model: delattr(model, "amount"),
    "a flag": lambda _, model: flag_modified(model, "note"),
    "info of SQLAlchemy's state": lambda _, model: inspect_entity(model).info.update(leaked=True),
    "a history": lambda machine, _: machine.history_values.update(h=[]),
    "the model's dictionary": lambda _, model: LEFT.append(vars(model)),
}
"""What goes with the row, so that the machine is used again."""

HELD: dict[str, Leak] = {
    "an attribute": lambda machine, _: setattr(machine, "leaked", 1),
    "another state field": lambda machine, _: setattr(machine, "state_field", "note"),
    "errors as events": lambda machine, _: setattr(machine, "catch_errors_as_events", True),
    "events without transition": lambda machine, _: setattr(machine, "allow_event_without_transition", True),
    "another history": lambda machine, _: setattr(machine, "history_values", {"h": []}),
    "another start": lambda machine, _: machine.start_configuration_values.append("sent"),
    "an attribute of a state": lambda machine, _: setattr(machine.draft, "visited", True),
    "another name of a state": lambda machine, _: setattr(machine.sent, "name", "Gone"),
    "another name of a known state": rename_known_state,
    "a listener": lambda machine, _: machine.add_listener(object()),
    "events on the model": lambda machine, model: machine.bind_events_to(model),
    "a related object": lambda _, model: setattr(model, "customer", Customer(id=1)),
    "the model": lambda _, model: LEFT.append(model),
    "the model, weakly": lambda _, model: LEFT.append(weakref.ref(model)),
    "the model as a weak key": lambda _, model: BY_MODEL.update({model: "leaked"}),
    "the model in a cache": lambda _, model: remembered(model),
    "the model's state": lambda _, model: LEFT.append(inspect_entity(model)),
    "the model in a session": keep_in_session,
    "the model in a context": lambda _, model: CONTEXT.set(model),
    "the model in a thread": keep_in_thread,
    "the model of a related object": lambda _, model: LEFT.append(Customer(id=1, orders=[model])),
    "the machine": lambda machine, _: LEFT.append(machine),
    "the machine, weakly": lambda machine, _: LEFT.append(weakref.ref(machine)),
    "the machine's dictionary": lambda machine, _: LEFT.append(vars(machine)),
    "the machine's history": lambda machine, _: LEFT.append(machine.history_values),
    "a state of the machine": lambda machine, _: LEFT.append(machine.draft),
    "another state": lambda machine, _: LEFT.append(machine.sent),
    "a method": lambda machine, _: LEFT.append(machine.send),
    "an event": lambda machine, _: LEFT.append(machine.again),
}
"""What ends the machine."""

CASES = [*((leak, 1) for leak in GONE.items()), *((leak, 2) for leak in HELD.items())]


@pytest.mark.parametrize(("leak", "machines"), CASES, ids=[*GONE, *HELD])
def test_nothing_of_a_row_is_in_the_next(desk: type[Desk], leak: tuple[str, Leak], machines: int) -> None:
    """After a callback that leaves something, another row finds what it finds on a machine that has run nothing."""
    of_fresh: dict[str, object] = {}
    fresh(desk, "look", OTHER, seen=of_fresh)
    assert isinstance(run(desk, "act", do=leak[1]), Fired)

    of_next: dict[str, object] = {}
    run(desk, "look", OTHER, seen=of_next)

    assert of_fresh == of_next
    assert built(desk) == 1 + machines


@pytest.mark.parametrize(("leave", "machines"), [(nothing, 1), (leave_events, 2)])
def test_the_end_of_a_row_is_not_the_next_one_s(desk: type[Desk], leave: Leak, machines: int) -> None:
    """After a machine that came to its end, with or without further events, the next row's event alone is run."""
    assert isinstance(run(desk, "end", do=leave), Fired)
    outcome = run(desk, "act", OTHER, do=nothing)

    assert isinstance(outcome, Fired)
    assert [step.event for step in outcome.steps] == ["act"]
    assert built(desk) == machines


def test_what_a_callback_kept_stays_what_it_was(desk: type[Desk]) -> None:
    """A model that a callback put somewhere has its own row's values for good, and so has SQLAlchemy's state of it."""

    def keep(_: Any, model: Order) -> None:
        model.note = "mine"
        LEFT.append(model)

    run(desk, "act", do=keep)
    for _ in range(3):
        run(desk, "act", OTHER, do=nothing)

    state = inspect_entity(LEFT[0])
    assert (LEFT[0].id, LEFT[0].note, state.attrs["note"].value, state.object) == (7, "mine", "mine", LEFT[0])


def test_a_dictionary_that_a_callback_kept_stays_what_it_was(desk: type[Desk]) -> None:
    """`vars(model)` is no reference to the model: the machine is used again, and the dictionary is left alone."""
    run(desk, "act", do=GONE["the model's dictionary"])
    run(desk, "act", OTHER, do=nothing)

    assert (LEFT[0]["id"], built(desk)) == (7, 1)


def test_a_row_does_not_wait_with_the_machine(desk: type[Desk]) -> None:
    """What a row held is free when the row is done; nothing is left for the machine to keep, or to be collected."""

    class Held:
        """Something large."""

    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def hold(_: Any, model: Any) -> None:
        model.note, model.unmapped = "changed", Held()
        alive.add(model.unmapped)

    run(desk, "act", do=hold)
    gc.collect()
    gc.disable()
    try:
        run(desk, "act", do=hold)
        assert (list(alive), gc.collect(), built(desk)) == ([], 0, 1)
    finally:
        gc.enable()
