"""Interpreter: what a machine did with one row, told without touching the row or any database."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import JSON, Text, create_engine, func
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column
from sqlalchemy.orm.exc import DetachedInstanceError
from statemachine import State, StateChart, StateMachine
from statemachine.exceptions import TransitionNotAllowed

from statelatch import RequestError
from statelatch.columns import TransitionColumns
from statelatch.interpreter import Fired, Firing, Refused
from statelatch.machines import detached


class Base(DeclarativeBase):
    """Base of the entity here."""


class Order(TransitionColumns, Base):
    """An order."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(Text())
    paid: Mapped[bool] = mapped_column(default=False)
    selected: Mapped[bool] = mapped_column(default=True)
    note: Mapped[str | None] = mapped_column(Text())
    data: Mapped[Any | None] = mapped_column(JSON())

    @hybrid_property
    def rich(self) -> bool:
        """A hybrid works on a restored row."""
        return self.note == "rich"


configure_mappers()  # as a mapping does


ROW: Mapping[str, Any] = {
    "id": 7,
    "stage": "draft",
    "paid": True,
    "selected": True,
    "note": None,
    "data": {"seen": 0, "tags": ["a"]},
    "version": 3,
    "transition_token": None,
}


class Flow(StateMachine):
    """A machine whose callbacks do everything that callbacks may."""

    draft = State(initial=True)
    sent = State()
    done = State(final=True)

    send_off = draft.to(sent, cond=["paid", "selected"], unless="rich")
    finish = sent.to(done)
    hurry = draft.to(sent)
    astray = draft.to(sent)
    rewrite = draft.to(draft, internal=True)
    fail = draft.to(sent)
    sql = draft.to(sent)
    delete = draft.to(sent)
    commit = draft.to(sent)

    def on_send_off(self, model: Order, note: str = "sent") -> None:
        """Change a column."""
        model.note = note

    def after_hurry(self) -> None:
        """Send a further event."""
        self.send("finish")  # pyright: ignore[reportUnknownMemberType]

    def after_astray(self) -> None:
        """Send an event that is refused."""
        self.send("send_off")  # pyright: ignore[reportUnknownMemberType]

    def on_rewrite(self, model: Order, change: Any) -> None:
        """Change JSON in place."""
        change(model.data)

    def on_fail(self) -> None:
        """Give up."""
        raise ZeroDivisionError

    def on_sql(self, model: Order) -> None:
        """Set a column to SQL."""
        model.note = func.lower("X")  # pyright: ignore[reportAttributeAccessIssue]

    def on_delete(self, model: Order) -> None:
        """Delete a column's value."""
        del model.note

    def on_commit(self, model: Order) -> None:
        """Have a session of one's own expire the row."""
        with Session(create_engine("sqlite://")) as session:
            session.add(model)
            session.commit()


class Catching(StateChart[Any]):
    """A chart with a transition for errors."""

    draft = State(initial=True)
    sent = State(final=True)
    broken = State(final=True)

    go = draft.to(sent, cond="careless")
    loud = draft.to(draft, after="boom")
    error_execution = draft.to(broken)

    def careless(self) -> bool:
        """Raise in a guard."""
        raise ZeroDivisionError

    def boom(self) -> None:
        """Raise after the transition."""
        raise ZeroDivisionError


class Swallowing(StateChart[Any]):
    """A chart that would catch errors, but has no transition for them."""

    draft = State(initial=True)
    sent = State(final=True)
    go = draft.to(sent, on="boom")

    def boom(self) -> None:
        """Raise in a callback."""
        raise ZeroDivisionError


class Sliding(StateChart[Any]):
    """A chart with an eventless transition."""

    draft = State(initial=True)
    ready = State()
    sent = State(final=True)

    draft.to(ready, cond="paid")
    go = ready.to(sent)
    wait = draft.to(draft)


