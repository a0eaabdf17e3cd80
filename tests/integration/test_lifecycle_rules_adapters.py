"""Adapters that are wrong in one thing, each found by the step of `lifecycle_rules` that shows it; and false alarms."""

from __future__ import annotations

import random
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from sqlalchemy import Float, Index, Integer, Numeric, PickleType, String, bindparam, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, PersistenceAdapter, RowNotFoundError, Snapshot, Transitioned
from statelatch.columns import TransitionColumns, TransitionLogColumns, state_text
from statelatch.errors import ConfigurationError, OutcomeUnknownError, Phase, StaleVersionError, TransitionRefusedError
from statelatch.testing import Fault, LifecycleError, lifecycle_rules
from statelatch.testing.clients import Clients
from statelatch.testing.mishaps import Mishap
from statelatch.testing.rows import Asked, Row, Version
from statelatch.testing.world import World
from tests.databases import on, sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from sqlalchemy import URL, Engine

    from statelatch import LogEntry, Request


class Plain:
    """Without equality, as many objects are that somebody pickles."""

    def __init__(self, number: int) -> None:
        self.number = number


class Baking(StateMachine):
    """Bread."""

    dough = State(initial=True)
    oven = State()
    baked = State(final=True)

    bake = dough.to(oven, cond="yeast")
    turn = oven.to(oven, on="look")
    cool = oven.to(baked)

    def look(self, model: Bread) -> None:
        """Write what depends on the row, and on nothing."""
        model.turns += 1
        model.luck = random.random()
        model.weight = 1.23456


class Base(DeclarativeBase):
    """Base of the entity here."""


class Bread(TransitionColumns, Base):
    """A loaf, with types that read back other than they were written."""

    __tablename__ = "bread"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    yeast: Mapped[bool] = mapped_column(default=True)
    turns: Mapped[int] = mapped_column(default=0)
    luck: Mapped[float | None] = mapped_column(Float(53))
    weight: Mapped[float | None] = mapped_column(Numeric(8, 2, asdecimal=False))
    shelf: Mapped[int | None] = mapped_column(Integer(), unique=True)
    baker: Mapped[str | None] = mapped_column(String(8))
    notes: Mapped[Any] = mapped_column(PickleType(), nullable=True)


Index("only_one_is_baked", Bread.baker, unique=True, sqlite_where=text("state = 'baked'")).ddl_if(dialect="sqlite")


class BreadLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "bread_log"

    key: Mapped[int] = mapped_column(primary_key=True)


ASSIGNS: dict[str, dict[str, object]] = {
    "bake": {"baker": bindparam("actor", None)},
    "baked": {"turns": Bread.turns + 1},
}


def mapping_of(log: Any = BreadLog) -> MachineMapping:
    """Of bread."""
    return MachineMapping(machine=Baking, entity=Bread, log=log, assigns=ASSIGNS)


@pytest.fixture
def world_of(tmp_path: Path) -> Generator[Callable[..., World]]:
    """Makes worlds with adapters of a class, on SQLite or where it is said."""
    worlds: list[World] = []

    def made(kind: type[PersistenceAdapter] = PersistenceAdapter, log: Any = BreadLog, url: Any = None) -> World:
        mapping, where = mapping_of(log), url or sqlite_file(tmp_path)
        with PersistenceAdapter(where, mapping) as adapter:
            Base.metadata.create_all(adapter.engine)
        worlds.append(World(mapping, Clients(mapping, lambda: kind(where, mapping)), 2))
        return worlds[-1]

    yield made
    for world in worlds:
        world.leave()


def created(world: World, **values: Any) -> Row:
    """A row."""
    row = world.create(0, values, None)
    assert row is not None
    return row


def lost(world: World) -> None:
    """An acknowledgement is lost, and the outcome can be found out."""
    world.send(0, Asked(created(world), "bake"), mishap=Mishap(Fault.LOSE_ACKNOWLEDGEMENT))


def baked(world: World) -> None:
    """Each event once, with an actor and data; and the row is read."""
    row = created(world)
    for event, params in (("bake", {"actor": "ann", "data": [1]}), ("turn", {}), ("cool", {})):
        world.send(0, Asked(row, event, params))
    world.load(0, row, None)


def refused(world: World) -> None:
    """A stale version, a false guard, a state that the event does not leave, and no row."""
    row = created(world, yeast=False)
    world.send(0, Asked(row, "bake", version=Version.AHEAD))
    world.send(0, Asked(row, "bake"))
    world.send(0, Asked(row, "cool"))
    world.send_to_nobody(0, "bake", {})


def batched(world: World) -> None:
    """Two requests for one row, one of which is refused."""
    for version in (Version.ANY, Version.CURRENT):
        row = created(world)
        world.send_batch(0, [Asked(row, "bake"), Asked(row, "cool", {}, version)], None)


