"""The fault injector: each fault is what it is called, on each database, over every way to it.

What a fault does is shown with plain SQLAlchemy; then each of them strikes a `send`, over an adapter by URL and one
with an engine.
"""

import time
from collections.abc import Generator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select, update
from sqlalchemy.exc import DBAPIError

from statelatch import ConnectionFailureError, MachineMapping, PersistenceAdapter, StaleVersionError
from statelatch.engines import is_autocommitting, is_observed
from statelatch.testing import Fault, FaultInjector, InjectionError, ProcessDied
from tests.databases import on
from tests.lights import Crossing, Light, LightLog, light_adapter
from tests.orders import KEY, order_adapter, stored_order
from tests.paying import ORDERS, PAY, code_of, pay

ENGINES = ["transaction", "autocommit"]


@pytest.fixture(params=ENGINES)
def struck(request: pytest.FixtureRequest, orders: Engine) -> Generator[Engine]:
    """The engine that the faults are for."""
    options = {"isolation_level": "AUTOCOMMIT"} if request.param == "autocommit" else {}
    engine = create_engine(orders.url, **options)
    yield engine
    engine.dispose()


def autocommits(engine: Engine) -> bool:
    """Which of the two it is."""
    with engine.connect() as connection:
        return is_autocommitting(engine, connection.connection.dbapi_connection)


def refused(injector: FaultInjector, fault: Fault) -> None:
    """This engine has no such fault, and the injector says so."""
    with pytest.raises(InjectionError, match=f"{fault.name} cannot happen on"):
        injector.inject(fault)


# -- what each fault does -----------------------------------------------------------------------------------------

CODES: dict[tuple[str, Fault], object] = {
    ("sqlite", Fault.REFUSE): "SQLITE_CANTOPEN",
    ("sqlite", Fault.SERIALIZATION_FAILURE): "SQLITE_BUSY_SNAPSHOT",
    ("sqlite", Fault.DISK_FULL): "SQLITE_FULL",
    ("postgresql", Fault.SERIALIZATION_FAILURE): "40001",
    ("postgresql", Fault.DISK_FULL): "53100",
    ("mariadb", Fault.REFUSE): 2003,
    ("mariadb", Fault.DIE_BEFORE_EXECUTE): 2013,
    ("mariadb", Fault.DIE_AFTER_EXECUTE): 2013,
    ("mariadb", Fault.DIE_BEFORE_COMMIT): 2013,
    ("mariadb", Fault.LOSE_ACKNOWLEDGEMENT): 2013,
    ("mariadb", Fault.SERIALIZATION_FAILURE): 1213,
    ("mariadb", Fault.DISK_FULL): 1021,
}
"""By dialect. A connection that is cut, or refused, has no code on SQLite and PostgreSQL."""

WRITTEN = {Fault.DIE_AFTER_EXECUTE: (False, True), Fault.LOSE_ACKNOWLEDGEMENT: (True, True)}
"""Whether the row is written when the fault has raised: in a transaction, in AUTOCOMMIT. Otherwise it is not."""

RAISING = [fault for fault in Fault if fault not in {Fault.STALL, Fault.LOCK}]
DYING = [Fault.DIE_BEFORE_EXECUTE, Fault.DIE_AFTER_EXECUTE, Fault.DIE_BEFORE_COMMIT, Fault.LOSE_ACKNOWLEDGEMENT]


@pytest.mark.parametrize("fault", RAISING, ids=lambda fault: fault.name)
def test_what_a_fault_leaves(struck: Engine, orders: Engine, fault: Fault) -> None:
    """The driver or the database raises its own error; what is written is what the phase says; later all is well."""
    with FaultInjector(struck) as injector:
        if fault not in injector.faults:
            refused(injector, fault)
            return
        with injector.inject(fault) as injected, pytest.raises(DBAPIError) as caught:
            pay(struck)

        expected = CODES.get((struck.dialect.name, fault))
        written = WRITTEN.get(fault, (False, False))[autocommits(struck)]
        assert (injected.fired, code_of(caught.value)) == (1, expected)
        assert stored_order(orders)["version"] == 1 + written
        pay(struck)
        assert stored_order(orders)["version"] == 2 + written


@pytest.mark.parametrize("fault", [Fault.STALL, Fault.LOCK], ids=lambda fault: fault.name)
def test_what_only_takes_its_time(struck: Engine, orders: Engine, fault: Fault) -> None:
    """A lock or a stall that is over before anybody loses patience: the statement is carried out, later."""
    with FaultInjector(struck) as injector, injector.inject(fault, seconds=0.2) as injected:
        began = time.monotonic()
        pay(struck)

    assert (injected.fired, time.monotonic() - began >= 0.2) == (1, True)
    assert stored_order(orders)["version"] == 2


@pytest.mark.parametrize("fault", DYING, ids=lambda fault: fault.name)
def test_the_death_of_the_process(struck: Engine, orders: Engine, fault: Fault) -> None:
    """It ends at that place, past every `except Exception`; the database has what reached it, and holds no lock."""
    with FaultInjector(struck) as injector:
        if fault not in injector.faults:
            refused(injector, fault)
            return
        with injector.inject(fault, dies=True) as injected, pytest.raises(ProcessDied, match=r"^at (UPDATE|COMMIT)"):
            pay(struck)

    written = WRITTEN.get(fault, (False, False))[autocommits(struck)]
    assert (injected.fired, stored_order(orders)["version"]) == (1, 1 + written)
    pay(orders)
    assert stored_order(orders)["version"] == 2 + written


