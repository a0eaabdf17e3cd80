"""`PersistenceAdapter`: a mapping on a database. One line per verb; the order of steps is in `plans`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Engine

from statelatch import plans
from statelatch.drive import drive
from statelatch.engines import is_in_memory, open_engine, reconnected
from statelatch.errors import ConfigurationError
from statelatch.statements import Statements

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

    from sqlalchemy import URL

    from statelatch.commands import Plan
    from statelatch.mapping import MachineMapping
    from statelatch.records import Explanation, Snapshot, Transitioned

__all__ = ["PersistenceAdapter"]

Result = TypeVar("Result")


class PersistenceAdapter:
    """A machine's rows in a database. Threads may share it; each verb is transactions of its own.

    Args:
        engine_or_url: an `Engine` of yours, or a URL for an engine of the adapter's own, closed with it.
        mapping: which machine, entity and columns.

    Raises:
        ConfigurationError: the URL names no dialect, or a database in memory, or its driver is not installed.
    """

    def __init__(self, engine_or_url: Engine | URL | str, mapping: MachineMapping) -> None:
        self._owns_engine = not isinstance(engine_or_url, Engine)
        self.engine = engine_or_url if isinstance(engine_or_url, Engine) else open_engine(engine_or_url)
        if self._owns_engine and is_in_memory(self.engine):
            raise ConfigurationError(
                "database URL: a database in memory belongs to one connection, and each thread has its own; "
                "use a file, as sqlite:///runs.db, or pass an engine of your own"
            )
        self.mapping = mapping
        dialect = self.engine.dialect
        self._statements = Statements(
            mapping, update_returning=dialect.update_returning, insert_returning=dialect.insert_returning
        )

    def create(self, **columns: Any) -> Snapshot:
        """Insert a row in the machine's initial state, at version 1.

        Args:
            columns: values by attribute name; the state, version and token are written by statelatch.

        Returns:
            The row as it was inserted, the database's defaults included.

        Raises:
            RequestError: no such column, a naive datetime, or a column that statelatch writes.
            ConnectionFailureError: the database did not answer; `OutcomeUnknownError` if at COMMIT.
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
            params: parameters of the event, for callbacks, guards and `assigns`.

        Returns:
            The transition, which is durable.

        Raises:
            StaleVersionError: the row is at another version, or moved under every one of three tries.
            TransitionRefusedError: no transition from the row's state, or its guards are false.
            RowNotFoundError: there is no such row.
            UnknownStateError: the row holds a state that the machine lacks.
            RequestError: unknown event, missing parameter, naive datetime.
            ConnectionFailureError: the database did not answer, nothing was written; its subclass
                `OutcomeUnknownError` if the acknowledgement of COMMIT was lost: repeat with its token.
            Exception: whatever a callback raised; nothing was written.
        """
        plan = plans.send(self._statements, key, event, expected_version=expected_version, token=token, params=params)
        return self.run(plan)

    def explain(self, event: str) -> Explanation:
        """How an event is carried out: compiled or interpreted, why, and the SQL on this database.

        Raises:
            RequestError: the machine has no such event.
        """
        return self._statements.event(event).explained(self.engine.dialect)

    def run(self, plan: Plan[Result]) -> Result:
        """Run a plan of your own, made of the same commands as statelatch's, on this adapter's engine."""
        return drive(plan, self.engine)

    @property
    def statements(self) -> Statements:
        """What this adapter sends, for plans of your own."""
        return self._statements

    def reconnected(self) -> PersistenceAdapter:
        """The same adapter on new connections to the same database. Close it after use."""
        adapter = PersistenceAdapter(reconnected(self.engine), self.mapping)
        adapter._owns_engine = True
        return adapter

    def close(self) -> None:
        """Close the connections of an engine that the adapter made itself; leave yours alone."""
        if self._owns_engine:
            self.engine.dispose()

    def __enter__(self) -> Self:
        """Return the adapter itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
