"""The fault table, PostgreSQL: each of its errors that can be had here, and what becomes of the transition.

Most are real. Where the server cannot be brought to an error, a trigger raises it on the UPDATE: the tests that do so
say it in their names. `docs/faults.md` lists the rows and the tests.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from statelatch import ConnectionFailureError, PersistenceAdapter, StaleVersionError
from statelatch.errors import Phase
from tests.databases import administrator, fresh_database, pooled
from tests.heard import WAYS, Heard
from tests.orders import KEY, Order, order_adapter, stored_order
from tests.runs import eventually, meanwhile
from tests.servers import Server

on_own_server = pytest.mark.parametrize("killable_server", ["postgresql"], indirect=True)


@pytest.fixture
def url(postgresql_server: Engine) -> Generator[URL]:
    """A database with two drafts, of which the first may be paid."""
    with fresh_database(postgresql_server) as url:
        with pooled(url) as engine:
            adapter = order_adapter(engine)
            adapter.create(tenant="acme", number=7, paid=True)
            adapter.create(tenant="acme", number=8)
        yield url


@contextmanager
def opened(url: URL, way: str = "transaction", options: str = "") -> Generator[tuple[PersistenceAdapter, Heard]]:
    """An adapter on an engine of this way, and what is heard of it."""
    engine = WAYS[way](url.update_query_dict({"options": options}) if options else url)
    try:
        yield order_adapter(engine), Heard(engine)
    finally:
        engine.dispose()


@contextmanager
def holding(url: URL, number: int = 7) -> Generator[Connection]:
    """Have another session hold a row, as an open transaction that has changed it; roll back in the end."""
    with pooled(url) as engine, engine.connect() as connection:
        connection.execute(text("UPDATE orders SET note = 'held' WHERE number = :number"), {"number": number})
        yield connection
        connection.rollback()


def waiting(server: Engine) -> list[int]:
    """The sessions that wait for a lock."""
    with server.connect() as connection:
        return list(connection.scalars(text("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))


def row(url: URL) -> dict[str, Any]:
    """The row as somebody else sees it."""
    with pooled(url) as engine:
        return stored_order(engine)


def admit(server: Engine, statement: str, url: URL) -> None:
    """Have the administrator say something about the test's role."""
    with server.connect() as connection:
        connection.exec_driver_sql(statement.format(url.username))


# -- other transactions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("moved", [False, True])
def test_serialization_failure(url: URL, postgresql_server: Engine, level: Any, moved: bool) -> None:
    """40001: another changed the row first: begun anew, and applied unless the row has another version by then."""
    engine = create_engine(url, isolation_level=level)
    adapter, heard = order_adapter(engine), Heard(engine)
    with holding(url) as other:
        if moved:
            other.execute(text("UPDATE orders SET version = version + 1 WHERE number = 7"))
        sent = meanwhile(lambda: adapter.send(KEY, "pay", expected_version=1))
        assert eventually(lambda: waiting(postgresql_server) != [])
        other.commit()
        answer = sent.exception(20) or sent.result()

    assert heard.codes == {"40001": 1}
    assert isinstance(answer, StaleVersionError) == moved
    assert row(url)["version"] == 2
    engine.dispose()


def test_deadlock(url: URL, postgresql_server: Engine) -> None:
    """40P01: two transactions wait for each other; the one that is broken off begins anew, and moves all its rows."""
    as_administrator = postgresql_server.url.update_query_dict({"options": f"-c search_path={url.username}"})
    impatient = f"-c search_path={url.username} -c deadlock_timeout=200ms"
    patient = as_administrator.update_query_dict({"options": f"-c search_path={url.username} -c deadlock_timeout=20s"})
    with opened(as_administrator, options=impatient) as (adapter, heard), holding(patient, number=8) as other:
        sent = meanwhile(lambda: adapter.send_where("drop", Order.tenant == "acme"))
        assert eventually(lambda: waiting(postgresql_server) != [])
        other.execute(text("UPDATE orders SET note = 'held' WHERE number = 7"))
        other.rollback()

        assert (sent.result(20).count, heard.codes) == (2, {"40P01": 1})


@pytest.mark.parametrize(
    ("options", "code"), [("-c lock_timeout=20ms", "55P03"), ("-c statement_timeout=20ms", "57014")]
)
def test_a_limit_of_time(url: URL, way: str, options: str, code: str) -> None:
    """55P03 and 57014: the row is locked for longer than the server lets wait; given up after three tries."""
    with opened(url, way, options) as (adapter, heard):
        with holding(url), pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert (type(caught.value), heard.codes) == (ConnectionFailureError, {code: 3})
        assert row(url)["version"] == 1
        assert adapter.send(KEY, "pay").version == 2


