"""PURE: how a function ended, and the last word that follows from it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from statelatch.runs.context import RunCancelled
from statelatch.runs.error_text import error_text, error_type

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Ending", "cancelled", "completed", "failed", "jsonable", "raised"]

logger = logging.getLogger("statelatch.runs")

LARGEST_JSON = 2**20
"""Characters of JSON that are kept of a result: no database may refuse a run's last word for its size,"""

DEEPEST_JSON = 31
"""or for its levels: MariaDB has room for so many,"""

LARGEST_INTEGER = 2**63 - 1
"""or give back another number: SQLite rounds larger integers."""


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
        logger.warning("run %s: its result is no JSON that every database holds; not stored", run_id)
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
    """The value as JSON would give it back; None if it is no JSON, too large, or more than some database holds."""
    try:
        text = json.dumps(value, allow_nan=False)
        if len(text) > largest:
            return None
        stored = json.loads(text)
        json.dumps(stored, ensure_ascii=False).encode()  # half a surrogate pair is no text for MariaDB
    except Exception:  # noqa: BLE001  the value's own methods may raise anything
        return None
    return stored if _fits(stored, DEEPEST_JSON) else None


def _fits(value: Any, levels: int) -> bool:
    match value:
        case dict():
            return levels > 0 and all(_fits(item, levels - 1) for item in cast("dict[str, Any]", value).values())
        case list():
            return levels > 0 and all(_fits(item, levels - 1) for item in cast("list[Any]", value))
        case int():
            return -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER
        case _:
            return True
