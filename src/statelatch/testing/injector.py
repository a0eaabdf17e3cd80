"""`FaultInjector`: faults of the real database, at a chosen statement and phase, beneath SQLAlchemy.

The engine makes connections of a subclass of its driver's (`drivers`), which ask (`gate`) before they send. So a fault
meets what is sent over the engine by the ORM, by Core, or by `execute`, `executemany` and `commit` of a bare cursor or
connection. It changes nothing else: no function is patched, and no listener for statements makes SQLAlchemy take
another way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from statelatch.adapter import PersistenceAdapter
from statelatch.closing import Closing
from statelatch.engines import has_creator, is_in_memory
from statelatch.testing.fault import DEADLY, Fault, InjectionError
from statelatch.testing.gate import Planned, gate_of
from statelatch.testing.injected import COMMIT, CONNECT, Injected

__all__ = ["FaultInjector"]


class FaultInjector(Closing):
    """Provokes faults on an engine's connections; a context manager that leaves the engine as it was.

    It strikes every engine that shares the dialect: its `execution_options` views and its reconnections. Connections in
    the pool are dropped when it is attached and when it is closed; those that are checked out meanwhile are not struck.
    Threads may share it. An engine may have several: what was begun first strikes first.

    A driver's own other ways to send are not met: psycopg's `copy`, `stream`, `transaction()` and the FETCH of a server
    cursor; sqlite3's `executescript` and `with connection`.

    Args:
        target: an engine, or an adapter, whose sending engine is meant.

    Raises:
        InjectionError: it is no engine, its driver is unknown, its connections are made by a `creator` or by another's
            listener, or its database is in memory.
        sqlalchemy.exc.DBAPIError: the database cannot be reached.
    """

    def __init__(self, target: Engine | PersistenceAdapter) -> None:
        self._adapter = target if isinstance(target, PersistenceAdapter) else None
        self.engine = _engine_of(target)
        self._gate = gate_of(self.engine)
        _check_connections(self.engine)
        self._planned: list[Planned] = []
        self._gate.attach(self.engine.dialect)
        self._is_closed = False
        try:
            self._drop_connections()
            self._commits_itself, self._journal = self._settings()
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
            must_fire: it is an error if the fault has not fired `times` times by the end of the `with`.

        Returns:
            A context manager, for one `with`, in which the fault may strike; its `fired` counts.

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
            must_fire: it is an error if it was not called `times` times by the end of the `with`.

        Raises:
            InjectionError: a number makes no sense.
            FaultNotFiredError: at the end of the `with`: no such statement was sent, or not often enough.
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
        """Strike no more, and leave the engine connections of its driver's own class, unless others strike on."""
        if self._is_closed:
            return
        self._is_closed = True
        for planned in list(self._planned):
            self._end(planned)
        self._gate.detach(self.engine.dialect)
        self._drop_connections()

    # -- what is to happen ----------------------------------------------------------------------------------------

    def _plan(
        self,
        name: str,
        statement: str | re.Pattern[str],
        *,
        skip: int = 0,
        times: int = 1,
        must_fire: bool = True,
    ) -> Planned:
        injected = Injected(
            name,
            statement,
            skip=skip,
            times=times,
            must_fire=must_fire,
            begin=lambda: self._begin(planned),
            end=lambda: self._end(planned),
        )
        planned = Planned(injected, self.engine)
        return planned

    def _begin(self, planned: Planned) -> None:
        if self._is_closed:
            raise InjectionError(f"{planned.injected.name}: the injector is closed; expected one that is attached")
        self._planned.append(planned)
        self._gate.planned.append(planned)
        if planned.fault is Fault.REFUSE:
            self._drop_connections()

    def _end(self, planned: Planned) -> None:
        if planned in self._planned:
            self._planned.remove(planned)
            self._gate.planned.remove(planned)
        for locker in planned.lockers:
            locker.release()

    def _impossible(self, fault: Fault, injected: Injected) -> str | None:
        """Why this fault cannot happen here."""
        if fault is Fault.DIE_BEFORE_COMMIT and self._commits_itself and not injected.matches(COMMIT):
            return (
                "this engine is in AUTOCOMMIT, where a statement is its own COMMIT; use DIE_BEFORE_EXECUTE or "
                "LOSE_ACKNOWLEDGEMENT, or statement='COMMIT' if one is sent; or inject it into a transactional view"
            )
        if fault is Fault.SERIALIZATION_FAILURE and self.engine.dialect.name == "sqlite":
            if self._commits_itself:
                return (
                    "this engine is in AUTOCOMMIT, where no statement has read before it writes; use LOCK, or inject "
                    "it into a transactional view"
                )
            if self._journal != "wal":
                return f"the file's journal_mode is {self._journal}; expected wal, else a reader blocks the writer"
        return None

    def _settings(self) -> tuple[bool, str | None]:
        """Whether a statement within SQLAlchemy's transaction commits itself; and SQLite's journal mode.

        What SQLAlchemy asks a database the first time is asked here, too: it is no statement of the test's.
        """
        with self._gate.aside(), self.engine.begin() as connection:
            connection.detach()  # where connections are refused, nobody is to find this one in the pool
            asking: Any = connection.connection.dbapi_connection
            if not self._gate.is_asked_by(asking):
                raise InjectionError(
                    "the engine's connections are made by another's listener to `do_connect`, which returns one: "
                    "expected none, or one that only changes the arguments"
                )
            commits_itself: bool = asking.commits_itself
            is_sqlite = self.engine.dialect.name == "sqlite"
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar() if is_sqlite else None
        return commits_itself, journal

    def _drop_connections(self) -> None:
        if self._adapter:
            self._adapter.lines.close()
        self.engine.dispose()


def _engine_of(target: Engine | PersistenceAdapter) -> Engine:
    """The engine that sends."""
    engine = target.lines.engine if isinstance(target, PersistenceAdapter) else target
    if not isinstance(engine, Engine):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InjectionError(f"expected an Engine or a PersistenceAdapter to inject faults into, got {target!r}")
    return engine


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