# -- sessions that are ended ----------------------------------------------------------------------------------


def test_cancelled(url: URL, way: str, postgresql_server: Engine) -> None:
    """57014: somebody cancels the UPDATE; tried again, it is applied."""
    with opened(url, way) as (adapter, heard), holding(url) as other:
        sent = meanwhile(lambda: adapter.send(KEY, "pay"))
        assert eventually(lambda: waiting(postgresql_server) != [])
        admit(postgresql_server, f"SELECT pg_cancel_backend({waiting(postgresql_server)[0]})", url)
        assert eventually(lambda: bool(heard.codes))
        other.rollback()

        assert (sent.result(20).version, heard.codes) == (2, {"57014": 1})


def test_terminated(url: URL, way: str, postgresql_server: Engine) -> None:
    """57P01: the session is ended in the middle of the UPDATE: a failure, or in AUTOCOMMIT verified and applied."""
    with opened(url, way) as (adapter, heard), holding(url) as other:
        sent = meanwhile(lambda: adapter.send(KEY, "pay"))
        assert eventually(lambda: waiting(postgresql_server) != [])
        admit(postgresql_server, f"SELECT pg_terminate_backend({waiting(postgresql_server)[0]})", url)
        assert eventually(lambda: bool(heard.codes))
        other.rollback()
        failure = sent.exception(20)

    assert heard.codes == {"57P01": 1}
    if way == "transaction":
        assert isinstance(failure, ConnectionFailureError)
        assert (type(failure), failure.phase) == (ConnectionFailureError, Phase.EXECUTE)
    assert row(url)["version"] == (1 if way == "transaction" else 2)


@on_own_server
def test_crash_of_another_session(killable_server: Server) -> None:
    """57P02 is a warning only: the client finds that nobody is there, and that has no SQLSTATE."""
    with administrator(killable_server.url) as server, fresh_database(server) as url, pooled(url) as engine:
        adapter, heard = order_adapter(engine), Heard(engine)
        adapter.create(tenant="acme", number=7, paid=True)
        with engine.connect() as connection:
            connection.execute(text("UPDATE orders SET note = 'held'"))
            sent = meanwhile(lambda: adapter.send(KEY, "pay"))
            assert eventually(lambda: waiting(server) != [])
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            (victim,) = (each for each in killable_server.processes() if each.pid == pid)
            victim.kill()
            failure = sent.exception(20)
            connection.invalidate()
        server.dispose()

        assert isinstance(failure, ConnectionFailureError)
        assert (type(failure), failure.phase, heard.codes) == (
            ConnectionFailureError,
            Phase.EXECUTE,
            {"OperationalError": 1},
        )
        assert eventually(lambda: adapter_answers(adapter))
        assert adapter.send(KEY, "pay").version == 2


def adapter_answers(adapter: PersistenceAdapter) -> bool:
    """Whether the server has recovered."""
    try:
        return adapter.load(KEY).version == 1
    except ConnectionFailureError:
        return False


@on_own_server
def test_shutting_down(killable_server: Server) -> None:
    """57P03: a server that waits for its sessions to end lets nobody in; psycopg has no SQLSTATE for that."""
    with administrator(killable_server.url) as server, fresh_database(server) as url, pooled(url) as engine:
        mapping = order_adapter(engine).mapping
        with engine.connect() as connection, pooled(url) as newcomer:
            connection.execute(text("SELECT 1"))
            heard = Heard(newcomer)
            killable_server.processes()[0].send_signal(signal.SIGTERM)
            assert eventually(lambda: not_let_in(url))
            with pytest.raises(ConnectionFailureError) as caught:
                PersistenceAdapter(newcomer, mapping).send(KEY, "pay")
            connection.invalidate()
        server.dispose()
        killable_server.kill()
        killable_server.start()

    assert (type(caught.value), caught.value.phase, heard.codes) == (
        ConnectionFailureError,
        Phase.CONNECT,
        {"OperationalError": 1},
    )


def not_let_in(url: URL) -> bool:
    """Whether a new session is refused."""
    with pooled(url) as engine:
        try:
            engine.connect().close()
        except DBAPIError:
            return True
    return False


# -- what the server does not allow ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [("CONNECTION LIMIT 1", "CONNECTION LIMIT -1"), ("NOLOGIN", "LOGIN")], ids=["53300", "28000"]
)
def test_not_let_in(url: URL, way: str, postgresql_server: Engine, before: str, after: str) -> None:
    """53300 and 28000 when connecting, for which psycopg has no SQLSTATE: a failure in phase `connect`."""
    with pooled(url) as other, other.connect(), opened(url, way) as (adapter, heard):
        adapter.engine.dispose()
        admit(postgresql_server, f"ALTER ROLE {{}} {before}", url)
        with pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")
        admit(postgresql_server, f"ALTER ROLE {{}} {after}", url)

        assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.CONNECT)
        assert heard.codes == {"OperationalError": 1}
        assert adapter.send(KEY, "pay").version == 2


