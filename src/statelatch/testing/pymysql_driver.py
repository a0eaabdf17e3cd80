"""PyMySQL: connections to MariaDB and MySQL that ask before they send. Each of its cursors sends by `query`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

from pymysql.connections import Connection  # pyright: ignore[reportMissingTypeStubs]

from statelatch.testing.drivers import Watch, send
from statelatch.testing.injected import COMMIT
from statelatch.testing.locker import table_of
from statelatch.testing.sockets import LOOPBACK, refused_port, shut, silence

__all__ = ["PyMySQLConnection", "connect", "lock", "refuse"]

_IN_TRANSACTION = 1
_ELSEWHERE = ("unix_socket", "read_default_file", "read_default_group")


class PyMySQLConnection(Connection):
    """A connection that asks."""

    watch: Watch | None = None
    sent: list[str]
    server_status: int
    _sock: Any

    def query(self, sql: Any, unbuffered: bool = False) -> Any:
        """Ask, and send."""
        return send(self, sql, lambda: self._send(sql, unbuffered=unbuffered), lambda: self._send(sql))

    def commit(self) -> None:
        """Ask, and commit."""
        send(self, COMMIT, super().commit)

    def rollback(self) -> None:
        """Roll back: the transaction is over."""
        self.sent.clear()
        super().rollback()

    @property
    def commits_itself(self) -> bool:
        """Whether the next statement is durable by itself."""
        return bool(self.get_autocommit()) and not self.server_status & _IN_TRANSACTION

    def cut(self) -> None:
        """End it; the database takes back what is not committed."""
        if self.open:
            shut(self._descriptor)

    def fail(self) -> NoReturn:
        """Raise what the driver raises once it was cut."""
        if self.open:
            self.next_result()
        self._send("DO 0")
        raise AssertionError("PyMySQL works over a socket that is shut")

    def stall(self, seconds: float) -> None:
        """Let nothing pass for so long, or until somebody else ends the connection."""
        if self.open:
            silence(self._descriptor, seconds)

    def fail_serialization(self, carry_out: Callable[[], Any]) -> NoReturn:  # noqa: ARG002  SQLite's needs it
        """A deadlock's victim has lost its whole transaction."""
        self._send("ROLLBACK")
        self._signal(1213, "40001", "Deadlock found when trying to get lock: injected by statelatch.testing")

    def fail_full(self) -> NoReturn:
        """The server says that its disk is full."""
        self._signal(1021, "HY000", "Disk full: injected by statelatch.testing")

    def _send(self, sql: Any, *, unbuffered: bool = False) -> Any:
        return super().query(sql, unbuffered=unbuffered)  # pyright: ignore[reportUnknownMemberType]  it has no types

    @property
    def _descriptor(self) -> int:
        return cast("int", self._sock.fileno())

    def _signal(self, number: int, state: str, message: str) -> NoReturn:
        """The server itself raises it."""
        self._send(f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = '{message}'")
        raise AssertionError(f"MariaDB has not raised {number}")


def connect(arguments: list[Any], keywords: dict[str, Any]) -> PyMySQLConnection:
    """A connection that asks, with the arguments of the driver."""
    connection = PyMySQLConnection(*arguments, **keywords)
    connection.sent = []
    return connection


def refuse(_arguments: list[Any], keywords: dict[str, Any]) -> None:
    """A port that nobody listens to."""
    for name in _ELSEWHERE:
        keywords.pop(name, None)
    keywords |= {"host": LOOPBACK, "port": refused_port()}


def lock(connection: Any, statement: str) -> None:
    """The locks of its rows, and of the gaps between them; who only reads does not wait."""
    table = table_of(statement)
    connection.query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.query("SET SESSION innodb_lock_wait_timeout = 1")
    connection.query("BEGIN")
    connection.query(f"SELECT count(*) FROM (SELECT 1 FROM {table} FOR UPDATE) AS locked")  # noqa: S608  the table of the user's statement
