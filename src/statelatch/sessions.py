"""The server's side of a connection: who it is there, and how another connection of the same user ends it.

A connection that is lost to us may live on at the server: its statement waits for a lock, or has not been read yet, and
is carried out when nobody expects it any more. So before anybody is told that it has not landed, its session is ended.
It is known by its number and by the port that it came from, so that no other session is taken for it: behind a proxy,
or when its number has been given to another, nobody is ended.
"""

from __future__ import annotations

import os
import select as select_module
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, column, func, literal_column, select, table, text
from sqlalchemy.exc import DBAPIError

from statelatch.commands import Execute, Pause, Plan
from statelatch.retrying import insisted, once

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.pool import PoolProxiedConnection

__all__ = ["Session", "ended", "file_number", "is_dropped", "pooled_session", "session_of"]

SECONDS = 10.0
"""For each transaction that asks."""

LOOKS, EVERY = 100, 0.02
"""How often it is looked whether a session is gone, and after how many seconds each."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session of a server.

    Attributes:
        number: the server's own for it.
        port: of its client; -1 if it came over a Unix socket.
    """

    number: int
    port: int


def file_number(driver_connection: Any) -> int | None:
    """Of the connection's socket: psycopg tells it; PyMySQL keeps its socket in `_sock`."""
    found = getattr(driver_connection, "_sock", None) or driver_connection
    try:
        return int(found.fileno())
    except Exception:  # noqa: BLE001  another driver, or it is closed: the statement will say so
        return None


def session_of(dialect: Dialect, driver_connection: Any) -> Session | None:
    """The session behind a connection that is open; None if its driver does not tell."""
    number = file_number(driver_connection) if dialect.driver in {"psycopg", "pymysql"} else None
    if number is None:
        return None
    postgresql = dialect.driver == "psycopg"
    own = driver_connection.info.backend_pid if postgresql else driver_connection.thread_id()
    return Session(int(own), _port(number))


def pooled_session(dialect: Dialect, pooled: PoolProxiedConnection) -> Session | None:
    """The same, asked once for each connection of a pool."""
    known = pooled.info
    if _KNOWN not in known:
        known[_KNOWN] = session_of(dialect, pooled.dbapi_connection)
    return known[_KNOWN]


_KNOWN = "statelatch_session"


def is_dropped(driver_connection: Any) -> bool:
    """Whether the server has ended this connection while nobody used it: there is something to be read, its end."""
    number = file_number(driver_connection)
    if number is None:
        return False
    peer = select_module.poll()
    peer.register(number, select_module.POLLIN)
    return bool(peer.poll(0))


def _port(number: int) -> int:
    blocking = os.get_blocking(number)
    with socket.socket(fileno=os.dup(number)) as peer:
        port = peer.getsockname()[1] if peer.family in {socket.AF_INET, socket.AF_INET6} else -1
    os.set_blocking(number, blocking)  # a default timeout of Python's sockets changes it for both numbers
    return int(port)


def ended(dialect: Dialect, session: Session) -> Plan[bool]:
    """End a session, if it is still there, and wait until it is gone; False if it does not go.

    Raises:
        ConnectionFailureError: nobody answers.
    """
    known = {"number": session.number, "port": session.port, "host": f"%:{session.port}"}
    try:
        if dialect.name == "postgresql":
            rows = (yield from insisted(once(Execute(((TERMINATE, known),), fresh=True, seconds=SECONDS)))).rows
            return all(row["gone"] for row in rows)
        for _ in range(LOOKS):
            rows = (yield from insisted(once(Execute(((PROCESS, known),), fresh=True, seconds=SECONDS)))).rows
            if not rows:
                return True
            yield from _killed(session)
            yield Pause(EVERY)
    except DBAPIError:  # this server has no such function, or this user no right: then it is only waited for
        return True
    return False


def _killed(session: Session) -> Plan[None]:
    try:
        yield Execute(((text(f"KILL CONNECTION {session.number}"), {}),), fresh=True, seconds=SECONDS)
    except DBAPIError:  # it has gone by itself
        return


_ACTIVITY = table("pg_stat_activity", column("pid"), column("client_port"), column("usename")).c
TERMINATE = select(func.pg_terminate_backend(_ACTIVITY.pid, 2000).label("gone")).where(
    _ACTIVITY.pid == bindparam("number"),
    _ACTIVITY.client_port == bindparam("port"),
    _ACTIVITY.usename == literal_column("current_user"),
)

_PROCESS = table("processlist", column("id"), column("host"), schema="information_schema").c
PROCESS = select(_PROCESS.id).where(_PROCESS.id == bindparam("number"), _PROCESS.host.like(bindparam("host")))
