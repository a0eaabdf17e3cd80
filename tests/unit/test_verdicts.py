"""Verdicts: every way in which an answer can disagree with the row, the log or the machine is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from statelatch import (
    ConnectionFailureError,
    LogEntry,
    MachineMapping,
    OutcomeUnknownError,
    OvertakenError,
    RowNotFoundError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.errors import Phase, Reason
from statelatch.testing.calls import Call, LifecycleError, Span, Trouble
from statelatch.testing.logs import check_history, check_log
from statelatch.testing.stored import Stored
from statelatch.testing.verdicts import check_answer
from tests.lights import ASSIGNS, Crossing, Light

if TYPE_CHECKING:
    from collections.abc import Mapping

MAPPING = MachineMapping(machine=Crossing, entity=Light, assigns=ASSIGNS)
AT = datetime(2026, 3, 1, tzinfo=UTC)


def token(version: int) -> UUID:
    """The one that each version's transition has left."""
    return UUID(int=version << 64)


def entry(version: int, target: str, source: str | None = "green", **other: Any) -> dict[str, Any]:
    """An entry of the log."""
    event = "step" if version > 1 else None
    told: dict[str, Any] = {"event": event, "at": AT, "actor": None, "data": None, **other}
    return {"version": version, "source": source, "target": target, "token": token(version), **told}


def row(version: int = 1, state: str = "green", told: Mapping[str, Any] | None = None, **values: Any) -> Stored:
    """A light as it is stored; its log says that it was green before."""
    columns = {"id": 7, "state": state, "version": version, "transition_token": token(version)}
    columns |= {"broken": False, "by": None, "stopped_at": None}
    earlier = [entry(each, "green", "green" if each > 1 else None) for each in range(1, version)]
    log = (*earlier, entry(version, state, "green" if version > 1 else None, **(told or {})))
    values = {**columns, **values}
    return Stored(key=7, state=state, version=version, token=token(version), values=values, log=log, read_at=AT)


def moved(version: int = 2, source: str = "green", target: str = "yellow", **other: Any) -> Transitioned:
    """It was applied."""
    told: dict[str, Any] = {"key": 7, "event": "step", "token": token(version), "at": AT, **other}
    return Transitioned(source=source, target=target, version=version, **told)


def refused(
    reason: Reason = Reason.STATE, version: int = 1, state: str = "green", **other: Any
) -> TransitionRefusedError:
    """It was refused."""
    told: dict[str, Any] = {"key": 7, "event": "step", "sources": ("green", "yellow", "red"), **other}
    return TransitionRefusedError(table="light", state=state, version=version, reason=reason, **told)


def stale(expected: int | None, actual: int, state: str = "green") -> StaleVersionError:
    """Somebody was faster."""
    return StaleVersionError(
        table="light", key=7, event="step", expected_version=expected, actual_version=actual, state=state
    )


FAILURE = ConnectionFailureError(phase=Phase.EXECUTE, database="sqlite://", detail="gone")
UNKNOWN = OutcomeUnknownError(phase=Phase.COMMIT, database="sqlite://", detail="gone", token=token(2))
OVERTAKEN = OvertakenError(phase=Phase.COMMIT, database="sqlite://", detail="moved on", token=token(2))
TAKEN = IntegrityError("UPDATE", {}, Exception("not unique"))
FULL = OperationalError("UPDATE", {}, Exception("disk full"))

GREEN, YELLOW, RED, OFF = row(), row(2, "yellow"), row(2, "red", {"event": "stop"}, stopped_at=AT), row(2, "off")
BY = row(2, "red", {"event": "stop", "actor": "me", "data": [1]}, stopped_at=AT, by="me")
BROKEN = row(broken=True)
STEP = Call(key=7, event="step")
STOP = Call(key=7, event="stop", params={"actor": "me", "data": (1,)})
STOPPED = moved(target="red", event="stop")
CALM, STRUCK, CUT, CUT_OFF = Trouble(), Trouble(True), Trouble(True, True), Trouble(True, True, True)


