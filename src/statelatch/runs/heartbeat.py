"""The manager's heartbeat: one thread that beats until it is stopped, or until nobody holds what it beats for."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING
from weakref import WeakMethod

from statelatch.errors import ConnectionFailureError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Heartbeat"]

logger = logging.getLogger("statelatch.runs")


class Heartbeat:
    """Calls `beat` again and again, until it is stopped.

    Args:
        beat: what to do, a method; its object is held weakly, and when it is gone the heartbeat ends. What it raises
            is logged, and the next beat comes all the same.
        interval: seconds between two beats.
    """

    def __init__(self, beat: Callable[[], None], interval: float) -> None:
        self._beat = WeakMethod(beat)
        self._interval = interval
        self._stop = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._run, name="statelatch-heartbeat", daemon=True)
                thread.start()
                self._thread = thread  # not before: if no thread is to be had, the next call tries again

    def stop(self) -> None:
        """End after the current beat, and wait for it."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._stopped.wait()  # a `join` that Ctrl-C interrupts is broken before Python 3.13
            thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._interval) and self._beats():
                pass
        finally:
            self._stopped.set()

    def _beats(self) -> bool:
        """Beat once; False if there is nothing left to beat for. Holds it no longer than that."""
        beat = self._beat()
        if beat is None:
            return False
        try:
            beat()
        except ConnectionFailureError as error:
            logger.warning("no heartbeat, the next one comes in %s seconds: %s", self._interval, error)
        except BaseException:  # nobody interrupts this thread; without it every lease would run out
            logger.exception("no heartbeat, the next one comes in %s seconds", self._interval)
        return True
