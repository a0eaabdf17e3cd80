"""`send_where` on each database: which rows it moves, what it tells of them, and what it refuses.

The whole table is read before and after. What a row should have become is computed in Python.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from time import sleep
from typing import Any, ClassVar

import pytest
from sqlalchemy import (
    Engine,
    bindparam,
    create_engine,
    event,
    exists,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    BulkResult,
    ConnectionFailureError,
    MachineMapping,
    OutcomeUnknownError,
    PersistenceAdapter,
    RequestError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.columns import TransitionColumns, state_text
from statelatch.errors import Phase
from statelatch.tokens import source_number
from tests.databases import on
from tests.orders import order_adapter
from tests.outages import LostCommit, Traffic
from tests.parcels import LoudFlow, Parcel, ParcelFlow, parcel_adapter, parcel_mapping, parcels

Row = Mapping[str, Any]

PARCELS: Any = Parcel.__table__


def shipped(row: Row) -> str | None:
    """Where Python's `ship` would take a parcel; None if it stays, or the guards raise TypeError."""
    if row["state"] == "held":
        return None if row["fragile"] else "sent"
    if row["state"] != "packed" or None in (row["weight"], row["most"]):
        return None
    if row["weight"] <= row["most"]:
        return "sent"
    return "held" if row["fragile"] else None


def judge(
    before: Mapping[int, Row], after: Mapping[int, Row], moved: Mapping[int, str], result: BulkResult, note: str | None
) -> None:
    """These rows, and no others, are in these states now, each one version further, with the call's token."""
    assert (result.count, result.count) == (len(moved), sum(after[key] != before[key] for key in before))
    for key, row in after.items():
        target = moved.get(key)
        if target is None:
            assert row == before[key]
        else:
            written = {"sent": {"note": note}, "held": {"note": "held back"}}[target]
            unread = {name: row[name] for name in ("transition_token", "sent_at")}
            expected = {**before[key], **unread, **written, "state": target, "version": before[key]["version"] + 1}
            assert row == expected
            source = source_number(result.token, row["transition_token"], 2)
            assert source is not None
            assert ["packed", "held"][source] == before[key]["state"]
            assert (row["sent_at"] is not None) == (target == "sent")


def test_a_hundred_thousand_rows(engine: Engine) -> None:
    """Behaviour 12: only rows whose state and guards allow it move, each by one version; the count is exact."""
    adapter = parcel_adapter(engine, 100_000)
    before = parcels(engine)

    result = adapter.send_where("ship", Parcel.id > 1000, note="by ship")

    targets = {key: shipped(row) for key, row in before.items() if key > 1000}
    moved = {key: target for key, target in targets.items() if target}
    assert len(moved) > 30_000
    judge(before, parcels(engine), moved, result, "by ship")
    assert (result.event, result.keys) == ("ship", None)


def test_each_row_goes_where_the_machine_would_take_it(engine: Engine) -> None:
    """Of several targets each row gets the one that python-statemachine chooses, NULLs and errors included."""
    adapter = parcel_adapter(engine, 700)
    before = parcels(engine)

    result = adapter.send_where("ship")

    moved: dict[int, str] = {}
    for key, row in before.items():
        model = Parcel(**{name: row[name] for name in ("state", "weight", "most", "fragile")})
        machine: Any = ParcelFlow(model, state_field="state")
        try:
            machine.send("ship")
        except Exception:  # it may not, or a guard compares None
            assert model.state == row["state"]
        else:
            moved[key] = model.state
    assert moved == {key: target for key, row in before.items() if (target := shipped(row))}
    assert Counter(moved.values()).keys() == {"sent", "held"}
    judge(before, parcels(engine), moved, result, None)


def test_an_adapter_of_its_own_engine(engine: Engine) -> None:
    """An adapter that is made from a URL, whose connections are in AUTOCOMMIT, counts and brings keys alike."""
    parcel_adapter(engine, 300)
    before = parcels(engine)

    with PersistenceAdapter(engine.url, parcel_mapping()) as adapter:
        first = adapter.send_where("ship", Parcel.id <= 100)
        second = adapter.send_where("ship", keys=True)

    moved = {key for key, row in before.items() if shipped(row)}
    assert first.count == len({key for key in moved if key <= 100})
    assert second.keys is not None
    assert set(second.keys) == {key for key in moved if key > 100}
    assert {key for key, row in parcels(engine).items() if row != before[key]} == moved


