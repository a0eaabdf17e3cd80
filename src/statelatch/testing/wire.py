"""PURE: a conversation between a client and its server, cut into messages. What both protocols have in common.

A `Wire` is given the bytes that arrive, in whatever pieces, and returns the messages that are complete, with what a
proxy needs to know of them: which statement one carries out, and whether all that was asked has been answered. It reads
no socket and knows no clock. One for each connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Message", "UnreadableError", "Wire"]


class UnreadableError(Exception):
    """The client goes on as if what would hide its statements had not been declined."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        sent_on: the bytes to pass on; none if it is answered here.
        answer: the bytes to send back instead.
        statement: the statement that the server carries out when it gets this message.
        is_request: the server asks for what it needs to carry the statement out: rows to copy, a file.
    """

    sent_on: bytes
    answer: bytes = b""
    statement: str | None = None
    is_request: bool = False


class Wire(ABC):
    """One connection's conversation."""

    def __init__(self) -> None:
        self._from_client = bytearray()
        self._from_server = bytearray()

    def from_client(self, received: bytes) -> Iterator[Message]:
        """The client's messages that are complete with these bytes.

        Raises:
            UnreadableError: they are encrypted or compressed.
        """
        self._from_client += received
        while length := self._client_length(self._from_client):
            yield self._client_message(_taken(self._from_client, length))

    def from_server(self, received: bytes) -> Iterator[Message]:
        """The server's messages that are complete with these bytes."""
        self._from_server += received
        while length := self._server_length(self._from_server):
            yield self._server_message(_taken(self._from_server, length))

    @property
    @abstractmethod
    def is_settled(self) -> bool:
        """Whether the server has answered all that the client waits for."""

    @abstractmethod
    def _client_length(self, received: bytearray) -> int:
        """Bytes of the client's first message; 0 if it is not complete."""

    @abstractmethod
    def _server_length(self, received: bytearray) -> int:
        """Bytes of the server's first message; 0 if it is not complete."""

    @abstractmethod
    def _client_message(self, message: bytes) -> Message: ...

    @abstractmethod
    def _server_message(self, message: bytes) -> Message: ...


def _taken(received: bytearray, length: int) -> bytes:
    taken = bytes(received[:length])
    del received[:length]
    return taken
