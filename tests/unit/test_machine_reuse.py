"""Reuse: one machine for row after row, a new one after whatever was raised, and none where it cannot be told."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, ClassVar, cast

import pytest
from sqlalchemy.orm import configure_mappers
from statemachine import State, StateChart, StateMachine
from statemachine.exceptions import TransitionNotAllowed

from statelatch import RequestError
from statelatch.blueprints import built_each_time
from statelatch.interpreter import Fired, Firing, Refused
from statelatch.reuse import KEPT
from tests.desks import OTHER, ROW, Counting, Desk, Machine, Order, built, fresh, nothing, run


@pytest.fixture
def desk() -> type[Desk]:
    """A class of the test's own, of which no machine waits."""

    class Own(Desk):
        """The same."""

    return Own


def own(machine: Machine) -> Machine:
    """A class of the test's own, of which no machine waits."""
    return type(machine.__name__, (machine,), {})


def test_one_machine_serves_row_after_row(desk: type[Desk]) -> None:
    """A thread builds one machine of a class, and callbacks find the row that it was given."""
    found: list[tuple[int, int | None]] = []

    def note(_: Any, model: Order) -> None:
        found.append((model.id, model.amount))

    for number in range(5):
        run(desk, "act", {**ROW, "id": number, "amount": 10 * number}, do=note)

    assert found == [(number, 10 * number) for number in range(5)]
    assert built(desk) == 1


def test_a_new_row_comes_to_the_machine_that_waits(desk: type[Desk]) -> None:
    """The initial state is entered on a machine that has run, and the next event finds nothing of that."""
    run(desk, "act", do=nothing)

    assert run(desk, None, {**dict.fromkeys(ROW), "id": 9}) == Fired((), None, "draft", {})
    assert isinstance(run(desk, "act", do=nothing), Fired)
    assert built(desk) == 1


def test_a_machine_may_be_built_for_a_new_row() -> None:
    """The machine that is built for a new row enters the initial state once, and serves the next row."""
    entered: list[int] = []

    class Own(Desk):
        """It notes what it enters."""

        def on_enter_draft(self, model: Order) -> None:
            """Note it."""
            entered.append(model.id)

    assert run(Own, None, {**dict.fromkeys(ROW), "id": 9}) == Fired((), None, "draft", {})
    run(Own, "end", do=nothing)

    assert (entered, built(Own)) == ([9], 1)


def raising(error: BaseException) -> Callable[..., None]:
    """A callback that raises."""

    def do(*_: object) -> None:
        raise error

    return do


def send_in_vain(machine: Any, _: Order) -> None:
    """Send an event that is refused."""
    machine.send("check")


@pytest.mark.parametrize(
    ("do", "error"),
    [
        (raising(ZeroDivisionError()), ZeroDivisionError),
        (raising(KeyboardInterrupt()), KeyboardInterrupt),
        (raising(SystemExit()), SystemExit),
        (raising(asyncio.CancelledError()), asyncio.CancelledError),
        (raising(GeneratorExit()), GeneratorExit),
        (raising(TransitionNotAllowed(None, cast("Any", ()))), TransitionNotAllowed),
        (send_in_vain, TransitionNotAllowed),
    ],
)
def test_an_exception_throws_the_machine_away(desk: type[Desk], do: Any, error: type[BaseException]) -> None:
    """Whatever is raised, the next row gets a new machine."""
    run(desk, "act", do=nothing)
    with pytest.raises(error):
        run(desk, "act", do=do)

    assert isinstance(run(desk, "act", OTHER, do=nothing), Fired)
    assert built(desk) == 2


def test_a_refusal_by_exception_throws_the_machine_away(desk: type[Desk]) -> None:
    """A `StateMachine` refuses by raising: that is an exception like any other."""
    run(desk, "act", do=nothing)

    assert run(desk, "check") == Refused(("paid",))
    assert isinstance(run(desk, "check", {**ROW, "note": "paid"}), Fired)
    assert built(desk) == 2


class Chart(StateChart[Any], metaclass=Counting):
    """A chart, which takes no notice of what it refuses, and has a transition for errors."""

    draft = State(initial=True)
    sent = State()
    broken = State(final=True)

    act = draft.to(sent, cond="rich", on="work")
    error_execution = draft.to(broken) | sent.to(broken)

    def work(self, do: Callable[[], object]) -> None:
        """Work, or fail."""
        do()