Another = aliased(Parcel)

CRITERIA: dict[str, tuple[tuple[Any, ...], Callable[[int, Row], bool]]] = {
    "none": ((), lambda key, row: True),
    "several": ((Parcel.id > 50, Parcel.fragile.is_(None)), lambda key, row: key > 50 and row["fragile"] is None),
    "an or": ((or_(Parcel.id < 9, Parcel.id > 190),), lambda key, row: key < 9 or key > 190),
    "an or in text": ((text("id < 9 OR id > 190"),), lambda key, row: key < 9 or key > 190),
    "an or in a literal column": ((literal_column("id < 9 OR id > 190"),), lambda key, row: key < 9 or key > 190),
    "a boolean column": ((Parcel.fragile,), lambda key, row: bool(row["fragile"])),
    "a hybrid with an argument": ((Parcel.heavier(3),), lambda key, row: (row["weight"] or 0) > 3),
    "a list": ((Parcel.id.in_([3, 5, 8, 10]),), lambda key, row: key in {3, 5, 8, 10}),
    "an empty list": ((Parcel.id.in_([]),), lambda key, row: False),
    "a column of Core": ((PARCELS.c.id == 15,), lambda key, row: key == 15),
    "parameters of one name": (
        (Parcel.id > bindparam("event_reason", 20), Parcel.id < bindparam("event_reason", 90)),
        lambda key, row: 20 < key < 90,
    ),
    "a parameter of text": ((text("id < :latch_token_0").bindparams(latch_token_0=30),), lambda key, row: key < 30),
    "a subquery": (
        (Parcel.id.in_(select(Another.id + 1).where(Another.fragile.is_(True))),),
        lambda key, row: key > 1 and (key - 1) % 4 == 1,
    ),
    "an exists": (
        (exists().where(Another.id == Parcel.id + 1, Another.state == "sent"),),
        lambda key, row: (key + 1) % 5 == 1 and key < 200,
    ),
}


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("name", CRITERIA)
def test_criteria(engine: Engine, name: str, limit: int | None) -> None:
    """Criteria narrow the rows down, whatever SQLAlchemy's `where` takes; with a limit to the first of them."""
    adapter = parcel_adapter(engine, 200)
    before = parcels(engine)
    criteria, holds = CRITERIA[name]

    result = adapter.send_where("lose", *criteria, limit=limit, reason="fell", keys=True)

    may_move = [key for key, row in before.items() if row["state"] in {"packed", "held"} and holds(key, row)]
    expected = sorted(may_move)[:limit]
    after = parcels(engine)
    assert result.keys is not None
    assert (sorted(result.keys), result.count) == (expected, len(expected))
    assert [key for key, row in after.items() if row != before[key]] == expected
    assert {(after[key]["state"], after[key]["note"]) for key in expected} <= {("lost", "fell")}


# -- What is refused ------------------------------------------------------------------------------------


class Listener:
    """Somebody who looks on."""

    def after_transition(self) -> None:
        """Cannot be found by reading the machine."""


class ListenedFlow(ParcelFlow):
    """A machine with a listener."""

    listeners: ClassVar = [Listener()]


class OwnInitFlow(ParcelFlow):
    """A machine that may add callbacks when it is made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add nothing, this time."""
        super().__init__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]


class Stranger(DeclarativeBase):
    """Another base."""


class Depot(Stranger):
    """Another table."""

    __tablename__ = "depots"
    id: Mapped[int] = mapped_column(primary_key=True)


Call = Callable[[Any], object]

