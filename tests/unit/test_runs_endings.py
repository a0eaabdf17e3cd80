"""How a function ended, and the last word that follows; what of a result is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelatch.runs import RunCancelled
from statelatch.runs.endings import DEEPEST_JSON, LARGEST_JSON, cancelled, completed, failed, jsonable, raised

RUN = UUID(int=1)


class Stubborn(dict[str, int]):
    """A dictionary that raises what nobody expects when it is read."""

    def items(self) -> Any:
        raise LookupError("not now")


class Endless(list[int]):
    """A list that has more than memory holds."""

    def __iter__(self) -> Iterator[int]:
        raise MemoryError


def nested(levels: int) -> Any:
    """Lists and dictionaries within one another, so many levels."""
    value: Any = "leaf"
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def loop() -> list[Any]:
    """A list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


KEPT: list[tuple[object, object]] = [
    (None, None),
    (0, 0),
    (False, False),
    ("", ""),
    ([], []),
    ({}, {}),
    ((1, 2), [1, 2]),
    ({1: "a"}, {"1": "a"}),
    ("Größe 漢字 😀", "Größe 漢字 😀"),
    ("a\x00b", "a\x00b"),
    ([2**63 - 1, -(2**63), True], [2**63 - 1, -(2**63), True]),
    (nested(DEEPEST_JSON), nested(DEEPEST_JSON)),
    ("x" * (LARGEST_JSON - 2), "x" * (LARGEST_JSON - 2)),
]

NOT_KEPT: list[object] = [
    object(),
    {1, 2},
    b"bytes",
    float("nan"),
    [float("inf")],
    10**5000,
    2**63,
    {"k": [-(2**63) - 1]},
    loop(),
    Stubborn(a=1),
    Endless([1]),
    "half \ud83d a pair",
    {"\udc80": 1},
    nested(DEEPEST_JSON + 1),
    nested(100_000),
    "x" * (LARGEST_JSON - 1),
]


@pytest.mark.parametrize(("value", "expected"), KEPT, ids=lambda value: repr(value)[:20])
def test_jsonable_keeps_what_every_database_holds(value: object, expected: object) -> None:
    """The value comes back as JSON gives it back, and of the same type."""
    stored = jsonable(value)

    assert expected == stored
    assert type(expected) is type(stored)


@pytest.mark.parametrize("value", NOT_KEPT, ids=lambda value: type(value).__name__)
def test_jsonable_drops_what_some_database_refuses(value: object) -> None:
    """No JSON, too large, too deep, half a character, or an object that raises: None, and never an exception."""
    assert jsonable(value) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_jsonable_changes_nothing_in_what_it_has_kept(value: object) -> None:
    """What is kept is kept a second time as it is."""
    assert jsonable(jsonable(value)) == jsonable(value)


def test_a_result_that_is_not_kept_is_still_completed(caplog: pytest.LogCaptureFixture) -> None:
    """The run has completed, the caller's own value is untouched, and a warning says what is missing in the row."""
    value = object()
    with caplog.at_level(logging.WARNING, "statelatch.runs"):
        ending = completed(RUN, value)

    assert (ending.target, ending.event, ending.params) == ("completed", "complete", {"result": None})
    assert ending.value is value
    assert [f"run {RUN}: its result is no JSON that every database holds; not stored"] == caplog.messages


@pytest.mark.parametrize("value", [None, 0, "", {"a": [1]}])
def test_a_result_that_is_kept_is_not_warned_of(value: object, caplog: pytest.LogCaptureFixture) -> None:
    """None is a result, not a missing one."""
    assert completed(RUN, value).params == {"result": value}
    assert caplog.messages == []


RAISED = [
    (ValueError("bad /etc/passwd"), "failed", "fail", "bad <path>", "ValueError"),
    (ValueError(), "failed", "fail", "ValueError", "ValueError"),
    (SystemExit(3), "failed", "fail", "3", "SystemExit"),
    (KeyboardInterrupt(), "failed", "fail", "KeyboardInterrupt", "KeyboardInterrupt"),
    (TimeoutError("cancelled"), "failed", "fail", "cancelled", "TimeoutError"),
]


@pytest.mark.parametrize(("error", "target", "event", "text", "kind"), RAISED, ids=lambda value: repr(value)[:24])
def test_what_a_function_raises_fails_its_run(
    error: BaseException, target: str, event: str, text: str, kind: str
) -> None:
    """Failed, with the sanitized text and the class; the exception itself is kept for the caller."""
    ending = raised(error)

    assert (target, event, text) == (ending.target, ending.event, ending.error)
    assert {"error": text, "error_type": kind} == ending.params
    assert ending.exception is error
    assert ending == failed(error)


class Stopped(RunCancelled):
    """A user's own way to say so."""


@pytest.mark.parametrize("error", [RunCancelled(), RunCancelled("enough"), Stopped("enough")])
def test_run_cancelled_cancels_its_run(error: RunCancelled) -> None:
    """Cancelled is no failure: no error text, no class."""
    ending = raised(error)

    assert (ending.target, ending.event, ending.error, ending.params) == ("cancelled", "cancel", None, {})
    assert ending == cancelled(error)
