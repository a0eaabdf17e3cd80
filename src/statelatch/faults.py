"""PURE: what a driver's error means. The only file that judges one.

Each database has a table from its own error codes to a `Meaning`; where a table is silent the *phase* decides,
which the caller knows and no error tells: a COMMIT whose acknowledgement is lost looks the same whether it was
written or not. Messages are never read. The measured table behind this one is in the project's `faults.md`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from statelatch.engines import shown
from statelatch.errors import ConnectionFailureError, OutcomeUnknownError, Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from sqlalchemy.engine import Engine

__all__ = [
    "Contention",
    "Exhausted",
    "LostRace",
    "Meaning",
    "Passing",
    "ReadOnly",
    "is_duplicate",
    "is_impossible",
    "judge",
    "meaning_of",
]


class Meaning(Enum):
    """What is to be done about an error."""

    STALE = auto()  # nothing was written, the row has changed: read again
    RETRY = auto()  # nothing was written and the database is there: roll back, try again, bounded; then a FAILURE
    EXHAUSTED = auto()  # the same; then FATAL
    REOPEN = auto()  # nothing was written: once more on a new connection, which may lead elsewhere; then FATAL
    FAILURE = auto()  # nothing was written: try another connection
    LOST = auto()  # the connection is gone: a FAILURE before COMMIT, AMBIGUOUS during it
    AMBIGUOUS = auto()  # it may have been written: verify by token
    FATAL = auto()  # neither helps: raise it as it is


class Passing(ConnectionFailureError):  # noqa: N818  named after what it is, as are those that follow
    """Nothing was written, and another try may succeed. Never raised to a caller: see `statelatch.plans.retried`."""

    is_failure = True
    """Whether another connection may help when there are no more tries."""

    def final(self, cause: BaseException | None) -> BaseException:
        """What it is when there are no more tries.

        Args:
            cause: the driver's error.
        """
        failure = ConnectionFailureError(phase=self.phase, database=self.database, detail=self.detail)
        return failure if self.is_failure else cause or failure


class LostRace(Passing):
    """Another transaction changed the row after this one had begun: nothing was written; read again.

    PostgreSQL says so under REPEATABLE READ and SERIALIZABLE. `statelatch.plans` turns it into what it means.
    """


class Contention(Passing):
    """The database was too busy with others for this transaction, or short of something: nothing was written."""


class Exhausted(Contention):
    """The disk is full. If it stays so, no other connection helps: in the end it is the driver's error."""

    is_failure = False


class ReadOnly(Exhausted):
    """The database takes no writes, perhaps because it is a primary no longer: a new connection may lead to another."""


SQLITE = {
    "SQLITE_BUSY": Meaning.RETRY,  # at COMMIT too: not written, the transaction is still open
    "SQLITE_LOCKED": Meaning.RETRY,
    "SQLITE_PROTOCOL": Meaning.RETRY,  # the race for the locks of a WAL file
    "SQLITE_INTERRUPT": Meaning.RETRY,  # by `Connection.interrupt` or a progress handler
    "SQLITE_IOERR": Meaning.LOST,
    "SQLITE_CANTOPEN": Meaning.FAILURE,
    "SQLITE_READONLY": Meaning.REOPEN,
    "SQLITE_FULL": Meaning.EXHAUSTED,
    "SQLITE_NOTADB": Meaning.FATAL,
    "SQLITE_CORRUPT": Meaning.FATAL,
}
"""By the primary code in `sqlite3.Error.sqlite_errorname` (https://sqlite.org/rescode.html): the extended codes,
as SQLITE_BUSY_SNAPSHOT, mean what their primary code does."""

