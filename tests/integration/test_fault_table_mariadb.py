"""The fault table, MariaDB: each of its errors that can be had here, and what becomes of the transition.

Most are real. Where the server cannot be brought to an error, a trigger signals it on the UPDATE: the tests that do so
say it in their names. `docs/faults.md` lists the rows and the tests.
"""

from __future__ import annotations

import secrets
import socket
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from statelatch import ConnectionFailureError, MachineMapping, PersistenceAdapter, StaleVersionError
from statelatch.errors import Phase
from tests.databases import administrator, fresh_database, pooled
from tests.heard import WAYS, Heard
from tests.orders import KEY, Order, order_adapter, stored_order
from tests.runs import eventually, meanwhile
from tests.servers import Server

on_own_server = pytest.mark.parametrize("killable_server", ["mariadb"], indirect=True)


@pytest.fixture
def url(mariadb_server: Engine) -> Generator[URL]:
    """A database with two drafts, of which the first may be paid."""
    with fresh_database(mariadb_server) as url:
        filled(url)
        yield url


def filled(url: URL) -> None:
    """Make the two drafts."""
    with pooled(url) as engine:
        adapter = order_adapter(engine)
        adapter.create(tenant="acme", number=7, paid=True)
        adapter.create(tenant="acme", number=8)


@contextmanager
def opened(url: URL, way: str = "transaction", setting: str = "") -> Generator[tuple[PersistenceAdapter, Heard]]:
    """An adapter on an engine of this way, with a setting of its sessions, and what is heard of it."""
    engine = WAYS[way](url.update_query_dict({"init_command": f"SET {setting}"}) if setting else url)
    try:
        adapter = order_adapter(engine)
        adapter.create(tenant="other", number=1)
        adapter.send(("other", 1), "drop")  # now the adapter knows the database's time, and sends one statement
        yield adapter, Heard(engine)
    finally:
        engine.dispose()


WRITE = (
    "INSERT INTO orders (tenant_id, number, st, version, amount, visits) VALUES ('other', :number, 'draft', 1, 0, 0)"
)
CHANGE = "UPDATE orders SET note = 'held' WHERE tenant_id = 'acme' AND number = :number"


@contextmanager
def holding(url: URL, number: int = 7) -> Generator[Connection]:
    """Have another session hold a row, as an open transaction that has changed it; roll back in the end."""
    with pooled(url) as engine, engine.connect() as connection:
        connection.execute(
            text("UPDATE orders SET note = 'held' WHERE tenant_id = 'acme' AND number = :number"), {"number": number}
        )
        yield connection
        connection.rollback()


WAITING = """
SELECT id FROM information_schema.processlist
WHERE db = :name AND command = 'Query' AND info LIKE 'UPDATE%' AND time_ms > 100
"""


def waiting(server: Engine, url: URL) -> list[int]:
    """The sessions of this database that wait for a lock; what InnoDB itself tells is old while others ask, too."""
    with server.connect() as connection:
        return list(connection.scalars(text(WAITING), {"name": url.database}))


def kill_waiting(server: Engine, url: URL, what: str, heard: Heard) -> None:
    """Kill what waits for a lock."""
    assert eventually(lambda: waiting(server, url) != [])
    order(server, *(f"KILL {what} {session}" for session in waiting(server, url)))
    assert eventually(lambda: bool(heard.codes))


def row(url: URL) -> dict[str, Any]:
    """The row as somebody else sees it."""
    with pooled(url) as engine:
        return stored_order(engine)


def order(server: Engine, *statements: str) -> None:
    """Have the administrator say something."""
    with server.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@contextmanager
def user(server: Engine, url: URL, terms: str = "", grants: str = "ALL") -> Generator[URL]:
    """The same database as a user of the test's own sees it, on these terms."""
    name = f"u{secrets.token_hex(6)}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE USER '{name}'@'%%' {terms}")
        if grants:
            connection.exec_driver_sql(f"GRANT {grants} ON {url.database}.* TO '{name}'@'%%'")
        try:
            yield url.set(username=name)
        finally:
            connection.exec_driver_sql(f"DROP USER '{name}'@'%%'")


