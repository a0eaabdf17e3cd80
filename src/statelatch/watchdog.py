"""The watchdog: shuts down the socket of a connection when its time is over.

The driver then finds it lost, in whatever phase it was. SQLite's statement is interrupted.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import sqlite3
import struct
import threading
import time
from contextlib import suppress
from typing import Any, cast

from statelatch.sessions import file_number

__all__ = ["Watch"]

LONGEST = 3600.0
"""Seconds for which the watchdog sleeps at a time."""

SOME = 100
"""Watches that have ended, which may be kept."""


class Watch:
    """Cuts one connection off when its time is over, unless it has ended by then."""

    def __init__(self, driver_connection: Any, number: int | None) -> None:
        self._connection = driver_connection if number is None else None
        self._number = None if number is None else os.dup(number)  # the driver's own may be another's by then
        self._lock = threading.Lock()
        self.is_ended = False
        self._struck = False

    @classmethod
    def over(cls, driver_connection: Any, seconds: float) -> Watch | None:
        """Watch this connection from now on; None if nothing is known of how to cut it off."""
        number = None if isinstance(driver_connection, sqlite3.Connection) else file_number(driver_connection)
        if number is None and not isinstance(driver_connection, sqlite3.Connection):
            return None
        watch = cls(driver_connection, number)
        WATCHDOG.watch(watch, seconds)
        return watch

    def strike(self) -> None:
        """The time is over."""
        with self._lock:
            if not self.is_ended:
                self._struck = True
                with suppress(Exception):  # it is cut off already, or closed
                    self._cut()

    def _cut(self) -> None:
        """What is still to be sent is not sent any more: it would be carried out when nobody expects it."""
        if self._number is None:
            cast("sqlite3.Connection", self._connection).interrupt()
            return
        peer = socket.socket(fileno=self._number)
        try:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.shutdown(socket.SHUT_RDWR)
        finally:
            peer.detach()

    def end(self) -> bool:
        """Nothing more is cut off; whether it was."""
        with self._lock:
            if not self.is_ended:
                self.is_ended, self._connection = True, None
                if self._number is not None:
                    os.close(self._number)
            WATCHDOG.ended()
            return self._struck


class _Watchdog:
    """One thread for all watches, begun with the first; in a forked process again."""

    def __init__(self) -> None:
        self._anew()

    def _anew(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Watch]] = []
        self._numbers = itertools.count()
        self._over = 0
        self._thread: threading.Thread | None = None

    def watch(self, watch: Watch, seconds: float) -> None:
        """Strike after so many seconds."""
        if self._process != os.getpid():
            self._anew()
        with self._changed:
            if self._over > len(self._due) // 2 + SOME:  # else memory would grow with the limit
                self._due = [each for each in self._due if not each[2].is_ended]
                heapq.heapify(self._due)
                self._over = 0
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), watch))
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="statelatch-watchdog", daemon=True)
                with suppress(RuntimeError):  # no thread is to be had: the next call tries again
                    thread.start()
                    self._thread = thread
            if self._due[0][2] is watch:
                self._changed.notify()

    def ended(self) -> None:
        """One of the watches has nothing more to do."""
        self._over += 1

    def _run(self) -> None:
        while True:
            self._next().strike()

    def _next(self) -> Watch:
        with self._changed:
            while (wait := self._until_due()) is None or wait > 0:
                self._changed.wait(wait)
            return heapq.heappop(self._due)[2]

    def _until_due(self) -> float | None:
        """Seconds; None if nothing is to be done."""
        return min(self._due[0][0] - time.monotonic(), LONGEST) if self._due else None


WATCHDOG = _Watchdog()
