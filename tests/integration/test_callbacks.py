"""Callbacks: what they change is part of the one UPDATE, what they raise leaves nothing, and races meet them too."""

from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any, ClassVar

import pytest
from sqlalchemy import Engine, event, text
from statemachine import State, StateChart, StateMachine
from statemachine.exceptions import TransitionNotAllowed

from statelatch import MachineMapping, PersistenceAdapter, RequestError, StaleVersionError, TransitionRefusedError
from statelatch.errors import Reason
from tests.desks import Counting, built
from tests.orders import ASSIGNS, KEY, Base, Order, stored_order

CREATED: dict[str, Any] = {"tenant": "acme", "number": 7, "data": {"tags": ["new"]}}


def positive(amount: int) -> bool:
    """A guard that only Python knows."""
    return amount > 0


class Flow(StateMachine):
    """A machine whose callbacks change the row, send events, raise, and are interrupted."""

    between: ClassVar[list[Callable[[], None]]] = []
    """What happens, once each, after the row was read and before it is written."""

    draft = State(initial=True)
    held = State()
    sent = State(final=True)
    dropped = State(final=True)

    tag = draft.to(held)
    hurry = draft.to(held)
    fail = draft.to(held)
    fail_later = draft.to(held)
    astray = draft.to(held)
    check = draft.to(held, validators="has_owner", cond=positive)
    meet = draft.to(held, cond="paid", on="interrupted")
    choose = draft.to(sent, cond="paid", on="interrupted") | draft.to(held, on="interrupted")
    finish = held.to(sent)
    drop = draft.to(dropped) | held.to(dropped)
    back = held.to(draft)

    def has_owner(self, model: Order) -> None:
        """A validator."""
        if model.owner is None:
            raise PermissionError("nobody's order")

    def on_tag(self, model: Order, label: str = "x") -> None:
        """Change columns, a document in place among them."""
        assert model.data is not None
        model.data["tags"].append(label)
        model.note, model.amount = f"{label} at 100%", model.amount + 1

    def after_hurry(self) -> None:
        """Send a further event."""
        self.send("finish")  # pyright: ignore[reportUnknownMemberType]

    def on_fail(self, model: Order) -> None:
        """Change a column, leave an event behind, and fail."""
        model.note = "never"
        self.send("drop")  # pyright: ignore[reportUnknownMemberType]
        raise ZeroDivisionError

    def after_fail_later(self, model: Order) -> None:
        """Fail when the machine has moved already."""
        model.note = "never"
        raise ZeroDivisionError

    def after_astray(self) -> None:
        """Send an event that is refused."""
        self.send("tag")  # pyright: ignore[reportUnknownMemberType]

    def on_enter_held(self, model: Order) -> None:
        """Count the visits."""
        model.visits += 1

    def interrupted(self) -> None:
        """Let something happen between reading and writing."""
        while self.between:
            self.between.pop(0)()


@pytest.fixture
def adapter(engine: Engine) -> PersistenceAdapter:
    """Orders with this machine, one of them a draft."""
    Base.metadata.create_all(engine)
    Flow.between.clear()
    assigns = {"sent": ASSIGNS["sent"]}
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Flow, entity=Order, state="stage", assigns=assigns))
    adapter.create(**CREATED, paid=True)
    return adapter


def meanwhile(engine: Engine, assignments: str) -> None:
    """Have somebody else change the row while the machine runs."""

    def change() -> None:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE orders SET {assignments} WHERE number = 7"))

    Flow.between.append(change)


def test_what_callbacks_change_is_part_of_the_update(adapter: PersistenceAdapter) -> None:
    """Columns, a document changed in place, and the state are written by one UPDATE, as one version."""
    updates: list[str] = []
    event.listen(
        adapter.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: updates.append(statement),  # pyright: ignore
    )

    done = adapter.send(KEY, "tag", label="red")

    row = stored_order(adapter.engine)
    assert sum(statement.startswith("UPDATE") for statement in updates) == 1
    assert (done.version, row["version"], row["st"]) == (2, 2, "held")
    assert (row["data"], row["note"], row["amount"], row["visits"]) == ({"tags": ["new", "red"]}, "red at 100%", 1, 1)


def test_a_further_event_is_in_the_same_update(adapter: PersistenceAdapter) -> None:
    """A macrostep of two events is one version, with what both of them enter and assign."""
    done = adapter.send(KEY, "hurry")

    row = stored_order(adapter.engine)
    assert (done.source, done.target, done.version) == ("draft", "sent", 2)
    assert (row["st"], row["version"], row["visits"]) == ("sent", 2, 1)
    assert row["sent_at"] is not None


