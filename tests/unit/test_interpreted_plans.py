"""Plans of what needs Python: reading, running the machine, writing on what was read; and creating and loading."""

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from statelatch import (
    RequestError,
    RowNotFoundError,
    Snapshot,
    StaleVersionError,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.commands import Plan, Reply
from statelatch.errors import Reason
from statelatch.plans import create, load
from statelatch.retrying import TRIES
from tests.unit.test_plans import BUSY, NOTHING, PLAIN, RETURNING, TOKEN, Script, outcome, row, sent

NAIVE = datetime(2026, 1, 1)


def test_an_interpreted_event_reads_fires_and_writes() -> None:
    """Three steps; the UPDATE asks for the version that was read, and writes what callbacks changed."""
    script = Script(row(version=4), outcome("sent", 5, TOKEN))

    done = script.run(sent("by_hand", token=TOKEN, note="mine"))

    assert script.kinds == ["SELECT", "FIRE", "UPDATE"]
    assert (done.source, done.target, done.version) == ("draft", "sent", 5)
    bound = script.parameters(2)
    assert (bound["latch_expected_version"], bound["latch_value_note"], bound["latch_value_state"]) == (
        4,
        "mine",
        "sent",
    )


def test_a_refused_machine_writes_nothing() -> None:
    """What the machine refuses in Python ends the plan before any UPDATE."""
    script = Script(row(paid=False))

    with pytest.raises(TransitionRefusedError) as caught:
        script.run(sent("by_hand"))

    assert (caught.value.reason, caught.value.guards, caught.value.version) == (Reason.GUARD, ("paid",), 1)
    assert script.kinds == ["SELECT", "FIRE"]


def test_the_expected_version_is_compared_before_the_machine_runs() -> None:
    """A stale caller runs no callback."""
    script = Script(row(version=4))

    with pytest.raises(StaleVersionError) as caught:
        script.run(sent("by_hand", version=3))

    assert (caught.value.expected_version, caught.value.actual_version) == (3, 4)
    assert script.kinds == ["SELECT"]


def test_a_row_that_moved_meanwhile_is_read_again() -> None:
    """A lost race starts again with a new transaction and a new machine, three times."""
    script = Script(*[row(version=4), NOTHING, outcome("draft", 5, latch_guard_0_0=True)] * TRIES)

    with pytest.raises(StaleVersionError) as caught:
        script.run(sent("by_hand"))

    assert script.kinds == ["SELECT", "FIRE", "UPDATE", "SELECT"] * 3
    assert caught.value.actual_version == 5


def test_what_was_decided_on_an_older_version_is_decided_anew() -> None:
    """After a lost race it is the machine that refuses, on the row as it is now, not the diagnosis."""
    script = Script(row(version=4), NOTHING, outcome("draft", 5, latch_guard_0_0=False), row("done", version=5))

    with pytest.raises(TransitionRefusedError) as caught:
        script.run(sent("by_hand"))

    assert script.kinds == ["SELECT", "FIRE", "UPDATE", "SELECT", "SELECT", "FIRE"]
    assert (caught.value.reason, caught.value.state, caught.value.version) == (Reason.STATE, "done", 5)


def test_a_guard_that_turned_false_meanwhile_is_refused() -> None:
    """Behaviour 11: the row has the version that was read, but its guard is false at the moment of writing."""
    script = Script(row(version=4), NOTHING, outcome("draft", 4, latch_guard_0_0=False))

    with pytest.raises(TransitionRefusedError) as caught:
        script.run(sent("by_hand"))

    assert (caught.value.reason, caught.value.guards) == (Reason.GUARD, ("paid",))


def test_contention_at_writing_begins_with_reading() -> None:
    """The whole try is repeated: callbacks run on what is read anew."""
    script = Script(row(), BUSY, row(version=2), outcome("sent", 3, TOKEN))

    assert script.run(sent("by_hand", token=TOKEN)).version == 3
    assert script.kinds == ["SELECT", "FIRE", "UPDATE"] * 2


@pytest.mark.parametrize(("event", "column"), [("tamper", "version"), ("lie", "state")])
def test_callbacks_do_not_write_what_is_statelatchs(event: str, column: str) -> None:
    """A callback that changes the version, or the state past the machine, is told so; nothing is written."""
    script = Script(row())

    with pytest.raises(RequestError, match=f"callback of '{event}' changed {column}.*nothing was written"):
        script.run(sent(event))

    assert script.kinds == ["SELECT", "FIRE"]


# -- requests -----------------------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[Plan[Any], str]] = {
    "unknown event": (sent("ship"), "no event 'ship'; it has send_off, drop"),
    "missing parameter": (sent("finish"), "'finish' needs 'note', found no parameters; nothing was written"),
    "another parameter": (sent("finish", text="x"), "needs 'note', found text"),
    "naive datetime": (sent("drop", at=NAIVE), "at: naive datetime .* which zone it is in; nothing was written"),
    "the engine's own parameter": (sent("drop", machine=1), "machine cannot be a parameter"),
    "unknown column": (create(RETURNING, {"price": 1}), "no column 'price'; it has id, state"),
    "the state": (create(RETURNING, {"state": "sent"}), "'state' is written by statelatch; leave it out"),
    "the version": (create(RETURNING, {"version": 2}), "'version' is written by statelatch"),
    "the token": (create(RETURNING, {"transition_token": TOKEN}), "'transition_token' is written by statelatch"),
    "naive column": (create(RETURNING, {"note": NAIVE}), "note: naive datetime"),
    "no key": (load(RETURNING, None), r"expected a key of \(id\), found None"),
    "two keys": (load(RETURNING, (1, 2)), r"expected a key of \(id\), found \(1, 2\)"),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_what_cannot_be_carried_out_is_told_before_anything_is_sent(what: str) -> None:
    """A call that is wrong as it was written sends no statement."""
    plan, message = REQUESTS[what]
    script = Script()

    with pytest.raises(RequestError, match=message):
        script.run(plan)

    assert script.commands == []


# -- load and create ----------------------------------------------------------------------------------------


def test_load_is_a_snapshot() -> None:
    """The row's key, state and version, and every column by attribute."""
    reply = row("sent", 3, TOKEN, note="x")

    assert Script(reply).run(load(RETURNING, 7)) == Snapshot(
        key=7, state="sent", version=3, values=next(iter(reply.rows))
    )


def test_load_tells_a_missing_row() -> None:
    """No row is no snapshot."""
    with pytest.raises(RowNotFoundError, match="orders 7: no such row"):
        Script(Reply(0)).run(load(RETURNING, 7))


@pytest.mark.parametrize("state", ["lost", "Draft", None])
def test_load_tells_an_unknown_state(state: Any) -> None:
    """A state that the machine lacks is an error at load, not a KeyError later."""
    with pytest.raises(UnknownStateError) as caught:
        Script(row(state)).run(load(RETURNING, 7))

    assert (caught.value.key, caught.value.value) == (7, state)


def test_create_inserts_in_the_initial_state() -> None:
    """State, version and token are statelatch's; the row comes back as it was inserted."""
    script = Script(row())

    assert script.run(create(RETURNING, {"id": 7, "note": "x"})).state == "draft"
    bound = script.parameters(0)
    assert (bound["latch_value_state"], bound["latch_value_version"], bound["latch_value_note"]) == ("draft", 1, "x")
    assert isinstance(bound["latch_value_transition_token"], UUID)


@pytest.mark.parametrize(("values", "key"), [({"id": 7}, 7), ({}, None)])
def test_a_lost_insert_can_be_asked_about(values: dict[str, object], key: object) -> None:
    """The INSERT carries its token, and the key if the client knows it."""
    script = Script(row())
    script.run(create(RETURNING, values))

    command = script.transaction(0)
    assert (command.key, command.token) == (key, script.parameters(0)["latch_value_transition_token"])


def test_without_returning_the_new_row_is_read_in_the_same_transaction() -> None:
    """Where INSERT returns nothing, a SELECT follows it."""
    script = Script(row())
    script.run(create(PLAIN, {"id": 7}))

    assert script.kinds == ["INSERT+SELECT"]
