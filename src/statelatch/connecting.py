"""Connections that are had in time, or given up.

A driver does not let go while it connects. So a thread of its own connects, and whoever waits for it goes on when the
time is over. That thread has to end as well: else each try of a long outage would leave one behind, and a place in the
pool with it. So the driver is told how long it may wait for the server's greeting, unless the user has told it; and as
soon as there is a connection, the watchdog has it.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from statelatch.watchdog import Watch

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Dialect, Engine

    from statelatch.limits import Limit
    from statelatch.lines import OpenLine

__all__ = ["can_hurry", "enter", "hurried"]

LONGEST = 31_536_000
"""Seconds that PyMySQL takes for a timeout: a year."""

TIMEOUTS = {"psycopg": ("connect_timeout",), "pymysql": ("connect_timeout", "read_timeout")}
"""By driver: what bounds a connect, in whole seconds. That of PyMySQL ends before the handshake."""


class _Hurry(threading.local):
    """What this thread connects for; nobody else's connections are touched."""

    def __init__(self) -> None:
        self.limit: Limit | None = None
        self.watches: list[Watch] = []
        self.told: set[str] = set()


HURRY = _Hurry()


def can_hurry(engine: Engine) -> None:
    """Let the connections of this engine know of the limits that they are made in."""
    if engine.dialect.name == "sqlite":
        return
    event.listen(engine.dialect, "do_connect", _tell)
    if _watch not in engine.pool.dispatch.connect:  # a pool that is made after another has its listeners
        event.listen(engine.pool, "connect", _watch, insert=True)


def enter(line: OpenLine, limit: Limit) -> None:
    """Enter a line in time; if it is had later, it is left again.

    Raises:
        TimeoutError: no connection was had in time.
    """
    future: Future[None] = Future()

    def run() -> None:
        with hurried(limit):
            try:
                line.__enter__()
            except BaseException as error:  # noqa: BLE001  it is raised where it is waited for, or nobody waits
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            else:
                if future.set_running_or_notify_cancel():
                    future.set_result(None)
                else:
                    line.__exit__(None, None, None)

    try:
        threading.Thread(target=run, name="statelatch-connect", daemon=True).start()
    except RuntimeError:  # no thread is to be had: the driver's patience is better than nothing
        with hurried(limit):
            line.__enter__()
        return
    try:
        future.result(limit.left)
    except FutureTimeoutError:
        if future.cancel():
            raise TimeoutError(f"no connection within {limit.seconds:.1f} s") from None
        future.result()
    except BaseException:
        future.cancel()
        raise


@contextmanager
def hurried(limit: Limit) -> Generator[None]:
    """Within this, the connections of this thread are made in this time."""
    HURRY.limit, HURRY.told = limit, set()
    try:
        yield
    finally:
        HURRY.limit = None
        while HURRY.watches:
            HURRY.watches.pop().end()


def _tell(dialect: Dialect, _record: object, _arguments: list[Any], keywords: dict[str, Any]) -> None:
    """Tell the driver how long it may take."""
    if HURRY.limit is None or (dialect.driver == "psycopg" and "PGCONNECT_TIMEOUT" in os.environ):
        return
    HURRY.told = set(TIMEOUTS.get(dialect.driver, ())).difference(keywords)
    keywords.update(dict.fromkeys(HURRY.told, min(ceil(HURRY.limit.left), LONGEST)))


def _watch(driver_connection: Any, _record: object) -> None:
    """Watch a connection that was just made; what its driver was told does not hold for statements."""
    if HURRY.limit is None:
        return
    if "read_timeout" in HURRY.told:
        driver_connection._read_timeout = None  # noqa: SLF001
    if watch := Watch.over(driver_connection, HURRY.limit.left):
        HURRY.watches.append(watch)
