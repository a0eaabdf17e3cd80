"""The faults there are, and what is raised when one cannot be injected, has not fired, or has ended the process."""

from __future__ import annotations

from enum import StrEnum

from statelatch.errors import StatelatchError

__all__ = ["DEADLY", "Fault", "FaultNotFiredError", "InjectionError", "ProcessDied"]


class Fault(StrEnum):
    """What can happen between a program and its database.

    In AUTOCOMMIT a statement is its own COMMIT: what strikes after it leaves a write that is durable.
    """

    REFUSE = "refuse"  # connect: the connection is asked for where nobody listens; pooled ones are dropped first
    DIE_BEFORE_EXECUTE = "die before execute"  # execute: cut before the statement is sent; nothing reaches the database
    DIE_AFTER_EXECUTE = "die after execute"  # execute: cut when the statement is carried out, before its answer is read
    DIE_BEFORE_COMMIT = "die before commit"  # commit: cut before COMMIT is sent; the database takes everything back
    # (but for DDL that has committed itself: MariaDB's, and sqlite3's outside a transaction)
    LOSE_ACKNOWLEDGEMENT = "lose acknowledgement"  # commit: carried out, durable; cut before its answer is read
    STALL = "stall"  # execute: silence before the statement goes on; over at once if the socket is shut meanwhile
    LOCK = "lock"  # execute: another connection holds the table's rows, or the SQLite file, and lets go later; who only
    # reads does not wait
    SERIALIZATION_FAILURE = "serialization failure"  # execute: the database breaks the transaction off (40001, 1213,
    # SQLITE_BUSY_SNAPSHOT)
    DISK_FULL = "disk full"  # execute: the database has no room (53100, 1021, SQLITE_FULL)


DEADLY = frozenset(
    {Fault.DIE_BEFORE_EXECUTE, Fault.DIE_AFTER_EXECUTE, Fault.DIE_BEFORE_COMMIT, Fault.LOSE_ACKNOWLEDGEMENT}
)
"""Those that cut the connection, as the death of the process would."""


class InjectionError(StatelatchError, ValueError):
    """This fault cannot happen here; the message says why, and what to inject instead."""


class FaultNotFiredError(AssertionError):
    """The test ended without its fault, or with fewer than it asked for, so it has not shown what it should.

    Name a statement that is sent (the message has those that were), or pass `must_fire=False`.
    """


class ProcessDied(BaseException):
    """The process ends here, as if it had been killed: its connection is cut, and no `except Exception` goes on.

    Catch it where the process would be started again.
    """
