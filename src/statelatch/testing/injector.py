"""`FaultInjector`: faults of the real database, at a chosen statement and phase, beneath SQLAlchemy.

The engine makes connections of a subclass of its driver's (`drivers`), which ask here before they send. So a fault
meets whatever is sent over the engine: by the ORM, by Core, by a bare cursor. It changes nothing else: no function is
patched, and no listener for statements makes SQLAlchemy take another way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import local
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

from statelatch.adapter import PersistenceAdapter
from statelatch.closing import Closing
from statelatch.engines import has_creator, is_autocommitting, is_in_memory, is_initialized
from statelatch.testing.drivers import Passage, driver_of
from statelatch.testing.fault import DEADLY, Fault, InjectionError
from statelatch.testing.injected import COMMIT, CONNECT, Injected, first_word
from statelatch.testing.locker import Locker, table_of
from statelatch.testing.strikes import STRIKES, Strike

if TYPE_CHECKING:
    from statelatch.testing.drivers import DriverConnection

__all__ = ["FaultInjector"]

_COMMITTING = frozenset({Fault.DIE_BEFORE_COMMIT, Fault.LOSE_ACKNOWLEDGEMENT})


@dataclass
class _Planned:
    """What is to be done when its statement passes: a fault, or an action."""

    injected: Injected
    fault: Fault | None = None
    action: Callable[[], object] | None = None
    seconds: float = 0.0
    dies: bool = False
    lockers: list[Locker] = field(default_factory=list[Locker])


class FaultInjector(Closing):
    """Provokes faults on an engine's connections; a context manager that leaves the engine as it was.

    It strikes every engine that shares the dialect: its `execution_options` views and its reconnections. Connections in
    the pool are dropped when it is attached and when it is closed; those that are checked out meanwhile are not struck.
    Threads may share it.

    Args:
        target: an engine, or an adapter, whose sending engine is meant.

    Raises:
        InjectionError: its driver is unknown, its connections are made by a `creator`, or its database is in memory.
        sqlalchemy.exc.DBAPIError: the database cannot be reached.
    """

    def __init__(self, target: Engine | PersistenceAdapter) -> None:
        self._adapter = target if isinstance(target, PersistenceAdapter) else None
        self.engine = target.lines.engine if isinstance(target, PersistenceAdapter) else target
        self._driver = driver_of(self.engine)
        _check_connections(self.engine)
        self._planned: list[_Planned] = []
        self._own = local()
        event.listen(self.engine, "do_connect", self._connect)
        try:
            self._drop_connections()
            if not is_initialized(self.engine):
                self.engine.connect().close()  # what SQLAlchemy asks the first time is no statement of the test's
        except BaseException:
            self.close()
            raise

    def inject(
        self,
        fault: Fault,
        *,
        statement: str | re.Pattern[str] = "UPDATE",
        skip: int = 0,
        times: int = 1,
        seconds: float = 0.5,
        dies: bool = False,
        must_fire: bool = True,
    ) -> Injected:
        """Let a fault happen, in a `with`, when a statement passes.

        Args:
            fault: which.
            statement: how the statement begins, or begins after WITH, in capitals or not; or a pattern that is searched
                for. A fault at COMMIT strikes that of a transaction with such a statement, or, where the statement
                commits itself, the statement. "COMMIT" is a statement, too. `REFUSE` has none: it strikes each attempt
                to connect.
            skip: so many matching statements pass first.
            times: then so many are struck, one after the other.
            seconds: for `STALL` and `LOCK`: how long it lasts. A lock ends with the `with` at the latest.
            dies: raise `ProcessDied` where the connection is cut, as if the process had been killed there.
            must_fire: it is an error if the fault has not fired by the end of the `with`.

        Returns:
            A context manager, in which the fault may strike; its `fired` counts.

        Raises:
            InjectionError: this fault cannot happen on this engine, or a number makes no sense; the message says
                what to use instead.
            FaultNotFiredError: at the end of the `with`: no such statement was sent, or not often enough.
        """
        fault = _known(fault)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InjectionError(f"{fault.name}: expected seconds ≥ 0, got {seconds}")
        if dies and fault not in DEADLY:
            raise InjectionError(f"{fault.name} cuts no connection: expected dies=True with one of {_names(DEADLY)}")
        wanted = CONNECT if fault is Fault.REFUSE else statement
        planned = self._plan(fault.name, wanted, skip=skip, times=times, must_fire=must_fire)
        planned.fault, planned.seconds, planned.dies = fault, seconds, dies
        if reason := self._impossible(fault, planned.injected):
            raise InjectionError(f"{fault.name} cannot happen on {self.engine.dialect.name}: {reason}")
        return planned.injected

    def before(
        self,
        statement: str | re.Pattern[str],
        action: Callable[[], object],
        *,
        skip: int = 0,
        times: int = 1,
        must_fire: bool = True,
    ) -> Injected:
        """Do something, in a `with`, just before a statement is sent: let another writer be faster, for instance.

        What the action itself sends is not struck; what it raises is raised where the statement was to be sent. It must
        not need a lock that the interrupted transaction holds already: nobody would ever let go.

        Args:
            statement: as for `inject`.
            action: called in the thread that sends the statement.
            skip: so many matching statements pass first.
            times: before so many it is called.
            must_fire: it is an error if it was not called by the end of the `with`.

        Raises:
            InjectionError: a number makes no sense.
            FaultNotFiredError: at the end of the `with`: no such statement was sent.
        """
        planned = self._plan("before", statement, skip=skip, times=times, must_fire=must_fire)
        planned.action = action
        return planned.injected

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Those that can happen on this engine, at a statement that is no COMMIT."""
        anything = self._plan("any", "UPDATE").injected
        return tuple(fault for fault in Fault if not self._impossible(fault, anything))

    def close(self) -> None:
        """Strike no more, and leave the engine connections of its driver's own class."""
        if event.contains(self.engine, "do_connect", self._connect):
            event.remove(self.engine, "do_connect", self._connect)
            self._drop_connections()
        self._planned.clear()

    # -- what is to happen ----------------------------------------------------------------------------------------

    def _plan(
        self,
        name: str,
        statement: str | re.Pattern[str],
        *,
        skip: int = 0,
        times: int = 1,
        must_fire: bool = True,
    ) -> _Planned:
        injected = Injected(
            name,
            statement,
            skip=skip,
            times=times,
            must_fire=must_fire,
            begin=lambda: self._begin(planned),
            end=lambda: self._end(planned),
        )
        planned = _Planned(injected)
        return planned

    def _begin(self, planned: _Planned) -> None:
        self._planned.append(planned)
        if planned.fault is Fault.REFUSE:
            self._drop_connections()

    def _end(self, planned: _Planned) -> None:
        if planned in self._planned:
            self._planned.remove(planned)
        for locker in planned.lockers:
            locker.release()

    def _impossible(self, fault: Fault, injected: Injected) -> str | None:
        """Why this fault cannot happen here."""
        autocommits, journal = self._settings
        if fault is Fault.DIE_BEFORE_COMMIT and autocommits and not injected.matches(COMMIT):
            return (
                "this engine is in AUTOCOMMIT, where a statement is its own COMMIT; use DIE_BEFORE_EXECUTE or "
                "LOSE_ACKNOWLEDGEMENT, or statement='COMMIT' if one is sent"
            )
        if fault is Fault.SERIALIZATION_FAILURE and self.engine.dialect.name == "sqlite":
            if autocommits:
                return "this engine is in AUTOCOMMIT, where no statement has read before it writes; use LOCK"
            if journal != "wal":
                return f"the file's journal_mode is {journal}; expected wal, without which a reader blocks the writer"
        return None

    @cached_property
    def _settings(self) -> tuple[bool, str | None]:
        """Whether the engine autocommits, and SQLite's journal mode."""
        with self._aside(), self.engine.connect() as connection:
            driver_connection: Any = connection.connection.dbapi_connection
            autocommits = is_autocommitting(self.engine, driver_connection)
            if self.engine.dialect.name != "sqlite":
                return autocommits, None
            return autocommits, str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())

    # -- what passes ----------------------------------------------------------------------------------------------

    def _connect(
        self, _dialect: object, _record: object, arguments: list[Any], keywords: dict[str, Any]
    ) -> DriverConnection:
        """SQLAlchemy asks for a connection."""
        for planned in [] if self._is_aside else list(self._planned):
            if planned.fault is Fault.REFUSE and planned.injected.strikes(CONNECT):
                self._driver.refuse(arguments, keywords)
        connection = self._driver.connect(arguments, keywords)
        connection.watch = self._watch
        return connection

    def _watch(self, passage: Passage) -> Any:
        """A statement is to be sent: act first, strike it, or let it pass."""
        connection, word = passage.connection, first_word(passage.statement)
        if self._is_aside:
            return passage.carry_out()
        sent = tuple(connection.sent)
        if word == COMMIT or _is_rollback(passage.statement):
            connection.sent.clear()
        elif not connection.commits_itself:
            connection.sent.append(passage.statement)
        self._act(passage.statement)
        for planned in list(self._planned):
            if planned.fault and _strikes(planned.fault, planned.injected, passage, sent):
                return self._strike(planned, planned.fault, passage)
        return passage.carry_out()

    def _act(self, statement: str) -> None:
        for planned in list(self._planned):
            if planned.action and planned.injected.strikes(statement):
                with self._aside():
                    planned.action()

    def _strike(self, planned: _Planned, fault: Fault, passage: Passage) -> Any:
        def hold(statement: str) -> None:
            locker = Locker(self.engine, self._driver.lock(table_of(statement)), planned.seconds, self._aside)
            planned.lockers.append(locker)
            locker.hold()

        return STRIKES[fault](Strike(passage, planned.seconds, planned.dies, hold))

    # -- the engine -----------------------------------------------------------------------------------------------

    def _drop_connections(self) -> None:
        if self._adapter:
            self._adapter.lines.close()
        self.engine.dispose()

    @contextmanager
    def _aside(self) -> Generator[None]:
        """What this thread sends meanwhile is its own business."""
        before, self._own.aside = self._is_aside, True
        try:
            yield
        finally:
            self._own.aside = before

    @property
    def _is_aside(self) -> bool:
        return getattr(self._own, "aside", False)


def _strikes(fault: Fault, injected: Injected, passage: Passage, sent: tuple[str, ...]) -> bool:
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


def _is_rollback(statement: str) -> bool:
    """Of a transaction, not to a savepoint."""
    return statement.split()[:1] == ["ROLLBACK"] and " TO " not in f" {statement.upper()} "


def _check_connections(engine: Engine) -> None:
    """The injector must be asked for connections, and may drop them."""
    if is_in_memory(engine):
        raise InjectionError(
            "the database is in memory: it is gone with its connection, which faults cut; use a file, as "
            "sqlite:///test.db in a temporary folder"
        )
    if has_creator(engine):
        raise InjectionError(
            "the engine's connections are made by its `creator`, or by another pool's: expected one that is made from "
            "a URL; give its driver's arguments as connect_args"
        )


def _known(fault: Fault | str) -> Fault:
    try:
        return Fault(fault)
    except ValueError as error:
        raise InjectionError(f"no such fault: {fault!r}; expected one of {_names(Fault)}") from error


def _names(faults: Any) -> str:
    return ", ".join(f"Fault.{fault.name}" for fault in Fault if fault in faults)
