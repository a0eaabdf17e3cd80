"""Faults: the table of what a driver's error means, row by row, for each phase, with the drivers' real classes."""

import sqlite3
from collections.abc import Callable

import psycopg
import psycopg.errors
import pymysql.err
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from statelatch.errors import ConnectionFailureError, OutcomeUnknownError, Phase
from statelatch.faults import Contention, Meaning, is_duplicate, judge, meaning_of
from statelatch.tokens import mint

URLS = {
    "sqlite": "sqlite:///x.db",
    "postgresql": "postgresql+psycopg://user:secret@db/runs",
    "mariadb": "mariadb+pymysql://user:secret@db/runs",
    "mysql": "mysql+pymysql://user:secret@db/runs",
}

STALE, RETRY, EXHAUSTED, REOPEN, FAILURE, FATAL, AMBIGUOUS = (
    Meaning.STALE,
    Meaning.RETRY,
    Meaning.EXHAUSTED,
    Meaning.REOPEN,
    Meaning.FAILURE,
    Meaning.FATAL,
    Meaning.AMBIGUOUS,
)


def wrapped(dialect: str, error: Exception) -> DBAPIError:
    """The driver's error as SQLAlchemy raises it."""
    module = {"sqlite": sqlite3, "postgresql": psycopg}.get(dialect, pymysql)
    engine = create_engine(URLS[dialect])
    disconnected = engine.dialect.is_disconnect(error, None, None)  # pyright: ignore[reportArgumentType]
    raised = DBAPIError.instance(
        "UPDATE", {}, error, module.Error, connection_invalidated=disconnected, dialect=engine.dialect
    )
    assert isinstance(raised, DBAPIError)
    return raised


