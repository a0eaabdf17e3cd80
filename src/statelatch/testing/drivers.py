"""Connections of the real drivers that ask before they send: what an injector needs of each.

A driver's file has a subclass of its connection which hands every statement, and its COMMIT, to `send` as a
`Passage`. Nothing is imitated: what goes wrong is what the driver itself raises on a connection that is dead, or what
the database answers. A driver is imported when an engine uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

from statelatch.testing.fault import InjectionError

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["Driver", "DriverConnection", "Passage", "Watch", "driver_of", "send"]

T = TypeVar("T")

_DRIVERS = {"pysqlite": "sqlite_driver", "psycopg": "psycopg_driver", "pymysql": "pymysql_driver"}


@dataclass(frozen=True, slots=True)
class Passage:
    """One statement on its way to the database.

    Attributes:
        connection: which it goes over.
        statement: its text; COMMIT for the driver's own.
        carry_out: send it, and return what the caller of the driver gets.
        complete: send it, and wait until the database has done with it.
    """

    connection: DriverConnection
    statement: str
    carry_out: Callable[[], Any]
    complete: Callable[[], object]


Watch = Callable[[Passage], Any]


class DriverConnection(Protocol):
    """A driver's connection that asks before it sends."""

    watch: Watch | None
    sent: list[str]
    """The statements of the transaction in progress."""

    @property
    def commits_itself(self) -> bool:
        """Whether the next statement is durable by itself."""
        ...

    def cut(self) -> None:
        """End it, so that the database takes back what is not committed."""
        ...

    def fail(self) -> NoReturn:
        """Raise what the driver raises once it was cut."""
        ...

    def stall(self, seconds: float) -> None:
        """Let nothing pass for so long, or until somebody else ends the connection."""
        ...

    def fail_serialization(self, carry_out: Callable[[], Any]) -> Any:
        """Let the database break the transaction off."""
        ...

    def fail_full(self) -> NoReturn:
        """Let the database run out of room."""
        ...


class Driver(Protocol):
    """What the module of a driver has."""

    def connect(self, arguments: list[Any], keywords: dict[str, Any]) -> DriverConnection:
        """A connection of the subclass, with the driver's arguments."""
        ...

    def refuse(self, arguments: list[Any], keywords: dict[str, Any]) -> None:
        """Change the arguments, so that they lead to where no database answers."""
        ...

    def lock(self, connection: Any, statement: str) -> None:
        """Take, on a connection of nobody else's, the lock for which this statement has to wait."""
        ...


def driver_of(engine: Engine) -> Driver:
    """The driver of this engine.

    Raises:
        InjectionError: there is none for it.
    """
    name = engine.dialect.driver
    if engine.dialect.is_async or name not in _DRIVERS:
        kind = "an asynchronous engine, of " if engine.dialect.is_async else ""
        raise InjectionError(
            f"faults cannot be injected into {kind}{engine.dialect.name}+{name}: expected a synchronous engine of "
            "sqlite3 (sqlite://), psycopg (postgresql+psycopg://) or PyMySQL (mariadb+pymysql://)"
        )
    return cast("Driver", import_module(f"statelatch.testing.{_DRIVERS[name]}"))


def send(
    connection: DriverConnection,
    statement: object,
    carry_out: Callable[[], T],
    complete: Callable[[], object] | None = None,
) -> T:
    """Ask the injector, if there is one, and send."""
    if connection.watch is None:
        return carry_out()
    text = statement.decode(errors="replace") if isinstance(statement, bytes | bytearray) else str(statement)
    return connection.watch(Passage(connection, text, carry_out, complete or carry_out))
