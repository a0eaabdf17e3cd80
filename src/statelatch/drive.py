"""The only loop that touches a connection.

`drive` runs a plan: it carries out each command, sends the reply back, and throws into the plan what went
wrong, judged by `statelatch.faults`. It knows the phase of every statement, because it is the one who is there.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from statelatch import faults
from statelatch.commands import Execute, Fire, Plan, Reply
from statelatch.errors import Phase

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Connection, Engine

    from statelatch.interpreter import Fired, Refused

__all__ = ["drive"]

Result = TypeVar("Result")


def drive(plan: Plan[Result], engine: Engine) -> Result:
    """Run a plan over connections of this engine.

    Raises:
        ConnectionFailureError: the database did not answer.
        NotAppliedError: it answered, and nothing was written.
    """
    try:
        command = next(plan)
        while True:
            try:
                reply = _perform(command, engine)
            except Exception as error:  # noqa: BLE001  the plan decides
                command = plan.throw(error)
            else:
                command = plan.send(reply)
    except StopIteration as stop:
        return stop.value


def _perform(command: Execute | Fire, engine: Engine) -> Reply | Fired | Refused:
    return command.firing.run() if isinstance(command, Fire) else _transaction(command, engine)


def _transaction(command: Execute, engine: Engine) -> Reply:
    """One transaction, in which every error is judged with the phase that it happened in."""
    phase = Phase.CONNECT
    try:
        with engine.connect() as connection:
            phase, committing = Phase.EXECUTE, Phase.COMMIT if command.writes else Phase.EXECUTE
            with _begun(connection, command) as autocommits:
                phase = committing if autocommits else phase
                reply = _execute(command, connection)
                phase = committing
                _commit(connection)
    except Exception as error:
        judged = faults.judge(error, phase, engine, command.token, command.key)
        if judged is error:
            raise
        raise judged from error
    return reply


def _execute(command: Execute, connection: Connection) -> Reply:
    matched: int | None = None
    rows: list[Any] = []
    for statement, parameters in command.statements:
        result = connection.execute(statement, parameters)
        rows = list(result.mappings()) if result.returns_rows else []
        if matched is None:  # SQLite counts no rows for RETURNING
            matched = len(rows) if result.returns_rows else result.rowcount
        if not matched:
            break
    return Reply(matched or 0, rows)


def _commit(connection: Connection) -> None:
    """Commit; a connection that failed to is not given back to the pool with its transaction open."""
    try:
        connection.commit()
    except BaseException:
        connection.invalidate()
        raise


@contextmanager
def _begun(connection: Connection, command: Execute) -> Generator[bool]:
    """Begin, and tell whether each statement is durable by itself, so that a lost answer to it is ambiguous.

    Several statements are a transaction, whatever the connection is set to, and it is given back as it was.
    On SQLite a listener of the user's may have sent BEGIN where the driver does not.
    """
    connection.begin()
    driver_connection: Any = connection.connection.dbapi_connection
    sent = connection.dialect.name == "sqlite" and driver_connection.in_transaction
    autocommits = not sent and connection.dialect.detect_autocommit_setting(driver_connection)
    if not autocommits or len(command.statements) == 1:
        yield autocommits
        return
    connection.exec_driver_sql("BEGIN")
    try:
        yield False
    except BaseException:
        connection.invalidate()  # SQLAlchemy may hold a ROLLBACK for needless here
        raise