RICH = {**ROW, "amount": 101}


def test_a_refusal_without_exception_keeps_the_machine() -> None:
    """A chart that takes no notice of an event is used again; the guard is the next row's."""
    chart = own(Chart)

    assert run(chart, "act") == Refused(("rich",))
    assert isinstance(run(chart, "act", RICH, do=dict), Fired)
    assert built(chart) == 1


def test_an_error_that_the_chart_handles_is_not_the_next_row_s() -> None:
    """A chart that moved by an error is used again as one that has not."""
    chart = own(Chart)

    def fail() -> None:
        raise ZeroDivisionError

    outcomes = [run(chart, "act", RICH, do=do) for do in (fail, dict)]

    assert [outcome.target for outcome in outcomes if isinstance(outcome, Fired)] == ["broken", "sent"]
    assert built(chart) == 1


def is_large(model: Order) -> bool:
    """A guard that only Python knows."""
    return (model.amount or 0) > 100


class Guarded(StateChart[Any], metaclass=Counting):
    """Guards of every kind, on a chart, which refuses without an exception."""

    limit: ClassVar[int] = 100

    draft = State(initial=True)

    by_column = draft.to(draft, cond="amount")
    by_hybrid = draft.to(draft, cond="rich")
    by_expression = draft.to(draft, cond="amount > limit")
    by_property = draft.to(draft, cond="costly")
    by_method = draft.to(draft, cond="is_costly")
    by_function = draft.to(draft, cond=is_large)
    by_state = draft.to(draft, cond="In('draft') and amount")
    always = draft.to(draft)

    @property
    def costly(self) -> bool:
        """A property of the machine's."""
        return is_large(cast("Any", self).model)

    def is_costly(self) -> bool:
        """A method of the machine's."""
        return is_large(cast("Any", self).model)


@pytest.mark.parametrize(
    "event", ["by_column", "by_hybrid", "by_expression", "by_property", "by_method", "by_function", "by_state"]
)
def test_a_guard_is_the_new_row_s(event: str) -> None:
    """Each kind of guard follows the row, from one to the next and back, on one machine."""
    guarded, amounts = own(Guarded), (101, 0, 0, 102, 0, 103)

    outcomes = [isinstance(run(guarded, event, {**ROW, "amount": amount}), Fired) for amount in amounts]

    assert outcomes == [amount > 100 for amount in amounts]
    assert built(guarded) == 1


def test_a_guard_that_cannot_be_read_is_told_for_every_row() -> None:
    """Building reads the guards; a row of which one cannot be read is told so, also where no machine is built."""
    guarded, empty = own(Guarded), {**ROW, "amount": None}

    for send in (fresh, run, run):
        with pytest.raises(TypeError, match="not supported between"):
            send(guarded, "always", empty)
        assert isinstance(run(guarded, "always"), Fired)


class Caching(StateMachine, metaclass=Counting):
    """A guard that is computed once for each machine, when it is built."""

    draft = State(initial=True)
    act = draft.to(draft, cond="cached")

    @cached_property
    def cached(self) -> bool:
        """Computed once."""
        return is_large(cast("Any", self).model)


class Choosing(StateMachine, metaclass=Counting):
    """A guard that is a callback in some rows."""

    draft = State(initial=True)
    act = draft.to(draft, cond="many")


class Choosy(StateMachine, metaclass=Counting):
    """A guard that is another callback in each row."""

    draft = State(initial=True)
    act = draft.to(draft, cond="choice")

    @property
    def choice(self) -> Callable[[], bool]:
        """A callback of the row's own."""
        large = is_large(cast("Any", self).model)
        return lambda: large


@pytest.mark.parametrize("machine", [Caching, Choosing, Choosy])
def test_a_guard_that_building_fixes_is_the_new_row_s(machine: Machine) -> None:
    """Where building a machine takes something of the row into it, the next row has another machine."""
    amounts = (101, 102, 600, 601, 201, 202, 0, 103)

    outcomes = [isinstance(run(machine, "act", {**ROW, "amount": amount}), Fired) for amount in amounts]

    assert outcomes == [amount > 100 and not (machine is Choosing and 200 < amount <= 500) for amount in amounts]