def unlogged(*spans: Span) -> list[Span]:
    """The same without a log."""
    return [Span(*(replace(each, log=None) for each in span)) for span in spans]


def later(span: Span) -> list[Span]:
    """The same, a day later."""
    return [Span(*(replace(each, read_at=AT + timedelta(days=1)) for each in span))]


TRUE = {
    "applied": (STEP, moved(), [Span(GREEN, YELLOW)], CALM),
    "at the version that it expected": (
        replace(STEP, expected_version=1, token=token(2)),
        moved(),
        [Span(GREEN, YELLOW)],
        CALM,
    ),
    "its columns are assigned": (
        replace(STEP, event="stop"),
        moved(target="red", event="stop"),
        [Span(GREEN, RED)],
        CALM,
    ),
    "refused by its guard": (STEP, refused(Reason.GUARD), [Span(BROKEN, BROKEN)], CALM),
    "refused by its state": (STEP, refused(version=2, state="off"), [Span(OFF, OFF)], CALM),
    "stale": (replace(STEP, expected_version=1), stale(1, 2, "yellow"), [Span(YELLOW, YELLOW)], CALM),
    "failed": (STEP, FAILURE, [Span(GREEN, GREEN)], STRUCK),
    "unknown, and written": (STEP, UNKNOWN, [Span(GREEN, YELLOW)], CUT_OFF),
    "unknown, and not written": (STEP, UNKNOWN, [Span(GREEN, GREEN)], CUT_OFF),
    "unknown, because it moved on": (STEP, OVERTAKEN, unlogged(Span(GREEN, YELLOW), Span(row(3), row(3))), CUT),
    "unknown, because it may have moved on": (STEP, OVERTAKEN, unlogged(Span(row(3), row(3))), CUT),
    "unknown, because it may have moved on from its version": (
        replace(STEP, expected_version=1),
        OVERTAKEN,
        unlogged(Span(row(3), row(3))),
        CUT,
    ),
    "its parameters are assigned, and logged": (STOP, STOPPED, [Span(GREEN, BY)], CALM),
    "refused, with its guard": (STEP, refused(Reason.GUARD, guards=("!broken",)), [Span(BROKEN, BROKEN)], CALM),
    "it breaks a constraint": (STEP, TAKEN, [Span(GREEN, GREEN)], CALM),
    "the disk is full": (STEP, FULL, [Span(GREEN, GREEN)], STRUCK),
    "overtaken, then applied": (STEP, moved(3), [Span(GREEN, GREEN), Span(row(2), row(3, "yellow"))], CALM),
    "applied, then overtaken": (STEP, moved(), [Span(GREEN, YELLOW), Span(row(3, "red"), row(3, "red"))], STRUCK),
    "decided on the row as it was read": (
        replace(STEP, compiled=False),
        moved(),
        [Span(GREEN, GREEN), Span(BROKEN, row(2, "yellow", broken=True))],
        CALM,
    ),
}

