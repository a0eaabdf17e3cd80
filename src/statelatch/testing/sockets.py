"""The socket beneath a driver's connection: shut, listened to, and a place where nobody answers."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from functools import cache

__all__ = ["LOOPBACK", "refused_port", "shut", "silence"]

LOOPBACK = "127.0.0.1"

_HANG_UP = getattr(select, "POLLRDHUP", 0)
"""Linux's; POLLHUP and POLLERR are told without being asked for."""


def shut(descriptor: int) -> None:
    """End the connection in both directions; the driver's own descriptor stays open, so that the driver finds out."""
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as shared:
        shared.shutdown(socket.SHUT_RDWR)


def silence(descriptor: int, seconds: float) -> None:
    """Wait, but no longer than until somebody ends the connection, at this end or at the other."""
    watched = select.poll()
    watched.register(descriptor, _HANG_UP)  # what the server says unasked, a NOTIFY for instance, ends nothing
    watched.poll(seconds * 1000)


@cache
def refused_port() -> int:
    """A port that is bound and never listened to: it refuses for certain, and nobody else can take it."""
    bound = socket.socket()
    bound.bind((LOOPBACK, 0))
    _BOUND.append(bound)
    return int(bound.getsockname()[1])


_BOUND: list[socket.socket] = []