@pytest.mark.parametrize("event_name", ["fail", "fail_later"])
def test_a_callback_that_raises_leaves_nothing(adapter: PersistenceAdapter, event_name: str) -> None:
    """Behaviour 10: nothing is written, and the next `send` does not run an event that was left behind."""
    before = stored_order(adapter.engine)

    with pytest.raises(ZeroDivisionError):
        adapter.send(KEY, event_name)

    assert before == stored_order(adapter.engine)
    assert adapter.send(KEY, "tag").target == "held"
    assert stored_order(adapter.engine)["note"] == "x at 100%"


def test_a_further_event_that_is_refused_leaves_nothing(adapter: PersistenceAdapter) -> None:
    """It is the framework's own exception, of the event that the callback sent."""
    before = stored_order(adapter.engine)

    with pytest.raises(TransitionNotAllowed) as caught:
        adapter.send(KEY, "astray")

    assert not isinstance(caught.value, TransitionRefusedError)
    assert before == stored_order(adapter.engine)


def test_a_validator_raises_what_it_likes(adapter: PersistenceAdapter) -> None:
    """A validator's exception reaches the caller; a guard in Python refuses."""
    before = stored_order(adapter.engine)

    with pytest.raises(PermissionError, match="nobody's order"):
        adapter.send(KEY, "check", amount=1)
    assert before == stored_order(adapter.engine)

    with adapter.engine.begin() as connection:
        connection.execute(text("UPDATE orders SET owner = 'ann'"))
    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(KEY, "check", amount=0)
    assert (caught.value.reason, caught.value.guards) == (Reason.GUARD, ("positive",))
    assert adapter.send(KEY, "check", amount=1).target == "held"


def test_a_guard_that_changes_meanwhile_is_checked_at_the_database(adapter: PersistenceAdapter) -> None:
    """Behaviour 11: the version is the one that was read, but the guard is false when the row is written: refused."""
    meanwhile(adapter.engine, "paid = NULL")

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(KEY, "meet")

    row = stored_order(adapter.engine)
    assert (caught.value.reason, caught.value.guards, caught.value.version) == (Reason.GUARD, ("paid",), 1)
    assert (row["st"], row["version"], row["visits"], Flow.between) == ("draft", 1, 0, [])


def test_an_earlier_edge_that_opens_meanwhile_is_taken(adapter: PersistenceAdapter) -> None:
    """Behaviour 11, the other way: Python took the second edge, by now the first is open; the row is read again."""
    with adapter.engine.begin() as connection:
        connection.execute(text("UPDATE orders SET paid = NULL"))
    meanwhile(adapter.engine, "paid = (1 = 1)")

    assert adapter.send(KEY, "choose").target == "sent"
    assert Flow.between == []


def test_a_state_that_changes_meanwhile_is_checked_at_the_database(adapter: PersistenceAdapter) -> None:
    """A state that somebody moved without a version is not overwritten."""
    meanwhile(adapter.engine, "st = 'dropped'")

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(KEY, "meet")

    assert (caught.value.reason, caught.value.state) == (Reason.STATE, "dropped")
    assert (stored_order(adapter.engine)["st"], Flow.between) == ("dropped", [])


def test_a_lost_race_is_run_again_on_the_new_row(adapter: PersistenceAdapter) -> None:
    """Somebody else's version comes between: the machine runs anew, and nothing of the first run is written."""
    meanwhile(adapter.engine, "version = version + 1, visits = 10")

    done = adapter.send(KEY, "meet")

    row = stored_order(adapter.engine)
    assert (done.version, row["version"], row["visits"], Flow.between) == (3, 3, 11, [])


def test_a_race_lost_three_times_is_stale(adapter: PersistenceAdapter) -> None:
    """A row that never holds still is given up, with the version that it has by then."""

    def again() -> None:
        meanwhile(adapter.engine, "version = version + 1")
        Flow.between[0]()
        Flow.between[:] = []
        runs.append(1)

    runs: list[int] = []

    class Restless(Flow):
        """It is interrupted each time."""

        def interrupted(self) -> None:
            again()

    mapping = MachineMapping(machine=Restless, entity=Order, state="stage")
    with pytest.raises(StaleVersionError) as caught:
        PersistenceAdapter(adapter.engine, mapping).send(KEY, "meet")

    assert (len(runs), caught.value.expected_version, caught.value.actual_version) == (3, None, 4)
    assert stored_order(adapter.engine)["st"] == "draft"


def test_an_expected_version_is_not_tried_again(adapter: PersistenceAdapter) -> None:
    """A caller who says which version it means is told at once that the row has moved."""
    meanwhile(adapter.engine, "version = version + 1")

    with pytest.raises(StaleVersionError) as caught:
        adapter.send(KEY, "meet", expected_version=1)

    assert (caught.value.expected_version, caught.value.actual_version) == (1, 2)


