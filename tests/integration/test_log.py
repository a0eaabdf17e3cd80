"""The transition log, on each database: an entry for each applied transition, and for nothing else."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, delete, event, func, null, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from statelatch import (
    ConnectionFailureError,
    MachineMapping,
    NotAppliedError,
    PersistenceAdapter,
    Request,
    RequestError,
    RowNotFoundError,
)
from statelatch.errors import Phase
from tests import databases
from tests.lights import ASSIGNS, PATHS, Base, Crossing, Light, LightLog, entry_of, light_adapter, write_entry
from tests.outages import LostCommit, Traffic

DATA = {"rows": [1, 2.5, None, True], "who": {"näme": "100% 'q' \"d\" \\ \u2028"}}


@pytest.fixture(params=PATHS)
def lights(request: pytest.FixtureRequest, engine: Engine) -> PersistenceAdapter:
    """Lights on this path."""
    adapter = light_adapter(engine, PATHS[request.param])
    assert {adapter.explain(event).compiled for event in adapter.mapping.events} == {request.param == "compiled"}
    return adapter


def stored(engine: Engine, key: int = 7) -> dict[str, Any]:
    """The row, as another connection sees it."""
    with engine.connect() as connection:
        return dict(connection.execute(select(Light.__table__).where(Light.id == key)).mappings().one())  # pyright: ignore


# -- what an entry says -----------------------------------------------------------------------------------


def test_every_transition_has_an_entry_that_says_what_it_returned(lights: PersistenceAdapter) -> None:
    """Version, event, source, target, token and time are those of the `Transitioned`; the oldest is first."""
    created = lights.create(id=7)
    done = [lights.send(7, event) for event in ("step", "blink", "step", "step", "stop", "end")]

    first, *entries = lights.history(7)

    assert [entry_of(each) for each in done] == entries
    assert (first.version, first.event, first.source, first.target) == (1, None, None, "green")
    assert (first.token, first.actor, first.data) == (created.values["transition_token"], None, None)
    assert first.at <= entries[0].at
    assert first.at.tzinfo is not None


def test_who_and_what_are_recorded(lights: PersistenceAdapter) -> None:
    """`actor` and `data` stand in the entry, and are parameters of the event all the same; left out, they are NULL."""
    lights.create(id=7)

    stop = lights.send(7, "stop", actor="Ann", data=DATA)
    step = lights.send(7, "step", data=(1, {2: 3}))

    assert [entry_of(stop, "Ann", DATA), entry_of(step, None, [1, {"2": 3}])] == lights.history(7)[1:]
    assert stored(lights.engine)["by"] == "Ann"
    lights.send(7, "step", data=None)
    with lights.engine.connect() as connection:
        assert connection.execute(select(LightLog.version).where(LightLog.data.is_(null()))).scalars().all() == [1, 4]


def test_an_entry_has_the_time_of_its_row(engine: Engine) -> None:
    """One clock, the database's: where one statement writes both, the same instant, else no earlier one."""
    adapter = light_adapter(engine)
    adapter.create(id=7)

    done = adapter.send(7, "stop")

    written_at, logged_at = stored(engine)["stopped_at"], adapter.history(7)[1].at
    assert done.at == logged_at
    assert (written_at <= logged_at) if engine.dialect.name != "postgresql" else (written_at == logged_at)


@databases.on("postgresql")
def test_one_statement_writes_both(engine: Engine) -> None:
    """On PostgreSQL, UPDATE and entry are one statement, and so are INSERT and entry."""
    adapter = light_adapter(engine)
    traffic = Traffic(engine)

    adapter.create(id=7)
    adapter.send(7, "step")

    assert [statement.split()[0] for statement in traffic.statements] == ["WITH", "WITH"]