POSTGRESQL = {
    "40001": Meaning.STALE,  # serialization failure
    "40P01": Meaning.RETRY,  # deadlock
    "55P03": Meaning.RETRY,  # lock not available
    "57014": Meaning.RETRY,  # query cancelled, by statement_timeout for instance
    "40003": Meaning.AMBIGUOUS,
    "08007": Meaning.AMBIGUOUS,
    "25006": Meaning.REOPEN,  # read-only: a demoted primary
}
"""By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

POSTGRESQL_CLASSES = {"08": Meaning.LOST, "53": Meaning.RETRY, "57P": Meaning.LOST}
"""By the first characters of the SQLSTATE: connection exceptions, resources, operator intervention."""

MARIADB = {
    1205: Meaning.RETRY,  # lock wait: only the statement was undone
    1213: Meaning.RETRY,  # deadlock
    1317: Meaning.RETRY,  # interrupted
    1969: Meaning.RETRY,  # time limit of a statement, as MariaDB says it
    3024: Meaning.RETRY,  # and as MySQL does
    1020: Meaning.STALE,  # the record changed
    1021: Meaning.RETRY,  # the disk is full, as is the table in the next
    1114: Meaning.RETRY,
    1040: Meaning.FAILURE,  # too many connections
    1044: Meaning.FATAL,  # access denied, as is the next
    1045: Meaning.FATAL,
    1049: Meaning.FATAL,  # unknown database
    1698: Meaning.FATAL,  # access denied, by a plugin
    1053: Meaning.LOST,  # shutting down
    1203: Meaning.FAILURE,  # too many connections of this user, as is the next
    1226: Meaning.FAILURE,
    1290: Meaning.REOPEN,  # read-only, as are the next two
    1792: Meaning.REOPEN,
    1836: Meaning.REOPEN,
    1927: Meaning.LOST,  # killed
    2002: Meaning.LOST,  # cannot connect, as is the next
    2003: Meaning.LOST,
    2006: Meaning.LOST,  # gone away
    2013: Meaning.LOST,  # lost during the query
    4031: Meaning.LOST,  # idle for too long
}
"""By error number (https://mariadb.com/kb/en/mariadb-error-code-reference/)."""


def _sqlite(error: Any) -> Meaning | None:
    name = str(getattr(error, "sqlite_errorname", ""))
    return SQLITE.get("_".join(name.split("_")[:2]))


def _postgresql(error: Any) -> Meaning | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # as psycopg 2 calls it
    if state is None:
        # psycopg raises an OperationalError without SQLSTATE only where the server did not answer
        return Meaning.LOST if type(error).__name__ in {"OperationalError", "ConnectionTimeout"} else None
    classes = (POSTGRESQL_CLASSES.get(state[:length]) for length in (2, 3))
    return POSTGRESQL.get(state) or next((meaning for meaning in classes if meaning), None)


def _mariadb(error: Any) -> Meaning | None:
    number = error.args[0] if error.args else None
    return MARIADB.get(number) if isinstance(number, int) else None


CLASSIFIERS: dict[str, Callable[[Any], Meaning | None]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mariadb,
    "mariadb": _mariadb,
}


def meaning_of(error: BaseException, phase: Phase, dialect: str) -> Meaning:
    """What this error means.

    Args:
        error: as SQLAlchemy, its pool or the operating system raised it.
        phase: how far the statement had come; `COMMIT` for a statement in AUTOCOMMIT, too.
        dialect: SQLAlchemy's name of the dialect.
    """
    if isinstance(error, PoolTimeoutError):
        return Meaning.FAILURE
    meaning = _coded(error, phase, dialect)
    if meaning is Meaning.LOST:
        return Meaning.AMBIGUOUS if phase is Phase.COMMIT else Meaning.FAILURE
    return meaning


def _coded(error: BaseException, phase: Phase, dialect: str) -> Meaning:
    if isinstance(error, OSError):
        return Meaning.LOST
    if not isinstance(error, DBAPIError):
        return Meaning.FATAL
    classify = CLASSIFIERS.get(dialect)
    known = classify(error.orig) if classify else None
    if known is not None:
        return known
    nobody_there = phase is Phase.CONNECT and isinstance(error, OperationalError | InterfaceError)
    return Meaning.LOST if error.connection_invalidated or nobody_there else Meaning.FATAL


def judge(
    error: BaseException, phase: Phase, engine: Engine, token: UUID | None = None, key: object = None
) -> BaseException:
    """The exception to raise for this error; the error itself if it is to be raised as it is."""
    database = shown(engine.url)
    detail = str(getattr(error, "orig", None) or error).strip().splitlines()[0:1]
    about: dict[str, Any] = {
        "phase": phase,
        "database": database,
        "detail": (detail or [type(error).__name__])[0],
    }
    match meaning_of(error, phase, engine.dialect.name):
        case Meaning.STALE:
            return LostRace(**about)
        case Meaning.RETRY:
            return Contention(**about)
        case Meaning.EXHAUSTED:
            return Exhausted(**about)
        case Meaning.REOPEN:
            return ReadOnly(**about)
        case Meaning.AMBIGUOUS:
            return OutcomeUnknownError(token=token, key=key, **about)
        case Meaning.FATAL:
            return error
        case _:
            return ConnectionFailureError(**about)


def is_duplicate(error: BaseException) -> bool:
    """Whether a row with the same unique value exists already."""
    if not isinstance(error, IntegrityError):
        return False
    origin: Any = error.orig
    number = origin.args[0] if origin.args else None
    name = getattr(origin, "sqlite_errorname", None)
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    return state == "23505" or number == 1062 or name in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}


IMPOSSIBLE = frozenset({1044, 1045, 1054, 1064, 1142, 1143, 1146, 1227, 1267})
"""MariaDB's error numbers for a statement that fails whatever its values: no right, no such table or column, syntax."""


def is_impossible(error: BaseException) -> bool:
    """Whether a statement fails whatever its values are, so that to send fewer rows with it would not help."""
    if not isinstance(error, DBAPIError):
        return False
    origin: Any = error.orig
    number = origin.args[0] if origin.args else None
    name = getattr(origin, "sqlite_errorname", None)
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    return (state or "").startswith("42") or number in IMPOSSIBLE or name == "SQLITE_ERROR"
