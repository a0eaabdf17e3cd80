"""Frozen results of the run manager, and the events that its subscribers receive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

__all__ = ["Cancellation", "Finalized", "LogLine", "Outcome", "Progress", "RunEvent", "Started"]


class Outcome(StrEnum):
    """What became of a run's last word."""

    APPLIED = "applied"  # written, once
    NO_OP = "no-op"  # the run had already ended: the database said no, and nothing was written
    SPOOLED = "spooled"  # no connection took it: it is in the spool, and `recover` writes it
    UNSAVED = "unsaved"  # no connection took it: the row still says what it said before


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalized:
    """The end of a run, as its subscribers and `RunHandle.wait` see it.

    Attributes:
        run_id: which run.
        target: the state that was to be written: `completed`, `failed` or `cancelled`.
        outcome: whether it was.
        state: the state that the database holds; None if no connection answered.
        version: the row's version; None if no connection answered.
        via: the connection that answered: `primary`, `reconnected`, `fallback 1`, ...; `spool` if none did and it is
            kept there; None if it is not.
        error: the error's text, sanitized; None unless the run failed or could not be saved. Of a word that `recover`
            leaves in the spool it says why.
    """

    run_id: UUID
    target: str
    outcome: Outcome
    state: str | None
    version: int | None
    via: str | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What a cancel did. A cancel that changes nothing raises instead.

    Attributes:
        run_id: which run.
        state: the run's state after the cancel: `cancelled`, or `running` until its function stops.
        version: the run's version after the cancel.
        written: True if the run is cancelled; False if it was asked to stop.
    """

    run_id: UUID
    state: str
    version: int
    written: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The run's function begins; `attempt` counts from 1."""

    run_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line that the function logged."""

    run_id: UUID
    at: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the function is: `current` of `total` units, doing `step`."""

    run_id: UUID
    current: int
    total: int | None
    step: str | None


RunEvent = Started | LogLine | Progress | Finalized