class Listening(Desk):
    """Listeners of the class."""

    listeners: ClassVar = [type("Listener", (), {})]


class WithInit(Desk):
    """An `__init__` of its own."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)  # pyright: ignore[reportUnknownMemberType]


class WithNew(Desk):
    """A `__new__` of its own."""

    def __new__(cls, *_: Any, **__: Any) -> "WithNew":
        """Make one."""
        return super().__new__(cls)


class WithDel(Desk):
    """A `__del__` of its own."""

    def __del__(self) -> None:
        """Do nothing."""


class WithEngine(Desk):
    """An engine of its own."""

    def _get_engine(self) -> Any:
        return super()._get_engine()  # pyright: ignore[reportUnknownMemberType]


class WithSlots(Desk):
    """A slot."""

    __slots__ = ("seen",)


class Slotted:
    """A mixin with a slot."""

    __slots__ = ("seen",)


class OwnNew:
    """A mixin with a `__new__`."""

    def __new__(cls) -> "OwnNew":
        """Make one."""
        return super().__new__(cls)


class OwnDel:
    """A mixin with a `__del__`."""

    def __del__(self) -> None:
        """Do nothing."""


ENTITIES: dict[type[Any], type[Any]] = {
    mixin: type(f"Order{mixin.__name__}", (mixin, Order), {}) for mixin in (Slotted, OwnNew, OwnDel)
}
configure_mappers()


@pytest.mark.parametrize(
    ("machine", "entity", "reason"),
    [
        (Desk, Order, None),
        (Listening, Order, "Listening has listeners"),
        (WithInit, Order, "WithInit has a __init__ of its own"),
        (WithNew, Order, "WithNew has a __new__ of its own"),
        (WithDel, Order, "WithDel has a __del__ of its own"),
        (WithEngine, Order, "WithEngine has a _get_engine of its own"),
        (WithSlots, Order, "WithSlots has __slots__"),
        (Desk, ENTITIES[Slotted], "OrderSlotted has __slots__"),
        (Desk, ENTITIES[OwnNew], "OrderOwnNew has a __new__ of its own"),
        (Desk, ENTITIES[OwnDel], "OrderOwnDel has a __del__ of its own"),
    ],
)
def test_what_cannot_be_told_is_built_each_time(machine: Machine, entity: type[Any], reason: str | None) -> None:
    """It is said why machines of a class are not used again, and then they are not."""
    before = built(machine)
    for number in range(3):
        Firing(machine, entity, "stage", {**ROW, "id": number}, "act", {"do": nothing}).run()

    assert (built_each_time(machine, entity) or "None").startswith(str(reason))
    assert built(machine) - before == (3 if reason else 1)


class Invoking(Desk):
    """Something that may outlive an event."""

    def on_invoke_sent(self) -> None:
        """Do nothing."""


def test_an_invocation_is_not_the_next_row_s() -> None:
    """A machine that may start a thread is built for each row; one more shows that."""
    invoking = own(Invoking)
    for _ in range(2):
        run(invoking, "act", do=nothing)

    assert built(invoking) == 3


def test_only_where_references_are_counted(desk: type[Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python does not count references, a model that a callback kept could not be told."""
    monkeypatch.setattr("sys.implementation.name", "other")

    for _ in range(2):
        run(desk, "act", do=nothing)
    assert built(desk) == 2


