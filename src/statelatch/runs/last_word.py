"""PURE: a run's last word, as it is written over each connection, kept in the spool, and replayed.

It is made once, when the function has ended. Its token goes over every connection and into the spool: whoever writes
it, and however often that is tried, it is applied once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

__all__ = ["LastWord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWord:
    """What is to be written of a run that has ended.

    Attributes:
        run_id: which run.
        event: the event that writes it: `complete`, `fail` or `cancel`.
        token: proof of who wrote it.
        worker: owner of the lease; None for the cancel of a run that no worker has taken.
        params: further parameters of the event, as JSON would give them back.
        target: the state that the event leads to.
        error: text of the function's error, sanitized; None unless it failed.
    """

    run_id: UUID
    event: str
    token: UUID
    worker: str | None
    params: Mapping[str, Any]
    target: str
    error: str | None
