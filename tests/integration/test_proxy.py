"""The proxy: what it does to a conversation with a real server, and that it else changes nothing."""

import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from psycopg import OperationalError
from pymysql import MySQLError  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy import URL, Connection, Engine, bindparam, create_engine, literal, make_url, select, update
from sqlalchemy.exc import DBAPIError

from statelatch import PersistenceAdapter
from statelatch.engines import is_autocommitting
from statelatch.testing import FaultNotFiredError, InjectionError, Proxy
from statelatch.testing.sockets import LOOPBACK, shut
from tests.databases import kill_connections, on, pooled, unreachable
from tests.orders import order_adapter, stored_order
from tests.paying import ORDERS, PAY, pay

servers = on("postgresql", "mariadb")


@pytest.fixture
def proxy(orders: Engine) -> Generator[Proxy]:
    """A proxy before that database."""
    with Proxy(orders.url) as proxy:
        yield proxy


@pytest.fixture(params=["transaction", "autocommit"])
def led(request: pytest.FixtureRequest, proxy: Proxy) -> Generator[Engine]:
    """An engine through the proxy."""
    options = {"isolation_level": "AUTOCOMMIT"} if request.param == "autocommit" else {}
    engine = create_engine(proxy.url, **options)
    yield engine
    engine.dispose()


def losing_patience(connection: Connection, seconds: float) -> None:
    """After so long, the client shuts its socket."""
    driver: Any = connection.connection.dbapi_connection
    descriptor = driver.fileno() if connection.dialect.name == "postgresql" else driver._sock.fileno()
    threading.Timer(seconds, shut, [descriptor]).start()


@servers
def test_a_conversation_passes_unchanged(led: Engine, orders: Engine) -> None:
    """Statements, answers larger than any buffer, and errors are what they are without a proxy."""
    long = "x" * 300_000

    with led.begin() as connection:
        assert connection.scalar(select(literal(long))) == long
        connection.execute(update(ORDERS).values(note=long[:50_000]))
    with pytest.raises(DBAPIError, match="no_such_table"), led.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM no_such_table")
    pay(led)

    assert (stored_order(orders)["note"], stored_order(orders)["version"]) == (long[:50_000], 2)


@servers
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_is_cut_at_a_statement(led: Engine, orders: Engine, proxy: Proxy, when: Any) -> None:
    """Before the server gets it, nothing is written; afterwards, only what needs no COMMIT."""
    with proxy.cut("UPDATE", when=when) as cut, pytest.raises(DBAPIError) as caught:
        pay(led)

    with led.connect() as connection:
        autocommits = is_autocommitting(led, connection.connection.dbapi_connection)
    written = when == "after" and autocommits
    assert (cut.fired, caught.value.connection_invalidated) == (1, True)
    assert stored_order(orders)["version"] == 1 + written
    pay(led)
    assert stored_order(orders)["version"] == 2 + written


SLOWLY = {
    "postgresql": "generate_series(10, 14) AS numbers (seq) RETURNING repeat('x', 20000), pg_sleep(0.05)",
    "mariadb": "seq_10_to_14 RETURNING repeat('x', 20000), sleep(0.05)",
}


@servers
def test_afterwards_is_when_all_is_answered(proxy: Proxy, orders: Engine) -> None:
    """The first rows of an answer are no sign that the statement is carried out: it is cut at the end of the answer."""
    columns = "INSERT INTO orders (tenant_id, number, st, version, amount, visits) SELECT 'z', seq, 'draft', 1, 0, 0"
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    with proxy.cut("INSERT") as cut, engine.connect() as connection, pytest.raises(DBAPIError):
        connection.exec_driver_sql(f"{columns} FROM {SLOWLY[engine.dialect.name]}")
    engine.dispose()

    assert cut.fired == 1
    assert [stored_order(orders, ("z", number))["version"] for number in range(10, 15)] == [1] * 5


@servers
@pytest.mark.parametrize("when", ["before", "after"])
def test_many_rows_at_once(led: Engine, orders: Engine, proxy: Proxy, when: Any) -> None:
    """A driver that sends them as a pipeline finds its connection cut, and is not left to wait."""
    noting = update(ORDERS).where(ORDERS.c.number == bindparam("which")).values(note=bindparam("said"))
    with proxy.cut("UPDATE", when=when) as cut, pytest.raises(DBAPIError), led.begin() as connection:
        connection.execute(noting, [{"which": number, "said": "x"} for number in (1, 2)])

    assert cut.fired == 1


