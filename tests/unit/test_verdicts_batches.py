"""Verdicts on batches: the requests for one row are judged one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import bindparam

from statelatch import MachineMapping
from statelatch.errors import Reason
from statelatch.testing.batches import check_batch
from statelatch.testing.calls import Call, LifecycleError, Span, Trouble
from statelatch.testing.fault import ProcessDied
from tests.lights import Crossing, Light
from tests.unit.test_verdicts import STEP, STRUCK, entry, moved, refused, row, stale, token

ASSIGNS: dict[str, dict[str, object]] = {"stop": {"by": bindparam("actor", None)}, "yellow": {"broken": True}}
MAPPING = MachineMapping(machine=Crossing, entity=Light, assigns=ASSIGNS)

GREEN = row()
LOG = (entry(1, "green", None), entry(2, "yellow"), entry(3, "red", "yellow"))
RED = replace(row(3, "red", broken=True), log=LOG)
YELLOW = row(2, "yellow", broken=True)
FIRST, SECOND = (STEP, moved()), (STEP, moved(3, "yellow", "red"))
NOTHING, IDLE = Call(key=7, event="nothing"), refused(version=2, state="yellow", event="nothing", sources=())
DIED: list[tuple[Call, object]] = [(STEP, ProcessDied())] * 2
AT_TWO = replace(STEP, expected_version=2)

TRUE = {
    "one after the other": ([FIRST, SECOND], RED),
    "refused in between": ([FIRST, (NOTHING, IDLE), SECOND], RED),
    "the second at the version that the first has left": ([FIRST, (AT_TWO, SECOND[1])], RED),
    "the second is stale": ([FIRST, (replace(STEP, expected_version=1), stale(1, 2, "yellow"))], YELLOW),
    "it died": (DIED, RED),
    "it died early": (DIED, GREEN),
}

LIES: dict[str, tuple[list[tuple[Call, object]], Any]] = {
    "swapped": ([(STEP, SECOND[1]), (STEP, FIRST[1])], RED),
    "out of another state": ([FIRST, (STEP, moved(3, "green", "red"))], RED),
    "one is missing": ([FIRST, (STEP, refused(Reason.GUARD, 2, "yellow"))], RED),
    "one is not in the row": ([FIRST, SECOND], YELLOW),
    "nothing was applied": ([(STEP, refused(Reason.GUARD))] * 2, YELLOW),
    "the second at another version": ([FIRST, (replace(STEP, expected_version=1), SECOND[1])], RED),
    "the second with another token": ([FIRST, (replace(STEP, token=token(9)), SECOND[1])], RED),
    "the first with another token": ([(replace(STEP, token=token(9)), FIRST[1]), SECOND], RED),
    "the second is stale at a version that never was": (
        [FIRST, (replace(STEP, expected_version=1), stale(1, 77, "nowhere"))],
        YELLOW,
    ),
    "a state that is none": ([(STEP, moved(target="nowhere")), SECOND], RED),
    "its columns are not assigned": ([FIRST, SECOND], replace(RED, values={**RED.values, "broken": False})),
    "refused, and it need not be": ([FIRST, (STEP, refused(Reason.GUARD, 2, "yellow")), SECOND], RED),
    "a guard was false": ([FIRST, SECOND, (STEP, moved(4, "red", "green")), (STEP, moved(5))], row(5, "yellow")),
    "it died, and there are more": (DIED, row(4, "green")),
    "it died, and a column is another": (DIED, row(broken=True)),
}


@pytest.mark.parametrize(("told", "after"), TRUE.values(), ids=TRUE)
def test_what_is_true_is_believed(told: list[tuple[Call, object]], after: Any) -> None:
    """Each request is judged on the row that the one before has left, which is told."""
    spans = check_batch(MAPPING, told, Span(GREEN, after), STRUCK)

    assert (spans[0].before, spans[-1].after) == (GREEN, after)


@pytest.mark.parametrize(("told", "after"), LIES.values(), ids=LIES)
def test_what_is_not_is_found(told: list[tuple[Call, object]], after: Any) -> None:
    """An answer that does not agree with those before it, or with the row in the end, is an error."""
    with pytest.raises(LifecycleError):
        check_batch(MAPPING, told, Span(GREEN, after), Trouble(struck=True))


def test_where_columns_are_not_known_guards_are_not_judged() -> None:
    """What an expression has written in between, nobody has seen; all else is judged."""
    assigns: dict[str, dict[str, object]] = {"yellow": {"broken": ~Light.broken}, "red": {"broken": ~Light.broken}}
    mapping = MachineMapping(machine=Crossing, entity=Light, assigns=assigns)
    log = (*LOG, entry(4, "green", "red"), entry(5, "yellow", "green"))
    told = [FIRST, SECOND, (STEP, moved(4, "red", "green")), (STEP, moved(5))]
    end = replace(row(5, "yellow", broken=True), log=log)

    check_batch(mapping, told, Span(GREEN, end))
    with pytest.raises(LifecycleError):
        check_batch(mapping, [*told[:-1], (STEP, moved(5, target="red"))], Span(GREEN, replace(end, state="red")))
