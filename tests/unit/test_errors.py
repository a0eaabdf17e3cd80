"""Errors: the one distinction, what a message names, and that nothing is lost by pickling."""

import copy
import pickle
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from statemachine.exceptions import TransitionNotAllowed

from statelatch import errors
from statelatch.errors import (
    ActiveRunExistsError,
    BatchInterruptedError,
    ConfigurationError,
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    OvertakenError,
    Phase,
    Reason,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    StatelatchError,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.faults import Contention, Exhausted, LostRace, Passing, ReadOnly
from statelatch.records import Request, Transitioned
from statelatch.runs import CancelRequestedError, SpoolError
from statelatch.testing import HistoryError, InjectionError, LifecycleError

KEY, TOKEN = UUID(int=7), UUID(int=8)

UNKNOWN_STATE = UnknownStateError(table="orders", key=7, value="lost", known=("draft", "paid"))
STALE = StaleVersionError(
    table="orders", key=(7, "b"), event="pay", expected_version=3, actual_version=5, state="shipped"
)
MOVING = StaleVersionError(table="orders", key=7, event="pay", expected_version=None, actual_version=5, state="draft")
WRONG_STATE = TransitionRefusedError(
    table="orders", key=7, event="pay", state="shipped", version=5, reason=Reason.STATE, sources=("draft", "held")
)
FALSE_GUARD = TransitionRefusedError(
    table="orders", key=7, event="pay", state="draft", version=5, reason=Reason.GUARD, guards=("funded", "!held")
)
NOT_FOUND = RowNotFoundError(table="orders", key=7, event="pay")
BUSY = ActiveRunExistsError(run_key="nightly", run_id=KEY)
UNREACHABLE = ConnectionFailureError(phase=Phase.CONNECT, database="postgresql://db/x", detail="refused")
LOST_RACE = LostRace(phase=Phase.COMMIT, database="sqlite:///x.db", detail="could not serialize access")
CONTENTION = Contention(phase=Phase.EXECUTE, database="sqlite:///x.db", detail="database is locked")
OUTCOME_UNKNOWN = OutcomeUnknownError(
    phase=Phase.COMMIT, database="sqlite:///x.db", detail="gone", token=TOKEN, key=7, event="pay", expected_version=3
)
DONE = Transitioned(
    key=6, event="pay", source="draft", target="paid", version=2, token=TOKEN, at=datetime(2026, 3, 1, tzinfo=UTC)
)
INTERRUPTED = BatchInterruptedError(
    phase=Phase.COMMIT,
    database="sqlite:///x.db",
    detail="gone",
    answers=[DONE, None],
    requests=[Request(7, "pay", token=KEY)],
)

REQUESTED = CancelRequestedError(
    phase=Phase.EXECUTE, database="sqlite:///x.db", detail="gone", token=TOKEN, key=KEY, event="cancel"
)

EXAMPLES: list[StatelatchError] = [
    StatelatchError("root"),
    ConfigurationError("the mapping is wrong"),
    RequestError("the call is wrong"),
    NotAppliedError("no"),
    UNKNOWN_STATE,
    STALE,
    MOVING,
    WRONG_STATE,
    FALSE_GUARD,
    NOT_FOUND,
    BUSY,
    UNREACHABLE,
    CONTENTION,
    LOST_RACE,
    *(kind(phase=Phase.EXECUTE, database="sqlite:///x.db", detail="no") for kind in (Passing, Exhausted, ReadOnly)),
    OUTCOME_UNKNOWN,
    OvertakenError(phase=Phase.COMMIT, database="sqlite:///x.db", detail="moved on", token=TOKEN, key=7, event="pay"),
    INTERRUPTED,
    REQUESTED,
    SpoolError(Path("spool.db"), "no room"),
    InjectionError("such a fault cannot happen"),
    LifecycleError("the row says otherwise"),
    HistoryError(key=7, operations=(), initial=(1, "draft"), verdict="no order explains it"),
]

BASES: dict[type[StatelatchError], tuple[type[Exception], ...]] = {
    ConfigurationError: (StatelatchError, ValueError),
    RequestError: (StatelatchError, ValueError),
    UnknownStateError: (StatelatchError, ValueError),
    NotAppliedError: (StatelatchError,),
    StaleVersionError: (NotAppliedError,),
    TransitionRefusedError: (NotAppliedError, TransitionNotAllowed),
    RowNotFoundError: (NotAppliedError, LookupError),
    ActiveRunExistsError: (NotAppliedError,),
    ConnectionFailureError: (StatelatchError,),
    OutcomeUnknownError: (ConnectionFailureError,),
    BatchInterruptedError: (OutcomeUnknownError,),
    Passing: (ConnectionFailureError,),
    Contention: (Passing,),
    LostRace: (Passing,),
    Exhausted: (Contention,),
    ReadOnly: (Exhausted,),
    OvertakenError: (OutcomeUnknownError,),
    CancelRequestedError: (OutcomeUnknownError,),
}

MESSAGES: list[tuple[StatelatchError, list[str]]] = [
    (UNKNOWN_STATE, ["orders 7", "'lost'", "'draft', 'paid'", "Migrate the row or add the state"]),
    (STALE, ["orders (7, 'b')", "'pay'", "expected version 3", "found version 5", "'shipped'", "Load the row again"]),
    (MOVING, ["orders 7", "expected a row that holds still", "found version 5", "Load the row again"]),
    (WRONG_STATE, ["orders 7", "'pay' refused at version 5", "leaves 'draft', 'held'", "found 'shipped'"]),
    (FALSE_GUARD, ["orders 7", "'pay' refused at version 5", "in state 'draft'", "funded, !held"]),
    (NOT_FOUND, ["orders 7", "no such row", "'pay'", "Check the key"]),
    (BUSY, ["'nightly'", str(KEY), "Wait for that run, or cancel it"]),
    (UNREACHABLE, ["postgresql://db/x", "connect", "refused", "try another connection"]),
    (CONTENTION, ["sqlite:///x.db", "execute", "database is locked", "Nothing was written"]),
    (
        OUTCOME_UNKNOWN,
        ["sqlite:///x.db", "gone", "may have been written", f"verify for 7, token {TOKEN}", "'pay' again"],
    ),
    (REQUESTED, ["sqlite:///x.db", "execute", "gone", f"to cancel run {KEY} is written", "Cancel it again"]),
]

NOTHING_WRITTEN = [STALE, MOVING, WRONG_STATE, FALSE_GUARD, NOT_FOUND, BUSY, UNREACHABLE, CONTENTION, LOST_RACE]


def subclasses(root: type[StatelatchError]) -> set[type[StatelatchError]]:
    """Every class below this one that the product defines."""
    below = {each for each in root.__subclasses__() if each.__module__.startswith("statelatch.")}
    return below.union(*(subclasses(each) for each in below))


def name(example: object) -> str:
    """A test's id: what an example is."""
    return type(example).__name__


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_pickling_keeps_class_message_and_attributes(error: StatelatchError) -> None:
    """An error that crosses a process boundary arrives as it was, every attribute included."""
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(error), str(error), error.args) == (type(twin), str(twin), twin.args)
        assert vars(error) == vars(twin)


