"""A statement as anybody would write it, for tests of the test kit: an order's payment, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from tests.orders import Order

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["ORDERS", "PAY", "code_of", "driver_connection", "pay"]

ORDERS: Any = Order.__table__
PAY = update(ORDERS).values(version=ORDERS.c.version + 1)


def pay(engine: Engine) -> None:
    """An update, as anybody would write it."""
    with engine.begin() as connection:
        connection.execute(PAY)


def code_of(error: BaseException) -> object:
    """What the database calls an error; None if it is the driver's own."""
    origin: Any = getattr(error, "orig", None)
    number = next((each for each in origin.args if isinstance(each, int)), None)
    return number or getattr(origin, "sqlite_errorname", None) or getattr(origin, "sqlstate", None)


def driver_connection(engine: Engine) -> Any:
    """The driver's connection that the next statement goes over."""
    with engine.connect() as connection:
        return connection.connection.dbapi_connection
