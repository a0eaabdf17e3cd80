"""The fault injector: who is struck and who is not, what its locks hold, and that it leaves no trace."""

import socket
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from statelatch import PersistenceAdapter
from statelatch.engines import reconnected
from statelatch.testing import Fault, FaultInjector, InjectionError, ProcessDied
from tests.databases import on
from tests.orders import KEY, Order, order_adapter, stored_order
from tests.paying import ORDERS, PAY, code_of, driver_connection, pay

ENGINES = ["transaction", "autocommit"]


@pytest.fixture(params=ENGINES)
def struck(request: pytest.FixtureRequest, orders: Engine) -> Generator[Engine]:
    """The engine that the faults are for."""
    options = {"isolation_level": "AUTOCOMMIT"} if request.param == "autocommit" else {}
    engine = create_engine(orders.url, **options)
    yield engine
    engine.dispose()


@on("sqlite")
def test_a_session_of_the_orm(orders: Engine) -> None:
    """A commit of the ORM's is a commit."""
    with FaultInjector(orders) as injector, Session(orders) as session:
        order = session.scalars(select(Order)).one()
        order.note = "hello"
        with injector.inject(Fault.LOSE_ACKNOWLEDGEMENT) as injected, pytest.raises(DBAPIError):
            session.commit()

    assert (injected.fired, stored_order(orders)["note"]) == (1, "hello")


@on("postgresql", "mariadb")
def test_rows_that_stay_on_the_server(orders: Engine) -> None:
    """A cursor of the server's is struck like any other."""
    with (
        FaultInjector(orders) as injector,
        orders.connect().execution_options(yield_per=1) as connection,
        injector.inject(Fault.DIE_BEFORE_EXECUTE, statement="SELECT") as injected,
        pytest.raises(DBAPIError),
    ):
        connection.execute(select(ORDERS))

    assert injected.fired == 1


def test_many_parameters_are_one_statement(orders: Engine) -> None:
    """What a driver sends for a list of parameters is struck once, at its beginning."""
    statement, rows = text("UPDATE orders SET version = :version"), [{"version": number} for number in (5, 6, 7)]

    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.DIE_BEFORE_EXECUTE, times=1) as injected,
        pytest.raises(DBAPIError),
        orders.begin() as connection,
    ):
        connection.execute(statement, rows)

    assert (injected.fired, stored_order(orders)["version"]) == (1, 1)


@pytest.mark.parametrize(("end", "skip"), [("rollback", 0), ("commit", 1)])
def test_the_end_of_a_transaction_forgets_what_was_sent(orders: Engine, end: str, skip: int) -> None:
    """The COMMIT of the next transaction, which only reads, is not that of the one before."""
    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, skip=skip, must_fire=False) as injected,
        orders.connect() as connection,
    ):
        connection.execute(PAY)
        getattr(connection, end)()
        connection.execute(select(ORDERS))
        connection.commit()

    assert injected.fired == 0


READING: list[Any] = ["BEGIN", select(ORDERS), "COMMIT"]


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT"])
def test_transactions_of_statements(orders: Engine, end: str) -> None:
    """In AUTOCOMMIT too: what was durable by itself, or ended with a statement, does not belong to the next COMMIT."""
    engine = create_engine(orders.url, isolation_level="AUTOCOMMIT")
    with (
        FaultInjector(engine) as injector,
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, skip=2, must_fire=False) as injected,
        engine.connect() as connection,
    ):
        connection.execute(PAY)  # passes for the first
        for statement in (*READING, "BEGIN", PAY, end, *READING):
            connection.execute(text(statement) if isinstance(statement, str) else statement)
        assert injected.fired == 0
        if end == "ROLLBACK":
            connection.execute(PAY)  # for the second
        with pytest.raises(DBAPIError):
            connection.execute(PAY)
    engine.dispose()

    assert injected.fired == 1


def test_reconnections_are_struck_and_others_are_not(struck: Engine, orders: Engine) -> None:
    """Who shares the dialect, shares the faults; an engine of its own on the same database does not."""
    anew = reconnected(struck)
    with FaultInjector(struck) as injector, injector.inject(Fault.DIE_BEFORE_EXECUTE) as injected:
        pay(orders)
        with pytest.raises(DBAPIError):
            pay(anew)
    anew.dispose()

    assert injected.fired == 1


