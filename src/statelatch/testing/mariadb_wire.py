"""PURE: the packets of MariaDB and MySQL (https://mariadb.com/kb/en/clientserver-protocol/).

The server speaks first. In its greeting the capabilities are cleared that would hide what follows: TLS and compression,
the one that ends a result without an EOF packet, and those that only MariaDB has, for other answers than these. Then
each command of the client begins a sequence, with number 0. A statement is the text of a COM_QUERY, or of the
COM_STMT_PREPARE that was answered with the number in a COM_STMT_EXECUTE. Its answer is OK, an error, or a result: a
number of columns, as many definitions, EOF, the rows, EOF; and then perhaps another result. First, the server may ask
for a file.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from struct import pack_into, unpack_from
from typing import Final

from statelatch.testing.wire import Message, UnreadableError, Wire

__all__ = ["MariaDBWire"]

_HEADER: Final = 4
_LARGEST: Final = 0xFFFFFF  # the payload goes on in the next packet

_OK, _INFILE, _EOF, _ERROR = 0x00, 0xFB, 0xFE, 0xFF

_HIDDEN_BELOW: Final = 0x0020 | 0x0800  # CLIENT_COMPRESS, CLIENT_SSL
_HIDDEN_ABOVE: Final = 0x0100  # CLIENT_DEPRECATE_EOF, in the upper half
_HIDDEN_BEYOND: Final = 0x0001 | 0x0004 | 0x0010  # of MariaDB: progress reports, bulk statements, cached metadata
_MORE_RESULTS: Final = 0x0008
_CURSOR: Final = 0x0040  # the rows are fetched later


class _Command(IntEnum):
    """What a client can ask for, as far as it matters here."""

    QUIT = 0x01
    QUERY = 0x03
    PREPARE = 0x16
    EXECUTE = 0x17
    LONG_DATA = 0x18
    CLOSE = 0x19


_WITHOUT_ANSWER: Final = frozenset({_Command.QUIT, _Command.LONG_DATA, _Command.CLOSE})
_WITH_RESULT: Final = frozenset({_Command.QUERY, _Command.EXECUTE})


class _Awaited(Enum):
    """Where in an answer the conversation is."""

    GREETING = auto()  # until the client's first command
    ANSWER = auto()  # its first packet
    COLUMNS = auto()  # their definitions, until EOF
    ROWS = auto()  # until EOF
    NOTHING = auto()


class MariaDBWire(Wire):
    """One connection to MariaDB or MySQL."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited = _Awaited.GREETING
        self._is_greeted = False
        self._continues = False
        self._command = 0
        self._preparing = ""
        self._statements: dict[int, str] = {}

    @property
    def is_settled(self) -> bool:
        """Whether the server has answered all that the client waits for."""
        return self._awaited is _Awaited.NOTHING

    def _client_length(self, received: bytearray) -> int:
        return _length(received)

    def _server_length(self, received: bytearray) -> int:
        return _length(received)

    def _client_message(self, message: bytes) -> Message:
        begins = message[3] == 0 and len(message) > _HEADER
        if not begins:
            is_first = self._awaited is _Awaited.GREETING and message[3] == 1
            return Message(_as_offered(message) if is_first else message)
        command, body = message[_HEADER], message[_HEADER + 1 :]
        if command not in _WITHOUT_ANSWER:
            self._command, self._awaited = command, _Awaited.ANSWER
        return Message(message, statement=self._statement(command, body))

    def _server_message(self, message: bytes) -> Message:
        if not self._is_greeted:
            self._is_greeted = True
            return Message(_readable(message))
        is_first = not self._continues
        self._continues = len(message) - _HEADER == _LARGEST
        if not is_first:
            return Message(message)
        payload, is_answer = message[_HEADER:], self._awaited is _Awaited.ANSWER
        if is_answer and self._command == _Command.PREPARE and payload[:1] == bytes([_OK]):
            self._statements[_number(payload[1:])] = self._preparing
        self._awaited = self._next(payload)
        asks = is_answer and self._command == _Command.QUERY and payload[:1] == bytes([_INFILE])
        return Message(message, is_request=asks)

    def _statement(self, command: int, body: bytes) -> str | None:
        """Note what is prepared; the statement that is carried out."""
        match command:
            case _Command.QUERY:
                return _text(body)
            case _Command.PREPARE:
                self._preparing = _text(body)
            case _Command.EXECUTE:
                return self._statements.get(_number(body))
            case _Command.CLOSE:
                self._statements.pop(_number(body), None)
            case _:
                pass
        return None

    def _next(self, payload: bytes) -> _Awaited:
        """What is awaited after this packet of the server."""
        kind = payload[0] if payload else _OK
        ends = kind == _EOF and len(payload) < 9
        match self._awaited:
            case _Awaited.ANSWER | _Awaited.COLUMNS | _Awaited.ROWS if kind == _ERROR:
                return _Awaited.NOTHING
            case _Awaited.ANSWER if self._command not in _WITH_RESULT:
                return _Awaited.NOTHING
            case _Awaited.ANSWER if kind == _OK:
                return _after(_status_of_ok(payload))
            case _Awaited.ANSWER if kind != _INFILE:
                return _Awaited.COLUMNS
            case _Awaited.COLUMNS if ends and not _status_of_eof(payload) & _CURSOR:
                return _Awaited.ROWS
            case _Awaited.COLUMNS | _Awaited.ROWS if ends:
                return _after(_status_of_eof(payload))
            case _:
                return self._awaited


def _after(status: int) -> _Awaited:
    return _Awaited.ANSWER if status & _MORE_RESULTS else _Awaited.NOTHING


def _status_of_ok(payload: bytes) -> int:
    """An OK packet: 0, two numbers of varying length, the status."""
    place = 1
    for _ in range(2):
        place += {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(payload[place], 1)
    return int(unpack_from("<H", payload, place)[0])


def _status_of_eof(payload: bytes) -> int:
    """An EOF packet: 0xFE, the number of warnings, the status."""
    return int(unpack_from("<H", payload, 3)[0])


def _readable(greeting: bytes) -> bytes:
    """The greeting without the capabilities that would hide what follows; an error is left as it is."""
    if greeting[_HEADER] == _ERROR:
        return greeting
    changed = bytearray(greeting)
    lower = changed.index(0, _HEADER + 1) + 1 + 4 + 8 + 1  # after the version: thread, scramble, filler
    upper = lower + 2 + 1 + 2  # collation, status
    beyond = upper + 2 + 1 + 6  # length of the scramble, filler; where MySQL's filler goes on
    for place, hidden in ((lower, _HIDDEN_BELOW), (upper, _HIDDEN_ABOVE), (beyond, _HIDDEN_BEYOND)):
        pack_into("<H", changed, place, unpack_from("<H", changed, place)[0] & ~hidden)
    return bytes(changed)


def _as_offered(response: bytes) -> bytes:
    """The client's answer to the greeting; some name capabilities that they were not offered, and then do without."""
    changed = bytearray(response)
    lower, upper = unpack_from("<HH", changed, _HEADER)
    if lower & _HIDDEN_BELOW:
        raise UnreadableError
    pack_into("<H", changed, _HEADER + 2, upper & ~_HIDDEN_ABOVE)
    return bytes(changed)


def _length(received: bytearray) -> int:
    if len(received) < _HEADER:
        return 0
    length = _HEADER + int.from_bytes(received[:3], "little")
    return length if length <= len(received) else 0


def _number(body: bytes) -> int:
    """Of a prepared statement."""
    return int(unpack_from("<I", body)[0])


def _text(received: bytes) -> str:
    return received.decode(errors="replace")