LIES = {
    "applied, and the row is as it was": (STEP, moved(), [Span(GREEN, GREEN)], CALM),
    "another version": (STEP, moved(3), [Span(GREEN, YELLOW)], CALM),
    "another target": (STEP, moved(target="red"), [Span(GREEN, YELLOW)], CALM),
    "another source": (STEP, moved(source="red"), [Span(GREEN, YELLOW)], CALM),
    "another token": (STEP, moved(token=token(9)), [Span(GREEN, YELLOW)], CALM),
    "another key": (STEP, moved(key=8), [Span(GREEN, YELLOW)], CALM),
    "not durable": (STEP, moved(committed=False), [Span(GREEN, YELLOW)], CALM),
    "not the token that was sent": (replace(STEP, token=token(9)), moved(), [Span(GREEN, YELLOW)], CALM),
    "no new token": (STEP, moved(token=token(1)), [Span(GREEN, replace(YELLOW, token=token(1)))], CALM),
    "two bumps": (STEP, moved(3), [Span(GREEN, row(3, "yellow"))], CALM),
    "no bump": (STEP, moved(1), [Span(GREEN, row(1, "yellow"))], CALM),
    "another version than expected": (replace(STEP, expected_version=3), moved(), [Span(GREEN, YELLOW)], CALM),
    "a guard was false": (STEP, moved(), [Span(BROKEN, row(2, "yellow", broken=True))], CALM),
    "a terminal state was left": (STEP, moved(3, "off"), [Span(OFF, row(3, "yellow"))], CALM),
    "written twice": (STEP, moved(), [Span(GREEN, YELLOW), Span(YELLOW, row(3, "red"))], STRUCK),
    "a column that nobody assigns": (STEP, moved(), [Span(GREEN, row(2, "yellow", by="me"))], CALM),
    "a column although it was refused": (STEP, refused(Reason.GUARD), [Span(BROKEN, row(broken=True, by="me"))], CALM),
    "refused, and written": (STEP, refused(Reason.GUARD), [Span(GREEN, YELLOW)], CALM),
    "failed, and written": (STEP, FAILURE, [Span(GREEN, YELLOW)], STRUCK),
    "an error, and written": (STEP, FULL, [Span(GREEN, YELLOW)], STRUCK),
    "refused, and it need not": (STEP, refused(Reason.GUARD), [Span(GREEN, GREEN)], CALM),
    "refused for another reason": (STEP, refused(Reason.STATE), [Span(BROKEN, BROKEN)], CALM),
    "refused in another state": (STEP, refused(Reason.GUARD, 1, "red"), [Span(BROKEN, BROKEN)], CALM),
    "refused, and it was stale": (
        replace(STEP, expected_version=2),
        refused(Reason.GUARD),
        [Span(BROKEN, BROKEN)],
        CALM,
    ),
    "stale, and it was not": (replace(STEP, expected_version=1), stale(1, 1), [Span(GREEN, GREEN)], CALM),
    "stale, and nothing was expected": (STEP, stale(None, 1), [Span(GREEN, GREEN)], CALM),
    "stale at another version": (replace(STEP, expected_version=3), stale(3, 2), [Span(GREEN, GREEN)], CALM),
    "stale, and another version was expected": (
        replace(STEP, expected_version=1),
        stale(4, 2, "yellow"),
        [Span(YELLOW, YELLOW)],
        CALM,
    ),
    "refused by guards that it has not": (STEP, refused(Reason.GUARD, guards=("x",)), [Span(BROKEN, BROKEN)], CALM),
    "refused with other sources": (STEP, refused(Reason.GUARD, sources=("red",)), [Span(BROKEN, BROKEN)], CALM),
    "refused for another row": (STEP, refused(Reason.GUARD, key=8), [Span(BROKEN, BROKEN)], CALM),
    "refused to another event": (STEP, refused(Reason.GUARD, event="x"), [Span(BROKEN, BROKEN)], CALM),
    "at a time before": (STEP, moved(at=AT - timedelta(hours=1)), [Span(GREEN, YELLOW)], CALM),
    "at a time of no zone": (STEP, moved(at=AT.replace(tzinfo=None)), [Span(GREEN, YELLOW)], CALM),
    "unknown, and nobody asked": (STEP, UNKNOWN, [Span(GREEN, YELLOW)], CUT),
    "unknown, and no commit was cut": (STEP, UNKNOWN, [Span(GREEN, GREEN)], STRUCK),
    "unknown, and it is its own": (STEP, OVERTAKEN, unlogged(Span(GREEN, YELLOW)), CUT),
    "unknown, and the log knows": (STEP, OVERTAKEN, [Span(GREEN, YELLOW), Span(row(3), row(3))], CUT),
    "unknown, and at its version it cannot be": (
        replace(STEP, expected_version=2),
        OVERTAKEN,
        unlogged(Span(row(3), row(3))),
        CUT,
    ),
    "a parameter is not assigned": (STOP, STOPPED, unlogged(Span(GREEN, replace(BY, values=RED.values))), CALM),
    "another is assigned": (STOP, STOPPED, [Span(GREEN, replace(BY, values={**BY.values, "by": "you"}))], CALM),
    "another event in the log": (STEP, moved(), [Span(GREEN, row(2, "yellow", {"event": "stop"}))], CALM),
    "another actor in the log": (STEP, moved(), [Span(GREEN, row(2, "yellow", {"actor": "me"}))], CALM),
    "other data in the log": (STEP, moved(), [Span(GREEN, row(2, "yellow", {"data": {}}))], CALM),
    "another time in the log": (STEP, moved(at=AT + timedelta(days=1)), later(Span(GREEN, YELLOW)), CALM),
    "constraints, and it moves not": (STEP, TAKEN, [Span(BROKEN, BROKEN)], CALM),
    "missing, and it is there": (STEP, RowNotFoundError(table="light", key=7), [Span(GREEN, GREEN)], CALM),
    "failed without a fault": (STEP, FAILURE, [Span(GREEN, GREEN)], CALM),
    "unknown without a fault": (STEP, UNKNOWN, [Span(GREEN, GREEN)], CALM),
    "an error without a fault": (STEP, FULL, [Span(GREEN, GREEN)], CALM),
    "an error of nobody's": (STEP, KeyError("x"), [Span(GREEN, GREEN)], STRUCK),
    "decided on the row as it was read, in SQL": (
        STEP,
        moved(),
        [Span(GREEN, GREEN), Span(BROKEN, row(2, "yellow", broken=True))],
        CALM,
    ),
}


