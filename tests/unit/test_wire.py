"""What a proxy reads of a conversation: the statements of the client, and whether they have been answered."""

from collections.abc import Callable, Iterable
from struct import pack

import pytest

from statelatch.testing.mariadb_wire import MariaDBWire
from statelatch.testing.postgresql_wire import PostgresqlWire
from statelatch.testing.wire import Message, Wire


def client(wire: Wire, *messages: bytes) -> list[str]:
    """The statements in these messages of the client."""
    return [each.statement for each in wire.from_client(b"".join(messages)) if each.statement is not None]


def server(wire: Wire, *messages: bytes) -> list[bool]:
    """Whether all is answered, after each of these messages of the server."""
    return [wire.is_settled for _ in wire.from_server(b"".join(messages))]


def fed_bytewise(feed: Callable[[bytes], Iterable[Message]], messages: bytes) -> list[Message]:
    """What comes of messages that arrive byte by byte."""
    return [message for byte in messages for message in feed(bytes([byte]))]


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


def typed(kind: bytes, body: bytes = b"") -> bytes:
    """A message of PostgreSQL."""
    return kind + pack("!I", len(body) + 4) + body


STARTUP = pack("!II", 8 + 10, 196608) + b"user\0joe\0\0"
READY = typed(b"Z", b"I")


@pytest.fixture
def postgresql() -> PostgresqlWire:
    """A connection that is open."""
    wire = PostgresqlWire()
    client(wire, STARTUP)
    assert server(wire, typed(b"R", b"\0\0\0\0"), typed(b"K", b"12345678"), READY) == [False, False, True]
    return wire


@pytest.mark.parametrize("code", [80877103, 80877104])
def test_encryption_is_declined(code: int) -> None:
    """A client that asks for TLS is told no, before the server hears of it; then it starts up as it is."""
    wire = PostgresqlWire()

    (declined,) = wire.from_client(pack("!II", 8, code))
    (started,) = wire.from_client(STARTUP)

    assert (declined.sent_on, declined.answer) == (b"", b"N")
    assert (started.sent_on, started.answer) == (STARTUP, b"")


def test_a_cancel_request_is_passed_on() -> None:
    """It is the only message of its connection."""
    wire, cancel = PostgresqlWire(), pack("!IIII", 16, 80877102, 1, 2)

    assert [message.sent_on for message in wire.from_client(cancel)] == [cancel]


def test_a_simple_query(postgresql: PostgresqlWire) -> None:
    """Its text is the statement; it is answered by ReadyForQuery."""
    assert client(postgresql, typed(b"Q", b"COMMIT\0")) == ["COMMIT"]
    assert server(postgresql, typed(b"C", b"COMMIT\0"), READY) == [False, True]


PARSE = typed(b"P", b"s1\0UPDATE orders SET x = $1\0\0\0")
BIND = typed(b"B", b"\0s1\0\0\0\0\0\0\0")
EXECUTE = typed(b"E", b"\0\0\0\0\0")
SYNC = typed(b"S")


def test_a_statement_is_prepared_once_and_executed_ever_after(postgresql: PostgresqlWire) -> None:
    """An Execute is the statement that its portal was bound to, also when its text was sent long before."""
    assert client(postgresql, PARSE) == []
    assert client(postgresql, typed(b"P", b"\0SELECT 1\0\0\0")) == []
    for _ in range(2):
        assert client(postgresql, BIND, typed(b"D", b"P\0"), EXECUTE, SYNC) == ["UPDATE orders SET x = $1"]
        assert server(postgresql, typed(b"2"), typed(b"C", b"UPDATE 1\0"), READY) == [False, False, True]
    assert client(postgresql, typed(b"B", b"\0\0\0\0\0\0\0\0"), EXECUTE) == ["SELECT 1"]


def test_a_closed_statement_is_forgotten(postgresql: PostgresqlWire) -> None:
    """Its name may be given to another."""
    client(postgresql, PARSE, typed(b"C", b"Ss1\0"))

    assert client(postgresql, BIND, EXECUTE) == []


def test_only_the_end_of_an_exchange_settles(postgresql: PostgresqlWire) -> None:
    """What was executed is durable, and answered for certain, only after Sync: rows may come before."""
    settled: list[bool] = []
    for said, message in ((client, PARSE), (client, BIND), (client, EXECUTE), (server, typed(b"D", b"row"))):
        said(postgresql, message)
        settled.append(postgresql.is_settled)
    client(postgresql, SYNC)

    assert settled == [False] * 4
    assert server(postgresql, typed(b"C", b"UPDATE 1\0"), READY) == [False, True]


def test_several_exchanges_at_once(postgresql: PostgresqlWire) -> None:
    """A pipeline is answered when each of its exchanges is."""
    client(postgresql, PARSE, BIND, EXECUTE, SYNC, BIND, EXECUTE, SYNC)

    assert server(postgresql, READY, READY) == [False, True]


def test_postgresql_byte_by_byte() -> None:
    """In whatever pieces the bytes arrive, the messages are the same."""
    wire = PostgresqlWire()
    sent = STARTUP + PARSE + BIND + EXECUTE + SYNC

    messages = fed_bytewise(wire.from_client, sent)

    assert b"".join(message.sent_on for message in messages) == sent
    assert [message.statement for message in messages if message.statement] == ["UPDATE orders SET x = $1"]


