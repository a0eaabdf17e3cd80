"""PURE: one injected fault: which statements it strikes, and how often it did.

A statement passes; `strikes` says whether this is one of those that were asked for. Threads may ask at the same time.
At the end of the `with` a fault that has not fired as often as it must is an error: a test whose fault did not happen
has shown nothing.
"""

from __future__ import annotations

import re
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Self

from statelatch.testing.fault import FaultNotFiredError, InjectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

__all__ = ["COMMIT", "CONNECT", "Injected", "first_word"]

COMMIT = "COMMIT"
"""How a COMMIT is called that the driver sends by itself."""

CONNECT = "CONNECT"
"""How the making of a connection is called, among the statements."""

_REMEMBERED = 20

_HEAD = r"(?:^|\bAS\s*(?:(?:NOT\s+)?MATERIALIZED\s*)?\()\s*"


class Injected:
    """A fault that waits for its statement; a context manager, for one `with`, in which it may strike.

    Attributes:
        fired: how often it struck.
        statements: what it struck, as the driver was given it.
    """

    def __init__(
        self,
        name: str,
        statement: str | re.Pattern[str],
        *,
        skip: int = 0,
        times: int = 1,
        must_fire: bool = True,
        begin: Callable[[], object],
        end: Callable[[], object],
    ) -> None:
        if skip < 0 or times < 1:
            raise InjectionError(f"{name}: expected skip ≥ 0 and times ≥ 1, got skip={skip}, times={times}")
        self.name = name
        self.fired = 0
        self.statements: list[str] = []
        self._wanted, self._pattern = statement, _pattern(name, statement)
        self._skip, self._times, self._must_fire = skip, times, must_fire
        self._passed: deque[str] = deque(maxlen=_REMEMBERED)
        self._lock = Lock()
        self._has_begun = False
        self._begin, self._end = begin, end

    def matches(self, *statements: str) -> bool:
        """Whether one of these is the statement that was named."""
        return any(self._pattern.search(statement) for statement in statements)

    def strikes(self, statement: str, *, sent_with: Iterable[str] = ()) -> bool:
        """A statement passes: whether it is struck.

        Args:
            statement: what passes.
            sent_with: those that it completes: for a COMMIT, the statements of its transaction.
        """
        with self._lock:
            self._passed.append(statement)
            if not self.matches(statement, *sent_with) or self.fired == self._times:
                return False
            if self._skip:
                self._skip -= 1
                return False
            self.fired += 1
            self.statements.append(statement)
            return True

    def passes(self, statement: str) -> None:
        """A statement passes which this fault cannot strike."""
        with self._lock:
            self._passed.append(statement)

    def __enter__(self) -> Self:
        """Begin to strike.

        Raises:
            InjectionError: it was entered before, and what it counted is of that time.
        """
        if self._has_begun:
            raise InjectionError(f"{self.name} has begun already: expected a fault of its own for each `with`")
        self._begin()
        self._has_begun = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End; `FaultNotFiredError` if it has not fired often enough, unless another exception is on its way."""
        self._end()
        if error is None and self._must_fire and self.fired < self._times:
            raise FaultNotFiredError(self._unfired())

    def _unfired(self) -> str:
        wanted = self._wanted if isinstance(self._wanted, str) else self._wanted.pattern
        passed = [f"  {' '.join(statement.split())[:120]}" for statement in self._passed]
        seen = "\n".join(["these passed:", *passed]) if passed else "none passed: is this the engine that sends them?"
        left = f", of which {self._skip} more were to be skipped" if self._skip else ""
        often = f"fired {self.fired} of {self._times} times" if self.fired else "never fired"
        return f"{self.name} {often}: expected a statement {wanted!r}{left}; {seen}"


def first_word(statement: str) -> str:
    """The statement's verb, in capitals."""
    return (statement.split(maxsplit=1) or [""])[0].rstrip(";").upper()


def _pattern(name: str, statement: str | re.Pattern[str]) -> re.Pattern[str]:
    """A text is looked for at the beginning of a statement, and of one in WITH: `FOR UPDATE` is no UPDATE."""
    if not isinstance(statement, str):
        return statement
    words = statement.split()
    if not words:
        raise InjectionError(f"{name}: expected the beginning of a statement, for instance 'UPDATE', got {statement!r}")
    ending = r"\b" if words[-1][-1].isalnum() else ""
    return re.compile(_HEAD + r"\s+".join(map(re.escape, words)) + ending, re.IGNORECASE)
