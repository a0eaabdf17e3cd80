"""The fault injector: who is struck and who is not, and that it leaves no trace."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg import OperationalError
from psycopg.sql import SQL, Composable, Identifier
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from statelatch import PersistenceAdapter
from statelatch.engines import reconnected
from statelatch.testing import Fault, FaultInjector, ProcessDied
from tests.databases import on
from tests.orders import KEY, Order, order_adapter, stored_order
from tests.paying import ORDERS, PAY, driver_connection, pay

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


WRITE = SQL("UPDATE {} SET version = 9").format(Identifier("orders"))


@pytest.mark.parametrize("query", [SQL("UPDATE orders SET version = 9"), WRITE])
@on("postgresql")
def test_a_statement_that_is_composed(orders: Engine, query: Composable) -> None:
    """It is struck by the text that psycopg makes of it."""
    with (
        FaultInjector(orders) as injector,
        orders.connect() as connection,
        injector.inject(Fault.DIE_BEFORE_EXECUTE, statement="UPDATE") as injected,
    ):
        driver: Any = connection.connection.dbapi_connection
        with pytest.raises(OperationalError):
            driver.execute(query)

    assert (injected.fired, stored_order(orders)["version"]) == (1, 1)


@on("mariadb")
def test_an_answer_that_is_read_row_by_row(orders: Engine) -> None:
    """A statement whose rows stay on the server is carried out, too, before its answer is lost."""
    engine = create_engine(orders.url, isolation_level="AUTOCOMMIT")
    rows, many = 20_000, "INSERT INTO many SELECT seq FROM seq_1_to_{} RETURNING n, repeat('x', 200)"
    with orders.connect() as connection:
        connection.execute(text("CREATE TABLE many (n INT PRIMARY KEY)"))
    with (
        FaultInjector(engine) as injector,
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, statement="INSERT") as injected,
        engine.connect().execution_options(stream_results=True) as connection,
        pytest.raises(DBAPIError),
    ):
        connection.exec_driver_sql(many.format(rows))
    engine.dispose()

    with orders.connect() as connection:
        assert (injected.fired, connection.scalar(text("SELECT count(*) FROM many"))) == (1, rows)


@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE_EXECUTE, Fault.DIE_AFTER_EXECUTE, Fault.STALL])
@on("mariadb")
def test_a_connection_that_is_gone_already(orders: Engine, fault: Fault) -> None:
    """The driver says so itself, as it would without a fault."""
    with (
        FaultInjector(orders) as injector,
        orders.connect() as connection,
        injector.inject(fault, seconds=60) as injected,
    ):
        driver: Any = connection.connection.dbapi_connection
        driver._force_close()
        with pytest.raises(DBAPIError, match="InterfaceError"):
            connection.execute(PAY)

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


@pytest.mark.parametrize("end", ["ROLLBACK", "rollback;", "COMMIT"])
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
        if end != "COMMIT":
            connection.execute(PAY)  # for the second
        with pytest.raises(DBAPIError):
            connection.execute(PAY)
    engine.dispose()

    assert injected.fired == 1


def test_only_a_commit_reads_what_was_sent(orders: Engine) -> None:
    """A transaction of many statements takes no longer than without an injector."""

    class Unread(list[str]):
        """What nobody reads."""

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("it was read")

    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, must_fire=False),
        orders.connect() as connection,
    ):
        driver: Any = connection.connection.dbapi_connection
        driver.sent = Unread()
        for _ in range(3):
            connection.execute(PAY)

        assert len(driver.sent) == 3


@on("sqlite")
def test_transactions_that_listeners_begin(orders: Engine) -> None:
    """SQLAlchemy's recipe for SQLite: the driver is in AUTOCOMMIT, the engine is not."""
    event.listen(orders, "connect", lambda connection, _: setattr(connection, "isolation_level", None))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    event.listen(orders, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType, reportUnknownMemberType]
    orders.dispose()
    with FaultInjector(orders) as injector:
        assert set(injector.faults) == set(Fault)
        for fault in (Fault.DIE_BEFORE_COMMIT, Fault.SERIALIZATION_FAILURE):
            with injector.inject(fault) as injected, pytest.raises(DBAPIError):
                pay(orders)
            assert (injected.fired, stored_order(orders)["version"]) == (1, 1)


def test_a_transactional_view(orders: Engine) -> None:
    """An injector that is given the view knows its transactions, whatever the engine does."""
    engine = create_engine(orders.url, isolation_level="AUTOCOMMIT")
    view = engine.execution_options(isolation_level="SERIALIZABLE")
    with (
        FaultInjector(view) as injector,
        injector.inject(Fault.DIE_BEFORE_COMMIT) as injected,
        pytest.raises(DBAPIError),
    ):
        pay(view)
    engine.dispose()

    assert (injected.fired, stored_order(orders)["version"]) == (1, 1)


@pytest.mark.parametrize("number", [0, 1])
def test_an_engine_has_several_injectors(struck: Engine, orders: Engine, number: int) -> None:
    """Each strikes; one that is closed leaves the others what is theirs."""
    with FaultInjector(struck) as one, FaultInjector(struck) as another, FaultInjector(struck) as third:
        third.close()
        with (one, another)[number].inject(Fault.DIE_BEFORE_EXECUTE) as injected, pytest.raises(DBAPIError):
            pay(struck)

    assert (injected.fired, stored_order(orders)["version"]) == (1, 1)
    assert not hasattr(driver_connection(struck), "watch")


def test_an_injector_that_comes_while_connections_are_refused(orders: Engine) -> None:
    """What it asks for itself is no attempt of the test's, and leaves the test no connection."""
    with (
        FaultInjector(orders) as injector,
        injector.inject(Fault.REFUSE) as refused,
        FaultInjector(orders),
        pytest.raises(DBAPIError),
    ):
        pay(orders)

    assert (refused.fired, stored_order(orders)["version"]) == (1, 1)


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
