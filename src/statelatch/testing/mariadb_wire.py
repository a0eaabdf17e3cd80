"""PURE: the packets of MariaDB and MySQL (https://mariadb.com/kb/en/clientserver-protocol/).

The server speaks first. In its greeting the capabilities are cleared that would hide what follows: TLS and compression,
and the one that ends a result without an EOF packet. Then each command of the client begins a sequence, with number 0,
and a statement is the text of a COM_QUERY. Its answer is OK, an error, or a result: a number of columns, as many
definitions, EOF, the rows, EOF; and then perhaps another result.
"""

from __future__ import annotations

from enum import Enum, auto
from struct import pack_into, unpack_from
from typing import Final

from statelatch.testing.wire import Message, Wire

__all__ = ["MariaDBWire"]

_HEADER: Final = 4
_LARGEST: Final = 0xFFFFFF  # the payload goes on in the next packet

_COM_QUIT, _COM_QUERY = 0x01, 0x03
_OK, _INFILE, _EOF, _ERROR = 0x00, 0xFB, 0xFE, 0xFF

_HIDDEN_BELOW: Final = 0x0020 | 0x0800  # CLIENT_COMPRESS, CLIENT_SSL
_HIDDEN_ABOVE: Final = 0x0100  # CLIENT_DEPRECATE_EOF, in the upper half
_MORE_RESULTS: Final = 0x0008


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
        self._is_query = False

    @property
    def is_settled(self) -> bool:
        """Whether the server has answered all that it was asked."""
        return self._awaited is _Awaited.NOTHING

    def _client_length(self, received: bytearray) -> int:
        return _length(received)

    def _server_length(self, received: bytearray) -> int:
        return _length(received)

    def _client_message(self, message: bytes) -> Message:
        begins = message[3] == 0 and len(message) > _HEADER
        if not begins:
            return Message(message)
        command = message[_HEADER]
        self._is_query = command == _COM_QUERY
        self._awaited = _Awaited.NOTHING if command == _COM_QUIT else _Awaited.ANSWER
        statement = message[_HEADER + 1 :].decode(errors="replace") if self._is_query else None
        return Message(message, statement=statement)

    def _server_message(self, message: bytes) -> Message:
        if not self._is_greeted:
            self._is_greeted = True
            return Message(_readable(message))
        is_first = not self._continues
        self._continues = len(message) - _HEADER == _LARGEST
        if is_first:
            self._awaited = self._next(message[_HEADER:])
        return Message(message)

    def _next(self, payload: bytes) -> _Awaited:
        """What is awaited after this packet of the server."""
        kind = payload[0] if payload else _OK
        ends = kind == _EOF and len(payload) < 9
        match self._awaited:
            case _Awaited.ANSWER | _Awaited.COLUMNS | _Awaited.ROWS if kind == _ERROR:
                return _Awaited.NOTHING
            case _Awaited.ANSWER if not self._is_query or kind == _OK:
                return _after(_status_of_ok(payload)) if self._is_query else _Awaited.NOTHING
            case _Awaited.ANSWER if kind != _INFILE:
                return _Awaited.COLUMNS
            case _Awaited.COLUMNS if ends:
                return _Awaited.ROWS
            case _Awaited.ROWS if ends:
                return _after(int(unpack_from("<H", payload, 3)[0]))
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


def _readable(greeting: bytes) -> bytes:
    """The greeting without the capabilities that would hide what follows; an error is left as it is."""
    if greeting[_HEADER] == _ERROR:
        return greeting
    changed = bytearray(greeting)
    lower = changed.index(0, _HEADER + 1) + 1 + 4 + 8 + 1  # after the version: thread, scramble, filler
    upper = lower + 2 + 1 + 2  # collation, status
    for place, hidden in ((lower, _HIDDEN_BELOW), (upper, _HIDDEN_ABOVE)):
        pack_into("<H", changed, place, unpack_from("<H", changed, place)[0] & ~hidden)
    return bytes(changed)


def _length(received: bytearray) -> int:
    if len(received) < _HEADER:
        return 0
    length = _HEADER + int.from_bytes(received[:3], "little")
    return length if length <= len(received) else 0
