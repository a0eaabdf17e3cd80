"""`PersistenceAdapter`: a mapping on a database. One line per verb; the order of steps is in `plans`."""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import Engine

from statelatch import batch, bulk, plans
from statelatch.bulk_statements import BulkStatements
from statelatch.closing import Closing
from statelatch.drive import Hook, drive
from statelatch.engines import is_in_memory, open_engine, reconnected
from statelatch.errors import ConfigurationError, RequestError
from statelatch.history import history
from statelatch.lines import Lines
from statelatch.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from uuid import UUID

    from sqlalchemy import URL

    from statelatch.batch import Answer
    from statelatch.commands import Plan
    from statelatch.criteria import Criterion
    from statelatch.mapping import MachineMapping
    from statelatch.records import BulkResult, Explanation, LogEntry, Request, Snapshot, Transitioned
    from statelatch.sessions import Session

__all__ = ["PersistenceAdapter"]

LONGEST = 10 * 366 * 86_400.0
"""Seconds of the longest time limit."""

HookT = TypeVar("HookT", bound=Hook)
Result = TypeVar("Result")


class PersistenceAdapter(Closing):
    """A machine's rows in a database. Threads may share it; each verb is transactions of its own.

    Args:
        engine_or_url: an `Engine` of yours, or a URL for an engine of the adapter's own, closed with it.
        mapping: which machine, entity and columns.

    Raises:
        ConfigurationError: the URL names no dialect, or a database in memory, or its driver is not installed.
    """

    def __init__(self, engine_or_url: Engine | URL | str, mapping: MachineMapping) -> None:
        self._of: PersistenceAdapter | None = None
        self._time_limit: float | None = None
        self._given = engine_or_url if isinstance(engine_or_url, Engine) else None
        self._sending = self._given or open_engine(cast("URL | str", engine_or_url), autocommit=True)
        if self._given is None and is_in_memory(self._sending):
            raise ConfigurationError(
                "database URL: a database in memory belongs to one connection, and each thread has its own; "
                "use a file, as sqlite:///runs.db, or pass an engine of your own"
            )
        self.mapping = mapping
        self._statements = Statements(mapping, self._sending.dialect)
        self._bulk = BulkStatements(self._statements)
        self._lines = Lines(self._sending, keeps=self._given is None)
        self._hooks: list[Hook] = []
        self._is_reconnected = False

    @cached_property
    def engine(self) -> Engine:
        """The engine that was given; else one for transactions of your own on the adapter's database.

        That one has a pool of its own, made when you first ask for it: the adapter itself sends single statements in
        AUTOCOMMIT.
        """
        if self._of is not None:
            return self._of.engine
        return self._given or open_engine(self._sending.url)

    def create(self, **columns: Any) -> Snapshot:
        """Insert a row in the machine's initial state, at version 1.

        Args:
            columns: values by attribute name; the state, version and token are written by statelatch.

        Returns:
            The row as it was inserted, the database's defaults included.

        Raises:
            RequestError: no such column, a naive datetime, or a column that statelatch writes.
            ConnectionFailureError: the database did not answer; nothing was written. Its subclass `OutcomeUnknownError`
                if the acknowledgement of COMMIT was lost, and whether the row is there could not be found out.
            sqlalchemy.exc.IntegrityError: a constraint of yours, as the driver raised it.
        """
        return self.run(plans.create(self._statements, columns))

    def load(self, key: Any) -> Snapshot:
        """Read one row.

        Args:
            key: primary key; a tuple if it has several columns.

        Raises:
            RowNotFoundError: there is none.
            UnknownStateError: it holds a state that the machine lacks.
            ConnectionFailureError: the database did not answer.
        """
        return self.run(plans.load(self._statements, key))

    def send(
        self,
        key: Any,
        event: str,
        *,
        expected_version: int | None = None,
        token: UUID | None = None,
        **params: Any,
    ) -> Transitioned:
        """Apply one event to one row: a single UPDATE that checks state, guards and version where it writes.

        Args:
            key: primary key; a tuple if it has several columns.
            event: name of the event.
            expected_version: apply it only to this version of the row; by default to any.
            token: proof to leave in the row, a random UUID; by default a new one. Repeating a call whose
                outcome is unknown with the same token applies the event once: if the first call's write
                landed, and nobody has moved the row since, it is reported as applied.
            params: parameters of the event, for callbacks, guards and `assigns`. If the mapping has a log, `actor`
                (text) and `data` (what JSON can hold) are recorded in it, too.

        Returns:
            The transition, which is durable.

        Raises:
            StaleVersionError: the row is at another version, or moved under every one of three tries.
            TransitionRefusedError: no transition from the row's state, or its guards are false.
            RowNotFoundError: there is no such row.
            UnknownStateError: the row holds a state that the machine lacks.
            RequestError: unknown event, missing parameter, naive datetime, `actor` or `data` that the log cannot hold.
            ConnectionFailureError: the database did not answer, nothing was written; its subclass
                `OutcomeUnknownError` if an acknowledgement was lost, and what was written could not be found out, on a
                new connection either: ask `verify` later, or repeat with its token.
            sqlalchemy.exc.IntegrityError: a constraint of yours, as the driver raised it; or the log has an entry of
                this version already, because somebody wrote it, or the row's version, by hand. Nothing was written.
            Exception: whatever a callback raised; nothing was written.
        """
        plan = plans.send(self._statements, key, event, expected_version=expected_version, token=token, params=params)
        return self.run(plan)

    def verify(
        self,
        token: UUID,
        key: Any,
        *,
        event: str | None = None,
        expected_version: int | None = None,
        session: Session | None = None,
    ) -> bool:
        """Whether a write of unknown outcome has landed: for what an `OutcomeUnknownError` tells, later.

        A write that is still on its way is waited for, up to ten seconds. For an event that leads to a terminal state
        the answer is exact, and so it is with a log; otherwise as long as nobody has moved the row further.

        Args:
            token: of the error.
            key: of the error.
            event: of the error, if it has one: from some states the row cannot have come there by it.
            expected_version: likewise.
            session: likewise; it is ended, so that nothing of it can follow, or, where that cannot be, waited for.
                Without it, a statement that has not come as far as to the row, for a lock on the whole table for
                instance, may land after "False".

        Returns:
            True if it has landed, whatever has followed; False if it has not.

        Raises:
            OvertakenError: the row has moved on since, or is gone, and no log tells by whom it was written. It is an
                `OutcomeUnknownError`.
            OutcomeUnknownError: a proxy hides the session, and its statement is still carried out: ask again later.
            ConnectionFailureError: the database did not answer.
            RequestError: unknown event, or no such key.
        """
        plan = plans.verify(
            self._statements, token, key, event=event, expected_version=expected_version, session=session
        )
        return self.run(plan)

    def send_batch(self, requests: Iterable[Request]) -> list[Answer]:
        """Apply many events to many rows, in as few statements as the database allows.

        Each request is decided as `send` would decide it, and has an answer of its own. A batch is not atomic: the
        requests of one event are carried by one UPDATE, up to a thousand at a time, each of which is a transaction of
        its own; whatever is answered is durable. Requests for one key are applied in their order; between different
        keys there is none.

        Args:
            requests: at least one. Their events must be compiled (see `explain`).

        Returns:
            An answer for each request, in order: the `Transitioned`, or the exception that `send` would raise: a
            `NotAppliedError`; an `UnknownStateError`; or what the driver raised of this request's values, for
            instance an `sqlalchemy.exc.IntegrityError` of a constraint of yours.

        Raises:
            RequestError: no requests, or one of them cannot be carried out as it was written: unknown event, one that
                needs Python, missing parameter, naive datetime, a token used twice. The message has its number;
                nothing was written.
            BatchInterruptedError: the database did not answer. The answers that there are, are in it, and so are the
                requests without one: send those again.
            sqlalchemy.exc.DBAPIError: the database refuses the statement whatever its values, for instance without the
                table; nothing was written.
        """
        return self.run(batch.send_batch(self._statements, requests))

    def send_where(
        self,
        event: str,
        *criteria: Criterion,
        limit: int | None = None,
        keys: bool = False,
        waive: Collection[str] = (),
        **params: Any,
    ) -> BulkResult:
        """Apply one event to many rows: one UPDATE, which moves each row whose state and guards allow it.

        Memory does not grow with the number of rows. What cannot be done by the UPDATE is refused before it is sent.
        `after_commit` hooks are called for each row.

        Args:
            event: name of the event.
            criteria: which rows, as in SQLAlchemy's `where`; all of them must hold. Without any: every row that may
                move. They read the entity's table; another table is asked in an EXISTS or a subquery.
            limit: move at most so many rows, the first by primary key. On PostgreSQL rows that another transaction is
                writing are passed over, so that callers at the same time get different rows.
            keys: bring the keys of the moved rows along. They are read by their token before COMMIT: without an index
                on the token that is a pass over the table, during which the moved rows stay locked. The same goes for
                hooks, and on SQLite and MariaDB for a log: on MariaDB at REPEATABLE READ, its default, such a pass
                locks every row, so that calls at the same time break each other off.
            waive: names of callbacks that may be skipped for these rows, as `explain` gives them. Guards and
                validators decide whether a row moves; they cannot be waived.
            params: parameters of the event, for guards and `assigns`.

        Returns:
            How many rows were moved, durably; with their keys, if asked for.

        Raises:
            RequestError: unknown event, missing parameter, a guard that is Python, a callback that would be skipped, a
                criterion that is no SQL expression or reads another table. Nothing was written.
            ConnectionFailureError: the database did not answer, or broke the transaction off in favour of others, three
                times; nothing was written. Its subclass `OutcomeUnknownError` if the acknowledgement of COMMIT was
                lost: rows that were moved have its token, or another variant of it.
            StatelatchError: the temporary folder has no room for the keys; nothing was written.
        """
        hooked = bool(self._hooks)
        plan = bulk.send_where(
            self._bulk, event, criteria, limit=limit, keys=keys, waive=waive, params=params, hooked=hooked
        )
        return self.run(plan)

    def history(self, key: Any) -> list[LogEntry]:
        """The applied transitions of one row, oldest first, as the mapping's log keeps them.

        Args:
            key: primary key; a tuple if it has several columns. A row that is gone may have left its history.

        Raises:
            RowNotFoundError: there is no such row, and no entry of one.
            RequestError: the mapping keeps no log.
            ConnectionFailureError: the database did not answer.
        """
        return self.run(history(self._statements, key))

    def explain(self, event: str) -> Explanation:
        """How an event is carried out: compiled or interpreted, why, and the SQL on this database.

        Raises:
            RequestError: the machine has no such event.
        """
        return self._statements.event(event).explained(self._statements.dialect)

    def after_commit(self, hook: HookT) -> HookT:
        """Call this with each `Transitioned` of this adapter, once it is durable; usable as a decorator.

        For side effects that must not happen unless the transition did: a message, a metric. It is called in the
        thread that sent the event, in no transaction, before the verb returns; once per applied transition, never for
        one that was refused, rolled back, or is of unknown outcome; if you repeat a call that has succeeded with its
        token, once more. If the process dies in between it is not called:
        what must not be lost belongs into the database. What it raises is logged, and the transition stays what it
        is; in the main thread Ctrl-C, and whatever else is no `Exception`, reaches the caller after the other hooks.

        Args:
            hook: called with the transition; what it returns is not used.
        """
        self._hooks.append(hook)
        return hook

    def run(self, plan: Plan[Result]) -> Result:
        """Run a plan of your own, made of the same commands as statelatch's, on this adapter's engine."""
        return drive(plan, self._lines, self._hooks, self._time_limit)

    def limited(self, seconds: float) -> PersistenceAdapter:
        """The same adapter, on the same connections, with a time limit for each of its transactions.

        A transaction that is not over by then is cut off: a connection that is not had is a `ConnectionFailureError`
        of phase `connect`, and what was lost later is judged as ever. A verb may take several transactions.

        Args:
            seconds: for each, connecting included.

        Raises:
            RequestError: no positive number, or more than ten years.
        """
        if isinstance(seconds, bool) or not 0 < seconds <= LONGEST:
            raise RequestError(f"time limit: expected a positive number of seconds, up to ten years, found {seconds!r}")
        limited = copy(self)
        vars(limited).update(_of=self._of or self, _time_limit=seconds)
        return limited

    @property
    def lines(self) -> Lines:
        """The connections that this adapter sends over."""
        return self._lines

    @property
    def statements(self) -> Statements:
        """What this adapter sends, for plans of your own."""
        return self._statements

    def reconnected(self) -> PersistenceAdapter:
        """The same adapter on new connections to the same database. Close it after use."""
        adapter = PersistenceAdapter(reconnected(self._sending), self.mapping)
        adapter._hooks, adapter._is_reconnected, adapter._time_limit = self._hooks, True, self._time_limit
        adapter._lines = Lines(adapter._sending, keeps=False, disposable=True)
        return adapter

    def close(self) -> None:
        """Close the connections of an engine that the adapter made itself; leave yours alone, and those it shares."""
        if self._of is not None:
            return
        if self._given is None or self._is_reconnected:
            self._lines.close()
            self._sending.dispose()
            if "engine" in vars(self):
                self.engine.dispose()