def test_read_only(url: URL, way: str, postgresql_server: Engine) -> None:
    """25006: once more on a new connection, then the driver's error as it is."""
    admit(postgresql_server, "ALTER ROLE {} SET default_transaction_read_only = on", url)
    with opened(url, way) as (adapter, heard), pytest.raises(DBAPIError):
        adapter.send(KEY, "pay")

    assert heard.codes == {"25006": 2}
    admit(postgresql_server, "ALTER ROLE {} RESET default_transaction_read_only", url)
    assert row(url)["version"] == 1


def test_read_only_no_longer(url: URL, way: str, postgresql_server: Engine) -> None:
    """25006, and the new connection leads to a database that takes writes: applied."""
    admit(postgresql_server, "ALTER ROLE {} SET default_transaction_read_only = on", url)
    with opened(url, way) as (adapter, heard):

        def promote(_: str) -> None:
            admit(postgresql_server, "ALTER ROLE {} RESET default_transaction_read_only", url)

        heard.then = promote

        assert (adapter.send(KEY, "pay").version, heard.codes) == (2, {"25006": 1})


def test_a_transaction_that_has_failed(url: URL) -> None:
    """25P02: a listener's own statement failed in the transaction, and it went on: the driver's error as it is."""
    with opened(url) as (adapter, heard):

        @event.listens_for(adapter.engine, "begin")
        def beginning(connection: Connection) -> None:
            driver: Any = connection.connection.dbapi_connection
            with pytest.raises(Exception, match="division by zero"):
                driver.execute("SELECT 1 / 0")

        with pytest.raises(DBAPIError):
            adapter.send(KEY, "pay")

    assert (heard.codes, row(url)["version"]) == ({"25P02": 1}, 1)


@pytest.mark.parametrize(
    ("statement", "code"),
    [("ALTER TABLE orders RENAME TO others", "42P01"), ("ALTER TABLE orders RENAME paid TO payed", "42703")],
)
def test_another_schema(url: URL, way: str, statement: str, code: str) -> None:
    """42P01 and 42703: no such table or column; the driver's error as it is, at once."""
    with opened(url, way) as (adapter, heard):
        with pooled(url) as other, other.begin() as connection:
            connection.exec_driver_sql(statement)
        with pytest.raises(DBAPIError):
            adapter.send(KEY, "pay")

    assert heard.codes == {code: 1}


# -- second best: raised by a trigger -------------------------------------------------------------------------

TRIGGER = """
CREATE SEQUENCE strikes;
CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('strikes') <= {times} THEN RAISE EXCEPTION 'struck' USING ERRCODE = '{code}'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER strike BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION strike()
"""


def struck(url: URL, code: str, times: int) -> None:
    """Let the next UPDATEs raise this error, so many times."""
    with pooled(url) as engine, engine.begin() as connection:
        connection.exec_driver_sql(TRIGGER.format(code=code, times=times))


RESOURCES = ["53000", "53100", "53200", "53300", "53400"]
LOST = ["08000", "08003", "08006", "08P01", "57P01", "57P02", "57P03", "57P05"]


@pytest.mark.parametrize("code", RESOURCES)
def test_resources_by_trigger(url: URL, way: str, code: str) -> None:
    """Class 53: three tries with a pause between them, then a connection failure; nothing is written."""
    struck(url, code, times=3)
    with opened(url, way) as (adapter, heard):
        with pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert (type(caught.value), heard.codes, row(url)["version"]) == (ConnectionFailureError, {code: 3}, 1)
        assert adapter.send(KEY, "pay").version == 2


@pytest.mark.parametrize("code", LOST)
def test_lost_by_trigger(url: URL, way: str, code: str) -> None:
    """Classes 08 and 57P: a failure in phase `execute`; in AUTOCOMMIT verified, and applied once."""
    struck(url, code, times=1)
    with opened(url, way) as (adapter, heard):
        if way == "transaction":
            with pytest.raises(ConnectionFailureError) as caught:
                adapter.send(KEY, "pay")
            assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
            assert row(url)["version"] == 1

        assert (adapter.send(KEY, "pay").version, heard.codes) == (2, {code: 1})


@pytest.mark.parametrize("code", ["40003", "08007"])
def test_ambiguous_by_trigger(url: URL, way: str, code: str) -> None:
    """40003 and 08007 say that nobody knows: verified in any phase, and applied once."""
    struck(url, code, times=1)
    with opened(url, way) as (adapter, heard):
        assert (adapter.send(KEY, "pay").version, heard.codes) == (2, {code: 1})
