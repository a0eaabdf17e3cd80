"""Interrupts: what is raised that is no `Exception`: Ctrl-C, an exit, a cancellation.

One says nothing of what it interrupts; it is meant for whoever waits for that. Where what has begun must come to its
end, the interrupt is logged, and passed on afterwards.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["pass_on"]


def pass_on(raised: Iterable[BaseException]) -> None:
    """Raise the first of these that is an interrupt, in the main thread: there signals come, and there somebody waits.

    Another thread, of a pool for instance, would only end by it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for error in raised:
        if not isinstance(error, Exception):
            raise error
