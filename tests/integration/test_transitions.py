"""Transitions of an order, compiled and interpreted, on each database: what is written, and what is refused."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from statelatch import (
    PersistenceAdapter,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.errors import Reason
from tests.orders import KEY, PATHS, order_adapter, stored_order

CREATED: dict[str, Any] = {"tenant": "acme", "number": 7}


@pytest.fixture(params=PATHS)
def adapter(request: pytest.FixtureRequest, engine: Engine) -> PersistenceAdapter:
    """Orders on this path."""
    adapter = order_adapter(engine, PATHS[request.param])
    compiled = {adapter.explain(event).compiled for event in adapter.mapping.events}
    assert compiled == {request.param == "compiled"}
    return adapter


def set_columns(engine: Engine, assignments: str) -> None:
    """Change the row past statelatch, without another version."""
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE orders SET {assignments} WHERE tenant_id = 'acme' AND number = 7"))


def test_an_applied_transition_is_there_for_everyone(adapter: PersistenceAdapter) -> None:
    """Behaviour 1: state, version + 1, token and assigned columns are visible to another connection."""
    adapter.create(**CREATED, paid=True, limit=3, amount=3)
    adapter.send(KEY, "pay")

    done = adapter.send(KEY, "ship", note="100% sent")

    row = stored_order(adapter.engine)
    assert (done.source, done.target, done.version, done.committed) == ("paid 100%", "sent", 3, True)
    assert (row["st"], row["version"], row["transition_token"], row["note"]) == ("sent", 3, done.token, "100% sent")
    assert done.key == KEY
    assert row["sent_at"] is not None


@pytest.mark.parametrize("event", ["pay", "ship", "drop", "release"])
@pytest.mark.parametrize("end", ["sent", "dropped"])
def test_an_end_is_never_left(adapter: PersistenceAdapter, end: str, event: str) -> None:
    """Behaviour 2: whatever is sent to a row that has ended, it stays as it is."""
    adapter.create(**CREATED, paid=True)
    set_columns(adapter.engine, f"st = '{end}'")
    before = stored_order(adapter.engine)

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(KEY, event)

    assert (caught.value.reason, caught.value.state) == (Reason.STATE, end)
    assert before == stored_order(adapter.engine)


def test_an_older_version_is_stale(adapter: PersistenceAdapter) -> None:
    """Behaviour 3: with an older version the error has the expected one, the actual one, and the state."""
    adapter.create(**CREATED, paid=True)
    adapter.send(KEY, "pay", expected_version=1)

    with pytest.raises(StaleVersionError) as caught:
        adapter.send(KEY, "drop", expected_version=1)

    error = caught.value
    assert (error.expected_version, error.actual_version, error.state, error.key) == (1, 2, "paid 100%", KEY)
    assert stored_order(adapter.engine)["version"] == 2


def test_a_missing_row_is_not_stale(adapter: PersistenceAdapter) -> None:
    """Behaviour 4: no row is a RowNotFoundError, also where a version was expected."""
    for expected_version in (None, 1):
        with pytest.raises(RowNotFoundError) as caught:
            adapter.send(("acme", 8), "drop", expected_version=expected_version)
        assert (caught.value.key, caught.value.event) == (("acme", 8), "drop")


@pytest.mark.parametrize(
    ("columns", "guard"),
    [({"paid": False}, "paid"), ({"paid": None}, "paid"), ({"paid": True, "owner": "x"}, "!owner")],
)
def test_a_false_guard_is_named(adapter: PersistenceAdapter, columns: dict[str, Any], guard: str) -> None:
    """Behaviour 5: a false guard is named as the machine spells it; NULL is false."""
    adapter.create(**CREATED, **columns)
    before = stored_order(adapter.engine)

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(KEY, "pay")

    assert (caught.value.reason, caught.value.guards) == (Reason.GUARD, (guard,))
    assert before == stored_order(adapter.engine)


def test_a_wrong_state_is_the_same_class(adapter: PersistenceAdapter) -> None:
    """Behaviour 5: an event that the state has no transition for is refused with the reason `state`."""
    adapter.create(**CREATED)

    with pytest.raises(TransitionRefusedError) as caught:
        adapter.send(KEY, "ship")

    assert (caught.value.reason, caught.value.guards, caught.value.sources) == (Reason.STATE, (), ("paid 100%",))


@pytest.mark.parametrize("stored", ["Draft", "draft ", "gone", ""])
def test_a_state_that_the_machine_lacks_is_told(adapter: PersistenceAdapter, stored: str) -> None:
    """Behaviour 8: a row in an unknown state, be it by case or a trailing blank, is neither moved nor read."""
    adapter.create(**CREATED, paid=True)
    set_columns(adapter.engine, f"st = '{stored}'")
    before = stored_order(adapter.engine)

    for verb in (lambda: adapter.send(KEY, "pay"), lambda: adapter.send(KEY, "drop"), lambda: adapter.load(KEY)):
        with pytest.raises(UnknownStateError) as caught:
            verb()
        assert (caught.value.key, caught.value.value) == (KEY, stored)
    assert before == stored_order(adapter.engine)


@pytest.mark.parametrize(
    ("event", "params"),
    [("sail", {}), ("claim", {}), ("claim", {"owner": "x"}), ("drop", {"state": "x"})],
)
def test_a_wrong_call_writes_nothing(adapter: PersistenceAdapter, event: str, params: dict[str, Any]) -> None:
    """Behaviour 8: an unknown event, a missing parameter or a forbidden one is named before any write."""
    adapter.create(**CREATED, owner="x")
    before = stored_order(adapter.engine)

    with pytest.raises(RequestError, match="nothing was written"):
        adapter.send(KEY, event, **params)

    assert before == stored_order(adapter.engine)


# -- what is written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "target"), [({"limit": 3, "amount": 3}, "sent"), ({"limit": 3, "amount": 4}, "held")]
)
def test_the_first_edge_that_may_be_taken_is_taken(
    adapter: PersistenceAdapter, columns: dict[str, int], target: str
) -> None:
    """Of several targets the guards decide, in the machine's order."""
    adapter.create(**CREATED, paid=True, **columns)
    adapter.send(KEY, "pay")

    assert adapter.send(KEY, "ship").target == target


