"""What a log may be keyed by and hold, on each database, and what `history` reads."""

import enum
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, String, Uuid, delete, text
from sqlalchemy.orm import Mapped, mapped_column
from statemachine import State, StateMachine
from statemachine.states import States

from statelatch import MachineMapping, PersistenceAdapter, RequestError
from statelatch.columns import TransitionColumns, TransitionLogColumns, UTCDateTime, now, state_text
from tests import databases
from tests.lights import PATHS, Base, CountedLog, Crossing, Light, LightLog, entry_of, light_adapter, write_entry


@pytest.fixture(params=PATHS)
def lights(request: pytest.FixtureRequest, engine: Engine) -> PersistenceAdapter:
    """Lights on this path."""
    return light_adapter(engine, PATHS[request.param])


# -- keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [LightLog, CountedLog])
@pytest.mark.parametrize("machine", PATHS.values())
def test_a_key_of_the_databases(engine: Engine, machine: type[StateMachine], log: Any) -> None:
    """A row whose key the database makes is entered under it, also where the database counts the entries itself."""
    adapter = light_adapter(engine, machine, log=log)
    write_entry(engine, {"key": -1, "version": 1}, log)
    write_entry(engine, {"key": -2, "version": 1}, log)

    created = [adapter.create(broken=broken) for broken in (False, True)]
    done = adapter.send(created[0].key, "step")

    tokens = [each.values["transition_token"] for each in created]
    assert [each.values["broken"] for each in created] == [False, True]
    assert [[each.token for each in adapter.history(row.key)] for row in created] == [
        [tokens[0], done.token],
        tokens[1:],
    ]