@on("postgresql")
def test_a_pipeline_that_is_read_before_its_end(led: Engine, proxy: Proxy) -> None:
    """Its client waits for an answer without having ended the exchange: it is cut as well."""
    with proxy.cut("UPDATE") as cut, led.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        with pytest.raises(OperationalError), driver.pipeline():
            driver.execute("UPDATE orders SET note = 'x' RETURNING number").fetchone()

    assert cut.fired == 1


COLUMNS = "orders (tenant_id, number, st, version, amount, visits)"


@on("postgresql")
def test_rows_that_a_statement_asks_for(proxy: Proxy, orders: Engine) -> None:
    """The client sends them, also when it is not to have the answer."""
    with pooled(proxy.url) as engine, engine.connect() as connection, proxy.cut("COPY") as cut:
        driver: Any = connection.connection.dbapi_connection
        driver.autocommit = True
        with pytest.raises(OperationalError), driver.cursor().copy(f"COPY {COLUMNS} FROM STDIN") as copy:
            copy.write_row(("z", 10, "draft", 1, 0, 0))

    assert (cut.fired, stored_order(orders, ("z", 10))["version"]) == (1, 1)


@on("mariadb")
def test_a_file_that_a_statement_asks_for(proxy: Proxy, orders: Engine, tmp_path: Path) -> None:
    """The client sends it, also when it is not to have the answer."""
    path = tmp_path / "rows"
    path.write_text("z\t10\tdraft\t1\t0\t0\n")
    autocommitting = proxy.url.update_query_dict({"local_infile": "true"})
    engine = create_engine(autocommitting, isolation_level="AUTOCOMMIT")
    with proxy.cut("LOAD DATA") as cut, engine.connect() as connection, pytest.raises(DBAPIError):
        connection.exec_driver_sql(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {COLUMNS}")
    engine.dispose()

    assert (cut.fired, stored_order(orders, ("z", 10))["version"]) == (1, 1)


@on("mariadb")
def test_a_statement_that_the_server_has_prepared(led: Engine, proxy: Proxy) -> None:
    """PyMySQL prepares nothing; what a driver would send that does is known by its number."""
    with proxy.cut("UPDATE") as cut, led.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        driver._execute_command(0x16, "UPDATE orders SET note = 'x'")
        number = driver._read_packet().get_all_data()[1:5]
        driver._execute_command(0x17, number + pack("<BI", 0, 1))
        with pytest.raises(MySQLError):
            driver._read_packet()

    assert (cut.fired, cut.statements) == (1, ["UPDATE orders SET note = 'x'"])


@servers
@pytest.mark.parametrize(("when", "version"), [("before", 1), ("after", 2)])
def test_a_commit_is_a_statement(proxy: Proxy, orders: Engine, when: Any, version: int) -> None:
    """A lost COMMIT looks alike to the client; whether it has landed is for the proxy to say."""
    with pooled(proxy.url) as engine, proxy.cut("COMMIT", when=when) as cut, pytest.raises(DBAPIError):
        pay(engine)

    assert (cut.fired, cut.statements) == (1, ["COMMIT"])
    assert stored_order(orders)["version"] == version


@servers
def test_a_statement_that_was_prepared_long_ago(proxy: Proxy, orders: Engine) -> None:
    """A driver that sends a text once and then only its name is understood."""
    with PersistenceAdapter(proxy.url, order_adapter(orders).mapping) as adapter:
        for number in range(20, 32):
            adapter.create(tenant="acme", number=number, paid=True)
            adapter.send(("acme", number), "pay")
        with proxy.cut("UPDATE orders", when="before") as cut:
            adapter.create(tenant="acme", number=99, paid=True)
            adapter.send(("acme", 99), "pay")

    assert (cut.fired, stored_order(orders, ("acme", 99))["version"]) == (1, 2)


@servers
def test_a_statement_that_is_late(led: Engine, orders: Engine, proxy: Proxy) -> None:
    """It is held back, and then goes on as if nothing had been."""
    began = time.monotonic()
    with proxy.stall("UPDATE", 0.2) as stall:
        pay(led)

    assert (stall.fired, time.monotonic() - began >= 0.2) == (1, True)
    assert stored_order(orders)["version"] == 2


@servers
def test_a_statement_that_arrives_after_its_client_has_gone(proxy: Proxy, orders: Engine) -> None:
    """What was on the way is carried out, whether or not anybody waits for its answer."""
    with pooled(proxy.url) as engine, proxy.stall("UPDATE", 0.5) as stall:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            losing_patience(connection, 0.1)
            with pytest.raises(DBAPIError):
                connection.execute(PAY)
        gone = stored_order(orders)["version"]
        time.sleep(0.6)

    assert (stall.fired, gone, stored_order(orders)["version"]) == (1, 1, 2)


@servers
def test_a_peer_that_falls_silent(proxy: Proxy, orders: Engine) -> None:
    """The statement is carried out; its client waits for an answer that never comes, on a connection that is open."""
    with pooled(proxy.url) as engine, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        losing_patience(connection, 0.3)
        began = time.monotonic()
        with proxy.swallow("UPDATE") as swallowed, pytest.raises(DBAPIError):
            connection.execute(PAY)

    assert (swallowed.fired, time.monotonic() - began >= 0.3) == (1, True)
    assert stored_order(orders)["version"] == 2


@servers
def test_a_silent_peer_does_not_say_that_it_has_gone(proxy: Proxy, orders: Engine) -> None:
    """The server ends the session: its client, which hears nothing any more, does not hear that either."""
    killed: list[int] = []
    with pooled(proxy.url) as engine, engine.connect() as connection:
        threading.Timer(0.1, lambda: killed.append(kill_connections(orders.url))).start()
        losing_patience(connection, 1.0)
        began = time.monotonic()
        with proxy.swallow("UPDATE") as swallowed, pytest.raises(DBAPIError):
            connection.execute(PAY)

    assert (swallowed.fired, len(killed), time.monotonic() - began >= 1.0) == (1, 1, True)


@servers
def test_connections_are_refused(proxy: Proxy, orders: Engine) -> None:
    """A new connection is reset before it can say a word; one that is there, and one that comes later, are not."""
    with pooled(proxy.url) as engine, engine.connect() as there, proxy.refuse(times=2) as refused:
        for _ in range(2):
            with pytest.raises(DBAPIError):
                engine.connect()
        assert there.scalar(select(literal(1))) == 1
        pay(engine)

    assert refused.fired == 2
    assert stored_order(orders)["version"] == 2


@servers
def test_encryption_is_declined(proxy: Proxy, orders: Engine) -> None:
    """A client that would rather have TLS goes without, so that its statements can be read."""
    rather_encrypted = proxy.url.difference_update_query(["ssl_disabled"])
    with pooled(rather_encrypted) as engine, proxy.cut("UPDATE") as cut, pytest.raises(DBAPIError):
        pay(engine)

    assert cut.fired == 1


ENCRYPTED_OR_COMPRESSED = {
    "postgresql": b"\x16\x03\x01\x02\0\x01",
    "mariadb": b"\x24\0\0\x01" + pack("<I", 0x0020) + bytes(32),
}


def last_words(client: socket.socket) -> bytes:
    """What the peer still says before it ends the conversation; a TimeoutError if it does not."""
    said = b""
    with suppress(ConnectionError):
        while more := client.recv(1000):
            said += more
    return said


@servers
def test_a_client_that_does_not_ask(proxy: Proxy) -> None:
    """It encrypts or compresses unasked, cannot be understood, and is cut off: no server has heard of it."""
    dialect = proxy.url.get_backend_name()
    with socket.create_connection((LOOPBACK, proxy.url.port or 0), timeout=10) as client:
        if dialect == "mariadb":
            assert client.recv(1000), "the greeting"
        client.sendall(ENCRYPTED_OR_COMPRESSED[dialect])
        assert last_words(client) == b""


@servers
def test_skipped_statements_pass(led: Engine, orders: Engine, proxy: Proxy) -> None:
    """Two pass, two are cut, and no others."""

    def is_paid() -> bool:
        try:
            pay(led)
        except DBAPIError:
            return False
        return True

    with proxy.cut("UPDATE", when="before", skip=2, times=2) as cut:
        answers = [is_paid() for _ in range(6)]

    assert answers == [True, True, False, False, True, True]
    assert (cut.fired, stored_order(orders)["version"]) == (2, 5)


@servers
def test_a_fault_that_never_fired(led: Engine, proxy: Proxy) -> None:
    """The test fails, and is told what came by."""
    with pytest.raises(FaultNotFiredError, match="UPDATE orders SET"), proxy.swallow("DELETE"):
        pay(led)


@servers
def test_a_proxy_that_is_closed(proxy: Proxy) -> None:
    """Its connections are ended, and nobody listens any more."""
    with pooled(proxy.url) as engine, engine.connect() as connection:
        proxy.close()
        with pytest.raises(DBAPIError):
            connection.execute(select(literal(1)))
        with pytest.raises(DBAPIError):
            engine.connect()


@servers
def test_a_server_that_is_away(orders: Engine) -> None:
    """Who is led to where nobody listens is refused, too."""
    with Proxy(unreachable(orders.url)) as proxy, pooled(proxy.url) as engine, pytest.raises(DBAPIError):
        engine.connect()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Proxy("sqlite:///x.db"), "cannot stand before sqlite:///x.db: expected PostgreSQL, MariaDB or MySQL"),
        (lambda: Proxy("mariadb+pymysql://u:secret@/d?unix_socket=/s"), "u:***@/d?unix_socket=%2Fs: expected"),
        (lambda: Proxy("postgresql://u@/d?host=/run"), "at one host and port"),
        (lambda: Proxy("postgresql://u@/d"), "at one host and port"),
        (lambda: Proxy("postgresql://u@/d?host=a:1&host=b:2"), "at one host and port"),
        (lambda: Proxy("postgresql://u@/d?host=a,b"), "at one host and port"),
        (lambda: Proxy("postgresql+asyncpg://u@/d?host=a:1&host=b:2"), "at one host and port"),
        (lambda: Proxy("postgresql://u@h/d?hostaddr=1.2.3.4,1.2.3.5"), "at one host and port"),
    ],
)
def test_a_database_without_a_port(make: Callable[[], Proxy], told: str) -> None:
    """A proxy stands before one server that is reached by TCP; no password is told."""
    with pytest.raises(InjectionError, match=re.escape(told)):
        make()


