"""The fault injector: what cannot be injected is refused, with what to use instead; what did not happen is told."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, select, text
from sqlalchemy.pool import NullPool

from statelatch.engines import open_engine
from statelatch.testing import Fault, FaultInjector, FaultNotFiredError, InjectionError
from statelatch.testing.drivers import DriverConnection
from tests.databases import on
from tests.paying import ORDERS, driver_connection, pay


@pytest.mark.parametrize(
    ("engines", "fault", "told"),
    [
        ("autocommit", Fault.DIE_BEFORE_COMMIT, "AUTOCOMMIT.*use DIE_BEFORE_EXECUTE or LOSE_ACKNOWLEDGEMENT"),
        ("autocommit", Fault.SERIALIZATION_FAILURE, "AUTOCOMMIT.*use LOCK, or inject it into a transactional view"),
        ("rollback journal", Fault.SERIALIZATION_FAILURE, "journal_mode is delete; expected wal"),
    ],
)
@on("sqlite")
def test_a_fault_that_cannot_happen(orders: Engine, engines: str, fault: Fault, told: str) -> None:
    """A phase that the engine never reaches, or an error that this database does not have."""
    engine = open_engine(orders.url, autocommit=engines == "autocommit")
    if engines != "autocommit":
        engine = create_engine(orders.url)
        with engine.connect() as connection:
            orders.dispose()
            connection.execute(text("PRAGMA journal_mode = DELETE"))

    with FaultInjector(engine) as injector:
        assert fault not in injector.faults
        with pytest.raises(InjectionError, match=told):
            injector.inject(fault)
    engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"fault": "earthquake"}, "no such fault: 'earthquake'; expected one of Fault.REFUSE, "),
        ({"fault": Fault.STALL, "seconds": -1}, "STALL: expected seconds ≥ 0, got -1"),
        ({"fault": Fault.LOCK, "seconds": float("nan")}, "LOCK: expected seconds ≥ 0, got nan"),
        ({"fault": Fault.STALL, "skip": -1}, "STALL: expected skip ≥ 0"),
        ({"fault": Fault.STALL, "times": 0}, "times ≥ 1"),
        ({"fault": Fault.STALL, "statement": ""}, "expected the beginning of a statement"),
        ({"fault": Fault.LOCK, "dies": True}, "LOCK cuts no connection: expected dies=True with one of Fault.DIE_BEF"),
    ],
)
@on("sqlite")
def test_arguments_that_make_no_sense(orders: Engine, arguments: dict[str, Any], told: str) -> None:
    """They are refused before anything is sent, with what was expected."""
    with FaultInjector(orders) as injector, pytest.raises(InjectionError, match=re.escape(told)):
        injector.inject(**arguments)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: create_engine("sqlite://"), "in memory"),
        (lambda: create_engine("sqlite://", poolclass=NullPool), "in memory"),
        (lambda: create_engine("sqlite:///x.db", creator=lambda: None), "made by its `creator`"),
        (
            lambda: create_engine("postgresql+psycopg_async://h/d"),
            r"asynchronous engine, of postgresql\+psycopg: expected a synchronous engine of sqlite3",
        ),
        (lambda: "sqlite:///x.db", "expected an Engine or a PersistenceAdapter .*, got 'sqlite:///x.db'"),
    ],
)
def test_an_engine_that_cannot_be_struck(make: Callable[[], Any], told: str) -> None:
    """The injector must be asked for connections, of a driver that it knows, and may cut them."""
    with pytest.raises(InjectionError, match=told):
        FaultInjector(make())


@pytest.mark.parametrize(
    ("url", "argument"), [("sqlite:///x.db", "factory"), ("postgresql+psycopg://127.0.0.1:1/d", "cursor_factory")]
)
def test_a_factory_of_the_user_s_own(url: str, argument: str) -> None:
    """Where the driver's connections are of another class already, the injector says so."""
    with pytest.raises(InjectionError, match=f"`{argument}` of their own"):
        FaultInjector(create_engine(make_url(url), connect_args={argument: object}))


def test_connections_of_another_listener(orders: Engine) -> None:
    """SQLAlchemy takes those of the first listener that returns one; one that changes arguments is no matter."""
    made: list[Any] = []
    event.listen(orders, "do_connect", lambda *asked: made.append(asked))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    with FaultInjector(orders) as injector, injector.inject(Fault.STALL, seconds=0.01):
        pay(orders)

    def connect(dialect: Any, _record: object, arguments: Any, keywords: Any) -> Any:
        return dialect.connect(*arguments, **keywords)

    orders.dispose()
    event.listen(orders, "do_connect", connect)
    with pytest.raises(InjectionError, match="by another's listener to `do_connect`"):
        FaultInjector(orders)
    pay(orders)
    assert len(made) >= 2


def test_an_injector_that_is_closed(orders: Engine) -> None:
    """Nothing can be struck any more, even if others are attached."""
    with FaultInjector(orders), FaultInjector(orders) as injector:
        injector.close()
        with pytest.raises(InjectionError, match="STALL: the injector is closed"), injector.inject(Fault.STALL):
            pass


@on("sqlite")
def test_who_only_reads_is_not_broken_off(orders: Engine) -> None:
    """SQLite goes on with such a statement; so the fault was injected at the wrong one."""
    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.SERIALIZATION_FAILURE, statement="SELECT"),
        orders.connect() as connection,
        pytest.raises(InjectionError, match="inject it at a statement that writes"),
    ):
        connection.execute(select(ORDERS))


@on("postgresql", "mariadb")
def test_a_lock_of_no_table(orders: Engine) -> None:
    """A statement that names none has nothing to wait for."""
    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.LOCK, statement="SELECT"),
        orders.connect() as connection,
        pytest.raises(InjectionError, match=r"^LOCK: expected a statement that names the table"),
    ):
        connection.execute(text("SELECT 1"))


@on("sqlite")
def test_a_fault_that_never_fired(orders: Engine) -> None:
    """The test fails, and is told what was sent instead; a fault that was is told in its `statements`."""
    with (
        FaultInjector(orders) as injector,
        pytest.raises(FaultNotFiredError, match=r"STALL never fired.*'DELETE'.*\n  UPDATE orders SET"),
        injector.inject(Fault.STALL, statement="DELETE"),
    ):
        pay(orders)


def test_the_drivers_connections_are_what_the_injector_asks_for(orders: Engine) -> None:
    """Each has what `DriverConnection` says."""
    with FaultInjector(orders):
        wanted = {name for name in vars(DriverConnection) if not name.startswith("_")}
        assert [name for name in wanted if not hasattr(driver_connection(orders), name)] == []