def test_an_adapter_of_its_own_logs_too(database_url: URL) -> None:
    """An adapter made of a URL, whose single statements are sent in AUTOCOMMIT, keeps the log as well."""
    mapping = MachineMapping(machine=Crossing, entity=Light, log=LightLog, assigns=ASSIGNS)
    with PersistenceAdapter(database_url, mapping) as adapter:
        Base.metadata.create_all(adapter.engine)
        key = adapter.create().key
        done = [adapter.send(key, event, actor="me") for event in ("step", "step", "end")]

        assert [entry_of(each, "me") for each in done] == adapter.history(key)[1:]


@databases.on("mariadb")
def test_a_dialect_without_returning_logs_too(database_url: URL) -> None:
    """As MySQL is spoken to: the row is read again, and the entry says the same, but for the time."""
    mapping = MachineMapping(machine=Crossing, entity=Light, log=LightLog, assigns=ASSIGNS)
    with PersistenceAdapter(database_url.set(drivername="mysql+pymysql"), mapping) as adapter:
        assert not adapter.statements.insert_returning
        Base.metadata.create_all(adapter.engine)
        created = adapter.create()
        done = [adapter.send(created.key, event, actor="me") for event in ("step", "end")]

        first, *entries = adapter.history(created.key)
        assert first.token == created.values["transition_token"]
        assert entries == [
            replace(entry_of(each, "me"), at=entry.at) for each, entry in zip(done, entries, strict=True)
        ]
        assert all(entry.at <= each.at for each, entry in zip(done, entries, strict=True))


# -- what has no entry ------------------------------------------------------------------------------------


def test_what_is_not_applied_leaves_no_entry(lights: PersistenceAdapter) -> None:
    """A false guard, another state, an older version and a missing row write neither row nor entry."""
    lights.create(id=7, broken=True)
    before = stored(lights.engine), lights.history(7)

    for key, name, expected_version in ((7, "step", None), (7, "blink", None), (7, "stop", 2), (8, "stop", None)):
        with pytest.raises(NotAppliedError):
            lights.send(key, name, expected_version=expected_version)

    assert before == (stored(lights.engine), lights.history(7))
    with pytest.raises(RowNotFoundError):
        lights.history(8)


@pytest.mark.parametrize("params", [{"data": {1, 2}}, {"actor": "a" * 256}, {"data": datetime(2026, 1, 1)}])
def test_what_cannot_be_recorded_is_not_applied(lights: PersistenceAdapter, params: dict[str, Any]) -> None:
    """It is a RequestError before anything is sent."""
    lights.create(id=7)
    before = stored(lights.engine), lights.history(7)
    traffic = Traffic(lights.engine)

    with pytest.raises(RequestError, match="nothing was written"):
        lights.send(7, "stop", **params)

    assert traffic.statements == []
    assert before == (stored(lights.engine), lights.history(7))


def test_an_entry_that_is_there_already_stops_the_transition(lights: PersistenceAdapter) -> None:
    """Somebody wrote the log by hand: the driver's IntegrityError, and the row is as it was; later it moves again."""
    lights.create(id=7)
    write_entry(lights.engine, {"key": 7, "version": 2, "actor": "by hand"})
    before = stored(lights.engine), lights.history(7)

    with pytest.raises(IntegrityError):
        lights.send(7, "step")
    assert before == (stored(lights.engine), lights.history(7))

    with lights.engine.begin() as connection:
        connection.execute(delete(LightLog).where(LightLog.version == 2))
    assert [entry_of(lights.send(7, "step"))] == lights.history(7)[1:]


def test_an_entry_that_is_there_already_stops_a_creation(lights: PersistenceAdapter) -> None:
    """Neither the row nor a second entry is written."""
    lights.create(id=8)
    write_entry(lights.engine, {"key": 7, "version": 1})

    with pytest.raises(IntegrityError):
        lights.create(id=7)

    with pytest.raises(RowNotFoundError):
        lights.load(7)
    assert len(lights.history(7)) == 1


