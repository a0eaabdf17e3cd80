"""The contract of `statelatch.framework`: what statelatch relies on in python-statemachine 3.2, beyond its manual.

When a new version of the framework breaks one of these, the pin in pyproject.toml stays and this room is mended.
"""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from sys import getrefcount
from typing import Any, ClassVar

import pytest
from statemachine import Event, State, StateChart, StateMachine
from statemachine.callbacks import CallbackSpec
from statemachine.exceptions import InvalidDefinition, TransitionNotAllowed
from statemachine.transition import Transition

from statelatch import framework


@dataclass
class Row:
    """A model, as an entity would be."""

    state: str | None = None
    ready: bool = True
    held: bool = False
    v: int = 0
    number: int = 0


class Journal:
    """A listener that writes down every callback it is given."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def prepare_event(self) -> dict[str, object]:
        self.entries.append("prepare")
        return {}

    def before_transition(self) -> None:
        self.entries.append("before")

    def on_exit_state(self) -> None:
        self.entries.append("exit")

    def on_transition(self) -> None:
        self.entries.append("on")

    def on_enter_state(self) -> None:
        self.entries.append("enter")

    def after_transition(self) -> None:
        self.entries.append("after")


class Door(StateMachine):
    """A machine with an event of each kind."""

    closed = State(initial=True)
    ajar = State()
    gone = State(final=True)

    push = closed.to(ajar, cond="ready", unless="held", validators="look")
    knock = closed.to(closed)
    peep = closed.to(closed, internal=True)
    take_away = closed.to(gone) | ajar.to(gone)
    idle = Event()

    def look(self) -> None:
        """See who is there."""


class SwingDoor(StateChart[Row]):
    """The same as a chart, whose self-transitions enter again even when they are internal."""

    closed = State(initial=True)
    gone = State(final=True)

    knock = closed.to(closed)
    peep = closed.to(closed, internal=True)
    take_away = closed.to(gone)


class Spelled(StateMachine):
    """Guards in every spelling."""

    a = State(initial=True)
    b = State(final=True)

    go = a.to(b, cond=["ready", "!held ^ ready", "ready v held", "held != 3", "In('a')"], unless="held")
    lone = a.to(b, cond="v")
    python = a.to(b, cond=lambda: True)


def transition(machine: type[StateChart[Any]], event: str) -> Transition:
    """The first transition of this event."""
    states = machine.states_map.values()
    return next(each for state in states for each in state.transitions if each.match(event))


def guards(event: str) -> list[CallbackSpec]:
    """The guards of an event of `Spelled`."""
    return list(transition(Spelled, event).cond)


def test_the_framework_is_the_one_that_is_pinned() -> None:
    """The contract holds for the versions that pyproject.toml allows."""
    assert version("python-statemachine").startswith("3.2.")


@pytest.mark.parametrize("machine", [Door, SwingDoor])
def test_order_of_callbacks(machine: type[StateChart[Any]]) -> None:
    """One event calls prepare, before, exit, on, enter, after, in this order."""
    journal = Journal()
    door = machine(Row(), listeners=[journal])
    journal.entries.clear()

    framework.send(door, "take_away", {})

    assert [entry for entry in journal.entries if entry != "prepare"] == ["before", "exit", "on", "enter", "after"]
    assert journal.entries[0] == "prepare"


def test_a_validator_runs_before_the_guards() -> None:
    """What a validator raises is raised even where a guard would have been false."""

    class Strict(Door):
        def look(self) -> None:
            raise PermissionError

    with pytest.raises(PermissionError):
        framework.send(Strict(Row(ready=False)), "push", {})


def test_what_is_raised_in_after_takes_nothing_back() -> None:
    """The state has changed by then, which is why statelatch records a transition before `after` runs."""

    class Loud(Door):
        def after_take_away(self) -> None:
            raise RuntimeError

    row = Row()
    with pytest.raises(RuntimeError):
        framework.send(Loud(row), "take_away", {})

    assert row.state == "gone"


def test_a_built_machine_in_a_known_state_runs_nothing() -> None:
    """Building a machine on a row that has a state calls no callback."""
    journal = Journal()
    Door(Row(state="ajar"), listeners=[journal])

    assert journal.entries == []


def test_event_ids_are_those_that_a_transition_has() -> None:
    """Events come in the order of their declaration; one without a transition is none."""
    assert framework.event_ids(Door) == ("push", "knock", "peep", "take_away")


@pytest.mark.parametrize(
    ("machine", "event", "expected"),
    [
        (Door, "push", True),
        (Door, "knock", True),
        (Door, "peep", False),
        (SwingDoor, "knock", True),
        (SwingDoor, "peep", True),
    ],
)
def test_which_transitions_enter_their_target(machine: type[StateChart[Any]], event: str, expected: bool) -> None:
    """`enters` says of a self-transition what the engine does."""
    journal = Journal()
    door = machine(Row(), listeners=[journal])
    journal.entries.clear()

    framework.send(door, event, {})

    assert expected == ("enter" in journal.entries)
    assert expected == framework.enters(machine, transition(machine, event))


def test_states_are_no_names_for_guards() -> None:
    """A guard is not found under a state's id, but under an event's and a method's."""
    assert framework.names_on(Door) >= {"push", "look", "name"}
    assert not framework.names_on(Door) & {"closed", "ajar", "states", "model"}


