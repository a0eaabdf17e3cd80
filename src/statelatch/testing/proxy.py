"""`Proxy`: a TCP proxy before PostgreSQL or MariaDB that cuts, stalls or swallows at a chosen statement.

For what a driver's connection cannot show by itself: a peer that falls silent, an answer that is lost on the way, a
statement that arrives long after its sender has given up. It reads the conversation (`wire`) and has an event loop in a
thread of its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import URL, make_url

from statelatch.closing import Closing
from statelatch.engines import shown
from statelatch.testing.fault import InjectionError
from statelatch.testing.injected import CONNECT, Injected
from statelatch.testing.link import Deed, Link
from statelatch.testing.mariadb_wire import MariaDBWire
from statelatch.testing.postgresql_wire import PostgresqlWire
from statelatch.testing.sockets import LOOPBACK

if TYPE_CHECKING:
    import re
    from collections.abc import Coroutine, Mapping
    from concurrent.futures import Future

    from statelatch.testing.wire import Wire

__all__ = ["Proxy"]

_WIRES: dict[str, tuple[type[Wire], int]] = {
    "postgresql": (PostgresqlWire, 5432),
    "mariadb": (MariaDBWire, 3306),
    "mysql": (MariaDBWire, 3306),
}
"""By the URL's backend: how to read, and the port if it names none."""

_PLAIN = {"pymysql": {"ssl_disabled": "true"}, "mysqlconnector": {"ssl_disabled": "true"}}
"""By the URL's driver: what it is told, so that it does not prepare for TLS."""

