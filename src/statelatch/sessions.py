"""The server's side of a connection: who it is there, and how another connection of the same user ends it.

A connection that is lost to us may live on at the server: its statement waits for a lock, or has not been read yet, and
is carried out when nobody expects it any more. So before anybody is told that it has not landed, its session is ended.
It is known by its number and by the port that it came from, so that no other session is taken for it. Behind a proxy,
or when its number has been given to another, nobody is ended, but while it is busy nothing is told.
"""

from __future__ import annotations

import os
import select as select_module
import socket
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, bindparam, cast, column, func, literal_column, select, table, text
from sqlalchemy.exc import DBAPIError

from statelatch.commands import Execute, Pause, Plan
from statelatch.retrying import insisted, once

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Executable
    from sqlalchemy.pool import PoolProxiedConnection

__all__ = ["Rest", "Session", "ended", "file_number", "is_dropped", "pooled_session", "session_of"]

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


class Rest(Enum):
    """What may still come of a session that was lost."""

    NOTHING = "nothing"  # it is gone
    UNSEEN = "unseen"  # it is hidden by a proxy, or never was known: what the proxy itself holds back
    STATEMENT = "statement"  # the server still carries one out


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


def ended(dialect: Dialect, session: Session) -> Plan[Rest]:
    """End a session, if it is still there, and wait until it is gone.

    One that has its number and came from another port is left alone, but may be it as well: seen through a proxy, or
    over MariaDB's Unix socket. Then it is waited for while it is busy.

    Raises:
        ConnectionFailureError: nobody answers.
    """
    seek, kill = (_BACKEND, _terminate(session)) if dialect.name == "postgresql" else (_PROCESS, _kill(session))
    sought = seek, {"number": session.number}
    try:
        for _ in range(LOOKS):
            rows = (yield from insisted(once(Execute((sought,), fresh=True, seconds=SECONDS)))).rows
            found = next(iter(rows), None)
            if found is None:
                return Rest.NOTHING
            if found["port"] == session.port:
                yield from _killed(kill)
            elif not found["is_busy"]:
                return Rest.UNSEEN
            yield Pause(EVERY)
    except DBAPIError:  # this server has no such table, or this user no right
        return Rest.UNSEEN
    return Rest.STATEMENT


def _killed(statement: Executable) -> Plan[None]:
    try:
        yield Execute(((statement, {}),), fresh=True, seconds=SECONDS)
    except DBAPIError:  # it has gone by itself
        return


_ACTIVITY = table("pg_stat_activity", *map(column, ("pid", "client_port", "usename", "state"))).c
_IS_IDLE = func.coalesce(_ACTIVITY.state, "").like("idle%")  # NULL: this user's role may not see it
_BACKEND = select(_ACTIVITY.client_port.label("port"), (~_IS_IDLE).label("is_busy")).where(
    _ACTIVITY.pid == bindparam("number"), _ACTIVITY.usename == literal_column("session_user")
)


def _terminate(session: Session) -> Executable:
    is_it = (_ACTIVITY.pid == session.number, _ACTIVITY.client_port == session.port)
    return select(func.pg_terminate_backend(_ACTIVITY.pid)).where(*is_it)


_LIST = table("processlist", *map(column, ("id", "host", "command")), schema="information_schema").c
_PROCESS = select(
    cast(func.substring_index(_LIST.host, ":", -1), Integer).label("port"), (_LIST.command != "Sleep").label("is_busy")
).where(_LIST.id == bindparam("number"))


def _kill(session: Session) -> Executable:
    return text(f"KILL CONNECTION {session.number}")