class Later(StateMachine):
    """A machine of coroutines."""

    draft = State(initial=True)
    sent = State(final=True)
    go = draft.to(sent, cond="ready")

    async def ready(self, model: Order) -> bool:
        """Look after a while."""
        await asyncio.sleep(0)
        return model.paid

    async def on_enter_draft(self, model: Order) -> None:
        """Write something."""
        model.note = "new"

    async def on_go(self, model: Order) -> None:
        """Write something."""
        model.note = "gone"


def seen(value: object) -> Callable[[Any], None]:
    """A change of the document: something was seen."""

    def change(data: Any) -> None:
        data["seen"] = value

    return change


def tag(data: Any) -> None:
    """A change deep in the document."""
    data["tags"].append("b")


def firing(
    event: str | None, machine: type[StateChart[Any]] = Flow, row: Mapping[str, Any] = ROW, **params: Any
) -> Firing:
    """One event for the row."""
    return Firing(machine, Order, "stage", row, event, params)


def fired(
    event: str | None, machine: type[StateChart[Any]] = Flow, row: Mapping[str, Any] = ROW, **params: Any
) -> Fired:
    """What the event did."""
    outcome = firing(event, machine, row, **params).run()
    assert isinstance(outcome, Fired), outcome
    return outcome


def steps(outcome: Fired) -> list[tuple[str | None, str]]:
    """The steps as event and target."""
    return [(step.event, step.transition.target.id if step.transition.target else "") for step in outcome.steps]


def test_a_transition_is_recorded_with_what_callbacks_changed() -> None:
    """The target, the step and the changed columns are told; the parameters have reached the callback."""
    outcome = fired("send_off", note="by hand")

    assert (steps(outcome), outcome.target, outcome.changes) == ([("send_off", "sent")], "sent", {"note": "by hand"})


def test_the_row_stays_as_it_was() -> None:
    """What was read is not changed by callbacks, not even a document in it."""
    before = {**ROW, "data": {"seen": 0, "tags": ["a"]}}

    fired("rewrite", change=seen(1))

    assert before == ROW


@pytest.mark.parametrize(
    ("change", "data"),
    [
        (seen(1), {"seen": 1, "tags": ["a"]}),
        (tag, {"seen": 0, "tags": ["a", "b"]}),
        (seen(False), {"seen": False, "tags": ["a"]}),
        (seen(0.0), {"seen": 0.0, "tags": ["a"]}),
    ],
)
def test_a_document_changed_in_place_is_a_change(change: Any, data: object) -> None:
    """JSON tells 0 from false and from 0.0, though Python does not."""
    assert repr(fired("rewrite", change=change).changes) == repr({"data": data})


def test_nothing_changed_is_no_change() -> None:
    """A column that callbacks left alone is not written."""
    assert fired("rewrite", change=seen(0)).changes == {}


def test_an_sql_expression_is_a_change() -> None:
    """What cannot be compared is reported, for the plan to refuse it."""
    assert list(fired("sql").changes) == ["note"]


def test_a_value_that_does_not_equal_itself_is_no_change() -> None:
    """NaN is not written because it was read."""
    assert fired("rewrite", row={**ROW, "note": float("nan")}, change=seen(0)).changes == {}


def test_what_a_callback_deleted_is_null() -> None:
    """As in a session, a deleted column is one without a value."""
    assert fired("delete", row={**ROW, "note": "old"}).changes == {"note": None}


def test_what_a_callback_expired_is_not_taken_for_null() -> None:
    """A callback that commits the row in a session of its own leaves columns that nobody can read: that is told."""
    with pytest.raises(DetachedInstanceError):
        firing("commit").run()


def test_a_further_event_is_part_of_the_same_macrostep() -> None:
    """A callback that sends an event makes a second step; the target is where the machine ends."""
    outcome = fired("hurry")

    assert (steps(outcome), outcome.target) == ([("hurry", "sent"), ("finish", "done")], "done")