@pytest.mark.parametrize(
    ("verb", "arguments", "told"),
    [
        ("cut", {"statement": "UPDATE", "when": "between"}, "expected when='before' or when='after', got 'between'"),
        ("stall", {"statement": "UPDATE", "seconds": -1}, "stall: expected seconds ≥ 0, got -1"),
        ("swallow", {"statement": ""}, "expected the beginning of a statement"),
        ("refuse", {"times": 0}, "times ≥ 1"),
    ],
)
def test_arguments_that_make_no_sense(verb: str, arguments: dict[str, Any], told: str) -> None:
    """They are refused at once, with what was expected."""
    with Proxy("postgresql://u@127.0.0.1:1/d") as proxy, pytest.raises(InjectionError, match=re.escape(told)):
        getattr(proxy, verb)(**arguments)


WHERE: dict[str, Callable[[URL], dict[str, str]]] = {
    "apart": lambda url: {"host": str(url.host), "port": str(url.port)},
    "together": lambda url: {"host": f"{url.host}:{url.port}"},
    "as an address": lambda url: {"hostaddr": str(url.host), "port": str(url.port)},
}


@pytest.mark.parametrize(
    ("database_url", "named"),
    [("postgresql", "apart"), ("postgresql", "together"), ("postgresql", "as an address"), ("mariadb", "apart")],
    indirect=["database_url"],
)
def test_a_server_that_is_named_in_the_query(orders: Engine, named: str) -> None:
    """The proxy stands before that server, and its clients do not go past it."""
    query = WHERE[named](orders.url)
    with (
        Proxy(orders.url._replace(host=None, port=None).update_query_dict(query)) as proxy,
        pooled(proxy.url) as engine,
        proxy.cut("UPDATE") as cut,
        pytest.raises(DBAPIError),
    ):
        pay(engine)

    assert (cut.fired, query.keys() & proxy.url.query.keys()) == (1, set())


@pytest.mark.parametrize(
    ("driver", "query"),
    [("mariadb+pymysql", "&ssl_disabled=true"), ("mysql+mysqlconnector", "&ssl_disabled=true"), ("mysql+aiomysql", "")],
)
def test_the_url_of_the_proxy(driver: str, query: str) -> None:
    """It leads through the proxy, with user, password and database; of TLS it says what its driver understands."""
    with Proxy(make_url(f"{driver}://u:p@h:9/d?charset=utf8mb4&ssl_ca=x")) as proxy:
        expected = f"{driver}://u:p@127.0.0.1:{proxy.url.port}/d?charset=utf8mb4{query}"

        assert expected == proxy.url.render_as_string(hide_password=False)