class Desk(TransitionColumns, Base):
    """A row with a key of two columns; case matters in one."""

    __tablename__ = "desk"

    tenant: Mapped[str] = mapped_column("tenant_id", state_text(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(8))


class DeskLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "desk_log"

    tenant: Mapped[str] = mapped_column(state_text(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


def test_a_key_of_several_columns(engine: Engine) -> None:
    """Each row has its own history; text is told apart to the letter."""
    adapter = light_adapter(engine, Switch, Desk, DeskLog)
    keys = [("acme", 1), ("Acme", 1), ("acme", 2)]
    for tenant, number in keys:
        adapter.create(tenant=tenant, number=number)
    done = [adapter.send(key, "stop") for key in keys]

    assert [[entry_of(each)] for each in done] == [adapter.history(key)[1:] for key in keys]


class Parcel(TransitionColumns, Base):
    """A row whose key is made by SQL that is no counter."""

    __tablename__ = "parcel"

    id: Mapped[str] = mapped_column(String(40), primary_key=True, server_default=text("'only one'"))
    state: Mapped[str] = mapped_column(state_text(8))


class ParcelLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "parcel_log"

    key: Mapped[str] = mapped_column(String(40), primary_key=True)


@databases.on("sqlite", "postgresql")
def test_a_key_of_a_default_of_the_databases(engine: Engine) -> None:
    """The row is found by its token then."""
    adapter = light_adapter(engine, Switch, Parcel, ParcelLog)

    created = adapter.create()

    assert [created.values["transition_token"]] == [entry.token for entry in adapter.history("only one")]


class Switch(StateMachine):
    """On, then off."""

    on = State(initial=True)
    off = State(final=True)
    stop = on.to(off)


# -- histories --------------------------------------------------------------------------------------------


def test_a_history_outlives_its_row(lights: PersistenceAdapter) -> None:
    """A row that is gone has left its entries."""
    lights.create(id=7)
    lights.send(7, "step")
    before = lights.history(7)
    with lights.engine.begin() as connection:
        connection.execute(delete(Light))

    assert before == lights.history(7)
    assert len(before) == 2


def test_a_row_that_is_older_than_its_log(lights: PersistenceAdapter) -> None:
    """It has no history until its next transition."""
    bare = PersistenceAdapter(lights.engine, MachineMapping(machine=Crossing, entity=Light))
    bare.create(id=7)

    assert lights.history(7) == []
    assert [entry_of(lights.send(7, "step"))] == lights.history(7)
    with pytest.raises(RequestError, match="light: its mapping keeps no log"):
        bare.history(7)


def test_a_state_that_the_machine_no_longer_has_is_still_history(engine: Engine) -> None:
    """What happened, happened: it is read as it was written."""
    adapter = light_adapter(engine)
    adapter.create(id=7)
    write_entry(engine, {"key": 7, "version": 2, "source": "amber", "target": "grün"})

    assert [(entry.source, entry.target) for entry in adapter.history(7)] == [(None, "green"), ("amber", "grün")]


# -- states of other types ----------------------------------------------------------------------------------


class Level(enum.Enum):
    """States as an Enum."""

    LOW = "low"
    MID = "mid"
    TOP = "top"


class Lift(StateMachine):
    """A machine whose values are members."""

    of = States.from_enum(Level, initial=Level.LOW, final=Level.TOP, use_enum_instance=True)  # pyright: ignore[reportUnknownMemberType]
    rise = of.LOW.to(of.MID) | of.MID.to(of.TOP)


class NumberLift(StateMachine):
    """A machine whose values are numbers, zero among them."""

    low = State(initial=True, value=0)
    mid = State(value=1)
    top = State(value=2, final=True)
    rise = low.to(mid) | mid.to(top)


class LiftRow(TransitionColumns, Base):
    """A row whose state is a member."""

    __tablename__ = "lift"

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True, default=uuid4)
    state: Mapped[Level]


class LiftLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "lift_log"

    key: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    source: Mapped[Level | None] = mapped_column()
    target: Mapped[Level] = mapped_column()


class NumberLiftRow(TransitionColumns, Base):
    """A row whose state is a number."""

    __tablename__ = "number_lift"

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True, default=uuid4)
    state: Mapped[int]


class NumberLiftLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "number_lift_log"

    key: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    source: Mapped[int | None] = mapped_column()
    target: Mapped[int] = mapped_column()


LIFTS = [(Lift, LiftRow, LiftLog, list(Level)), (NumberLift, NumberLiftRow, NumberLiftLog, [0, 1, 2])]


@pytest.mark.parametrize(("machine", "entity", "log", "states"), LIFTS)
def test_states_that_are_no_text(engine: Engine, machine: Any, entity: Any, log: Any, states: list[Any]) -> None:
    """Members and numbers are entered as such."""
    adapter = light_adapter(engine, machine, entity, log)
    key = adapter.create().key
    done = [adapter.send(key, "rise") for _ in range(2)]

    assert [entry_of(each) for each in done] == adapter.history(key)[1:]
    assert [(None, states[0]), *pairwise(states)] == [(entry.source, entry.target) for entry in adapter.history(key)]


@databases.on("sqlite", "postgresql")
def test_a_member_that_the_enum_no_longer_has_is_still_history(engine: Engine) -> None:
    """It is read as the text that is stored."""
    adapter = light_adapter(engine, Lift, LiftRow, LiftLog)
    key = adapter.create().key
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("ALTER TYPE level ADD VALUE 'BASEMENT'"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE lift_log SET target = 'BASEMENT'"))

    assert [entry.target for entry in adapter.history(key)] == ["BASEMENT"]


# -- columns of the entity that Python fills -------------------------------------------------------------------


def of_event(context: Any) -> str:
    """A default that reads another."""
    return f"of {context.get_current_parameters()['event']}"


def of_actor(context: Any) -> str:
    """An `onupdate` that reads another."""
    return f"of {context.get_current_parameters()['actor']}"


class Note(TransitionColumns, Base):
    """A row with columns that are filled by Python, by SQL and by the database, some named like a log's."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    event: Mapped[str] = mapped_column(String(40), default=lambda: "made by a function")
    source: Mapped[str] = mapped_column(String(40), default=of_event)
    actor: Mapped[str | None] = mapped_column(String(40), onupdate=lambda: "changed by a function")
    data: Mapped[str | None] = mapped_column(String(40), onupdate=of_actor)
    at: Mapped[datetime | None] = mapped_column(UTCDateTime(), onupdate=now())
    rank: Mapped[int] = mapped_column(server_default="7")


class NoteLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "note_log"

    key: Mapped[int] = mapped_column(primary_key=True)


def test_what_python_fills_is_filled_with_a_log_as_without(engine: Engine) -> None:
    """Defaults and `onupdate` of the entity work in the statements that also write the log."""
    adapter = light_adapter(engine, Switch, Note, NoteLog)

    created = adapter.create().values
    done = adapter.send(created["id"], "stop", actor="Ann")
    changed = adapter.load(created["id"]).values

    made = "made by a function"
    assert (created["event"], created["source"], created["rank"]) == (made, f"of {made}", 7)
    assert (created["actor"], created["data"], created["at"]) == (None, None, None)
    changes = "changed by a function"
    assert (changed["actor"], changed["data"]) == (changes, f"of {changes}")
    assert changed["at"] <= done.at
    assert [entry_of(done, "Ann")] == adapter.history(created["id"])[1:]