def test_every_name_of_a_built_machine_is_known_before() -> None:
    """A machine finds no guard on itself that its class does not tell of, `history_values` included."""
    found = {name for name in dir(Door(Row())) if not name.startswith("_")}  # pyright: ignore[reportUnknownMemberType]

    assert found - framework.names_on(Door) == {
        *("closed", "ajar", "gone"),
        *("model", "state_field", "initial_state", "final_states", "states", "states_map", "send"),
    }


def test_names_of_listeners() -> None:
    """A listener is declared as a class, an instance, or a class with arguments; each tells its names."""

    class Watched(Door):
        listeners: ClassVar = [Journal, Row(), partial(Watcher, 3)]

    assert framework.listener_names(Watched) >= {"on_transition", "ready", "held", "watched"}
    assert framework.listener_names(Door) == frozenset()


class Watcher:
    """A listener with an argument."""

    def __init__(self, number: int) -> None:
        self.number = number

    def watched(self) -> bool:
        """A guard."""
        return True


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("ready and held", "(ready ^ held)", True),
        ("ready or held and number", "(ready or held) and number", True),
        ("number == 1", "number == '1'", True),
        ("ready and held", "held and ready", False),
        ("ready", "!ready", False),
        ("v", "number", False),
    ],
)
def test_which_guards_are_one_to_the_framework(one: str, other: str, alike: bool) -> None:
    """Of two guards with one key the framework keeps the first, and will not build the machine."""

    class Machine(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=[one, other])

    first, second = transition(Machine, "go").cond
    assert alike == (framework.guard_key(first) == framework.guard_key(second))
    with nullcontext() if not alike else pytest.raises(InvalidDefinition):
        Machine(Row())  # pyright: ignore[reportUnknownMemberType]


def test_guards_in_python_spelling() -> None:
    """`!`, `^` and `v` are spelled out, `!=` is not; a column called `v` stays one."""
    assert [framework.guard_expression(spec) for spec in guards("go")] == [
        "ready",
        "not held  and  ready",
        "ready  or  held",
        "held != 3",
        "In('a')",
        "held",
    ]
    assert [framework.guard_expression(spec) for spec in guards("lone")] == ["v"]


def test_which_guards_stand_under_unless() -> None:
    """`unless` is the same list with another expectation, after `cond`."""
    assert [framework.is_unless(spec) for spec in guards("go")] == [False] * 5 + [True]


def test_which_guards_are_names() -> None:
    """A callable is not looked up by name."""
    assert [framework.is_name(spec) for spec in guards("python")] == [False]
    assert all(framework.is_name(spec) for spec in guards("go"))


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("ready", {"ready"}),
        ("!held and 1 < ready", {"held", "ready"}),
        ("In('a') and ready", {"ready"}),
        ("a == b == c", set("abc")),
    ],
)
def test_names_in_a_guard(expression: str, names: set[str]) -> None:
    """The names of an expression are those that the framework would look up."""

    class Machine(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=expression)

    assert names == framework.names_in(next(iter(transition(Machine, "go").cond)))


