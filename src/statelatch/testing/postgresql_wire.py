"""PURE: the messages of PostgreSQL, protocol 3.0 (https://www.postgresql.org/docs/current/protocol-message-formats.html).

A client begins with messages that have no type: it may ask for TLS, which is declined here so that what follows can be
read, and then starts up. From then on a message is a type, a length and a body. A statement is carried out by a Query,
or by an Execute of a portal, which a Bind has made of a statement that a Parse has named: a driver may prepare it once
and bind it ever after.

An exchange ends with Query, Sync or FunctionCall, is answered by ReadyForQuery, and is then durable. Before its end a
client may ask with Flush for the answers that there are; it is then answered when each Execute is, or one has failed.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Final

from statelatch.testing.wire import Message, UnreadableError, Wire

__all__ = ["PostgresqlWire"]

_ENCRYPTION_REQUESTS: Final = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_CANCEL_REQUEST: Final = 80877102
_DECLINED: Final = b"N"
_TLS_RECORD: Final = b"\x16"  # a handshake that nobody was asked for


class PostgresqlWire(Wire):
    """One connection to PostgreSQL."""

    def __init__(self) -> None:
        super().__init__()
        self._is_started = False
        self._unanswered = 1  # starting up ends with ReadyForQuery, like every exchange
        self._is_awaited = True  # the client has asked for what there is to answer
        self._executing = 0  # Executes without an answer, of the exchange that has not ended
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, bytes] = {}

    @property
    def is_settled(self) -> bool:
        """Whether the server has answered all that the client waits for."""
        return self._is_awaited and not self._unanswered and not self._executing

    def _client_length(self, received: bytearray) -> int:
        if not self._is_started and received.startswith(_TLS_RECORD):
            raise UnreadableError
        return _length(received, 1 if self._is_started else 0)

    def _server_length(self, received: bytearray) -> int:
        return _length(received, 1)

    def _client_message(self, message: bytes) -> Message:
        if not self._is_started:
            return self._starting(message)
        kind, body = message[:1], message[5:]
        self._asks(kind)
        return Message(message, statement=self._statement(kind, body))

    def _server_message(self, message: bytes) -> Message:
        kind = message[:1]
        match kind:
            case b"Z":  # ReadyForQuery
                self._unanswered -= 1
            case b"C" | b"I" | b"s" if not self._unanswered:  # CommandComplete, EmptyQueryResponse, PortalSuspended
                self._executing -= 1
            case b"E" if not self._unanswered:  # ErrorResponse: the rest of the exchange is not carried out
                self._executing = 0
            case _:
                pass
        return Message(message, is_request=kind == b"G")  # CopyInResponse

    def _asks(self, kind: bytes) -> None:
        """Note what is to be answered; the rows of a COPY, and Terminate, ask for nothing."""
        match kind:
            case b"Q" | b"S" | b"F":  # Query, Sync, FunctionCall
                self._unanswered += 1
                self._executing = 0
                self._is_awaited = True
            case b"H":  # Flush
                self._is_awaited = True
            case b"P" | b"B" | b"D" | b"E" | b"C":  # Parse, Bind, Describe, Execute, Close
                self._executing += kind == b"E"
                self._is_awaited = False
            case _:
                pass

    def _starting(self, message: bytes) -> Message:
        (code,) = unpack_from("!I", message, 4)
        if code in _ENCRYPTION_REQUESTS:
            return Message(b"", answer=_DECLINED)
        self._is_started = code != _CANCEL_REQUEST
        return Message(message)

    def _statement(self, kind: bytes, body: bytes) -> str | None:
        """Note what is prepared and bound; the statement that is carried out."""
        match kind:
            case b"Q":  # Query
                return _text(body.split(b"\0", 1)[0])
            case b"P":  # Parse
                name, query, _ = body.split(b"\0", 2)
                self._statements[name] = _text(query)
            case b"B":  # Bind
                portal, name, _ = body.split(b"\0", 2)
                self._portals[portal] = name
            case b"E":  # Execute
                return self._statements.get(self._portals.get(body.split(b"\0", 1)[0], b""))
            case b"C" if body[:1] == b"S":  # Close, of a statement
                self._statements.pop(body[1:].rstrip(b"\0"), None)
            case _:
                pass
        return None


def _length(received: bytearray, type_length: int) -> int:
    """Of a message: its length counts itself, not the type."""
    if len(received) < type_length + 4:
        return 0
    length = type_length + int(unpack_from("!I", received, type_length)[0])
    return length if length <= len(received) else 0


def _text(received: bytes) -> str:
    return received.decode(errors="replace")