def refused(engine: Engine, mapping: MachineMapping) -> Counter[str]:
    """What is heard of a `send` that raises the driver's error as it is."""
    heard = Heard(engine)
    with pytest.raises(DBAPIError):
        PersistenceAdapter(engine, mapping).send(KEY, "pay")
    engine.dispose()
    return heard.codes


# -- other transactions ---------------------------------------------------------------------------------------


def test_lock_wait(url: URL, way: str) -> None:
    """1205: only the statement was undone; rolled back, and given up after three tries; nothing stays locked."""
    with opened(url, way, "innodb_lock_wait_timeout = 0") as (adapter, heard):
        with holding(url), pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert (type(caught.value), heard.codes) == (ConnectionFailureError, {"1205": 3})
        assert row(url)["version"] == 1
        assert adapter.send(KEY, "pay").version == 2


def test_deadlock(url: URL, mariadb_server: Engine) -> None:
    """1213: two transactions wait for each other; the one that is broken off begins anew, and moves all its rows."""
    with opened(url) as (adapter, heard), holding(url, number=8) as other:
        written = [{"number": number} for number in range(50, 99)]
        other.execute(text(WRITE), written)  # who has written more is spared
        sent = meanwhile(lambda: adapter.send_where("drop", Order.tenant == "acme"))
        assert eventually(lambda: waiting(mariadb_server, url) != [])
        other.execute(text(CHANGE), {"number": 7})
        other.rollback()

        assert (sent.result(20).count, heard.codes) == (2, {"1213": 1})


@pytest.mark.parametrize("moved", [False, True])
def test_record_has_changed(url: URL, moved: bool) -> None:
    """1020, where a snapshot may not write over newer rows: begun anew; stale if the version is another by then."""
    with opened(url, setting="innodb_snapshot_isolation = ON") as (adapter, heard), pooled(url) as other:
        seen: list[int] = []

        @event.listens_for(adapter.engine, "begin")
        def beginning(connection: Connection) -> None:
            driver: Any = connection.connection.dbapi_connection
            if not seen:
                cursor = driver.cursor()
                cursor.execute("SELECT version FROM orders WHERE number = 7")
                seen.extend(cursor.fetchone())
                with other.begin() as elsewhere:
                    change = "version = version + 1" if moved else "note = 'other'"
                    elsewhere.execute(text(f"UPDATE orders SET {change} WHERE number = 7"))

        answer = meanwhile(lambda: adapter.send(KEY, "pay", expected_version=1))
        failure = answer.exception(20)

    assert (seen, heard.codes) == ([1], {"1020": 1})
    assert isinstance(failure, StaleVersionError) == moved
    assert row(url)["version"] == 2


def test_limit_of_time(url: URL, way: str) -> None:
    """1969: the statement takes longer than it may; given up after three tries."""
    with opened(url, way, "max_statement_time = 0.05") as (adapter, heard):
        with holding(url), pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert (type(caught.value), heard.codes) == (ConnectionFailureError, {"1969": 3})
        assert row(url)["version"] == 1


# -- sessions that are ended ----------------------------------------------------------------------------------


def test_interrupted(url: URL, way: str, mariadb_server: Engine) -> None:
    """1317: somebody kills the UPDATE, not the session; tried again, it is applied."""
    with opened(url, way) as (adapter, heard), holding(url) as other:
        sent = meanwhile(lambda: adapter.send(KEY, "pay"))
        kill_waiting(mariadb_server, url, "QUERY", heard)
        other.rollback()

        assert (sent.result(20).version, heard.codes) == (2, {"1317": 1})


