"""One injected fault: which statements it strikes, how often, and what is told if it never did."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from statelatch.testing import FaultNotFiredError, Injected, InjectionError


def injected(statement: str | re.Pattern[str], **options: Any) -> Injected:
    """A fault of nobody's."""
    return Injected("STALL", statement, begin=lambda: None, end=lambda: None, **options)


@pytest.mark.parametrize(
    ("wanted", "statement", "expected"),
    [
        ("UPDATE", "UPDATE orders SET x = 1", True),
        ("update", "  UPDATE orders SET x = 1", True),
        ("UPDATE", "UPDATE\norders SET x = 1", True),
        ("UPDATE orders", "UPDATE  orders SET x = 1", True),
        ("UPDATE orders", "UPDATE orders_log SET x = 1", False),
        ("UPDATE", "SELECT 1 FROM orders FOR UPDATE", False),
        ("UPDATE", "UPDATED", False),
        ("UPDATE", "WITH moved AS (UPDATE orders SET x = 1 RETURNING *) INSERT INTO log SELECT * FROM moved", True),
        ("UPDATE", "WITH moved AS NOT MATERIALIZED (UPDATE orders SET x = 1) SELECT 1", True),
        ("INSERT", "WITH moved AS (UPDATE orders SET x = 1) INSERT INTO log SELECT 1", False),
        ("COMMIT", "COMMIT", True),
        ('UPDATE "orders"', 'UPDATE "orders" SET x = 1', True),
        (re.compile("FOR UPDATE"), "SELECT 1 FROM orders FOR UPDATE", True),
        (re.compile("for update"), "SELECT 1 FROM orders FOR UPDATE", False),
    ],
)
def test_which_statement_is_meant(wanted: str | re.Pattern[str], statement: str, expected: bool) -> None:
    """A text is the beginning of a statement, or of one in WITH; a pattern is searched for."""
    assert expected == injected(wanted).strikes(statement)


def test_some_pass_and_some_are_struck() -> None:
    """Two pass, then two are struck, then all pass; what does not match is not counted."""
    fault = injected("UPDATE", skip=2, times=2)

    struck = [fault.strikes(f"{verb} {number}") for number in range(6) for verb in ("SELECT", "UPDATE")]

    assert [number for number, was in enumerate(struck) if was] == [5, 7]
    assert (fault.fired, fault.statements) == (2, ["UPDATE 2", "UPDATE 3"])


def test_a_commit_completes_what_was_sent_before() -> None:
    """The COMMIT of a transaction with such a statement is meant, and no other."""
    fault = injected("UPDATE", times=2)

    assert not fault.strikes("COMMIT", sent_with=["SELECT 1"])
    assert fault.strikes("COMMIT", sent_with=["SELECT 1", "UPDATE orders"])
    assert fault.statements == ["COMMIT"]


def test_threads_share_one_fault() -> None:
    """However many ask at once, as many are struck as were asked for."""
    fault = injected("UPDATE", skip=10, times=20)

    with ThreadPoolExecutor(8) as threads:
        struck = list(threads.map(fault.strikes, ["UPDATE"] * 400))

    assert (sum(struck), fault.fired) == (20, 20)


def test_a_fault_that_never_fired() -> None:
    """The test has shown nothing: it fails, and is told what it might have meant."""
    with pytest.raises(FaultNotFiredError) as caught, injected("UPDATE", skip=3) as fault:
        assert [fault.strikes(each) for each in ("SELECT\n  1", "UPDATE orders")] == [False, False]

    parts = ["STALL never fired", "'UPDATE'", "2 more were to be skipped", "\n  SELECT 1\n  UPDATE orders"]
    assert [part for part in parts if part not in str(caught.value)] == []


def test_a_fault_that_fired_too_seldom() -> None:
    """Who asks for three, and meets one, has not shown what happens at three; unless it may be fewer."""
    told = r"STALL fired 1 of 3 times: expected a statement 'UPDATE'; these passed:\n  UPDATE orders"
    with pytest.raises(FaultNotFiredError, match=told), injected("UPDATE", times=3) as fault:
        fault.strikes("UPDATE orders")

    with injected("UPDATE", times=3, must_fire=False) as fault:
        fault.strikes("UPDATE orders")
    assert fault.fired == 1


def test_each_with_has_a_fault_of_its_own() -> None:
    """What it has counted is of the first time: a second one would be told that it had fired."""
    with injected("UPDATE") as fault:
        fault.strikes("UPDATE orders")

    with pytest.raises(InjectionError, match="STALL has begun already"), fault:
        raise AssertionError("it has begun again")


def test_a_fault_that_nothing_could_meet() -> None:
    """Where nothing was sent at all, it is the wrong engine, most likely."""
    with pytest.raises(FaultNotFiredError, match="none passed: is this the engine"), injected(re.compile("x+")):
        pass


def test_another_exception_is_not_hidden() -> None:
    """What the test itself raises comes first."""
    with pytest.raises(KeyError), injected("UPDATE"):
        raise KeyError


def test_a_fault_that_need_not_fire() -> None:
    """For a fault that may or may not be met."""
    with injected("UPDATE", must_fire=False) as fault:
        pass

    assert fault.fired == 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: injected("UPDATE", skip=-1), "expected skip ≥ 0 and times ≥ 1, got skip=-1, times=1"),
        (lambda: injected("UPDATE", times=0), "got skip=0, times=0"),
        (lambda: injected("  "), "expected the beginning of a statement, for instance 'UPDATE'"),
    ],
)
def test_what_makes_no_sense(make: Callable[[], Injected], told: str) -> None:
    """A fault that could never fire is refused when it is made."""
    with pytest.raises(InjectionError, match=re.escape(told)):
        make()
