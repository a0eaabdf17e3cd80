"""Verdicts: every way in which an answer can disagree with the row, the log or the machine is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from statelatch import (
    ConnectionFailureError,
    MachineMapping,
    OutcomeUnknownError,
    RowNotFoundError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.errors import Phase, Reason
from statelatch.testing.stored import Stored
from statelatch.testing.verdicts import Call, LifecycleError, Span, check_answer, check_batch, check_log
from tests.lights import ASSIGNS, Crossing, Light

MAPPING = MachineMapping(machine=Crossing, entity=Light, assigns=ASSIGNS)
AT = datetime(2026, 3, 1, tzinfo=UTC)


def token(version: int) -> UUID:
    """The one that each version's transition has left."""
    return UUID(int=version << 64)


def entry(version: int, target: str, source: str | None = "green") -> dict[str, Any]:
    """An entry of the log."""
    return {"version": version, "source": source, "target": target, "token": token(version)}


def row(version: int = 1, state: str = "green", **values: Any) -> Stored:
    """A light as it is stored; its log says that it was green before."""
    columns = {"id": 7, "state": state, "version": version, "transition_token": token(version)}
    columns |= {"broken": False, "by": None, "stopped_at": None}
    earlier = [entry(each, "green", "green" if each > 1 else None) for each in range(1, version)]
    log = (*earlier, entry(version, state, "green" if version > 1 else None))
    return Stored(key=7, state=state, version=version, token=token(version), values={**columns, **values}, log=log)


def moved(version: int = 2, source: str = "green", target: str = "yellow", **other: Any) -> Transitioned:
    """It was applied."""
    told: dict[str, Any] = {"key": 7, "event": "step", "token": token(version), "at": AT, **other}
    return Transitioned(source=source, target=target, version=version, **told)


def refused(reason: Reason = Reason.STATE, version: int = 1, state: str = "green") -> TransitionRefusedError:
    """It was refused."""
    return TransitionRefusedError(table="light", key=7, event="step", state=state, version=version, reason=reason)


def stale(expected: int | None, actual: int, state: str = "green") -> StaleVersionError:
    """Somebody was faster."""
    return StaleVersionError(
        table="light", key=7, event="step", expected_version=expected, actual_version=actual, state=state
    )


FAILURE = ConnectionFailureError(phase=Phase.EXECUTE, database="sqlite://", detail="gone")
UNKNOWN = OutcomeUnknownError(phase=Phase.COMMIT, database="sqlite://", detail="gone", token=token(2))
FULL = OperationalError("UPDATE", {}, Exception("disk full"))

GREEN, YELLOW, RED, OFF = row(), row(2, "yellow"), row(2, "red", stopped_at=AT), row(2, "off")
BROKEN = row(broken=True)
STEP = Call(key=7, event="step")

TRUE = {
    "applied": (STEP, moved(), [Span(GREEN, YELLOW)], False),
    "at the version that it expected": (
        replace(STEP, expected_version=1, token=token(2)),
        moved(),
        [Span(GREEN, YELLOW)],
        False,
    ),
    "its columns are assigned": (
        replace(STEP, event="stop"),
        moved(target="red", event="stop"),
        [Span(GREEN, RED)],
        False,
    ),
    "refused by its guard": (STEP, refused(Reason.GUARD), [Span(BROKEN, BROKEN)], False),
    "refused by its state": (STEP, refused(version=2, state="off"), [Span(OFF, OFF)], False),
    "stale": (replace(STEP, expected_version=1), stale(1, 2, "yellow"), [Span(YELLOW, YELLOW)], False),
    "failed": (STEP, FAILURE, [Span(GREEN, GREEN)], True),
    "unknown, and written": (STEP, UNKNOWN, [Span(GREEN, YELLOW)], True),
    "unknown, and not written": (STEP, UNKNOWN, [Span(GREEN, GREEN)], True),
    "the disk is full": (STEP, FULL, [Span(GREEN, GREEN)], True),
    "overtaken, then applied": (STEP, moved(3), [Span(GREEN, GREEN), Span(row(2), row(3, "yellow"))], False),
    "applied, then overtaken": (STEP, moved(), [Span(GREEN, YELLOW), Span(row(3, "red"), row(3, "red"))], True),
    "decided on the row as it was read": (
        replace(STEP, compiled=False),
        moved(),
        [Span(GREEN, GREEN), Span(BROKEN, row(2, "yellow", broken=True))],
        False,
    ),
}

