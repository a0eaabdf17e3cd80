"""The database's clock, as far as is needed to complete a time whose high bits are missing.

`statelatch.outcomes` packs the time into 40 bits on MariaDB: every 12 days it begins anew. Which of these windows it
is, follows from the last time that this database told and from how long ago that was here; it need only be right to
within 6 days. What it completes is exact, and the database's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from statelatch.outcomes import EPOCH, WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DatabaseClock"]

MICROSECOND = 1_000_000
PATIENCE = 24 * 3600.0
"""Seconds after which the database is asked anew."""


class DatabaseClock:
    """The last time that the database told, and when that was.

    Args:
        elapsed: seconds on a clock that goes on evenly.
        wall: seconds on a clock that goes on while the machine sleeps.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._elapsed, self._wall = elapsed, wall
        self._told: tuple[int, float, float] | None = None

    @property
    def is_set(self) -> bool:
        """Whether it may complete a time; else ask the database, and `tell`."""
        if self._told is None:
            return False
        _, elapsed, wall = self._told
        passed, by_wall = self._elapsed() - elapsed, self._wall() - wall
        return passed < PATIENCE and abs(by_wall) < PATIENCE

    def tell(self, at: datetime) -> None:
        """What the database said just now."""
        self._keep(round((at.astimezone(UTC) - EPOCH).total_seconds() * MICROSECOND))

    @property
    def now(self) -> int:
        """Microseconds since `EPOCH`, as near as is known here."""
        assert self._told is not None, "ask the database first"  # noqa: S101
        told, elapsed, _ = self._told
        return told + round((self._elapsed() - elapsed) * MICROSECOND)

    def completed(self, microseconds: int) -> int:
        """Microseconds since `EPOCH`, of which only those modulo `WINDOW` are given: those nearest to now."""
        near = self.now
        whole = near + (microseconds - near + WINDOW // 2) % WINDOW - WINDOW // 2
        self._keep(whole)
        return whole

    def _keep(self, microseconds: int) -> None:
        self._told = (microseconds, self._elapsed(), self._wall())