_PLACES = frozenset({"host", "hostaddr", "port"})
"""Where else in a URL a driver looks for its server."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Planned:
    injected: Injected
    deed: Deed
    seconds: float


class Proxy(Closing):
    """Stands between clients and their database; a context manager.

    TLS and compression are declined, so that statements can be read: clients that insist on them cannot connect.

    Args:
        url: of the database: PostgreSQL, MariaDB or MySQL at one host, by TCP.

    Attributes:
        url: leads to the same database through the proxy.

    Raises:
        InjectionError: another database, or one that is not reached by TCP, or at no host or several.
    """

    def __init__(self, url: URL | str) -> None:
        target = make_url(url)
        self._wire, self._server = _wire_of(target)
        self._planned: list[_Planned] = []
        self._links: set[asyncio.Task[None]] = set()
        self._listening = socket.create_server((LOOPBACK, 0))
        plain = target.difference_update_query({name for name in target.query if name.startswith("ssl")} | _PLACES)
        told = _PLAIN.get(target.get_driver_name(), {})
        self.url = plain.set(host=LOOPBACK, port=self._listening.getsockname()[1]).update_query_dict(told)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="statelatch-proxy", daemon=True)
        self._thread.start()
        self._acceptor = self._run(asyncio.start_server(self._accept, sock=self._listening)).result()

    def cut(
        self,
        statement: str | re.Pattern[str],
        *,
        when: Literal["before", "after"] = "after",
        skip: int = 0,
        times: int = 1,
        must_fire: bool = True,
    ) -> Injected:
        """Cut the connection, on both sides, at a statement.

        Args:
            statement: as for `FaultInjector.inject`; "COMMIT" is one.
            when: before the server gets it, or after it has carried it out and before the client gets the answer.
            skip: so many matching statements pass first.
            times: then so many are struck.
            must_fire: it is an error if fewer were by the end of the `with`.

        Returns:
            A context manager, in which it may happen; its `fired` counts.

        Raises:
            InjectionError: a number makes no sense, or `when` is neither.
            FaultNotFiredError: at the end of the `with`: no such statement came by, or not often enough.
        """
        if when not in {"before", "after"}:
            raise InjectionError(f"cut: expected when='before' or when='after', got {when!r}")
        deed = Deed.CUT_BEFORE if when == "before" else Deed.CUT_AFTER
        return self._plan(deed, statement, skip=skip, times=times, must_fire=must_fire)

    def stall(
        self,
        statement: str | re.Pattern[str],
        seconds: float,
        *,
        skip: int = 0,
        times: int = 1,
        must_fire: bool = True,
    ) -> Injected:
        """Hold a statement back, then send it on, even if its client has given up meanwhile.

        Args:
            statement: as for `cut`.
            seconds: how long.
            skip: as for `cut`, as are the others.
            times: so many are struck.
            must_fire: it is an error if fewer were.

        Raises:
            InjectionError: a number makes no sense.
            FaultNotFiredError: at the end of the `with`: no such statement came by, or not often enough.
        """
        if not 0 <= seconds < float("inf"):
            raise InjectionError(f"stall: expected seconds ≥ 0, got {seconds}")
        return self._plan(Deed.STALL, statement, skip=skip, times=times, must_fire=must_fire, seconds=seconds)

    def swallow(
        self, statement: str | re.Pattern[str], *, skip: int = 0, times: int = 1, must_fire: bool = True
    ) -> Injected:
        """Send a statement on and drop its answer, and every later one: the connection is half open, the peer silent.

        Nor is the client told when the server ends the connection. It is only asked for what the statement needs: the
        rows of a COPY, a file.

        Args:
            statement: as for `cut`, as are the others.
            skip: so many matching statements pass first.
            times: so many are struck.
            must_fire: it is an error if fewer were.

        Raises:
            InjectionError: a number makes no sense.
            FaultNotFiredError: at the end of the `with`: no such statement came by, or not often enough.
        """
        return self._plan(Deed.SWALLOW, statement, skip=skip, times=times, must_fire=must_fire)

    def refuse(self, *, skip: int = 0, times: int = 1, must_fire: bool = True) -> Injected:
        """Reset new connections before the server has said a word; those that there are go on.

        Args:
            skip: so many connections pass first.
            times: so many are refused.
            must_fire: it is an error if fewer were.

        Raises:
            InjectionError: a number makes no sense.
            FaultNotFiredError: at the end of the `with`: nobody wanted to connect, or not often enough.
        """
        return self._plan(Deed.REFUSE, CONNECT, skip=skip, times=times, must_fire=must_fire)

    def close(self) -> None:
        """End every connection through the proxy, and listen no more."""
        if self._thread.is_alive():
            self._run(self._end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _plan(
        self,
        deed: Deed,
        statement: str | re.Pattern[str],
        *,
        skip: int,
        times: int,
        must_fire: bool,
        seconds: float = 0.0,
    ) -> Injected:
        injected = Injected(
            deed.name,
            statement,
            skip=skip,
            times=times,
            must_fire=must_fire,
            begin=lambda: self._planned.append(planned),
            end=lambda: self._planned.remove(planned),
        )
        planned = _Planned(injected, deed, seconds)
        return injected

    # -- in the loop ----------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[None, None, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted: socket.socket = writer.get_extra_info("socket")
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only for what it has opened
        link = self._loop.create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._is_refused():
                _reset(writer)
            else:
                server = await asyncio.open_connection(*self._server)
                await Link(self._wire(), (reader, writer), server, self._meets).run()
        except OSError:  # the database cannot be reached, or has reset the connection: so is the client's
            _reset(writer)
        finally:
            writer.close()

    async def _end(self) -> None:
        self._acceptor.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _is_refused(self) -> bool:
        refusing = [planned.injected for planned in self._planned if planned.deed is Deed.REFUSE]
        return any(injected.strikes(CONNECT) for injected in refusing)

    def _meets(self, statement: str) -> tuple[Deed, float] | None:
        """What happens to this statement."""
        for planned in list(self._planned):
            if planned.deed is not Deed.REFUSE and planned.injected.strikes(statement):
                return planned.deed, planned.seconds
        return None


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a server does that will not have it."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _wire_of(url: URL) -> tuple[type[Wire], tuple[str, int]]:
    """How to read the conversation, and the host and port where the URL's driver would look for its server."""
    found = _WIRES.get(url.get_backend_name())
    told: Mapping[str, Any] = url.get_dialect()().create_connect_args(url)[1] if found else {}
    host = told.get("hostaddr") or told.get("host")
    is_one = isinstance(host, str) and "," not in host and not host.startswith(("/", "@"))
    if not found or not is_one or "unix_socket" in told:
        raise InjectionError(
            f"a proxy cannot stand before {shown(url)}: expected PostgreSQL, MariaDB or MySQL at one host and port"
        )
    wire, port = found
    return wire, (str(host), int(told.get("port") or port))