def test_the_engine_is_left_as_it_was(struck: Engine) -> None:
    """Pooled connections are dropped at the beginning and at the end: neither a missed fault nor a trace is left."""
    before = driver_connection(struck)
    with FaultInjector(struck) as injector:
        during = driver_connection(struck)
        injector.close()
        after = driver_connection(struck)

    assert hasattr(during, "watch")
    assert type(before) is type(after) is not type(during)


@on("sqlite")
def test_kept_lines_are_dropped(orders: Engine) -> None:
    """A connection that an adapter keeps at hand was made before: the first statement is struck all the same."""
    with PersistenceAdapter(orders.url, order_adapter(orders).mapping) as adapter:
        adapter.load(KEY)
        adapter.send(KEY, "pay")  # over a cursor, which is kept: SQLAlchemy has been asked before
        with (
            FaultInjector(adapter) as injector,
            injector.inject(Fault.DIE_BEFORE_EXECUTE, dies=True),
            pytest.raises(ProcessDied),
        ):
            adapter.send(KEY, "drop")


def test_threads_share_an_injector(orders: Engine) -> None:
    """As many are struck as were asked for, whoever comes; the other writes are all there."""

    def try_to_pay(_: int) -> bool:
        try:
            pay(orders)
        except DBAPIError:
            return False
        return True

    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.DIE_AFTER_EXECUTE, skip=5, times=3) as injected,
        ThreadPoolExecutor(8) as threads,
    ):
        paid = sum(threads.map(try_to_pay, range(40)))

    assert (injected.fired, paid, stored_order(orders)["version"]) == (3, 37, 38)


# -- locks and silence --------------------------------------------------------------------------------------------

IMPATIENT = {
    "sqlite": "PRAGMA busy_timeout = 50",
    "postgresql": "SET lock_timeout = '50ms'",
    "mariadb": "SET innodb_lock_wait_timeout = 1",
}
LOCKED = {"sqlite": "SQLITE_BUSY", "postgresql": "55P03", "mariadb": 1205}


def test_a_lock_that_outlasts_the_patience(orders: Engine) -> None:
    """Another connection really holds it: the database says so; it ends with the `with`, not a minute later."""

    @event.listens_for(orders, "connect")
    def connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(IMPATIENT[orders.dialect.name])
        cursor.close()
        connection.commit()

    with FaultInjector(orders) as injector:
        with injector.inject(Fault.LOCK, seconds=60) as injected, pytest.raises(DBAPIError) as caught:
            pay(orders)
        pay(orders)

    assert (injected.fired, code_of(caught.value)) == (1, LOCKED[orders.dialect.name])
    assert stored_order(orders)["version"] == 2


@pytest.mark.parametrize("statement", ["INSERT", "SELECT"])
@on("postgresql", "mariadb")
def test_a_lock_meets_other_statements(orders: Engine, statement: str) -> None:
    """An INSERT waits, and so does a SELECT … FOR UPDATE."""
    new = ORDERS.insert().values(tenant_id="b", number=1, st="draft", version=1, amount=0, visits=0)
    sent = {"INSERT": new, "SELECT": select(ORDERS).with_for_update()}[statement]

    began = time.monotonic()
    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.LOCK, statement=statement, seconds=0.2) as injected,
        orders.begin() as connection,
    ):
        connection.execute(sent)

    assert (injected.fired, time.monotonic() - began >= 0.2) == (1, True)


@on("sqlite")
def test_a_lock_that_its_own_transaction_holds(orders: Engine) -> None:
    """A lock that cannot be had is an error of the test's, soon, however patient its own connections are."""
    began = time.monotonic()
    with FaultInjector(orders) as injector, orders.begin() as connection:
        connection.execute(PAY)
        with injector.inject(Fault.LOCK), pytest.raises(InjectionError, match="inject it at the first"):
            connection.execute(PAY)

    assert time.monotonic() - began < 4


@on("postgresql", "mariadb")
def test_a_stall_ends_with_the_socket(orders: Engine) -> None:
    """Who loses patience with a silent peer and shuts the socket, need not wait for its end."""
    with FaultInjector(orders) as injector, orders.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        peer = driver.fileno() if orders.dialect.name == "postgresql" else driver._sock.fileno()

        def shut() -> None:
            with socket.socket(fileno=socket.dup(peer)) as shared:
                shared.shutdown(socket.SHUT_RDWR)

        watchdog, began = threading.Timer(0.1, shut), time.monotonic()
        watchdog.start()
        with injector.inject(Fault.STALL, seconds=20) as injected, pytest.raises(DBAPIError):
            connection.execute(PAY)
        watchdog.join()

    assert (injected.fired, time.monotonic() - began < 10) == (1, True)