LIES = {
    "applied, and the row is as it was": (STEP, moved(), [Span(GREEN, GREEN)], False),
    "another version": (STEP, moved(3), [Span(GREEN, YELLOW)], False),
    "another target": (STEP, moved(target="red"), [Span(GREEN, YELLOW)], False),
    "another source": (STEP, moved(source="red"), [Span(GREEN, YELLOW)], False),
    "another token": (STEP, moved(token=token(9)), [Span(GREEN, YELLOW)], False),
    "another key": (STEP, moved(key=8), [Span(GREEN, YELLOW)], False),
    "not durable": (STEP, moved(committed=False), [Span(GREEN, YELLOW)], False),
    "not the token that was sent": (replace(STEP, token=token(9)), moved(), [Span(GREEN, YELLOW)], False),
    "no new token": (STEP, moved(token=token(1)), [Span(GREEN, replace(YELLOW, token=token(1)))], False),
    "two bumps": (STEP, moved(3), [Span(GREEN, row(3, "yellow"))], False),
    "no bump": (STEP, moved(1), [Span(GREEN, row(1, "yellow"))], False),
    "another version than expected": (replace(STEP, expected_version=3), moved(), [Span(GREEN, YELLOW)], False),
    "a guard was false": (STEP, moved(), [Span(BROKEN, row(2, "yellow", broken=True))], False),
    "a terminal state was left": (STEP, moved(3, "off"), [Span(OFF, row(3, "yellow"))], False),
    "written twice": (STEP, moved(), [Span(GREEN, YELLOW), Span(YELLOW, row(3, "red"))], True),
    "a column that nobody assigns": (STEP, moved(), [Span(GREEN, row(2, "yellow", by="me"))], False),
    "a column although it was refused": (STEP, refused(Reason.GUARD), [Span(BROKEN, row(broken=True, by="me"))], False),
    "refused, and written": (STEP, refused(Reason.GUARD), [Span(GREEN, YELLOW)], False),
    "failed, and written": (STEP, FAILURE, [Span(GREEN, YELLOW)], True),
    "an error, and written": (STEP, FULL, [Span(GREEN, YELLOW)], True),
    "refused, and it need not": (STEP, refused(Reason.GUARD), [Span(GREEN, GREEN)], False),
    "refused for another reason": (STEP, refused(Reason.STATE), [Span(BROKEN, BROKEN)], False),
    "refused in another state": (STEP, refused(Reason.GUARD, 1, "red"), [Span(BROKEN, BROKEN)], False),
    "refused, and it was stale": (
        replace(STEP, expected_version=2),
        refused(Reason.GUARD),
        [Span(BROKEN, BROKEN)],
        False,
    ),
    "stale, and it was not": (replace(STEP, expected_version=1), stale(1, 1), [Span(GREEN, GREEN)], False),
    "stale, and nothing was expected": (STEP, stale(None, 1), [Span(GREEN, GREEN)], False),
    "stale at another version": (replace(STEP, expected_version=3), stale(3, 2), [Span(GREEN, GREEN)], False),
    "missing, and it is there": (STEP, RowNotFoundError(table="light", key=7), [Span(GREEN, GREEN)], False),
    "failed without a fault": (STEP, FAILURE, [Span(GREEN, GREEN)], False),
    "unknown without a fault": (STEP, UNKNOWN, [Span(GREEN, GREEN)], False),
    "an error without a fault": (STEP, FULL, [Span(GREEN, GREEN)], False),
    "an error of nobody's": (STEP, KeyError("x"), [Span(GREEN, GREEN)], True),
    "decided on the row as it was read, in SQL": (
        STEP,
        moved(),
        [Span(GREEN, GREEN), Span(BROKEN, row(2, "yellow", broken=True))],
        False,
    ),
}


@pytest.mark.parametrize(("call", "answer", "spans", "struck"), TRUE.values(), ids=TRUE)
def test_what_is_true_is_believed(call: Call, answer: object, spans: list[Span], struck: bool) -> None:
    """An answer that agrees with the row and the machine is none to fail at, and it is told where it was written."""
    done = check_answer(MAPPING, call, answer, spans, struck=struck)

    assert done == next((span for span in spans if span.before.version != span.after.version), None)


@pytest.mark.parametrize(("call", "answer", "spans", "struck"), LIES.values(), ids=LIES)
def test_what_is_not_is_found(call: Call, answer: object, spans: list[Span], struck: bool) -> None:
    """An answer that does not agree is an error, which says what was expected and what was found."""
    with pytest.raises(LifecycleError, match=r"(?s)expected .*, found "):
        check_answer(MAPPING, call, answer, spans, struck=struck)


@pytest.mark.parametrize(
    "log",
    [
        (entry(1, "green", None),),
        (entry(1, "green", None), entry(2, "yellow"), entry(3, "red", "yellow")),
        (entry(1, "green", None), entry(1, "green", None), entry(2, "yellow")),
        (entry(1, "green", None), {**entry(2, "yellow"), "token": token(1)}),
        (entry(1, "green", None), entry(2, "yellow", "red")),
        (entry(1, "green", None), entry(2, "red")),
        (entry(1, "green", None), {**entry(2, "yellow"), "token": token(9)}),
    ],
    ids=["a gap", "one too many", "a duplicate", "a token twice", "another source", "another state", "another token"],
)
def test_a_log_that_is_not_the_rows_is_found(log: tuple[Any, ...]) -> None:
    """A log has one entry for each version, each of which goes on from the one before; the last is the row."""
    check_log(YELLOW)
    check_log(replace(YELLOW, log=None))
    with pytest.raises(LifecycleError, match="the log of 7"):
        check_log(replace(YELLOW, log=log))


def test_requests_of_a_batch_for_one_row_follow_on_one_another() -> None:
    """Several transitions of one row make a chain from the row before to the row after."""
    told = [(STEP, moved(2)), (STEP, refused()), (STEP, moved(3, "yellow", "red"))]
    wrong = [(STEP, moved(2)), (STEP, moved(3, "green", "red"))]
    span = Span(GREEN, row(3, "red"))

    check_batch(MAPPING, told, span, struck=False)
    check_batch(MAPPING, told[1:], span, struck=True)  # the first was interrupted, and overwritten in the same batch
    for lie, seen in ((wrong, span), (told[1:], span), (told, Span(GREEN, YELLOW)), (told, Span(OFF, row(3, "red")))):
        with pytest.raises(LifecycleError):
            check_batch(MAPPING, lie, seen, struck=False)
