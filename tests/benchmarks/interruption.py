"""Ctrl-C waits for the end of the block: in the middle of one, a connection might be left behind with its locks.

A second Ctrl-C does not wait.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Generator[Callable[[], None]]:
    """Yields what raises `KeyboardInterrupt` if Ctrl-C was pressed; to be called where nothing is under way."""
    pressed = False

    def press(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