def sqlite_error(name: str, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    """An error as SQLite raises it, with its extended code's name."""
    error = kind(name)
    error.sqlite_errorname = name
    return error


def lost(phase: Phase) -> Meaning:
    """A lost connection is a failure, and during COMMIT ambiguous."""
    return AMBIGUOUS if phase is Phase.COMMIT else FAILURE


def always(meaning: Meaning) -> Callable[[Phase], Meaning]:
    """The same in each phase."""
    return lambda _: meaning


def unless_connecting(phase: Phase) -> Meaning:
    """An error that no table knows: nobody was there if it was had while connecting."""
    return FAILURE if phase is Phase.CONNECT else FATAL


Row = tuple[str, Exception, Callable[[Phase], Meaning]]

SQLITE: list[Row] = [
    *(
        ("sqlite", sqlite_error(name), always(RETRY))
        for name in (
            "SQLITE_BUSY",
            "SQLITE_BUSY_RECOVERY",
            "SQLITE_BUSY_SNAPSHOT",
            "SQLITE_BUSY_TIMEOUT",
            "SQLITE_LOCKED",
            "SQLITE_LOCKED_SHAREDCACHE",
            "SQLITE_PROTOCOL",
            "SQLITE_INTERRUPT",
        )
    ),
    *(
        ("sqlite", sqlite_error(name), lost)
        for name in ("SQLITE_IOERR", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHORT_READ")
    ),
    *(
        ("sqlite", sqlite_error(name), always(FAILURE))
        for name in (
            "SQLITE_CANTOPEN",
            "SQLITE_CANTOPEN_ISDIR",
        )
    ),
    ("sqlite", sqlite_error("SQLITE_FULL"), always(EXHAUSTED)),
    *(
        ("sqlite", sqlite_error(name), always(REOPEN))
        for name in ("SQLITE_READONLY", "SQLITE_READONLY_DBMOVED", "SQLITE_READONLY_DIRECTORY")
    ),
    ("sqlite", sqlite_error("SQLITE_NOTADB", sqlite3.DatabaseError), always(FATAL)),
    ("sqlite", sqlite_error("SQLITE_CORRUPT", sqlite3.DatabaseError), always(FATAL)),
    ("sqlite", sqlite_error("SQLITE_CORRUPT_INDEX", sqlite3.DatabaseError), always(FATAL)),
    ("sqlite", sqlite_error("SQLITE_CONSTRAINT_NOTNULL", sqlite3.IntegrityError), always(FATAL)),
    ("sqlite", sqlite_error("SQLITE_ERROR"), unless_connecting),  # no such table
    ("sqlite", sqlite3.ProgrammingError("Cannot operate on a closed database."), lost),
]

POSTGRESQL: list[Row] = [
    *(("postgresql", psycopg.errors.lookup(state)(), always(RETRY)) for state in ("40P01", "55P03", "57014")),
    ("postgresql", psycopg.errors.lookup("40001")(), always(STALE)),
    ("postgresql", psycopg.errors.lookup("40003")(), always(AMBIGUOUS)),
    ("postgresql", psycopg.errors.lookup("08007")(), always(AMBIGUOUS)),
    *(("postgresql", psycopg.errors.lookup(state)(), always(RETRY)) for state in ("53100", "53200", "53300")),
    ("postgresql", psycopg.errors.lookup("25006")(), always(REOPEN)),
    *(
        ("postgresql", psycopg.errors.lookup(state)(), lost)
        for state in ("57P01", "57P02", "57P03", "08000", "08001", "08003", "08004", "08006")
    ),
    ("postgresql", psycopg.OperationalError("server closed the connection unexpectedly"), lost),
    ("postgresql", psycopg.OperationalError("connection refused"), lost),
    ("postgresql", psycopg.errors.ConnectionTimeout("connection timeout expired"), lost),
    ("postgresql", psycopg.errors.lookup("23505")(), always(FATAL)),
    ("postgresql", psycopg.errors.lookup("25P02")(), always(FATAL)),
    ("postgresql", psycopg.errors.lookup("42P01")(), always(FATAL)),
    ("postgresql", psycopg.errors.lookup("42703")(), always(FATAL)),
    ("postgresql", psycopg.errors.lookup("28P01")(), unless_connecting),
]

MARIADB: list[Row] = [
    (dialect, error, expected)
    for dialect in ("mariadb", "mysql")
    for error, expected in (
        (pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"), always(RETRY)),
        (pymysql.err.OperationalError(1213, "Deadlock found"), always(RETRY)),
        (pymysql.err.OperationalError(1317, "Query execution was interrupted"), always(RETRY)),
        (pymysql.err.OperationalError(1969, "max_statement_time exceeded"), always(RETRY)),
        (pymysql.err.OperationalError(3024, "maximum statement execution time exceeded"), always(RETRY)),
        (pymysql.err.OperationalError(1020, "Record has changed"), always(STALE)),
        (pymysql.err.OperationalError(1040, "Too many connections"), always(FAILURE)),
        (pymysql.err.OperationalError(1203, "max_user_connections"), always(FAILURE)),
        (pymysql.err.OperationalError(1226, "User has exceeded the max_user_connections resource"), always(FAILURE)),
        (pymysql.err.OperationalError(1698, "Access denied for user"), always(FATAL)),
        (pymysql.err.OperationalError(1053, "Server shutdown in progress"), lost),
        (pymysql.err.OperationalError(1290, "running with the --read-only option"), always(REOPEN)),
        (pymysql.err.OperationalError(1792, "READ ONLY transaction"), always(REOPEN)),
        (pymysql.err.OperationalError(1836, "Running in read-only mode"), always(REOPEN)),
        (pymysql.err.OperationalError(1021, "Disk full"), always(RETRY)),
        (pymysql.err.OperationalError(1114, "The table is full"), always(RETRY)),
        (pymysql.err.OperationalError(1927, "Connection was killed"), lost),
        (pymysql.err.OperationalError(2002, "Can't connect"), lost),
        (pymysql.err.OperationalError(2003, "Can't connect"), lost),
        (pymysql.err.OperationalError(2006, "gone away"), lost),
        (pymysql.err.OperationalError(2013, "Lost connection during query"), lost),
        (pymysql.err.OperationalError(4031, "disconnected because of inactivity"), lost),
        (pymysql.err.InterfaceError(0, ""), lost),
        (pymysql.err.OperationalError(1044, "Access denied"), always(FATAL)),
        (pymysql.err.OperationalError(1045, "Access denied"), always(FATAL)),
        (pymysql.err.OperationalError(1049, "Unknown database"), always(FATAL)),
        (pymysql.err.ProgrammingError(1146, "Table doesn't exist"), always(FATAL)),
        (pymysql.err.OperationalError(1054, "Unknown column"), unless_connecting),
        (pymysql.err.IntegrityError(1062, "Duplicate entry"), always(FATAL)),
    )
]


def row_id(value: object) -> str | None:
    """A row's name in the report: the code of its error."""
    if not isinstance(value, Exception):
        return value if isinstance(value, str) else None
    return str(getattr(value, "sqlstate", None) or (value.args or [type(value).__name__])[0])


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(("dialect", "error", "expected"), [*SQLITE, *POSTGRESQL, *MARIADB], ids=row_id)
def test_meaning(dialect: str, error: Exception, expected: Callable[[Phase], Meaning], phase: Phase) -> None:
    """Each error means what the table says, in the phase that it was had in."""
    assert expected(phase) is meaning_of(wrapped(dialect, error), phase, dialect)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("dialect", URLS)
def test_errors_that_are_no_drivers(dialect: str, phase: Phase) -> None:
    """The operating system's errors are a lost connection, the pool's is a failure, others are raised as they are."""
    assert lost(phase) is meaning_of(ConnectionResetError(), phase, dialect)
    assert meaning_of(PoolTimeoutError(), phase, dialect) is FAILURE
    assert meaning_of(ZeroDivisionError(), phase, dialect) is FATAL


def test_an_unknown_dialect_goes_by_the_phase() -> None:
    """Where no table is, SQLAlchemy's own finding that the connection is gone decides."""
    error = wrapped("sqlite", sqlite3.ProgrammingError("Cannot operate on a closed database."))

    assert meaning_of(error, Phase.EXECUTE, "oracle") is FAILURE
    assert meaning_of(error, Phase.COMMIT, "oracle") is AMBIGUOUS


@pytest.fixture
def engine() -> Engine:
    """An engine whose URL has a password; it is not connected."""
    return create_engine(URLS["postgresql"])


def judged(error: psycopg.Error, phase: Phase, engine: Engine) -> BaseException:
    """What is raised for this error."""
    return judge(wrapped("postgresql", error), phase, engine, token=TOKEN, key=7)


TOKEN = mint()


@pytest.mark.parametrize(
    ("error", "phase", "expected"),
    [
        (psycopg.OperationalError("gone\nfor good"), Phase.CONNECT, ConnectionFailureError),
        (psycopg.OperationalError("gone\nfor good"), Phase.EXECUTE, ConnectionFailureError),
        (psycopg.OperationalError("gone\nfor good"), Phase.COMMIT, OutcomeUnknownError),
        (psycopg.errors.DeadlockDetected("gone\nfor good"), Phase.COMMIT, Contention),
    ],
)
def test_what_is_raised(error: psycopg.Error, phase: Phase, expected: type[Exception], engine: Engine) -> None:
    """The exception has the phase, the driver's first line, and the URL without its password."""
    raised = judged(error, phase, engine)

    assert isinstance(raised, ConnectionFailureError)
    assert (type(raised), raised.phase, raised.detail) == (expected, phase, "gone")
    assert raised.database == "postgresql+psycopg://user:***@db/runs"


def test_passwords_in_the_query_are_not_told() -> None:
    """Drivers take a password there, too: the exception masks each, and leaves the rest of the URL."""
    secrets = "&".join(f"{name}=hunter2" for name in ("password", "passwd", "pwd", "sslpassword"))
    engine = create_engine(f"postgresql+psycopg://user:hunter2@/runs?host=h&{secrets}")
    raised = judged(psycopg.OperationalError("gone"), Phase.COMMIT, engine)

    assert isinstance(raised, OutcomeUnknownError)
    assert raised.database.startswith("postgresql+psycopg://user:***@/runs?host=h&")
    assert ("hunter2" in str(raised), raised.database.count("***")) == (False, 5)


def test_an_unknown_outcome_carries_what_is_needed_to_ask_again(engine: Engine) -> None:
    """Token and key of the lost write are in the exception."""
    raised = judged(psycopg.OperationalError("gone"), Phase.COMMIT, engine)

    assert isinstance(raised, OutcomeUnknownError)
    assert (raised.token, raised.key) == (TOKEN, 7)


def test_what_neither_retry_nor_fallback_helps_is_raised_as_it_is(engine: Engine) -> None:
    """A missing table stays SQLAlchemy's own error."""
    error = wrapped("postgresql", psycopg.errors.UndefinedTable("no such table"))

    assert judge(error, Phase.EXECUTE, engine) is error


@pytest.mark.parametrize(
    ("dialect", "error", "expected"),
    [
        ("sqlite", sqlite_error("SQLITE_CONSTRAINT_UNIQUE", sqlite3.IntegrityError), True),
        ("sqlite", sqlite_error("SQLITE_CONSTRAINT_PRIMARYKEY", sqlite3.IntegrityError), True),
        ("sqlite", sqlite_error("SQLITE_CONSTRAINT_NOTNULL", sqlite3.IntegrityError), False),
        ("postgresql", psycopg.errors.UniqueViolation(), True),
        ("postgresql", psycopg.errors.NotNullViolation(), False),
        ("mariadb", pymysql.err.IntegrityError(1062, "Duplicate entry"), True),
        ("mariadb", pymysql.err.IntegrityError(1048, "Column cannot be null"), False),
    ],
    ids=row_id,
)
def test_which_errors_are_duplicates(dialect: str, error: Exception, expected: bool) -> None:
    """A violated unique index is told from other constraints by its code."""
    raised = wrapped(dialect, error)

    assert isinstance(raised, IntegrityError)
    assert expected == is_duplicate(raised)


def test_other_errors_are_no_duplicates() -> None:
    """Only a violated constraint can be a duplicate."""
    assert not is_duplicate(ValueError(1062))