def test_callbacks_in_a_race(adapter: PersistenceAdapter) -> None:
    """Of eight threads that run the same callback at once one is written; the others are refused."""
    start, outcomes = Barrier(8), list[object]()

    def race() -> None:
        start.wait()
        try:
            outcomes.append(adapter.send(KEY, "tag").version)
        except TransitionRefusedError as error:
            outcomes.append(error.reason)

    threads = [Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    row = stored_order(adapter.engine)
    assert sorted(map(str, outcomes)) == ["2"] + ["state"] * 7
    assert (row["version"], row["visits"], row["data"]) == (2, 1, {"tags": ["new", "x"]})


class Chart(StateChart[Any]):
    """A chart that has a transition for errors."""

    draft = State(initial=True)
    held = State()
    broken = State(final=True)

    go = draft.to(held, on="work")
    error_execution = draft.to(broken) | held.to(broken)

    def work(self, model: Order, failing: bool) -> None:
        """Work, or fail."""
        model.note = "worked"
        if failing:
            raise ZeroDivisionError


@pytest.mark.parametrize(("failing", "target"), [(False, "held"), (True, "broken")])
def test_a_chart_that_catches_errors_moves_by_them(engine: Engine, failing: bool, target: str) -> None:
    """A chart's own transition for errors is part of the macrostep, as it is in memory."""
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Chart, entity=Order, state="stage"))
    adapter.create(**CREATED)

    done = adapter.send(KEY, "go", failing=failing)

    row = stored_order(engine)
    assert (done.target, row["st"], row["version"], row["note"]) == (target, target, 2, "worked")


def test_a_chart_that_ignores_an_event_is_refused(engine: Engine) -> None:
    """In memory a chart takes no notice of an event without a transition; here the caller learns of it."""
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Chart, entity=Order, state="stage"))
    adapter.create(**CREATED)
    adapter.send(KEY, "go", failing=False)

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(KEY, "go", failing=False)

    assert caught.value.reason is Reason.STATE


def test_a_callback_may_not_set_sql(adapter: PersistenceAdapter) -> None:
    """An SQL expression set by a callback is refused by name; `assigns` is the place for it."""

    class Counting(Flow):
        """It counts in SQL, as one may on an object in a session."""

        def on_tag(self, model: Order) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            model.amount = Order.amount + 1  # pyright: ignore[reportAttributeAccessIssue]

    before = stored_order(adapter.engine)
    with pytest.raises(RequestError, match=r"amount: a callback set it to the SQL expression .*`assigns`"):
        PersistenceAdapter(adapter.engine, MachineMapping(machine=Counting, entity=Order, state="stage")).send(
            KEY, "tag"
        )
    assert before == stored_order(adapter.engine)


class Relay(Flow, metaclass=Counting):
    """It leaves something on machine and model, and may send an event to the next row from within."""

    adapter: ClassVar[PersistenceAdapter]
    found: ClassVar[list[object]] = []

    def on_tag(self, model: Order) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leave something on the model."""
        self.found.append(getattr(model, "unmapped", None))
        model.note, model.unmapped = f"of {model.number}", model.number  # pyright: ignore[reportAttributeAccessIssue]

    def on_hurry(self, model: Order) -> None:
        """Send an event to the row before, on this thread, through the same adapter."""
        if model.number > 7:
            self.adapter.send((model.tenant, model.number - 1), "hurry")
        model.note = f"of {model.number}"


@pytest.fixture
def relay(engine: Engine) -> PersistenceAdapter:
    """Three orders with this machine."""
    Base.metadata.create_all(engine)
    Relay.found.clear()
    adapter = Relay.adapter = PersistenceAdapter(engine, MachineMapping(machine=Relay, entity=Order, state="stage"))
    for number in (7, 8, 9):
        adapter.create(**{**CREATED, "number": number}, paid=True)
    return adapter


def notes(adapter: PersistenceAdapter) -> list[tuple[int, str, object]]:
    """What became of the three."""
    rows = [adapter.load(("acme", number)) for number in (7, 8, 9)]
    return [(row.version, row.state, row.values["note"]) for row in rows]


def test_rows_in_turn_share_a_machine_and_nothing_else(relay: PersistenceAdapter) -> None:
    """One machine serves the rows of a thread, and what its callbacks leave on one row's model is not on the next."""
    before = built(Relay)

    for number in (7, 8, 9):
        relay.send(("acme", number), "tag")

    assert notes(relay) == [(2, "held", f"of {number}") for number in (7, 8, 9)]
    assert (Relay.found, built(Relay) - before <= 1) == ([None] * 3, True)


def test_a_callback_may_send_to_another_row_of_the_mapping(relay: PersistenceAdapter) -> None:
    """An event within an event, on the same thread and mapping: each row is written with its own callbacks' changes."""
    relay.send(("acme", 9), "hurry")

    assert notes(relay) == [(2, "sent", f"of {number}") for number in (7, 8, 9)]