@pytest.mark.parametrize(("call", "answer", "spans", "trouble"), TRUE.values(), ids=TRUE)
def test_what_is_true_is_believed(call: Call, answer: object, spans: list[Span], trouble: Trouble) -> None:
    """An answer that agrees with the row and the machine is none to fail at, and it is told where it was written."""
    done = check_answer(MAPPING, call, answer, spans, trouble)

    assert done == next((span for span in spans if span.before.version != span.after.version), None)


@pytest.mark.parametrize(("call", "answer", "spans", "trouble"), LIES.values(), ids=LIES)
def test_what_is_not_is_found(call: Call, answer: object, spans: list[Span], trouble: Trouble) -> None:
    """An answer that does not agree is an error, which says what was expected and what was found."""
    with pytest.raises(LifecycleError, match=r"(?s)expected .*, found "):
        check_answer(MAPPING, call, answer, spans, trouble)


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
        (entry(1, "green", None, event="step"), entry(2, "yellow")),
        (entry(1, "green"), entry(2, "yellow")),
    ],
    ids=[
        "a gap",
        "one too many",
        "a duplicate",
        "a token twice",
        "another source",
        "another state",
        "another token",
        "a first event",
        "a first source",
    ],
)
def test_a_log_that_is_not_the_rows_is_found(log: tuple[Any, ...]) -> None:
    """A log has one entry for each version, each of which goes on from the one before; the last is the row."""
    check_log(YELLOW)
    check_log(replace(YELLOW, log=None))
    with pytest.raises(LifecycleError, match="the log of 7"):
        check_log(replace(YELLOW, log=log))


def test_a_history_that_is_not_the_log_is_found() -> None:
    """`history` tells each entry of the log as it is."""
    told = [LogEntry(key=7, **each) for each in YELLOW.log or ()]

    check_history(YELLOW, told)
    for lie in (told[1:], told[::-1], [told[0], replace(told[1], actor="me")], [told[0], replace(told[1], key=8)]):
        with pytest.raises(LifecycleError, match="the history of 7"):
            check_history(YELLOW, lie)