def test_killed(url: URL, way: str, mariadb_server: Engine) -> None:
    """1927 or 2013: the session is killed in the middle of the UPDATE: a failure, or in AUTOCOMMIT applied."""
    with opened(url, way) as (adapter, heard), holding(url) as other:
        sent = meanwhile(lambda: adapter.send(KEY, "pay"))
        kill_waiting(mariadb_server, url, "CONNECTION", heard)
        other.rollback()
        failure = sent.exception(20)

    assert (heard.codes.total(), heard.codes.keys() <= {"1927", "2013"}) == (1, True)
    if way == "transaction":
        assert isinstance(failure, ConnectionFailureError)
        assert (type(failure), failure.phase) == (ConnectionFailureError, Phase.EXECUTE)
    assert row(url)["version"] == (1 if way == "transaction" else 2)


def test_gone_away(url: URL, way: str) -> None:
    """2006: the socket is dead before the UPDATE is sent; a failure, or in AUTOCOMMIT verified and applied."""
    with opened(url, way) as (adapter, heard):
        struck: list[str] = []

        @event.listens_for(adapter.engine, "before_cursor_execute")
        def executing(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("UPDATE") and not struck:
                struck.append(statement)
                driver: Any = connection.connection.dbapi_connection
                driver._sock.shutdown(socket.SHUT_RDWR)

        if way == "transaction":
            with pytest.raises(ConnectionFailureError) as caught:
                adapter.send(KEY, "pay")
            assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
            assert row(url)["version"] == 1

        assert adapter.send(KEY, "pay").version == 2
        assert (len(struck), heard.codes) == (1, {"2006": 1})


# -- what the server does not allow ---------------------------------------------------------------------------


def test_too_many_connections_of_a_user(url: URL, way: str, mariadb_server: Engine) -> None:
    """1226: the user has as many sessions as it may; a failure in phase `connect`."""
    with (
        user(mariadb_server, url, "WITH MAX_USER_CONNECTIONS 1") as limited,
        create_engine(limited).connect() as other,
        opened(url, way) as (adapter, _),
    ):
        engine = WAYS[way](limited)
        heard = Heard(engine)
        with pytest.raises(ConnectionFailureError) as caught:
            PersistenceAdapter(engine, adapter.mapping).send(KEY, "pay")
        other.invalidate()

    assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.CONNECT)
    assert heard.codes == {"1226": 1}
    assert row(url)["version"] == 1


@on_own_server
@pytest.mark.parametrize(("limit", "code"), [("max_connections", "1040"), ("max_user_connections", "1203")])
def test_too_many_connections(killable_server: Server, limit: str, code: str) -> None:
    """1040 and 1203: the server has as many sessions as it may; a failure in phase `connect`."""
    killable_server.kill()
    killable_server.start(f"--{limit}=10")
    with administrator(killable_server.url) as server, fresh_database(server) as url, user(server, url) as plain:
        with pooled(url) as engine:
            mapping = order_adapter(engine).mapping
        engine = create_engine(plain, pool_size=20)
        held = [engine.connect() for _ in range(9 if code == "1040" else 10)]
        heard = Heard(engine)

        with pytest.raises(ConnectionFailureError) as caught:
            PersistenceAdapter(engine, mapping).send(KEY, "pay")

        assert (type(caught.value), caught.value.phase, heard.codes) == (
            ConnectionFailureError,
            Phase.CONNECT,
            {code: 1},
        )
        for each in held:
            each.close()
        engine.dispose()


@pytest.mark.parametrize(
    ("change", "terms", "grants", "code"),
    [
        ({}, "", "", "1044"),
        ({"password": "wrong"}, "", "ALL", "1045"),
        ({"database": "statelatch_missing"}, "", "ALL", "1044"),
        ({"username": "root", "database": "statelatch_missing"}, "", "ALL", "1049"),
        ({}, "IDENTIFIED VIA unix_socket", "ALL", "1698"),
    ],
)
def test_not_let_in(
    url: URL, way: str, mariadb_server: Engine, change: dict[str, Any], terms: str, grants: str, code: str
) -> None:
    """1044, 1045, 1049, 1698: no access, no such database: no other connection helps; the driver's error as it is."""
    with opened(url, way) as (adapter, _), user(mariadb_server, url, terms, grants) as known:
        assert refused(WAYS[way](known.set(**change)), adapter.mapping) == {code: 1}


