"""A run on an entity of the user's own: another table, further columns, the same lifecycle."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from sqlalchemy import Engine, String, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, PersistenceAdapter
from statelatch.columns import TransitionColumns
from statelatch.errors import ActiveRunExistsError, ConfigurationError
from statelatch.runs import Outcome, RunColumns, RunManager, create_tables, run_mapping
from tests.databases import on, unreachable
from tests.runs import NEVER, PATIENCE, at_gate, nothing, stopping


class Base(DeclarativeBase):
    """A base of the user's own."""


class Export(RunColumns, Base):
    """Runs beside what the user keeps of them."""

    __tablename__ = "exports"

    customer: Mapped[str | None] = mapped_column(String(50), default=None)
    priority: Mapped[int] = mapped_column(default=7)


class Light(StateMachine):
    """Another machine."""

    off = State(initial=True)
    on = State()
    switch = off.to(on) | on.to(off)


class Lamp(TransitionColumns, Base):
    """Another entity."""

    __tablename__ = "lamps"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(20))


@pytest.fixture
def exports(engine: Engine) -> Generator[RunManager]:
    """A manager of exports."""
    adapter = PersistenceAdapter(engine, run_mapping(Export))
    create_tables(adapter)
    with RunManager(adapter, heartbeat=0.05) as manager:
        yield manager


def stored(engine: Engine, run_id: object) -> Export:
    """The row, read anew."""
    with Session(engine) as session:
        return session.scalars(select(Export).where(Export.id == run_id)).one()


def fail(message: str) -> None:
    """Fail."""
    raise ValueError(message)


def test_an_entity_of_one_s_own_has_the_whole_lifecycle(exports: RunManager, engine: Engine) -> None:
    """Each end is written to its table, its own columns have their defaults, and no other table is made."""
    for function, arguments, state in (
        (max, (1, 2), "completed"),
        (fail, ("broken",), "failed"),
        (stopping, (), "cancelled"),
    ):
        handle = exports.start(function, *arguments)
        assert (state, Outcome.APPLIED, 3) == (
            handle.wait(PATIENCE).state,
            handle.wait().outcome,
            handle.wait().version,
        )
        row = stored(engine, handle.id)
        assert (state, None, 7) == (row.status, row.customer, row.priority)
    assert inspect(engine).get_table_names() == ["exports"]


def test_keys_reading_and_cancelling_work_on_it(exports: RunManager, engine: Engine) -> None:
    """The manager hands out instances of the user's own entity."""
    with at_gate() as gate:
        handle = exports.start(gate, key="k")
        gate.wait()
        with pytest.raises(ActiveRunExistsError) as busy:
            exports.start(nothing, key="k")
        assert busy.value.run_id == handle.id
        for run in (exports.get(handle.id), exports.active("k"), exports.current_or_latest("k"), *exports.runs()):
            assert isinstance(run, Export)
            assert (handle.id, "running", 7) == (run.id, run.status, run.priority)
        exports.cancel(handle.id, force=True)
    assert exports.active("k") is None
    assert stored(engine, handle.id).status == "cancelled"


@pytest.mark.parametrize("fallback", ["engine", "adapter", "url"])
def test_a_fallback_uses_the_same_entity(exports: RunManager, engine: Engine, fallback: str) -> None:
    """An engine or URL among the fallbacks has the primary's mapping; an adapter brings its own."""
    adapter = PersistenceAdapter(engine, run_mapping(Export))
    sources: dict[str, Any] = {"engine": engine, "adapter": adapter, "url": engine.url}
    dead = PersistenceAdapter(unreachable(engine.url), run_mapping(Export))
    with RunManager(dead, fallbacks=[sources[fallback]], heartbeat=NEVER) as manager:
        said = manager.start(nothing).wait(PATIENCE)

    assert (said.state, said.via) == ("completed", "fallback 1")
    assert stored(engine, said.run_id).status == "completed"


@on("mariadb")
def test_texts_are_kept_whatever_the_database_s_character_set(engine: Engine) -> None:
    """A failure whose text the database's own character set lacks is saved as failed, not lost."""
    with engine.begin() as connection:
        connection.execute(text("ALTER DATABASE CHARACTER SET latin1"))
    engine.dispose()
    adapter = PersistenceAdapter(engine, run_mapping(Export))
    create_tables(adapter)
    with RunManager(adapter) as manager:
        said = manager.start(fail, "漢字 😀", name="Größe 漢字 😀", key="😀").wait(PATIENCE)

    assert (said.state, said.outcome) == ("failed", Outcome.APPLIED)
    row = stored(engine, said.run_id)
    assert (row.error, row.name, row.key) == ("漢字 😀", "Größe 漢字 😀", "😀")


@on("sqlite")
def test_a_mapping_that_is_no_run_s_is_refused(engine: Engine) -> None:
    """An adapter for another machine or entity: a named error when the manager is built, not at its first run."""
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Light, entity=Lamp))
    for sources in ((adapter, ()), (engine, [adapter])):
        with pytest.raises(ConfigurationError, match="expected an adapter with a run mapping, found Light on Lamp"):
            RunManager(sources[0], fallbacks=sources[1])
