"""One connection through a proxy: two streams, and what happens to a statement on its way between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from statelatch.testing.wire import UnreadableError

if TYPE_CHECKING:
    from statelatch.testing.wire import Message, Wire

__all__ = ["Deed", "Link"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_PIECE = 65_536


class Deed(Enum):
    """What a proxy does to a statement, or to a connection."""

    CUT_BEFORE = auto()  # the server does not get it
    CUT_AFTER = auto()  # the server has answered, the client does not get that
    STALL = auto()  # it waits, and goes on
    SWALLOW = auto()  # the client gets nothing any more
    REFUSE = auto()  # the connection does not come to be


class _CutError(Exception):
    """The connection ends here."""


class Link:
    """A client and its server.

    Args:
        wire: reads what they say.
        client: its streams.
        server: its streams.
        meets: what happens to a statement, and for how many seconds.
    """

    def __init__(
        self, wire: Wire, client: Streams, server: Streams, meets: Callable[[str], tuple[Deed, float] | None]
    ) -> None:
        self._wire, self._meets = wire, meets
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._deed: Deed | None = None

    async def run(self) -> None:
        """Pass on what they say, until one of them ends or the connection is cut.

        A client whose answers are swallowed is not told either that its server has ended.
        """
        directions = [asyncio.create_task(self._upward()), asyncio.create_task(self._downward())]
        try:
            ended, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            if self._deed is Deed.SWALLOW:
                ended, _ = await asyncio.wait(directions[:1])
            if any(isinstance(direction.exception(), (_CutError, UnreadableError)) for direction in ended):
                self._to_client.transport.abort()
                self._to_server.transport.abort()
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            self._to_client.close()
            self._to_server.close()  # what was sent on still arrives

    async def _upward(self) -> None:
        while received := await self._from_client.read(_PIECE):
            for message in self._wire.from_client(received):
                await self._pass_on(message)

    async def _downward(self) -> None:
        while received := await self._from_server.read(_PIECE):
            for message in self._wire.from_server(received):
                if self._deed is None or message.is_request:
                    self._to_client.write(message.sent_on)
                elif self._deed is Deed.CUT_AFTER and self._wire.is_settled:
                    raise _CutError
            await self._to_client.drain()

    async def _pass_on(self, message: Message) -> None:
        if message.answer:
            self._to_client.write(message.answer)
            return
        deed, seconds = (message.statement is not None and self._meets(message.statement)) or (None, 0.0)
        if deed is Deed.CUT_BEFORE:
            raise _CutError
        if deed is Deed.STALL:
            await asyncio.sleep(seconds)
        elif deed:
            self._deed = deed
        self._to_server.write(message.sent_on)
        try:
            await self._to_server.drain()
        except OSError:
            if self._deed is not Deed.SWALLOW:
                raise