@pytest.mark.parametrize("expression", ["ready in held", "-ready", "ready + held", "f(ready)", "ready and", "ready.x"])
def test_what_is_no_guard_is_told(expression: str) -> None:
    """An expression that the framework would refuse when the machine is built is a ValueError before."""

    class Machine(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=expression)

    with pytest.raises(ValueError, match="not a guard expression"):
        framework.names_in(next(iter(transition(Machine, "go").cond)))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row(ready=False), ("ready",)),
        (Row(held=True), ("!held ^ ready",)),
        (Row(number=3), ()),
    ],
)
def test_the_first_false_guard_is_named(row: Row, expected: tuple[str, ...]) -> None:
    """Of a refused event's guards the first false one is named, as the machine spells it."""

    class Machine(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=["ready", "!held ^ ready"])

    assert expected == framework.false_guards(Machine(row), "go", {})


def test_false_guards_of_coroutines() -> None:
    """Guards that are coroutines are awaited, not taken for true."""

    class Machine(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond="later")

        async def later(self) -> bool:
            await asyncio.sleep(0)
            return False

    machine = Machine(Row())
    machine.activate_initial_state()

    assert framework.has_async_callbacks(machine)
    assert framework.false_guards(machine, "go", {}) == ("later",)


def test_operands_are_not_evaluated_in_vain() -> None:
    """`and`, `or` and chains of comparisons stop at the operand that decides: the rest cannot raise."""

    class Machine(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond=["ready or boom", "not (held and boom)", "not (1 < number < boom)"])

        def boom(self) -> bool:
            raise AssertionError

    row = Row()
    framework.send(Machine(row), "go", {})

    assert row.state == "b"


def test_an_event_without_transition() -> None:
    """A machine raises where a chart takes no notice: statelatch refuses both."""
    with pytest.raises(TransitionNotAllowed):
        framework.send(Door(Row(state="gone")), "push", {})
    chart_row = Row(state="gone")
    framework.send(SwingDoor(chart_row), "knock", {})

    assert chart_row.state == "gone"


@pytest.mark.parametrize(("name", "expected"), [("look", True), ("on_push", False)])
def test_a_conventional_callback_need_not_exist(name: str, expected: bool) -> None:
    """A callback by convention counts only where its name exists; one that is written down always does."""
    specs = {str(spec): spec for spec in framework.callbacks_of(transition(Door, "push"))}

    assert expected == framework.would_call(specs[name], framework.names_on(Door))


def test_which_machines_have_listeners() -> None:
    """Listeners of the class are seen, inherited ones too."""

    class Watched(Door):
        listeners: ClassVar = [Journal]

    class Heir(Watched):
        pass

    assert [framework.has_listeners(machine) for machine in (Door, Watched, Heir)] == [False, True, True]


def test_which_charts_handle_errors() -> None:
    """A chart handles errors if a transition of it has the error event."""

    class Careful(StateChart[Row]):
        a = State(initial=True)
        b = State(final=True)
        error_execution = a.to(b)

    assert framework.handles_errors(Careful)
    assert not framework.handles_errors(Door)


@pytest.mark.parametrize("name", sorted(framework.ENGINE_ARGUMENTS))
def test_engine_arguments_are_injected(name: str) -> None:
    """A callback gets each of these from the engine, whatever the event's parameters say."""
    seen: dict[str, object] = {}

    class Nosy(Door):
        def on_take_away(self, **arguments: object) -> None:
            seen.update(arguments)

    parameters = {} if name == "machine" else {name: "mine"}  # `machine` is a TypeError
    framework.send(Nosy(Row()), "take_away", parameters)

    assert seen[name] is not None
    assert seen[name] != "mine"


def tell(why: int) -> None:
    """A function that is no method."""
    assert why


class Wanting(StateMachine):
    """Guards and callbacks that take the event's parameters in each way."""

    a = State(initial=True)
    b = State(final=True)

    go = a.to(b, cond=["enough", "weighed"], unless="blocked and fixed", on=tell)

    def enough(self, amount: int, event: Event) -> bool:
        return amount > 0 and event == "go"

    @classmethod
    def blocked(cls, by: str = "") -> bool:
        return bool(by)

    @staticmethod
    def fixed(when: int, *rest: int, **more: int) -> bool:
        return bool(when or rest or more)

    def after_go(self, *, note: str) -> None:
        assert note


class Weighing(Row):
    """Its model's class."""

    def weighed(self, weight: int) -> bool:
        """A guard on the model."""
        return weight > 0


