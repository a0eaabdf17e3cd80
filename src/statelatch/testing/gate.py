"""The gate of a dialect: what its connections send passes here, while injectors are attached.

SQLAlchemy takes the first connection that a listener returns. So one listens, however many injectors there are: what
they have planned stands here together, in the order in which it was begun.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, local
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Engine, event

from statelatch.testing.drivers import Driver, Passage, driver_of
from statelatch.testing.fault import Fault
from statelatch.testing.injected import COMMIT, CONNECT, Injected, first_word
from statelatch.testing.locker import Locker
from statelatch.testing.strikes import STRIKES, Strike

if TYPE_CHECKING:
    from statelatch.testing.drivers import DriverConnection

__all__ = ["Gate", "Planned", "gate_of"]

_COMMITTING = frozenset({Fault.DIE_BEFORE_COMMIT, Fault.LOSE_ACKNOWLEDGEMENT})


@dataclass(eq=False)
class Planned:
    """What is to be done when its statement passes: a fault, or an action."""

    injected: Injected
    engine: Engine
    fault: Fault | None = None
    action: Callable[[], object] | None = None
    seconds: float = 0.0
    dies: bool = False
    lockers: list[Locker] = field(default_factory=list[Locker])


class Gate:
    """Makes a dialect's connections, and is asked by them.

    Attributes:
        planned: what is to be done, of all injectors.
    """

    def __init__(self, driver: Driver) -> None:
        self.planned: list[Planned] = []
        self._driver = driver
        self._attached = 0
        self._attaching = Lock()
        self._own = local()

    def attach(self, dialect: Dialect) -> None:
        """One injector more; the first begins to listen."""
        with self._attaching:
            self._attached += 1
            if self._attached == 1:
                event.listen(dialect, "do_connect", self._connect)

    def detach(self, dialect: Dialect) -> None:
        """One less; the last ends it."""
        with self._attaching:
            self._attached -= 1
            if not self._attached:
                event.remove(dialect, "do_connect", self._connect)

    def is_asked_by(self, driver_connection: Any) -> bool:
        """Whether this connection was made here."""
        return getattr(driver_connection, "watch", None) == self._watch

    @contextmanager
    def aside(self) -> Generator[None]:
        """What this thread sends meanwhile is its own business."""
        before, self._own.aside = self._is_aside, True
        try:
            yield
        finally:
            self._own.aside = before

    @property
    def _is_aside(self) -> bool:
        return getattr(self._own, "aside", False)

    def _connect(
        self, _dialect: object, _record: object, arguments: list[Any], keywords: dict[str, Any]
    ) -> DriverConnection:
        """SQLAlchemy asks for a connection."""
        for planned in [] if self._is_aside else list(self.planned):
            if planned.fault is Fault.REFUSE and planned.injected.strikes(CONNECT):
                self._driver.refuse(arguments, keywords)
        connection = self._driver.connect(arguments, keywords)
        connection.watch = self._watch
        return connection

    def _watch(self, passage: Passage) -> Any:
        """A statement is to be sent: act first, strike it, or let it pass."""
        if self._is_aside:
            return passage.carry_out()
        sent = _sent_before(passage)
        self._act(passage.statement)
        for planned in list(self.planned):
            if planned.fault and _strikes(planned.fault, planned.injected, passage, sent):
                return self._strike(planned, planned.fault, passage)
        return passage.carry_out()

    def _act(self, statement: str) -> None:
        for planned in list(self.planned):
            if planned.action and planned.injected.strikes(statement):
                with self.aside():
                    planned.action()

    def _strike(self, planned: Planned, fault: Fault, passage: Passage) -> Any:
        def hold(statement: str) -> None:
            locker = Locker(
                planned.engine, lambda own: self._driver.lock(own, statement), planned.seconds, aside=self.aside
            )
            planned.lockers.append(locker)
            locker.hold()

        return STRIKES[fault](Strike(passage, planned.seconds, planned.dies, hold))


_GATES: WeakKeyDictionary[Dialect, Gate] = WeakKeyDictionary()
_MAKING = Lock()


def gate_of(engine: Engine) -> Gate:
    """The gate of this engine's dialect.

    Raises:
        InjectionError: its driver is unknown.
    """
    driver = driver_of(engine)
    with _MAKING:
        return _GATES.setdefault(engine.dialect, Gate(driver))


def _sent_before(passage: Passage) -> list[str]:
    """What this statement completes, if it is a COMMIT; the connection remembers what a later one will."""
    connection, word = passage.connection, first_word(passage.statement)
    if word == COMMIT:
        sent, connection.sent = connection.sent, []
        return sent
    if word == "ROLLBACK" and "TO" not in passage.statement.upper().split():  # not to a savepoint
        connection.sent = []
    elif not connection.commits_itself:
        connection.sent.append(passage.statement)
    return []


def _strikes(fault: Fault, injected: Injected, passage: Passage, sent: list[str]) -> bool:
    """Whether a fault strikes this statement, which completes those sent before in its transaction if it is COMMIT."""
    if fault is Fault.REFUSE:
        return False
    if fault not in _COMMITTING:
        return injected.strikes(passage.statement)
    if first_word(passage.statement) == COMMIT:
        return injected.strikes(passage.statement, sent_with=sent)
    if fault is Fault.LOSE_ACKNOWLEDGEMENT and passage.connection.commits_itself:
        return injected.strikes(passage.statement)
    injected.passes(passage.statement)
    return False