@pytest.mark.parametrize(("steps", "source"), [([], "draft"), (["pay"], "paid 100%"), (["pay", "ship"], "held")])
def test_the_source_is_told(adapter: PersistenceAdapter, steps: list[str], source: str) -> None:
    """An event that leaves several states says which one it was, though nothing was read before."""
    adapter.create(**CREATED, paid=True, limit=1, amount=2)
    for step in steps:
        adapter.send(KEY, step)

    done = adapter.send(KEY, "drop")

    assert (done.source, done.version) == (source, len(steps) + 2)


@pytest.mark.parametrize(("event", "visits", "note"), [("visit", 2, None), ("touch", 1, "touched at 100%")])
def test_self_transitions(adapter: PersistenceAdapter, event: str, visits: int, note: str | None) -> None:
    """A self-transition moves the version; it assigns what its state does only if it enters that state again."""
    adapter.create(**CREATED, paid=True, limit=1, amount=2)
    for step in ("pay", "ship"):
        adapter.send(KEY, step)

    done = adapter.send(KEY, event)

    row = stored_order(adapter.engine)
    assert (done.source, done.target, row["version"]) == ("held", "held", 4)
    assert (row["visits"], row["note"]) == (visits, note)


def test_assigned_columns_are_computed_from_the_old_row(adapter: PersistenceAdapter) -> None:
    """What reads other columns sees them as they were, whichever the database writes first."""
    adapter.create(**CREATED, amount=5)

    adapter.send(KEY, "swap")

    row = stored_order(adapter.engine)
    assert (row["note"], row["limit_"], row["amount"]) == ("draft", 5, 6)


def test_parameters_may_be_named_like_columns(adapter: PersistenceAdapter) -> None:
    """`owner` and `limit` are arguments of a guard and columns too; only `assigns` writes columns."""
    adapter.create(**CREATED, owner="ann", limit=9)

    adapter.send(KEY, "claim", owner="ann", heir="bob")

    row = stored_order(adapter.engine)
    assert (row["note"], row["owner"], row["limit_"], row["visits"]) == ("ann", "bob", 9, 1)


@pytest.mark.parametrize(("params", "passes"), [({}, False), ({"limit": 1}, False), ({"limit": 2}, True)])
def test_a_guards_default_holds_without_its_parameter(
    adapter: PersistenceAdapter, params: dict[str, Any], passes: bool
) -> None:
    """A parameter that is not sent has the default of the hybrid_method, in SQL and in Python."""
    adapter.create(**CREATED, owner="ann", visits=1)

    def claim() -> int:
        return adapter.send(KEY, "claim", owner="ann", heir="bob", **params).version

    if passes:
        assert claim() == 2
    else:
        with pytest.raises(TransitionRefusedError, match="owned_by"):
            claim()


@pytest.mark.parametrize("owner", ["Ann", "ann ", "änn", "100%", "%s", "%(x)s", "'; DROP", "\\"])
def test_text_is_compared_to_the_letter(adapter: PersistenceAdapter, owner: str) -> None:
    """Case, accents, trailing blanks and percent signs tell one owner from another, and are stored as they are."""
    adapter.create(**CREATED, owner=owner)

    with pytest.raises(TransitionRefusedError, match="owned_by"):
        adapter.send(KEY, "claim", owner="ann", heir="x")
    adapter.send(KEY, "claim", owner=owner, heir=f"{owner}!")

    assert stored_order(adapter.engine)["owner"] == f"{owner}!"


def test_onupdate_columns_are_written_too(adapter: PersistenceAdapter) -> None:
    """A column with SQLAlchemy's own `onupdate` is written by a transition as by any UPDATE."""
    adapter.create(**CREATED)
    assert stored_order(adapter.engine)["updated_at"] is None

    adapter.send(KEY, "drop")

    assert stored_order(adapter.engine)["updated_at"] is not None


# -- sent again -----------------------------------------------------------------------------------------


def test_a_token_of_ones_own_makes_an_event_safe_to_repeat(adapter: PersistenceAdapter) -> None:
    """Sent twice with one token, an event is applied once, and the second call reports the first one's transition."""
    adapter.create(**CREATED, paid=True, limit=1, amount=2)
    adapter.send(KEY, "swap")
    for event, source, version in [("visit", "held", 3), ("drop", "held", 4)]:
        token = uuid4()
        done = [adapter.send(KEY, event, token=token) for _ in range(2)]

        assert [(each.source, each.version) for each in done] == [(source, version)] * 2
        assert done[0].token == done[1].token == stored_order(adapter.engine)["transition_token"]
