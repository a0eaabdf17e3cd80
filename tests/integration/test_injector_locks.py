"""The fault injector: what its locks hold, and how long silence lasts."""

import socket
import sys
import threading
import time
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError

from statelatch.testing import Fault, FaultInjector, InjectionError
from tests.databases import on
from tests.orders import stored_order
from tests.paying import ORDERS, PAY, code_of, pay

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


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has no autocommit before")
@pytest.mark.parametrize("autocommit", [True, False])
@on("sqlite")
def test_a_lock_where_the_driver_begins_transactions(orders: Engine, autocommit: bool) -> None:
    """A connection of sqlite3 that is always in a transaction can lock the file, too."""
    engine = create_engine(orders.url, connect_args={"autocommit": autocommit})
    with FaultInjector(engine) as injector, injector.inject(Fault.LOCK, seconds=0.1) as injected:
        began = time.monotonic()
        pay(engine)
    engine.dispose()

    assert (injected.fired, time.monotonic() - began >= 0.1) == (1, True)


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


@on("postgresql")
def test_a_stall_is_not_ended_by_what_the_server_says(orders: Engine) -> None:
    """A NOTIFY that was not asked for is no answer, and no end of the connection."""
    channel = orders.url.username
    with FaultInjector(orders) as injector, orders.connect() as connection:
        connection.execute(text(f"LISTEN {channel}"))
        connection.commit()
        with orders.begin() as another:
            another.execute(text(f"NOTIFY {channel}"))

        began = time.monotonic()
        with injector.inject(Fault.STALL, seconds=0.2) as injected:
            connection.execute(PAY)

    assert (injected.fired, time.monotonic() - began >= 0.2) == (1, True)


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