def test_without_the_logs_table_nothing_is_write_entry(lights: PersistenceAdapter) -> None:
    """A log that cannot be written stops the transition, with the driver's own error."""
    lights.create(id=7)
    before = stored(lights.engine)
    with lights.engine.begin() as connection:
        connection.execute(text("DROP TABLE light_log"))

    with pytest.raises(DBAPIError):
        lights.send(7, "step")
    with pytest.raises(DBAPIError):
        lights.create(id=8)

    assert before == stored(lights.engine)
    with lights.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(Light)).scalar_one() == 1


class Failing(Crossing):
    """Its callback raises."""

    def after_step(self) -> None:
        """Fail."""
        raise ZeroDivisionError


def test_a_callback_that_raises_leaves_no_entry(engine: Engine) -> None:
    """Nothing is written, neither in the row nor in the log."""
    adapter = light_adapter(engine, Failing)
    adapter.create(id=7)

    with pytest.raises(ZeroDivisionError):
        adapter.send(7, "step")

    assert len(adapter.history(7)) == stored(engine)["version"] == 1


# -- lost answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_commit_is_logged_once(lights: PersistenceAdapter, landed: bool) -> None:
    """The event is applied once, and logged once, whether the first COMMIT landed or not."""
    lights.create(id=7)
    fault = LostCommit(lights.engine, landed=landed)
    fault.arm(skip=0 if lights.explain("step").compiled else 1)

    done = lights.send(7, "step", actor="me")

    (entry,) = lights.history(7)[1:]
    assert fault.strikes == 1
    assert (done.version, done.token, done.source, done.target) == (2, entry.token, entry.source, entry.target)


def test_a_lost_commit_that_was_overtaken_is_found_in_the_log(lights: PersistenceAdapter) -> None:
    """It landed, and before we could ask, others have led the row back to its source: it is not applied again."""
    lights.create(id=7)
    fault = LostCommit(lights.engine, landed=True)
    fault.arm(skip=0 if lights.explain("step").compiled else 1)

    def overtake() -> None:
        with databases.pooled(lights.engine.url) as other:
            others = light_adapter(other)
            for _ in range(2):
                others.send(7, "step")

    fault.then = overtake
    done = lights.send(7, "step", actor="me")

    assert (fault.strikes, lights.load(7).state) == (1, "green")
    assert [entry.version for entry in lights.history(7)] == [1, 2, 3, 4]
    assert entry_of(done, "me") == lights.history(7)[1]
    assert entry_of(lights.send(7, "step", token=done.token), "me") == lights.history(7)[1]
    if lights.explain("step").compiled:
        assert lights.send_batch([Request(7, "step", token=done.token)]) == [done]
    assert lights.load(7).version == 4


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_creation_is_logged_once(engine: Engine, landed: bool) -> None:
    """Row and entry are there together, once."""
    adapter = light_adapter(engine)
    fault = LostCommit(engine, landed=landed)
    fault.arm()

    created = adapter.create(id=7)

    assert fault.strikes == 1
    assert [entry.token for entry in adapter.history(7)] == [created.values["transition_token"]]


@databases.on("sqlite", "mariadb")
@pytest.mark.parametrize("path", PATHS)
def test_a_connection_lost_between_row_and_entry(engine: Engine, path: str) -> None:
    """Where the entry is a statement of its own, and its connection is lost, the row has not moved either."""
    adapter = light_adapter(engine, PATHS[path])
    adapter.create(id=7)
    before = stored(engine), adapter.history(7)
    strikes: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def strike(connection: Connection, _cursor: object, statement: str, *_: object) -> None:  # pyright: ignore[reportUnusedFunction]
        if statement.startswith("INSERT INTO light_log") and not strikes:
            strikes.append(statement)
            if engine.dialect.name == "sqlite":
                driver_connection: Any = connection.connection.dbapi_connection
                driver_connection.close()
            else:
                databases.kill_connections(engine.url)

    with pytest.raises(ConnectionFailureError) as caught:
        adapter.send(7, "step")

    assert (len(strikes), caught.value.phase) == (1, Phase.EXECUTE)
    assert before == (stored(engine), adapter.history(7))
    assert [entry_of(adapter.send(7, "step"))] == adapter.history(7)[1:]
