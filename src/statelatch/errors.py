"""Every exception of statelatch, and what it tells the caller to do.

One distinction rules this file. The database *answered* and nothing was written: `NotAppliedError`,
there is nothing to repeat and nowhere to fall back to. The database *did not answer*:
`ConnectionFailureError`, try another connection. No class stands on both sides.

Exceptions carry attributes, not just text, and survive pickling.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from statemachine.exceptions import TransitionNotAllowed

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from statelatch.records import Request, Transitioned
    from statelatch.sessions import Session

__all__ = [
    "ActiveRunExistsError",
    "BatchInterruptedError",
    "ConfigurationError",
    "ConnectionFailureError",
    "NotAppliedError",
    "OutcomeUnknownError",
    "OvertakenError",
    "Phase",
    "Reason",
    "RequestError",
    "RowNotFoundError",
    "StaleVersionError",
    "StatelatchError",
    "TransitionRefusedError",
    "UnknownStateError",
]


class Phase(StrEnum):
    """How far a statement had come when its connection failed."""

    CONNECT = "connect"  # no connection was had: nothing was written
    EXECUTE = "execute"  # the transaction was still open: nothing was written
    COMMIT = "commit"  # the acknowledgement is missing: it may have been written


class Reason(StrEnum):
    """Why the database refused a transition."""

    STATE = "state"  # the event has no transition from the state that the row is in
    GUARD = "guard"  # a transition exists, its guards were false


def _restore(cls: type[StatelatchError], args: tuple[object, ...], attributes: dict[str, Any]) -> StatelatchError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(attributes)
    return error


class StatelatchError(Exception):
    """Root of every exception that statelatch raises of its own."""

    def __reduce__(self) -> tuple[Callable[..., StatelatchError], tuple[object, ...]]:
        """Pickle by attributes: constructors here take keywords, which `Exception` cannot replay."""
        return _restore, (type(self), self.args, dict(vars(self)))


class ConfigurationError(StatelatchError, ValueError):
    """The mapping cannot work; the message says what to change. Raised before any write."""


class RequestError(StatelatchError, ValueError):
    """The call cannot be carried out as it was written: unknown event or column, missing parameter.

    Raised before any statement is sent. Correct the call; neither a retry nor another connection helps.
    """


class UnknownStateError(StatelatchError, ValueError):
    """The row holds a state that the machine lacks, or none.

    Migrate the row, or add the state to the machine.

    Attributes:
        key: primary key of the row.
        value: the stored value.
        known: the state values that the machine has.
    """

    def __init__(self, *, table: str, key: object, value: object, known: tuple[object, ...]) -> None:
        self.table, self.key, self.value, self.known = table, key, value, known
        super().__init__(
            f"{table} {key}: holds the state {value!r}, which the machine lacks; it knows "
            f"{', '.join(map(repr, known))}. Migrate the row or add the state to the machine."
        )


class NotAppliedError(StatelatchError):
    """The database answered: nothing was written. A no-op; never fall back, never repeat as it is.

    Attributes:
        key: primary key of the row that was asked for.
        event: name of the event, or of the guarded write.
    """

    key: object
    event: str


class StaleVersionError(NotAppliedError):
    """Somebody else moved the row first. Load it again and decide anew.

    Attributes:
        expected_version: the version the caller, or the interpreted machine, had read.
        actual_version: the version that the row has now.
        state: the state that the row is in now.
    """

    def __init__(
        self,
        *,
        table: str,
        key: object,
        event: str,
        expected_version: int | None,
        actual_version: int,
        state: object,
    ) -> None:
        self.table, self.key, self.event = table, key, event
        self.expected_version, self.actual_version, self.state = expected_version, actual_version, state
        expected = "a row that holds still" if expected_version is None else f"version {expected_version}"
        super().__init__(
            f"{table} {key}: {event!r} expected {expected}, found version {actual_version} "
            f"in state {state!r}; nothing was written. Load the row again and decide anew."
        )


class TransitionRefusedError(NotAppliedError, TransitionNotAllowed):
    """No transition of this event may run: wrong state, or a guard is false.

    It is also python-statemachine's `TransitionNotAllowed`, so that code written for a machine in
    memory catches it.

    Attributes:
        state: the state that the row was in.
        version: the version that the row had.
        reason: `Reason.STATE` or `Reason.GUARD`.
        guards: the guards that were false, as the machine spells them (`!name` for `unless`).
        configuration: the state once more, as a set, as `TransitionNotAllowed` has it.
    """

    def __init__(  # pyright: ignore[reportMissingSuperCall]  TransitionNotAllowed wants live State objects
        self,
        *,
        table: str,
        key: object,
        event: str,
        state: object,
        version: int,
        reason: Reason,
        guards: tuple[str, ...] = (),
        sources: tuple[object, ...] = (),
    ) -> None:
        self.table, self.key, self.event, self.state, self.version = table, key, event, state, version
        self.reason, self.guards, self.sources = reason, guards, sources
        self.configuration: Any = {state}
        if reason is Reason.STATE:
            where = f"it leaves {', '.join(map(repr, sources))}, found {state!r}"
        else:
            where = f"in state {state!r} its guard was false: {', '.join(guards) or 'at the moment of writing'}"
        Exception.__init__(
            self, f"{table} {key}: {event!r} refused at version {version}; {where}; nothing was written."
        )


class RowNotFoundError(NotAppliedError, LookupError):
    """There is no such row. Never confused with a row that moved on.

    Attributes:
        key: primary key that was asked for.
    """

    def __init__(self, *, table: str, key: object, event: str = "load") -> None:
        self.table, self.key, self.event = table, key, event
        super().__init__(f"{table} {key}: no such row ({event!r}); nothing was written. Check the key.")


class ActiveRunExistsError(NotAppliedError):
    """The key is busy: a run that has not ended holds it. Wait for it, or cancel it.

    Attributes:
        run_id: id of the run that holds the key.
        run_key: the key that was asked for.
    """

    def __init__(self, *, run_key: str, run_id: UUID) -> None:
        self.key, self.event = run_id, "create"
        self.run_key, self.run_id = run_key, run_id
        super().__init__(
            f"key {run_key!r} is busy: run {run_id} holds it; nothing was written. Wait for that run, or cancel it."
        )


class ConnectionFailureError(StatelatchError):
    """The database did not answer. Try another connection; in phase `commit` verify before repeating.

    The driver's own error is `__cause__`.

    Attributes:
        phase: how far the statement had come; `connect` and `execute` mean that nothing was written.
        database: the URL without its password.
    """

    def __init__(self, *, phase: Phase, database: str, detail: str) -> None:
        self.phase, self.database, self.detail = phase, database, detail
        super().__init__(self._message())

    def _message(self) -> str:
        return (
            f"{self.database} did not answer ({self.phase}): {self.detail}. "
            "Nothing was written; try another connection."
        )


class OutcomeUnknownError(ConnectionFailureError):
    """The connection was lost at COMMIT, and whether the write has landed could not be found out.

    Once the database answers again, ask it: `adapter.verify(error.token, error.key, event=error.event,
    expected_version=error.expected_version, session=error.session)`. Or send the same event with the same `token`, and
    the same `expected_version` if it had one, again, over any connection: if the first attempt landed it is recognised
    by its token and reported as applied, not done twice. That holds for terminal states and with a log; otherwise as
    long as nobody has moved the row further: then an `expected_version` is stale, whatever the first attempt has done,
    and without one the event is sent anew. After a lost `send_where` the rows that were
    moved are those whose token is one of `statelatch.tokens.variants` of it; how many, is not known before.

    Attributes:
        token: what the write would have left in the row; None if the write carries none.
        key: primary key of the row; None if it is not known, or the write was one to many rows.
        event: name of the event; None if the write was no event of one row.
        expected_version: the version that the write asked for; None if it took any.
        session: the server's session that was lost, as far as it is known.
    """

    def __init__(
        self,
        *,
        phase: Phase,
        database: str,
        detail: str,
        token: UUID | None = None,
        key: object = None,
        event: str | None = None,
        expected_version: int | None = None,
        session: Session | None = None,
    ) -> None:
        self.token, self.key, self.event, self.expected_version = token, key, event, expected_version
        self.session = session
        super().__init__(phase=phase, database=database, detail=detail)

    def _message(self) -> str:
        return (
            f"{self.database} did not acknowledge the commit: {self.detail}. It may have been written: {self._step()}."
        )

    def _step(self) -> str:
        if self.token is None:
            return "look at what it would have changed"
        if self.key is None:
            return f"rows that were moved have the token {self.token}, or another variant of it; count them"
        again = "" if self.event is None else f", or send {self.event!r} again with the same token"
        return f"ask adapter.verify for {self.key}, token {self.token}{again}"


class OvertakenError(OutcomeUnknownError):
    """The database was asked, and cannot tell: the row has moved on since, and no log says by whom.

    Look at the row and decide anew: to send the event again might apply it twice. With a log it could have been told.
    """

    def _step(self) -> str:
        return (
            f"look at {self.key} and decide anew; to send it again might apply it twice. With a log it could have been "
            "told"
        )


class BatchInterruptedError(OutcomeUnknownError):
    """The database did not answer for a whole batch. Nothing that it did answer is lost.

    Send `requests` over any connection, by `send_batch`: each carries its token, so that one which had been written
    after all is recognised and reported as applied, not done twice, as far as `OutcomeUnknownError` promises. Their
    answers, in order, take the places of None in `answers`.

    Attributes:
        answers: what `send_batch` would have returned, with None for each request without an answer.
        requests: those without an answer, in order.
        phase: how far the statement had come that failed; only in phase `commit` may one have been written.
    """

    def __init__(
        self,
        *,
        phase: Phase,
        database: str,
        detail: str,
        answers: list[Transitioned | NotAppliedError | UnknownStateError | Exception | None],
        requests: list[Request],
        session: Session | None = None,
    ) -> None:
        self.answers, self.requests = answers, requests
        super().__init__(phase=phase, database=database, detail=detail, session=session)

    def _message(self) -> str:
        found = len(self.answers) - len(self.requests)
        return (
            f"{self.database} did not answer ({self.phase}): {self.detail}. {found} of {len(self.answers)} requests "
            "have an answer, in `answers`. Send the others, in `requests`, again: they carry their tokens."
        )
