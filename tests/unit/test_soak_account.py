"""What a soak compares: each kind of contradiction is found, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.soak.account import Row, account

DONE = Row("completed", 3, is_started=True)
APPLIED = {"key": "k", "told": "applied", "target": "completed", "state": "completed", "version": 3, "via": "primary"}
NO_OP = {**APPLIED, "told": "no-op", "target": "failed"}
SPOOLED = {**APPLIED, "told": "spooled", "state": None, "version": None, "via": "spool"}
FAILED = {"key": "k", "told": "start failed"}
UNKNOWN = {"key": "k", "told": "start unknown"}


@pytest.mark.parametrize(
    ("said", "row"),
    [
        (APPLIED, DONE),
        (NO_OP, DONE),
        (SPOOLED, DONE),
        (FAILED, None),
        (UNKNOWN, None),
        (UNKNOWN, Row("pending", 1, is_started=False)),
        ({**APPLIED, "target": "cancelled", "version": 2}, Row("cancelled", 2, is_started=False)),
    ],
)
def test_what_is_true(said: dict[str, Any], row: Row | None) -> None:
    """What was told is what the database holds: nothing is wrong, and it is counted."""
    found = account([said], {"k": row} if row else {})

    assert (found.wrong, found.figures[said["told"]]) == ([], 1)


@pytest.mark.parametrize(
    ("said", "row"),
    [
        (APPLIED, None),  # acknowledged, and not written
        (APPLIED, Row("failed", 3, is_started=True)),
        (APPLIED, Row("running", 2, is_started=True)),
        (FAILED, Row("pending", 1, is_started=False)),  # a reported failure, and written
        (SPOOLED, Row("running", 2, is_started=True)),  # replayed, and not written
        (NO_OP, Row("running", 2, is_started=True)),
        (UNKNOWN, DONE),
        ({**APPLIED, "told": "unsaved"}, DONE),  # there was a spool
        ({"key": "k", "told": "no end"}, DONE),
    ],
)
def test_what_is_not_true(said: dict[str, Any], row: Row | None) -> None:
    """What was told is not what the database holds: one sentence says so."""
    assert len(account([said], {"k": row} if row else {}).wrong) == 1


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row("pending", 1, is_started=False), 0),
        (Row("running", 2, is_started=True), 0),
        (Row("failed", 3, is_started=True), 0),
        (Row("cancelled", 2, is_started=False), 0),
        (Row("running", 3, is_started=True), 1),
        (Row("completed", 4, is_started=True), 1),
        (Row("completed", 2, is_started=True), 1),
    ],
)
def test_gaps(row: Row, expected: int) -> None:
    """A row of a killed process, of which nothing was told, has the version of its path all the same."""
    found = account([], {"k": row})

    assert (len(found.wrong), found.figures["rows nobody was told of"]) == (expected, 1)