def test_a_further_event_that_is_refused_is_raised() -> None:
    """It is the callback's own affair, not a refusal of the event that was sent."""
    with pytest.raises(TransitionNotAllowed) as caught:
        firing("astray").run()

    assert caught.value.event == "send_off"


def test_what_a_callback_raises_is_raised() -> None:
    """An exception passes through as it is."""
    with pytest.raises(ZeroDivisionError):
        firing("fail").run()


@pytest.mark.parametrize(
    ("change", "guards"),
    [
        ({"paid": False}, ("paid",)),
        ({"selected": False}, ("selected",)),
        ({"note": "rich"}, ("!rich",)),
        ({"stage": "sent"}, ()),
        ({"stage": "done"}, ()),
    ],
)
def test_a_refusal_names_the_guard(change: dict[str, object], guards: tuple[str, ...]) -> None:
    """A false guard is named as the machine spells it; a wrong state has none."""
    assert firing("send_off", row={**ROW, **change}).run() == Refused(guards)


def test_a_column_may_be_called_like_what_the_recorder_writes_down() -> None:
    """The listener that records the steps lends no name to a guard: a column called `selected` is the row's own."""
    assert fired("send_off").target == "sent"


def test_a_chart_that_handles_errors_moves_by_them() -> None:
    """Where the chart has a transition for errors, an error in a guard takes it, as it does in memory."""
    outcome = fired("go", Catching)

    assert (steps(outcome), outcome.target) == ([("error.execution", "broken")], "broken")


def test_an_error_after_the_transition_is_a_second_step() -> None:
    """The transition whose `after` raised has been taken, and is told before the one for the error."""
    assert steps(fired("loud", Catching)) == [("loud", "draft"), ("error.execution", "broken")]


def test_a_chart_that_does_not_handle_errors_swallows_none() -> None:
    """Without a transition for errors, a chart's exception reaches the caller."""
    with pytest.raises(ZeroDivisionError):
        firing("go", Swallowing).run()


def test_an_eventless_transition_goes_first() -> None:
    """What the row has become ready for meanwhile happens before the event, in the same macrostep."""
    assert steps(fired("go", Sliding)) == [(None, "ready"), ("go", "sent")]


def test_an_event_that_comes_too_late_is_refused() -> None:
    """If only eventless transitions ran, the event itself did nothing."""
    assert firing("wait", Sliding).run() == Refused(())


def test_the_initial_state_is_entered() -> None:
    """Without an event the machine enters its initial state, and runs what belongs to that."""
    blank = dict.fromkeys(ROW)

    assert firing(None, Sliding, {**blank, "paid": False}).run() == Fired((), None, "draft", {})
    slid = firing(None, Sliding, {**blank, "paid": True}).run()
    assert isinstance(slid, Fired)
    assert (steps(slid), slid.target) == ([(None, "ready")], "ready")


def test_coroutines_are_awaited() -> None:
    """Async guards and callbacks run in an event loop of the machine's own."""
    assert fired("go", Later).changes == {"note": "gone"}
    assert firing("go", Later, {**ROW, "paid": False}).run() == Refused(("ready",))
    entered = firing(None, Later, dict.fromkeys(ROW)).run()
    assert isinstance(entered, Fired)
    assert (entered.target, entered.changes) == ("draft", {"note": "new"})


def test_coroutines_are_refused_in_a_running_loop() -> None:
    """In a thread whose loop runs they could not be awaited: a named error, and the event is not lost unseen."""

    async def within() -> object:
        return firing("go", Later).run()

    with pytest.raises(RequestError, match=r"Later has async callbacks.*asyncio\.to_thread"):
        asyncio.run(within())


def test_a_restored_row_is_in_no_session() -> None:
    """A restored instance is detached, clean, and its hybrids work."""
    instance = detached(Order, ROW)
    state = inspect_entity(instance)

    assert (state.detached, state.session, state.modified) == (True, None, False)
    assert (instance.stage, instance.rich) == ("draft", False)
