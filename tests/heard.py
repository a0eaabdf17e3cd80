"""What a driver says went wrong, counted: a test proves by it that its fault was real, and how often it struck.

Rules: nothing is provoked here, and nothing of the product is touched: SQLAlchemy tells of each error of a driver.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine, ExceptionContext

__all__ = ["WAYS", "Heard", "code_of"]

WAYS: dict[str, Callable[[URL], Engine]] = {
    "transaction": create_engine,
    "autocommit": partial(create_engine, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True),
}
"""Engines as users make them, and with the settings that an adapter gives to one of its own."""


class Heard:
    """Counts an engine's errors by code.

    Attributes:
        codes: how often each was heard.
        then: called with a code when it is heard, for instance to take its cause away.
    """

    def __init__(self, engine: Engine, then: Callable[[str], object] = lambda _: None) -> None:
        self.codes: Counter[str] = Counter()
        self.then = then
        event.listen(engine, "handle_error", self._hear)

    def _hear(self, context: ExceptionContext) -> None:
        code = code_of(context.original_exception)
        self.codes[code] += 1
        self.then(code)


def code_of(error: Any) -> str:
    """The driver's code: SQLite's name, PostgreSQL's SQLSTATE, MariaDB's number; else the name of the class."""
    if error.args and isinstance(error.args[0], int):
        return str(error.args[0])
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return code or type(error).__name__