def test_which_arguments_callbacks_take() -> None:
    """Those that the engine looks for by name among the event's parameters; the others it gives by itself."""
    (transition,) = Wanting.a.transitions
    taken = [
        (each.name, each.default is each.empty)
        for spec in framework.callbacks_of(transition)
        for each in framework.arguments_of(spec, Wanting, Weighing)
    ]
    assert sorted(taken) == [
        ("amount", True),
        ("by", False),
        ("note", True),
        ("weight", True),
        ("when", True),
        ("why", True),
    ]

    scale = Weighing("a")
    machine = Wanting(scale)
    with pytest.raises(TypeError, match="amount"):
        framework.send(machine, "go", {"weight": 1, "when": 0, "why": 1, "note": "x"})
    framework.send(machine, "go", {"amount": 1, "weight": 1, "when": 0, "why": 1, "note": "x"})
    assert scale.state == "b"


class Slow(StateChart[Any]):
    """Events declared in each way."""

    a = State(initial=True)
    b = State(final=True)

    now = Event(a.to(b, cond="ready", on="told"), name="Right now!")
    later = Event(a.to(b), delay=5)
    inside = Event(a.to(b), id="in.side", internal=True)
    error_execution = a.to(b)
    error_seen = a.to(b)

    def told(self, event: Event) -> None:
        self.name = event.name


def test_callbacks_find_the_event_as_it_was_declared() -> None:
    """The event that a callback is given has the name of its declaration."""
    machine = Slow(Row())

    framework.send(machine, "now", {})

    assert machine.name == "Right now!"


def test_which_events_do_not_run_at_once() -> None:
    """A delay, or the internal queue, is part of an event's declaration."""
    assert framework.deferred_events(Slow) == ("later", "in.side")


@pytest.mark.parametrize(
    ("event", "fired"),
    [
        ("error_execution", "error.execution"),
        ("done_state_a_b", "done.state.a_b"),
        ("done_invoke_a", "done.invoke.a"),
        ("error_seen", "error_seen"),
        ("now", "now"),
    ],
)
def test_how_the_engine_calls_its_events(event: str, fired: str) -> None:
    """An attribute's name declares the engine's own event with dots; one of the user's keeps its name."""
    assert fired == framework.fired_as(event)


def test_an_init_of_the_machine_s_own() -> None:
    """It is told from python-statemachine's, also where a mixin or a base brings it, and from one that takes less."""

    class Mixed:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)

    class Mixing(Mixed, Slow):
        pass

    class Bare(Slow):
        def __init__(self, model: Any) -> None:
            super().__init__(model)

    class Derived(Bare):
        pass

    machines = [Slow, Door, StateMachine, Mixing, Bare, Derived]
    assert [framework.has_own_init(machine) for machine in machines] == [False, False, False, True, True, True]
    assert [framework.cannot_be_built(machine) is not None for machine in machines] == [False] * 4 + [True] * 2


def test_how_a_class_has_a_say_in_building() -> None:
    """A constructor, a destructor or an engine of the class's own is named; python-statemachine's are not."""

    class WithEngine(Slow):
        def _get_engine(self) -> Any:
            raise AssertionError

    class WithNew(Slow):
        def __new__(cls, *_: Any, **__: Any) -> "WithNew":
            return super().__new__(cls)

    class WithDel(Slow):
        def __del__(self) -> None:
            pass

    class Mixed:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)

    class Mixing(Mixed, Slow):
        pass

    machines = [Slow, Door, StateMachine, WithEngine, WithNew, WithDel, Mixing]
    assert [framework.builds_its_own_way(machine) for machine in machines] == [
        *[None] * 3,
        "_get_engine",
        "__new__",
        "__del__",
        "__init__",
    ]


def test_building_looks_up_the_names_of_callbacks_and_guards() -> None:
    """What building reads of a model are the names that callbacks and guards have, and nothing else."""
    read: set[str] = set()

    class Watched:
        state = "a"
        ready = held = number = v = other = True

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            read.add(name)
            return value

    Spelled(Watched())

    names = {"ready", "held", "number", "v", "other"}
    assert read & names == framework.names_bound(Spelled) & names == names - {"other", "number"}
    assert framework.names_bound(Door) >= {"ready", "held", "look", "on_push", "on_enter_closed", "prepare_event"}


def test_a_property_is_looked_up_on_the_model_each_time() -> None:
    """A guard whose value is no callable when the machine is built is read whenever it is asked."""
    row = Row(ready=False)
    door = Door(row)
    row.ready = True

    framework.send(door, "push", {})

    assert row.state == "ajar"