def new(world: World) -> None:
    """A new row with values."""
    created(world, yeast=False, baker="ann", weight=1.239, notes=Plain(1))


class _Unsure(PersistenceAdapter):
    """It knows nothing after a fault."""

    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        done = super().send(key, event, **more)
        if self.load(key).version > 1:
            raise OutcomeUnknownError(
                phase=Phase.COMMIT, database="", detail="", token=done.token, key=key, event=event
            )
        return done

    def after_commit(self, hook: Any) -> Any:
        return hook


class _Later(PersistenceAdapter):
    """Its answers are of another time."""

    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        return replace(super().send(key, event, **more), at=datetime(1970, 1, 1, tzinfo=UTC))


class _Written(PersistenceAdapter):
    """It writes over what was written."""

    sql = ""

    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        done = super().send(key, event, **more)
        if event in self.sql:
            with self.engine.begin() as connection:
                connection.execute(text(self.sql.partition(":")[2]), {"key": key})
        return done


class _NoAssign(_Written):
    sql = "bake:UPDATE bread SET baker = NULL WHERE id = :key"


class _NoCallback(_Written):
    sql = "turn:UPDATE bread SET turns = 0 WHERE id = :key"


class _WrongCallback(_Written):
    sql = "turn:UPDATE bread SET weight = 1.24 WHERE id = :key"


class _LogEvent(_Written):
    sql = "bake:UPDATE bread_log SET event = 'cool' WHERE \"key\" = :key AND version = 2"


class _LogTime(_Written):
    sql = "bake:UPDATE bread_log SET at = '1970-01-01 00:00:00.000000' WHERE \"key\" = :key AND version = 2"


class _LogActor(PersistenceAdapter):
    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        more.pop("data", None)
        return super().send(key, event, **more)


class _Forgetful(PersistenceAdapter):
    """It forgets what a new row is to have."""

    def create(self, **columns: Any) -> Snapshot:
        columns.pop("yeast", None)
        return super().create(**columns)


class _NoHooks(PersistenceAdapter):
    def after_commit(self, hook: Any) -> Any:
        return hook


class _MoreHooks(PersistenceAdapter):
    def after_commit(self, hook: Any) -> Any:
        super().after_commit(hook)
        return super().after_commit(hook)


class _NoHistory(PersistenceAdapter):
    def history(self, key: Any) -> list[LogEntry]:
        return super().history(key)[1:]


class _Guards(PersistenceAdapter):
    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        try:
            return super().send(key, event, **more)
        except TransitionRefusedError as error:
            error.guards = ("nonsense",)
            raise


class _Sources(PersistenceAdapter):
    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        try:
            return super().send(key, event, **more)
        except TransitionRefusedError as error:
            error.sources = ()
            raise


class _Expected(PersistenceAdapter):
    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        try:
            return super().send(key, event, **more)
        except StaleVersionError as error:
            error.expected_version = 4711
            raise


class _Upserting(PersistenceAdapter):
    def send(self, key: Any, event: str, **more: Any) -> Transitioned:
        try:
            return super().send(key, event, **more)
        except RowNotFoundError:
            self.create(id=key)
            return super().send(key, event, **more)


class _Swapping(PersistenceAdapter):
    def send_batch(self, requests: Iterable[Request]) -> list[Any]:
        return super().send_batch(requests)[::-1]


class _Alone(PersistenceAdapter):
    """The second request for a row is refused without being tried."""

    def send_batch(self, requests: Iterable[Request]) -> list[Any]:
        first, *others = requests
        answers = super().send_batch([first])
        for each in others:
            told: dict[str, Any] = {"expected_version": each.expected_version, "actual_version": 77, "state": "nowhere"}
            answers.append(StaleVersionError(table="bread", key=each.key, event=each.event, **told))
        return answers


class _Tokenless(PersistenceAdapter):
    def send_batch(self, requests: Iterable[Request]) -> list[Any]:
        return super().send_batch([replace(each, token=None) for each in requests])


class _Unguarded(PersistenceAdapter):
    def send_batch(self, requests: Iterable[Request]) -> list[Any]:
        return super().send_batch([replace(each, expected_version=None) for each in requests])