@on("sqlite")
def test_who_died_holds_no_lock(orders: Engine) -> None:
    """A cursor in the middle of its rows does not keep the file locked, as no dead process does."""
    orders.dispose()
    impatient = create_engine(orders.url.set(query={"timeout": "0.05"}))
    with FaultInjector(impatient) as injector, impatient.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        connection.execute(PAY)
        reading = driver.execute("SELECT 1 UNION ALL SELECT 2")
        assert reading.fetchone() == (1,)
        with injector.inject(Fault.DIE_BEFORE_COMMIT) as injected, pytest.raises(DBAPIError):
            connection.commit()
        pay(impatient)
    impatient.dispose()

    assert (injected.fired, stored_order(orders)["version"]) == (1, 2)


@on("sqlite")
def test_a_full_disk_has_room_again(orders: Engine) -> None:
    """The limit holds for one statement; the next, on the same connection, may take as many pages as it needs."""
    with FaultInjector(orders) as injector, orders.connect() as connection:
        with injector.inject(Fault.DISK_FULL) as injected, pytest.raises(DBAPIError):
            connection.execute(PAY)
        connection.rollback()
        connection.execute(update(ORDERS).values(note="x" * 300_000))
        connection.commit()

    assert (injected.fired, len(stored_order(orders)["note"])) == (1, 300_000)


def test_who_is_broken_off_has_lost_the_whole_transaction(orders: Engine) -> None:
    """Even if the program goes on as if nothing had been: what it wrote before is not committed."""
    with FaultInjector(orders) as injector, orders.connect() as connection:
        connection.execute(select(ORDERS))
        wrote = orders.dialect.name != "sqlite"  # where who has written once cannot be broken off
        if wrote:
            connection.execute(PAY)
        with injector.inject(Fault.SERIALIZATION_FAILURE) as injected, pytest.raises(DBAPIError):
            connection.execute(PAY)
        connection.commit()

    assert (injected.fired, stored_order(orders)["version"]) == (1, 1)


# -- a send -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["url", "engine"])
def adapter(request: pytest.FixtureRequest, orders: Engine) -> Generator[PersistenceAdapter]:
    """Orders, over connections of the adapter's own or over an engine of the caller's."""
    engine = create_engine(orders.url)
    target = orders.url if request.param == "url" else engine
    with PersistenceAdapter(target, order_adapter(orders).mapping) as adapter:
        yield adapter
    engine.dispose()


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_each_fault_meets_a_send(adapter: PersistenceAdapter, orders: Engine, fault: Fault) -> None:
    """Over the bare cursor, too: it fires once, and the answer is what the row says."""
    with FaultInjector(adapter) as injector:
        if fault not in injector.faults:
            refused(injector, fault)
            return
        with injector.inject(fault, seconds=0.05) as injected:
            assert not is_observed(adapter.lines.engine)
            try:
                version = adapter.send(KEY, "pay").version
            except ConnectionFailureError as error:
                version = 1 if type(error) is ConnectionFailureError else "unknown"

    assert (injected.fired, stored_order(orders)["version"]) == (1, version)


def test_a_writer_that_is_faster(adapter: PersistenceAdapter, orders: Engine) -> None:
    """An action just before the UPDATE: what it sends over the same adapter is not struck."""
    with (
        FaultInjector(adapter) as injector,
        injector.before("UPDATE", lambda: adapter.send(KEY, "drop")) as before,
        pytest.raises(StaleVersionError),
    ):
        adapter.send(KEY, "pay", expected_version=1)

    assert (before.fired, stored_order(orders)["st"]) == (1, "dropped")


def test_what_an_action_sends_is_not_struck(adapter: PersistenceAdapter, orders: Engine) -> None:
    """A fault and an action at one statement: the action's own write goes through, then the statement is struck."""
    with (
        FaultInjector(adapter) as injector,
        injector.before("UPDATE", lambda: adapter.send(KEY, "drop")) as before,
        injector.inject(Fault.DIE_BEFORE_EXECUTE, dies=True) as death,
        pytest.raises(ProcessDied),
    ):
        adapter.send(KEY, "pay")

    assert (before.fired, death.fired) == (1, 1)
    assert stored_order(orders)["st"] == "dropped"


@pytest.fixture
def lights(orders: Engine) -> Generator[PersistenceAdapter]:
    """Lights with a log, by URL: their transactions begin and end with statements, but on PostgreSQL."""
    light_adapter(orders).create(id=1)
    mapping = MachineMapping(machine=Crossing, entity=Light, log=LightLog)
    with PersistenceAdapter(orders.url, mapping) as adapter:
        yield adapter


def test_the_acknowledgement_of_a_commit_that_is_a_statement(lights: PersistenceAdapter) -> None:
    """Where the adapter sends COMMIT itself, that is what is struck, and not the UPDATE in it."""
    with FaultInjector(lights) as injector, injector.inject(Fault.LOSE_ACKNOWLEDGEMENT) as injected:
        lights.send(1, "step")

    expected = "WITH" if lights.lines.engine.dialect.name == "postgresql" else "COMMIT"
    assert [statement.split()[0] for statement in injected.statements] == [expected]
    assert [entry.version for entry in lights.history(1)] == [1, 2]


@on("sqlite", "mariadb")
def test_a_death_before_a_commit_that_is_a_statement(lights: PersistenceAdapter) -> None:
    """An adapter in AUTOCOMMIT has such a phase where it begins a transaction, if the statement is named."""
    with (
        FaultInjector(lights) as injector,
        injector.inject(Fault.DIE_BEFORE_COMMIT, statement="COMMIT", dies=True) as injected,
        pytest.raises(ProcessDied),
    ):
        lights.send(1, "step")

    assert (injected.statements, lights.load(1).version) == (["COMMIT"], 1)
