"""What each fault does to the statement that it strikes.

Every one is real: a connection is cut, a lock is held, the database itself raises the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from statelatch.testing.fault import Fault, ProcessDied

if TYPE_CHECKING:
    from statelatch.testing.drivers import Passage

__all__ = ["STRIKES", "Strike"]


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault that meets one statement.

    Attributes:
        passage: the statement.
        seconds: for how long, of a stall.
        dies: the process ends with the connection.
        hold: take the lock that this statement needs.
    """

    passage: Passage
    seconds: float
    dies: bool
    hold: Callable[[str], object]

    def end(self) -> NoReturn:
        """Cut the connection, and raise what the driver raises then."""
        connection = self.passage.connection
        connection.cut()
        if self.dies:
            raise ProcessDied(f"at {self.passage.statement}")
        connection.fail()


def _die_before(strike: Strike) -> NoReturn:
    strike.end()


def _die_after(strike: Strike) -> NoReturn:
    """An error of the database is lost with its answer."""
    with suppress(Exception):
        strike.passage.complete()
    strike.end()


def _stall(strike: Strike) -> Any:
    strike.passage.connection.stall(strike.seconds)
    return strike.passage.carry_out()


def _lock(strike: Strike) -> Any:
    strike.hold(strike.passage.statement)
    return strike.passage.carry_out()


def _fail_serialization(strike: Strike) -> Any:
    return strike.passage.connection.fail_serialization(strike.passage.carry_out)


def _fail_full(strike: Strike) -> NoReturn:
    strike.passage.connection.fail_full()


STRIKES: Mapping[Fault, Callable[[Strike], Any]] = {
    Fault.DIE_BEFORE_EXECUTE: _die_before,
    Fault.DIE_AFTER_EXECUTE: _die_after,
    Fault.DIE_BEFORE_COMMIT: _die_before,
    Fault.LOSE_ACKNOWLEDGEMENT: _die_after,
    Fault.STALL: _stall,
    Fault.LOCK: _lock,
    Fault.SERIALIZATION_FAILURE: _fail_serialization,
    Fault.DISK_FULL: _fail_full,
}
