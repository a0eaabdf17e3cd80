"""What a proxy reads of a conversation: the statements of the client, and whether they have been answered."""

from collections.abc import Callable, Iterable
from struct import pack

import pytest

from statelatch.testing.mariadb_wire import MariaDBWire
from statelatch.testing.postgresql_wire import PostgresqlWire
from statelatch.testing.wire import Message, UnreadableError, Wire


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


def test_tls_that_was_not_asked_for() -> None:
    """A client that begins with it at once is told apart, and not waited for."""
    with pytest.raises(UnreadableError):
        list(PostgresqlWire().from_client(b"\x16\x03\x01\x02\0\x01"))


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
FLUSH = typed(b"H")
COMPLETE = typed(b"C", b"UPDATE 1\0")


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


def test_a_flush_after_the_end(postgresql: PostgresqlWire) -> None:
    """It opens nothing that would have to be ended again."""
    client(postgresql, PARSE, BIND, EXECUTE, BIND, EXECUTE, SYNC, FLUSH)

    assert server(postgresql, COMPLETE, COMPLETE, READY) == [False, False, True]


@pytest.mark.parametrize("last", [COMPLETE, typed(b"I"), typed(b"s"), typed(b"E", b"SERROR\0\0")])
def test_a_flush_instead_of_an_end(postgresql: PostgresqlWire, last: bytes) -> None:
    """Who waits for answers before the end of an exchange has them when the last Execute is answered, or has failed."""
    client(postgresql, PARSE, BIND, EXECUTE, SYNC, BIND, EXECUTE, BIND, EXECUTE, FLUSH)

    assert server(postgresql, COMPLETE, READY, COMPLETE, last) == [False, False, False, True]


def test_rows_are_asked_for(postgresql: PostgresqlWire) -> None:
    """Without them a COPY cannot be carried out; they end nothing, and it is answered when it has them all."""
    client(postgresql, typed(b"Q", b"COPY orders FROM STDIN\0"))
    asked = [message.is_request for message in postgresql.from_server(typed(b"G", b"\0\0\0"))]
    client(postgresql, typed(b"d", b"1\n"), typed(b"c"))

    assert (asked, server(postgresql, COMPLETE, READY)) == ([True], [False, True])


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


def greeting(lower: int, upper: int, beyond: int = 0) -> bytes:
    """A server's greeting, with these capabilities."""
    version, rest = (
        b"\x0a5.5.5-10.11.6-MariaDB\0",
        b"\x08" + b"\x02\0" + pack("<H", upper) + b"\x15" + bytes(6) + pack("<I", beyond),
    )
    return packet(0, version + pack("<I", 7) + b"scramble" + b"\0" + pack("<H", lower) + rest + b"scramble1234\0")


def response(capabilities: int) -> bytes:
    """A client's answer to it."""
    return packet(1, pack("<I", capabilities) + bytes(40))


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
    client(wire, response(0))
    server(wire, packet(2, OK[4:]))
    return wire


def test_the_greeting_hides_nothing() -> None:
    """Without TLS and compression the conversation can be read; without the other, a result ends with EOF."""
    wire = MariaDBWire()

    (message,) = wire.from_server(greeting(0xFFFF, 0xFFFF, 0xFF))

    assert message.sent_on == greeting(0xFFFF & ~0x0820, 0xFFFF & ~0x0100, 0xFF & ~0x15)


@pytest.mark.parametrize("capability", [0x0020, 0x0800], ids=["compression", "TLS"])
def test_a_client_that_does_not_follow_the_greeting(capability: int) -> None:
    """What it goes on to say cannot be read, and is not waited for."""
    with pytest.raises(UnreadableError):
        client(MariaDBWire(), response(0xFFFF_F7DF | capability))


def test_a_client_that_names_more_than_it_was_offered() -> None:
    """It does without; the server has to know."""
    (message,) = MariaDBWire().from_client(response(0xFFFF_F7DF))

    assert message.sent_on == response(0xFEFF_F7DF)


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


PREPARE = packet(0, b"\x16UPDATE orders SET x = ?")
PREPARED = packet(1, b"\0" + pack("<IHH", 7, 0, 1) + bytes(3))


def execute(number: int) -> bytes:
    """A statement that was prepared."""
    return packet(0, b"\x17" + pack("<IBI", number, 0, 1))


def test_a_statement_that_was_prepared_on_mariadb(mariadb: MariaDBWire) -> None:
    """It has the number that the server has given it, until it is closed; other numbers are not known."""
    assert client(mariadb, PREPARE) == []
    assert server(mariadb, PREPARED, packet(2, b"parameter"), packet(3, EOF)) == [True] * 3
    for _ in range(2):
        assert client(mariadb, execute(8), execute(7)) == ["UPDATE orders SET x = ?"]
        assert server(mariadb, OK) == [True]
    assert client(mariadb, packet(0, b"\x19" + pack("<I", 7)), execute(7)) == []


def test_a_statement_that_could_not_be_prepared(mariadb: MariaDBWire) -> None:
    """It has no number."""
    client(mariadb, PREPARE)
    server(mariadb, packet(1, ERROR))

    assert client(mariadb, execute(int.from_bytes(ERROR[1:5], "little"))) == []


def test_rows_that_are_fetched_later(mariadb: MariaDBWire) -> None:
    """With a cursor the answer ends before the rows."""
    client(mariadb, execute(7))

    assert server(mariadb, packet(1, b"\x01"), packet(2, b"column"), packet(3, b"\xfe\0\0\x42\0")) == [
        False,
        False,
        True,
    ]


def test_commands_without_an_answer(mariadb: MariaDBWire) -> None:
    """They change nothing in what is awaited."""
    client(mariadb, query(b"SELECT 1"))
    server(mariadb, packet(1, b"\x01"), packet(2, b"column"), packet(3, EOF))
    client(mariadb, packet(0, b"\x19" + pack("<I", 7)), packet(0, b"\x01"))

    assert server(mariadb, packet(4, b"\x01x"), packet(5, EOF)) == [False, True]


def test_a_file_is_asked_for(mariadb: MariaDBWire) -> None:
    """Without it the statement cannot be carried out; the answer is what follows the file."""
    client(mariadb, query(b"LOAD DATA LOCAL INFILE 'x' INTO TABLE orders"))
    asked = [(message.is_request, mariadb.is_settled) for message in mariadb.from_server(packet(1, b"\xfbx"))]
    client(mariadb, packet(2, b"1\n"), packet(3, b""))

    assert (asked, server(mariadb, OK)) == ([(True, False)], [True])


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