BROKEN = [
    (_Unsure, lost, "could be found out"),
    (_Later, baked, "the time of 'bake' to"),
    (_NoAssign, baked, "the column 'baker' 'ann'.*server_onupdate=FetchedValue"),
    (_NoCallback, baked, "the column 'turns' 1"),
    (_WrongCallback, baked, r"the column 'weight' 1\.23456"),
    (_LogEvent, baked, "the event 'bake'"),
    (_LogTime, baked, "a time from"),
    (_LogActor, baked, r"the data \[1\]"),
    (_Forgetful, new, "the column 'yeast' False, as it was given"),
    (_NoHooks, baked, "after_commit"),
    (_MoreHooks, baked, "after_commit"),
    (_NoHistory, baked, "the history of"),
    (_Guards, refused, "guards of the state"),
    (_Sources, refused, "the states that it leaves"),
    (_Expected, refused, "tells the version 2 that was expected"),
    (_Upserting, refused, "no such row"),
    (_Swapping, batched, "expected"),
    (_Alone, batched, "another answer"),
    (_Tokenless, batched, "or a variant of it"),
    (_Unguarded, batched, "nothing written at version 2"),
]


@pytest.mark.parametrize(("kind", "steps", "message"), BROKEN, ids=[each[0].__name__ for each in BROKEN])
def test_what_is_wrong_is_found(
    world_of: Callable[..., World], kind: type[PersistenceAdapter], steps: Callable[[World], None], message: str
) -> None:
    """One step shows it."""
    with pytest.raises(LifecycleError, match=f"(?s){message}"):
        steps(world_of(kind))


@pytest.mark.parametrize("log", [None, BreadLog], ids=["", "log"])
def test_what_is_right_is_not(database_url: URL, engine: Engine, world_of: Callable[..., World], log: Any) -> None:
    """The same steps with the product: neither rounding, nor chance, nor objects without equality are mistakes."""
    assert engine.dialect.name == database_url.get_dialect().name
    world = world_of(log=log, url=database_url)

    for steps in (lost, baked, refused, batched, new):
        steps(world)
        world.check()


def test_values_that_do_not_equal_themselves(world_of: Callable[..., World]) -> None:
    """NaN is NaN, wherever a row is compared."""
    world = world_of()
    row = created(world, notes=float("nan"))

    world.send(0, Asked(row, "bake"))
    world.load(0, row, None)
    world.check()


def test_what_breaks_an_index_is_no_mistake(world_of: Callable[..., World]) -> None:
    """A transition that a constraint of the user's refuses writes nothing; alone, and among others."""
    world = world_of()
    rows = [created(world, baker="ann") for _ in range(3)]
    for row in rows:
        world.send(0, Asked(row, "bake", {"actor": "ann"}))

    world.send(0, Asked(rows[0], "cool"))
    world.send(0, Asked(rows[1], "cool"))
    world.send_batch(0, [Asked(rows[2], "cool"), Asked(rows[2], "cool")], None)

    assert [row.stored.state for row in rows] == ["baked", "oven", "oven"]


@pytest.mark.parametrize(
    ("values", "mishap"),
    [({"id": 1}, None), ({"shelf": 1}, None), ({"id": 1}, Mishap(Fault.DIE_AFTER_EXECUTE, "INSERT"))],
    ids=["a key", "a unique column", "a key, and a fault"],
)
def test_what_is_taken_makes_no_row(
    world_of: Callable[..., World], values: dict[str, Any], mishap: Mishap | None
) -> None:
    """The older row is not taken for the new one, whatever goes wrong; it is said how to draw what is unique."""
    world = world_of()
    row = created(world, **values)
    world.send(0, Asked(row, "bake"))

    with pytest.raises(ConfigurationError, match=r"st\.builds\(uuid4\)"):
        world.create(0, values, mishap)
    world.check()


def test_the_cut_client_may_not_know(world_of: Callable[..., World]) -> None:
    """Where no connection is had any more the outcome is unknown: the connection that is cut was had before."""
    mishap = Mishap(Fault.LOSE_ACKNOWLEDGEMENT, cut_off=True)
    world = world_of()
    answer, trouble = world_told(world, mishap)

    assert isinstance(answer, OutcomeUnknownError)
    assert trouble == (True, True, True)


def world_told(world: World, mishap: Mishap) -> tuple[object, object]:
    """What a client is told whose event is struck."""
    crowd: Any = vars(world)["_crowd"]
    row = created(world)
    return crowd.told(0, mishap, partial(PersistenceAdapter.send, key=row.stored.key, event="bake"))


@on("sqlite")
def test_what_is_unique_is_made_anew(database_url: URL, engine: Engine) -> None:
    """Values that a message says to draw can be drawn, in one run after the other."""
    Base.metadata.create_all(engine)
    mapping = mapping_of()
    values = st.fixed_dictionaries({"shelf": st.builds(secrets.randbelow, st.just(2**31))})
    rules = lifecycle_rules(mapping, lambda: PersistenceAdapter(database_url, mapping), values=values)

    for _ in range(2):
        rules.check(settings(max_examples=5, stateful_step_count=10, database=None, deadline=None))