def test_read_only_session(url: URL, way: str) -> None:
    """1792: sessions may not write; once more on a new connection, then the driver's error as it is."""
    with opened(url) as (adapter, _):
        engine = WAYS[way](url.update_query_dict({"init_command": "SET SESSION TRANSACTION READ ONLY"}))

        assert (refused(engine, adapter.mapping), row(url)["version"]) == ({"1792": 2}, 1)


@on_own_server
def test_read_only_server(killable_server: Server) -> None:
    """1290: the server takes no writes, as a replica; once it does, on a new connection, the event is applied."""
    with administrator(killable_server.url) as server, fresh_database(server) as url, user(server, url) as plain:
        filled(url)
        order(server, "SET GLOBAL read_only = ON")
        with pooled(url) as engine:
            mapping = order_adapter(engine).mapping
        for way in WAYS:
            assert (refused(WAYS[way](plain), mapping), row(url)["version"]) == ({"1290": 2}, 1)

        engine = create_engine(plain)
        heard = Heard(engine, lambda _: order(server, "SET GLOBAL read_only = OFF"))
        assert PersistenceAdapter(engine, mapping).send(KEY, "pay").version == 2
        assert heard.codes == {"1290": 1}
        engine.dispose()


@pytest.mark.parametrize(
    ("statement", "code"),
    [("ALTER TABLE orders RENAME TO others", "1146"), ("ALTER TABLE orders RENAME COLUMN paid TO payed", "1054")],
)
def test_another_schema(url: URL, way: str, statement: str, code: str) -> None:
    """1146 and 1054: no such table or column; the driver's error as it is, at once."""
    with opened(url, way) as (adapter, heard):
        with pooled(url) as other, other.begin() as connection:
            connection.exec_driver_sql(statement)
        with pytest.raises(DBAPIError):
            adapter.send(KEY, "pay")

    assert heard.codes == {code: 1}


# -- second best: signalled by a trigger ----------------------------------------------------------------------

STRIKES = """
CREATE TRIGGER strike BEFORE UPDATE ON orders FOR EACH ROW
IF NEXT VALUE FOR strikes <= {times} THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'x'; END IF
"""


def struck(url: URL, code: str, times: int) -> None:
    """Let the next UPDATEs signal this error, so many times."""
    with pooled(url) as engine, engine.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE strikes")
        connection.exec_driver_sql(STRIKES.format(code=code, times=times))


@pytest.mark.parametrize("code", ["1021", "1114", "3024"])
def test_tried_again_by_trigger(url: URL, way: str, code: str) -> None:
    """A full disk or table, MySQL's limit of time: given up after three tries; nothing is written."""
    with opened(url, way) as (adapter, heard):
        struck(url, code, times=3)
        with pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert (type(caught.value), heard.codes, row(url)["version"]) == (ConnectionFailureError, {code: 3}, 1)
        assert adapter.send(KEY, "pay").version == 2


@pytest.mark.parametrize("code", ["1053", "1927", "4031"])
def test_lost_by_trigger(url: URL, way: str, code: str) -> None:
    """Shutdown, a killed session, one that was idle for too long: a failure; in AUTOCOMMIT verified, and applied."""
    with opened(url, way) as (adapter, heard):
        struck(url, code, times=1)
        if way == "transaction":
            with pytest.raises(ConnectionFailureError) as caught:
                adapter.send(KEY, "pay")
            assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
            assert row(url)["version"] == 1

        assert (adapter.send(KEY, "pay").version, heard.codes) == (2, {code: 1})


def test_read_only_by_trigger(url: URL, way: str) -> None:
    """1836, a server that was started to be read: once more on a new connection, then as it is."""
    with opened(url, way) as (adapter, heard):
        struck(url, "1836", times=2)
        with pytest.raises(DBAPIError):
            adapter.send(KEY, "pay")

    assert (heard.codes, row(url)["version"]) == ({"1836": 2}, 1)