# -- MariaDB ------------------------------------------------------------------------------------------------------


def packet(number: int, payload: bytes) -> bytes:
    """A packet of MariaDB."""
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def greeting(lower: int, upper: int) -> bytes:
    """A server's greeting, with these capabilities."""
    version, rest = b"\x0a5.5.5-10.11.6-MariaDB\0", b"\x08" + b"\x02\0" + pack("<H", upper) + b"\x15" + bytes(10)
    return packet(0, version + pack("<I", 7) + b"scramble" + b"\0" + pack("<H", lower) + rest + b"scramble1234\0")


OK = packet(1, b"\0\x01\0\x02\0\0\0")
MORE = 0x0008
EOF = b"\xfe\0\0\x02\0"
ERROR = b"\xff\x15\x04#28000no"


def query(text: bytes) -> bytes:
    """A statement."""
    return packet(0, b"\x03" + text)


@pytest.fixture
def mariadb() -> MariaDBWire:
    """A connection that is open."""
    wire = MariaDBWire()
    server(wire, greeting(0xFFFF, 0xFFFF))
    client(wire, packet(1, bytes(40)))
    server(wire, packet(2, OK[4:]))
    return wire


def test_the_greeting_hides_nothing() -> None:
    """Without TLS and compression the conversation can be read; without the other, a result ends with EOF."""
    wire = MariaDBWire()

    (message,) = wire.from_server(greeting(0xFFFF, 0xFFFF))

    assert message.sent_on == greeting(0xFFFF & ~0x0820, 0xFFFF & ~0x0100)


def test_a_greeting_that_is_an_error() -> None:
    """A server that has too many connections says so at once: it is passed on."""
    refused = packet(0, b"\xff\x10\x04Too many connections")

    assert [message.sent_on for message in MariaDBWire().from_server(refused)] == [refused]


def test_a_statement_of_mariadb(mariadb: MariaDBWire) -> None:
    """Only the first packet of a sequence is a command."""
    assert client(mariadb, packet(3, b"\x03not a command")) == []
    assert client(mariadb, query(b"UPDATE orders SET x = 1")) == ["UPDATE orders SET x = 1"]
    assert client(mariadb, packet(0, b"\x0e")) == []


@pytest.mark.parametrize(
    ("payloads", "settled"),
    [
        ([b"\0\x01\0\x02\0\0\0"], [True]),
        ([b"\0\xfc\x01\x02\xfd\x01\x02\x03\x02\0\0\0"], [True]),
        ([ERROR], [True]),
        ([b"\x01", b"column", EOF, b"\x01x", b"\x01y", EOF], [False] * 5 + [True]),
        ([b"\x01", b"column", EOF, b"\x01x", ERROR], [False] * 4 + [True]),
        ([b"\x01", b"column", EOF, b"\xfe" + bytes(8) + b"a long value", EOF], [False] * 4 + [True]),
        ([b"\0\0\0\x0a\0\0\0", b"\0\0\0\x02\0\0\0"], [False, True]),
        ([b"\x01", b"column", EOF, b"\xfe\0\0\x0a\0", b"\0\0\0\x02\0\0\0"], [False] * 4 + [True]),
    ],
    ids=["OK", "OK with large numbers", "error", "rows", "error after rows", "a long value", "two OK", "rows and OK"],
)
def test_when_mariadb_has_answered(mariadb: MariaDBWire, payloads: list[bytes], settled: list[bool]) -> None:
    """An answer is over with its OK, its error, or the second EOF, unless another result follows."""
    client(mariadb, query(b"SELECT 1"))

    packets = [packet(number + 1, payload) for number, payload in enumerate(payloads)]

    assert server(mariadb, *packets) == settled


def test_a_ping_is_answered_by_anything(mariadb: MariaDBWire) -> None:
    """Of a command that is no statement, the first packet counts."""
    client(mariadb, packet(0, b"\x0e"))

    assert server(mariadb, OK) == [True]


def test_a_row_that_needs_two_packets(mariadb: MariaDBWire) -> None:
    """What goes on in the next packet is not taken for one of its own, whatever it begins with."""
    client(mariadb, query(b"SELECT 1"))
    large = packet(4, b"\xfd\xff\xff\xff" + bytes(0xFFFFFF - 4))

    settled = server(mariadb, packet(1, b"\x01"), packet(2, b"column"), packet(3, EOF), large, packet(5, EOF))

    assert settled == [False] * 5
    assert server(mariadb, packet(6, EOF)) == [True]


def test_mariadb_byte_by_byte() -> None:
    """In whatever pieces the bytes arrive, the messages are the same."""
    wire = MariaDBWire()

    greeted = fed_bytewise(wire.from_server, greeting(0, 0))
    sent = fed_bytewise(wire.from_client, query(b"COMMIT"))

    assert [message.sent_on for message in greeted] == [greeting(0, 0)]
    assert [message.statement for message in sent] == ["COMMIT"]