REFUSED: dict[str, tuple[type[StateMachine], Call, list[str]]] = {
    "an unknown event": (ParcelFlow, lambda a: a.send_where("fly"), ["no event 'fly'"]),
    "a Python guard": (ParcelFlow, lambda a: a.send_where("inspect"), ["'inspect'", "looks_bad", "row by row."]),
    "a validator": (ParcelFlow, lambda a: a.send_where("seal", waive=["stick"]), ["validator 'well_wrapped' is"]),
    "a validator waived": (
        ParcelFlow,
        lambda a: a.send_where("seal", waive=["well_wrapped"]),
        ["would not call 'well_wrapped'", "it would call 'stick'"],
    ),
    "callbacks": (ParcelFlow, lambda a: a.send_where("mark"), ["'stick'", "'tell'", "waive=('stick', 'tell')"]),
    "one of two waived": (ParcelFlow, lambda a: a.send_where("mark", waive=("stick",)), ["'tell'", "waive=('tell',)"]),
    "callbacks by name": (LoudFlow, lambda a: a.send_where("ship"), ["'on_enter_sent'", "'before_transition'"]),
    "nobody to waive": (ParcelFlow, lambda a: a.send_where("ship", waive=["stick"]), ["'stick'", "call nothing"]),
    "a waived word": (ParcelFlow, lambda a: a.send_where("mark", waive="stick"), ["('stick',)", "found 'stick'"]),
    "a listener": (ListenedFlow, lambda a: a.send_where("ship"), ["ListenedFlow has listeners"]),
    "an init": (OwnInitFlow, lambda a: a.send_where("ship"), ["the __init__ of OwnInitFlow"]),
    "a missing parameter": (ParcelFlow, lambda a: a.send_where("lose"), ["needs 'reason'"]),
    "a missing parameter of a guard": (ParcelFlow, lambda a: a.send_where("hold"), ["needs 'least'"]),
    "an argument of the engine": (ParcelFlow, lambda a: a.send_where("ship", model=1), ["model cannot be a parameter"]),
    "another table": (ParcelFlow, lambda a: a.send_where("ship", Depot.id == Parcel.id), ["reads depots", "EXISTS"]),
    "an alias": (ParcelFlow, lambda a: a.send_where("ship", Another.id > 3), ["reads an alias of parcels"]),
    "a word": (ParcelFlow, lambda a: a.send_where("ship", "id > 3"), ["found 'id > 3'", "Parcel.version"]),
    "a truth": (ParcelFlow, lambda a: a.send_where("ship", False), ["found False"]),
    "nothing": (ParcelFlow, lambda a: a.send_where("ship", None), ["found None"]),
    "the entity": (ParcelFlow, lambda a: a.send_where("ship", Parcel), ["criteria as SQLAlchemy's where()"]),
    "no value": (ParcelFlow, lambda a: a.send_where("ship", Parcel.id > bindparam("n"), n=3), ["no value for n"]),
    "no value in text": (ParcelFlow, lambda a: a.send_where("ship", text("id > :n"), n=3), ["no value for n"]),
    "no value in a subquery": (
        ParcelFlow,
        lambda a: a.send_where("ship", Parcel.id.in_(select(Another.id).where(Another.id > bindparam("n")))),
        ["no value for n"],
    ),
    "limit 0": (ParcelFlow, lambda a: a.send_where("ship", limit=0), ["limit", "found 0"]),
    "limit -1": (ParcelFlow, lambda a: a.send_where("ship", limit=-1), ["limit", "found -1"]),
    "limit True": (ParcelFlow, lambda a: a.send_where("ship", limit=True), ["limit", "found True"]),
    "limit 1.5": (ParcelFlow, lambda a: a.send_where("ship", limit=1.5), ["limit", "found 1.5"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(engine: Engine, name: str) -> None:
    """A call that one UPDATE cannot honour as it was meant is a `RequestError` that says why; nothing is sent."""
    machine, call, words = REFUSED[name]
    adapter = parcel_adapter(engine, 60, machine)
    before, traffic = parcels(engine), Traffic(engine)

    with pytest.raises(RequestError) as caught:
        call(adapter)

    assert [word for word in words if word not in str(caught.value)] == []
    assert "nothing was written" in str(caught.value)
    assert traffic.statements == []
    assert before == parcels(engine)


def test_waived_callbacks_are_skipped(engine: Engine) -> None:
    """An event whose callbacks are waived, all of them by name, moves the rows as if it had none."""
    adapter = parcel_adapter(engine, 100, LoudFlow)
    before = parcels(engine)

    result = adapter.send_where("ship", waive=("on_enter_sent", "before_transition"))

    moved = {key: target for key, row in before.items() if (target := shipped(row))}
    judge(before, parcels(engine), moved, result, None)


def test_a_guard_with_a_twin(engine: Engine) -> None:
    """A Python guard that has an SQL twin in the mapping is no hindrance; the twin chooses the rows."""
    parcel_adapter(engine, 100)
    mapping = parcel_mapping()
    twin = MachineMapping(
        machine=ParcelFlow, entity=Parcel, assigns=mapping.assigns, guards={"looks_bad": Parcel.weight > 6}
    )

    result = PersistenceAdapter(engine, twin).send_where("inspect", keys=True)

    bad = [key for key, row in parcels(engine).items() if row["note"] == "held back"]
    assert (
        sorted(result.keys or ())
        == bad
        == [key for key in range(1, 101) if key % 5 in {3, 4} and key % 10 > 6 and key % 7]
    )


def test_a_parameter_called_like_an_argument(engine: Engine) -> None:
    """An event with a parameter `limit` is sent without it, by its default; to give it is refused: which is meant?"""
    adapter = order_adapter(engine)
    adapter.create(tenant="acme", number=1, owner="ann", visits=0)
    adapter.create(tenant="acme", number=2, owner="ann", visits=1)

    with pytest.raises(RequestError, match="a parameter 'limit', which send_where takes for itself"):
        adapter.send_where("claim", owner="ann", heir="bob", limit=5)
    result = adapter.send_where("claim", owner="ann", heir="bob", keys=True)

    assert result.keys is not None
    assert list(result.keys) == [("acme", 1)]
    assert adapter.load(("acme", 1)).values["owner"] == "bob"


# -- Which rows ------------------------------------------------------------------------------------------


def test_composite_keys_and_their_order(engine: Engine) -> None:
    """Keys of several columns are tuples, and a limit takes the first of them, column by column."""
    adapter = order_adapter(engine)
    numbers = list(range(12))
    random.Random(7).shuffle(numbers)
    for number in numbers:
        adapter.create(tenant=f"t{number % 3}", number=number)

    first = adapter.send_where("swap", limit=5, keys=True)
    rest = adapter.send_where("swap", keys=True)

    keys = sorted((f"t{number % 3}", number) for number in numbers)
    assert first.keys is not None
    assert rest.keys is not None
    assert (sorted(first.keys), sorted(rest.keys)) == (keys[:5], keys[5:])
    assert {adapter.load(key).version for key in keys} == {2}


class Base(DeclarativeBase):
    """Base of the vehicles."""


class Vehicle(TransitionColumns, Base):
    """Two classes share a table."""

    __tablename__ = "vehicles"
    __mapper_args__: ClassVar = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(state_text(8))
    state: Mapped[str] = mapped_column(state_text(8))
    doors: Mapped[int] = mapped_column(default=4)


class Truck(Vehicle):
    """Only these are meant."""

    __mapper_args__: ClassVar = {"polymorphic_identity": "truck"}


class VehicleFlow(StateMachine):
    """From parked to gone."""

    parked = State(initial=True)
    gone = State(final=True)
    leave = parked.to(gone, cond="doors > 1")


@pytest.mark.parametrize("limit", [None, 3])
def test_only_rows_of_the_entitys_class(engine: Engine, limit: int | None) -> None:
    """Of a table that several classes share, only rows of the entity's class move."""
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([(Truck if n % 2 else Vehicle)(id=n, state="parked", version=1) for n in range(1, 9)])
        session.commit()
    trucks = PersistenceAdapter(engine, MachineMapping(machine=VehicleFlow, entity=Truck))

    result = trucks.send_where("leave", Truck.doors == 4, limit=limit, keys=True)

    with engine.connect() as connection:
        gone = connection.scalars(select(Vehicle.__table__.c.id).where(Vehicle.__table__.c.state == "gone")).all()
    assert result.keys is not None
    assert sorted(gone) == sorted(result.keys) == [1, 3, 5, 7][:limit]


# -- What is told of the rows -----------------------------------------------------------------------------


def test_keys_are_a_collection(engine: Engine) -> None:
    """The keys have a length and can be read again and again; after `close` a reader is told."""
    adapter = parcel_adapter(engine, 5000)
    before = parcels(engine)

    result = adapter.send_where("lose", reason="fell", keys=True)

    expected = {key for key, row in before.items() if row["state"] in {"packed", "held"}}
    assert result.keys is not None
    with result.keys as keys:
        assert len(keys) == result.count == len(expected)
        assert set(keys) == set(keys) == expected
        assert (min(expected) in keys, 4711_000 in keys) == (True, False)
    with pytest.raises(ValueError, match="closed"):
        list(keys)


def test_keys_where_none_moved(engine: Engine) -> None:
    """Where no row moves there are no keys, which is not the same as not asking for them."""
    adapter = parcel_adapter(engine, 20)

    result = adapter.send_where("lose", Parcel.id > 100, reason="fell", keys=True)

    assert result.keys is not None
    assert (result.count, len(result.keys), list(result.keys)) == (0, 0, [])


def test_nothing_is_held_while_keys_are_read(engine: Engine) -> None:
    """While the caller reads the keys no connection is taken and no row is locked."""
    adapter = parcel_adapter(engine, 3000)
    result = adapter.send_where("again", keys=True)
    pool: Any = engine.pool

    assert result.keys is not None
    for key in list(result.keys)[:3]:
        assert pool.checkedout() == 0
        assert adapter.send(key, "again").token != result.token
    assert adapter.send_where("again").count == result.count


def test_hooks_are_called_for_each_row(engine: Engine) -> None:
    """An `after_commit` hook is called once for each row, when it is durable, with what the row says."""
    adapter = parcel_adapter(engine, 250)
    before = parcels(engine)
    told: list[Transitioned] = []
    durable: list[Row] = []

    @adapter.after_commit
    def tell(transition: Transitioned) -> None:
        told.append(transition)
        if not durable:
            durable.append(parcels(engine)[transition.key])  # another connection
        raise RuntimeError("a hook's own trouble")

    result = adapter.send_where("ship")

    after = parcels(engine)
    moved = {key: target for key, row in before.items() if (target := shipped(row))}
    assert result.keys is None
    assert len(told) == result.count == len(moved)
    assert {transition.key for transition in told} == moved.keys()
    assert durable == [after[told[0].key]]
    for transition in told:
        key, row = transition.key, after[transition.key]
        assert transition == Transitioned(
            key=key,
            event="ship",
            source=before[key]["state"],
            target=moved[key],
            version=before[key]["version"] + 1,
            token=row["transition_token"],
            at=told[0].at,
        )
    assert told[0].at.tzinfo is not None


# -- Races ------------------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What so many threads return that do this at once."""
    at_once = Barrier(count)

    def start(number: int) -> Any:
        at_once.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(start, range(count)))


def test_limits_at_once(engine: Engine) -> None:
    """Eight threads that take 20 rows at a time get 20 each, never one twice, and together all that there are."""
    adapter = parcel_adapter(engine, 1000)
    may_move = {key for key, row in parcels(engine).items() if row["state"] in {"packed", "held"}}

    def take(number: int) -> BulkResult:
        return adapter.send_where("lose", limit=20, reason=f"thread {number}", keys=True)

    def take_all(number: int) -> list[BulkResult]:
        taken = [take(number)]
        while taken[-1].count:
            taken.append(take(number))
        return taken

    at_once = in_threads(8, take)
    others = [call for calls in in_threads(8, take_all) for call in calls]

    keys = [key for call in (*at_once, *others) for key in call.keys or ()]
    assert [call.count for call in at_once] == [20] * 8
    assert all(call.count == len(call.keys or ()) <= 20 for call in others)
    assert (len(keys), set(keys)) == (len(may_move), may_move)


def test_a_race_with_send(engine: Engine) -> None:
    """Rows that `send` and `send_where` reach for at once are moved by one of them, and counted by that one."""
    adapter = parcel_adapter(engine, 600)
    before = parcels(engine)
    may_move = [key for key, row in before.items() if row["state"] in {"packed", "held"}]

    def reach(number: int) -> int:
        if number < 3:
            third = [adapter.send_where("lose", Parcel.id % 3 == rest, reason="all") for rest in range(3)]
            return sum(result.count for result in third)
        applied = 0
        for key in random.Random(number).sample(may_move, 60):
            with suppress(TransitionRefusedError):
                applied += bool(adapter.send(key, "lose", reason="one"))
        return applied

    moved = sum(in_threads(6, reach))

    after = parcels(engine)
    assert moved == len(may_move)
    assert {after[key]["version"] - before[key]["version"] for key in may_move} == {1}
    assert all(after[key] == before[key] for key in before if key not in may_move)


WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "mariadb": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


def wait_for_a_lock(engine: Engine, call: Future[Any]) -> None:
    """Return when this call waits for a lock of another transaction."""
    with engine.connect() as connected:
        watcher = connected.execution_options(isolation_level="AUTOCOMMIT")
        while not watcher.scalars(text(WAITING[engine.dialect.name])).one():
            assert not call.done()
            sleep(0.12)  # InnoDB refreshes what it tells only if nobody has asked for 0.1 s


@on("postgresql")
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("limit", [None, 5])
def test_a_lost_race_begins_anew(engine: Engine, level: Any, limit: int | None) -> None:
    """A row that another transaction has moved meanwhile is not counted, at any isolation level."""
    parcel_adapter(engine, 50)
    may_move = [key for key, row in parcels(engine).items() if row["state"] in {"packed", "held"}]
    strict = create_engine(engine.url, isolation_level=level)
    adapter = PersistenceAdapter(strict, parcel_mapping())
    other = update(PARCELS).where(PARCELS.c.id == may_move[0]).values(state="sent")

    with ThreadPoolExecutor(1) as threads, engine.connect() as connection:
        connection.execute(other)
        call = threads.submit(adapter.send_where, "lose", reason="fell", limit=limit, keys=True)
        if limit is None:
            wait_for_a_lock(engine, call)
        connection.commit()
        result = call.result()
    strict.dispose()

    assert sorted(result.keys or ()) == may_move[1:][:limit]


@on("mariadb")
def test_a_deadlock_begins_anew(engine: Engine) -> None:
    """A transaction that the database broke off as the victim of a deadlock is begun again."""
    adapter = parcel_adapter(engine, 400)
    may_move = [key for key, row in parcels(engine).items() if row["state"] in {"packed", "held"}]
    retried = Traffic(engine)

    with ThreadPoolExecutor(1) as threads, engine.connect() as connection:
        connection.execute(update(PARCELS).where(PARCELS.c.id > 200).values(most=9))  # the heavier transaction survives
        call = threads.submit(adapter.send_where, "lose", reason="fell")
        wait_for_a_lock(engine, call)
        connection.execute(update(PARCELS).where(PARCELS.c.id == 3).values(most=9))
        connection.commit()
        result = call.result()

    assert result.count == len(may_move)
    updates = [statement for statement in retried.statements if "transition_token" in statement]
    assert len(updates) == 2


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("keys", [True, False])
def test_a_lost_commit(engine: Engine, landed: bool, keys: bool) -> None:
    """COMMIT's answer is lost: the error has the token, and the rows that were moved are those that have it."""
    adapter = parcel_adapter(engine, 100)
    may_move = [key for key, row in parcels(engine).items() if row["state"] in {"packed", "held"}]
    lost = LostCommit(engine, landed=landed)
    lost.arm()

    with pytest.raises(OutcomeUnknownError) as caught:
        adapter.send_where("lose", reason="fell", keys=keys)

    assert (lost.strikes, caught.value.phase, caught.value.key) == (1, Phase.COMMIT, None)
    token = caught.value.token
    assert token is not None
    assert f"have the token {token}, or another variant of it; count them" in str(caught.value)
    mine = [key for key, row in parcels(engine).items() if source_number(token, row["transition_token"], 2) is not None]
    assert mine == (may_move if landed else [])


def test_killed_while_the_keys_are_read(engine: Engine) -> None:
    """A connection that is lost while the keys are read has moved nothing."""
    adapter = parcel_adapter(engine, 100)
    before = parcels(engine)
    strikes: list[str] = []

    def strike(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and not strikes:
            strikes.append(statement)
            connection.connection.dbapi_connection.close()

    event.listen(engine, "before_cursor_execute", strike)
    with pytest.raises(ConnectionFailureError) as caught:
        adapter.send_where("lose", reason="fell", keys=True)
    event.remove(engine, "before_cursor_execute", strike)

    assert (type(caught.value), caught.value.phase, len(strikes)) == (ConnectionFailureError, Phase.EXECUTE, 1)
    assert before == parcels(engine)


# -- Memory -----------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from sqlalchemy import create_engine
from statelatch import PersistenceAdapter
from tests.parcels import parcel_mapping

adapter = PersistenceAdapter(create_engine(sys.argv[1]), parcel_mapping())
result = adapter.send_where("lose", reason="fell", keys=True)
assert sum(1 for key in result.keys) == result.count
print(result.count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@on("sqlite")
def test_memory_is_flat(engine: Engine) -> None:
    """The peak memory of a process that moves 120,000 rows and reads their keys is that of one that moves 600."""
    peaks: dict[int, int] = {}
    for count in (1000, 200_000):
        parcel_adapter(engine, count)
        command = [sys.executable, "-c", PEAK, str(engine.url)]
        moved, peak = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
        peaks[int(moved)] = int(peak)
        PARCELS.drop(engine)

    assert peaks.keys() == {600, 120_000}
    assert peaks[120_000] - peaks[600] < 20