def test_which_machines_invoke() -> None:
    """A machine with something to run in a state of its own is told, by whatever name; the others are not."""

    class Invoking(Door):
        def on_invoke_gone(self) -> None:
            pass

    class Inline(StateMachine):
        a = State(initial=True, invoke=lambda: None)
        go = a.to(a)

    machines = [Door(Row(state="ajar")), Invoking(Row(state="ajar")), Inline(Row(state="a"))]
    assert [framework.has_invoke(machine) for machine in machines] == [False, True, True]


@pytest.mark.parametrize("machine", [Door, SwingDoor, Spelled])
def test_what_a_machine_is_made_of(machine: type[StateChart[Any]]) -> None:
    """Nothing but what is known is set on a machine that is built, nor when it has run."""
    built = machine(Row(state="a" if "a" in machine.states_map else "closed"))
    attributes = {**vars(built)}
    assert framework.attributes_of_its_own(built) == set()

    framework.send(built, framework.event_ids(machine)[0], {})

    assert vars(built) == attributes
    built.catch_errors_as_events = False
    assert framework.attributes_of_its_own(built) == set()
    vars(built)["mine"] = 1
    assert framework.attributes_of_its_own(built) == {"mine"}


def test_a_machine_that_has_run_is_untouched() -> None:
    """What a machine copies from its class's states when it runs is told from what somebody set there."""
    journal = Journal()
    door: Any = Door(Row(), listeners=[journal])
    framework.send(door, "push", {})
    assert (door.ajar.name, door.closed.id, door.ajar.is_active) == ("Ajar", "closed", True)
    assert framework.is_untouched(door, journal)

    door.closed.visited = True
    assert not framework.is_untouched(door, journal)
    del door.closed.visited
    assert framework.is_untouched(door, journal)
    door.ajar.name = "Open"
    assert not framework.is_untouched(door, journal)


def test_a_machine_with_more_listeners_or_another_start_is_touched() -> None:
    """A listener that was added stays, and so does a state in which to start."""
    door, other = Door(Row(), listeners=[journal := Journal()]), Door(Row(), listeners=[journal])

    door.add_listener(Journal())  # pyright: ignore[reportUnknownMemberType]
    other.start_configuration_values.append("ajar")

    assert not framework.is_untouched(door, journal)
    assert not framework.is_untouched(other, journal)


def test_arguments_are_forgotten() -> None:
    """When a machine has come to its end, its engine holds the last event until it is told to let go."""
    door = Door(Row())
    parameter = Row()
    framework.send(door, "take_away", {"parameter": parameter})
    held = getrefcount(parameter)

    framework.let_go(door)

    assert getrefcount(parameter) < held


def test_a_machine_that_rests_has_not_ended() -> None:
    """It takes events again, with the state that its row has by then."""
    row = Row()
    door = Door(row)
    framework.send(door, "take_away", {})
    door.history_values["h"] = []
    assert door.is_terminated

    framework.rest(door)
    row.state = "closed"
    framework.send(door, "push", {})

    assert (row.state, door.history_values) == ("ajar", {})


@pytest.mark.parametrize(("state", "entered"), [(None, ["enter"]), ("ajar", [])])
def test_starting_enters_the_initial_state_of_a_row_without_one(state: str | None, entered: list[str]) -> None:
    """As when it is built, a machine enters the initial state if its row has none, and else runs nothing."""
    row, journal = Row(state="ajar"), Journal()
    door = Door(row, listeners=[journal])
    row.state = state

    framework.start(door)

    assert (row.state, [each for each in journal.entries if each != "prepare"]) == (state or "closed", entered)


def test_an_event_loop_that_is_abandoned_runs_nothing_more() -> None:
    """What an interrupt left in the thread's loop is cancelled, and neither goes on nor is raised again."""

    class Machine(StateMachine):
        a = State(initial=True)
        go = a.to(a)

        async def on_go(self, interrupted: bool) -> None:
            if interrupted:
                tasks.append(asyncio.get_running_loop().create_task(asyncio.sleep(10)))
                raise KeyboardInterrupt

    tasks: list[asyncio.Task[None]] = []
    machine = Machine(Row(state="a"))
    with pytest.raises(KeyboardInterrupt):
        framework.send(machine, "go", {"interrupted": True})

    framework.abandon_event_loop(machine)
    framework.send(Machine(Row(state="a")), "go", {"interrupted": False})

    assert [task.cancelled() for task in tasks] == [True]
    framework.abandon_event_loop(machine)
    framework.abandon_event_loop(machine)  # there is none by now