def test_a_callback_that_is_replaced_is_called(desk: type[Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who replaces a method of the class, as a test does, finds it called, and not once more after it is undone."""
    called: list[str] = []

    def patched(_: Any) -> None:
        called.append("patched")

    def added(_: Any) -> None:
        called.append("added")

    run(desk, "act", do=nothing)
    with monkeypatch.context() as patch:
        patch.setattr(Desk, "on_act", patched)
        run(desk, "act", do=nothing)
        patch.setattr(desk, "before_act", added, raising=False)
        run(desk, "act", do=nothing)
    run(desk, "act", do=nothing)

    assert called == ["patched", "added", "patched"]


def test_a_callback_that_sends_has_another_machine(desk: type[Desk]) -> None:
    """A callback that sends an event to another row finds its own row after it, on a machine that nobody else has."""
    found: list[tuple[int, int]] = []

    def nest(machine: Any, model: Order) -> None:
        if model.id < 10:
            run(desk, "act", {**ROW, "id": model.id + 1}, do=nest)
        found.append((model.id, id(machine)))

    run(desk, "act", do=nest)

    assert [number for number, _ in found] == [10, 9, 8, 7]
    assert len({machine for _, machine in found}) == built(desk) == 4
    run(desk, "act", do=nothing)
    assert built(desk) == 4


def test_each_thread_has_its_own(desk: type[Desk]) -> None:
    """Threads that run at once share no machine, and each builds one."""
    together = threading.Barrier(4)
    found: set[tuple[int, int]] = set()

    def meet(machine: Any, model: Order) -> None:
        together.wait(10)
        found.add((id(machine), model.id))

    def work(number: int) -> None:
        for _ in range(3):
            run(desk, "act", {**ROW, "id": number}, do=meet)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))

    assert (len({machine for machine, _ in found}), len(found), built(desk)) == (4, 4, 4)


def test_a_thread_that_ends_frees_its_machines(desk: type[Desk]) -> None:
    """With the thread go its machines, and their models."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(run, desk, "act", do=nothing).result()
        alive.update(each for each in gc.get_objects() if isinstance(each, desk))
        assert len(alive) == 1
    gc.collect()

    assert list(alive) == []


def test_no_more_than_some_are_kept() -> None:
    """A thread that meets ever new classes keeps the last ones, and the one that it uses again and again."""

    class Favourite(Desk):
        """Used all the time."""

    class Passing(Desk):
        """Used once."""

    for _ in range(2 * KEPT):
        run(own(Passing), "act", do=nothing)
        run(Favourite, "act", do=nothing)
    gc.collect()

    assert built(Favourite) == 1
    assert sum(isinstance(each, Passing) for each in gc.get_objects()) == KEPT - 1


class Later(StateMachine, metaclass=Counting):
    """A machine of coroutines."""

    draft = State(initial=True)
    act = draft.to(draft, cond="ready")

    async def ready(self, model: Order) -> bool:
        """Look after a while."""
        await asyncio.sleep(0)
        return bool(model.amount)

    async def on_act(self, model: Order, do: Callable[[Any, Order], object] = nothing) -> None:
        """Do it."""
        do(self, model)


def test_a_machine_of_coroutines_is_used_again() -> None:
    """Coroutines are awaited on the same machine, and their guards are the new row's."""
    later, amounts = own(Later), (1, 2, 3, 0, 4, 5)

    outcomes = [isinstance(run(later, "act", {**ROW, "amount": amount}), Fired) for amount in amounts]

    assert outcomes == [amount > 0 for amount in amounts]
    assert built(later) == 2  # the refusal raised


def test_a_new_row_comes_to_a_machine_of_coroutines() -> None:
    """Its initial state is entered as on a new machine."""
    later = own(Later)
    run(later, "act")

    assert run(later, None, {**dict.fromkeys(ROW), "id": 9}) == Fired((), None, "draft", {})
    assert built(later) == 1


def test_a_task_that_goes_on_keeps_its_row() -> None:
    """A task that a callback left in the thread's loop goes on with its own row, while the loop runs the next."""
    later, tasks = own(Later), list[asyncio.Task[int]]()

    async def lasting(model: Order) -> int:
        for _ in range(50):
            await asyncio.sleep(0)
        return model.id

    def leave_a_task(_: Any, model: Order) -> None:
        tasks.append(asyncio.get_running_loop().create_task(lasting(model)))

    run(later, "act", do=leave_a_task)
    for _ in range(20):
        run(later, "act", OTHER)

    assert (tasks[0].result(), built(later)) == (7, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_coroutine_does_not_interrupt_the_next_row(error: type[BaseException]) -> None:
    """What asyncio raises through its loop is raised once, and the next event runs in another loop."""
    later = own(Later)

    with pytest.raises(error):
        run(later, "act", do=raising(error()))

    assert isinstance(run(later, "act", OTHER), Fired)


def test_a_machine_that_was_used_is_refused_in_a_running_loop_too() -> None:
    """Coroutines cannot be awaited where a loop runs already, whether the machine is new or was used before."""
    later = own(Later)

    async def within() -> object:
        return run(later, "act")

    run(later, "act")
    with pytest.raises(RequestError, match=r"Later has async callbacks.*asyncio\.to_thread"):
        asyncio.run(within())
    assert isinstance(run(later, "act"), Fired)