def test_every_class_is_pickled_above() -> None:
    """No class is left out of the examples, so that none is added that cannot be pickled."""
    assert subclasses(StatelatchError) <= {type(error) for error in EXAMPLES}


@pytest.mark.parametrize(("error", "bases"), BASES.items())
def test_hierarchy(error: type[StatelatchError], bases: tuple[type[Exception], ...]) -> None:
    """Each class stands where the documentation says, and is caught as what it also is."""
    assert bases == error.__bases__


def test_no_class_says_both_no_and_no_answer() -> None:
    """What the database refused is never also what it did not answer: one is not to be repeated, the other is."""
    both = {error for error in subclasses(StatelatchError) if issubclass(error, NotAppliedError)}

    assert not both & subclasses(ConnectionFailureError)
    assert ConnectionFailureError not in both


@pytest.mark.parametrize(("error", "parts"), MESSAGES, ids=name)
def test_message_names_row_expectation_finding_and_next_step(error: StatelatchError, parts: list[str]) -> None:
    """A message says which row, what was expected, what was found, and what to do next."""
    assert [part for part in parts if part not in str(error)] == []


@pytest.mark.parametrize("error", NOTHING_WRITTEN, ids=name)
def test_message_says_that_nothing_was_written(error: StatelatchError) -> None:
    """Where nothing was written, the message says so."""
    assert "nothing was written" in str(error).lower()


def test_refusal_is_caught_as_the_frameworks_own() -> None:
    """Code written for a machine in memory catches a refusal, and finds the event and the configuration in it."""
    with pytest.raises(TransitionNotAllowed) as caught:
        raise WRONG_STATE

    assert ("pay", {"shipped"}) == (caught.value.event, caught.value.configuration)


def test_refusal_without_a_known_guard_says_when() -> None:
    """A guard that was false only at the moment of writing has no name; the message says that instead of nothing."""
    error = TransitionRefusedError(table="t", key=1, event="go", state="a", version=2, reason=Reason.GUARD)

    assert "at the moment of writing" in str(error)


def test_all_is_the_module() -> None:
    """`__all__` names every exception and enum that the module defines, sorted."""
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    own = {name for name in defined if vars(errors)[name].__module__ == errors.__name__}

    assert sorted(own) == list(errors.__all__)
