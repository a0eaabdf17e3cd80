"""PURE: how a function ended, and the last word that follows from it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from statelatch.runs.context import RunCancelled
from statelatch.runs.error_text import error_text, error_type

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Ending", "cancelled", "completed", "failed", "jsonable", "raised"]

logger = logging.getLogger("statelatch.runs")

LARGEST_JSON = 2**20
"""Characters of JSON that are kept of a result: no database may refuse a run's last word for its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The last word of one attempt.

    Attributes:
        target: `completed`, `failed` or `cancelled`.
        event: the event that writes it.
        params: the event's parameters.
        value: what the function returned.
        exception: what it raised.
        error: the exception's text, sanitized.
    """

    target: str
    event: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    value: Any = None
    exception: BaseException | None = None
    error: str | None = None


def completed(run_id: UUID, value: object) -> Ending:
    """The function returned: it has completed, whatever was asked meanwhile."""
    stored = jsonable(value)
    if stored is None and value is not None:
        logger.warning("run %s: its result is no JSON of at most %d characters; not stored", run_id, LARGEST_JSON)
    return Ending(target="completed", event="complete", params={"result": stored}, value=value)


def raised(error: BaseException) -> Ending:
    """The function raised: cancelled if it says so, else failed."""
    return cancelled(error) if isinstance(error, RunCancelled) else failed(error)


def failed(error: BaseException) -> Ending:
    """It failed, with this cause."""
    text = error_text(error)
    params = {"error": text, "error_type": error_type(error)}
    return Ending(target="failed", event="fail", params=params, exception=error, error=text)


def cancelled(error: BaseException | None = None) -> Ending:
    """It was cancelled; that is no error."""
    return Ending(target="cancelled", event="cancel", exception=error)


def jsonable(value: object, *, largest: int = LARGEST_JSON) -> Any:
    """The value as JSON would give it back; None if it is no JSON, or too large."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return json.loads(text) if len(text) <= largest else None
