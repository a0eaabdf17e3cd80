"""What one integer tells of an UPDATE, and the clock that completes its time."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statelatch.clock import PATIENCE, DatabaseClock
from statelatch.outcomes import EPOCH, LARGE, NUMBER_BITS, WINDOW, Packed, Packing, instant
from statelatch.tokens import source_number, variants

TOLD = datetime(2026, 11, 25, 10, 0, 0, 123456, tzinfo=UTC)

pairs = st.integers(1, 50)
microseconds = st.integers(0, 1 << 51)


@given(count=pairs, time=microseconds, pair=st.integers(0, 49))
def test_time_and_pair_where_the_version_is_known(count: int, time: int, pair: int) -> None:
    """The whole time fits; what was packed is what is unpacked."""
    pair %= count

    assert Packing(count, versioned=True).unpacked(time * count + pair) == Packed(pair, None, time)


@given(count=pairs, version=st.integers(1, 1 << 40), time=microseconds, pair=st.integers(0, 49))
def test_version_time_and_pair(count: int, version: int, time: int, pair: int) -> None:
    """The time loses its high bits; a version that leaves it no room is told without a time, and fits 63 bits."""
    pair %= count
    number = version * count + pair
    fits = number < 1 << NUMBER_BITS
    packed = number * WINDOW + time % WINDOW if fits else LARGE + number

    assert packed < 1 << 63
    assert Packing(count, versioned=False).unpacked(packed) == Packed(pair, version, time % WINDOW if fits else None)


class Clocks:
    """Two clocks that a test turns."""

    def __init__(self) -> None:
        self.elapsed, self.wall = 1000.0, 5e9
        self.clock = DatabaseClock(lambda: self.elapsed, lambda: self.wall)

    def wait(self, seconds: float) -> None:
        """Both go on."""
        self.elapsed += seconds
        self.wall += seconds


@given(passed=st.floats(0, 3e7), skew=st.floats(-4e5, 4e5))
def test_a_time_is_completed_from_its_low_bits(passed: float, skew: float) -> None:
    """The window is found from what has passed since, be it within four days of the truth; the result is exact."""
    clocks = Clocks()
    clocks.clock.tell(TOLD)
    clocks.wait(passed)
    truth = TOLD + timedelta(seconds=round(passed + skew))

    whole = clocks.clock.completed(round((truth - EPOCH) / timedelta(microseconds=1)) % WINDOW)

    assert instant(whole) == truth


def test_each_answer_sets_the_clock_anew() -> None:
    """Errors do not add up: what was told last counts."""
    clocks = Clocks()
    clocks.clock.tell(TOLD)
    for days in range(1, 40):
        truth = TOLD + timedelta(days=days)  # here no time passes at all
        low = round((truth - EPOCH) / timedelta(microseconds=1)) % WINDOW
        assert instant(clocks.clock.completed(low)) == truth


ASKED: dict[str, tuple[float, float, bool]] = {
    "just now": (0, 0, True),
    "within a day": (PATIENCE - 1, PATIENCE - 1, True),
    "a day later": (PATIENCE + 1, PATIENCE + 1, False),
    "the machine slept": (10, 14 * 24 * 3600, False),
    "the wall clock was set back": (10, -14 * 24 * 3600, False),
}


@pytest.mark.parametrize("case", ASKED)
def test_when_the_database_is_asked_anew(case: str) -> None:
    """After long silence, by whichever clock."""
    elapsed, wall, is_set = ASKED[case]
    clocks = Clocks()
    assert not clocks.clock.is_set
    clocks.clock.tell(TOLD)
    clocks.elapsed += elapsed
    clocks.wall += wall

    assert clocks.clock.is_set == is_set


def test_the_first_variant_is_the_token_itself() -> None:
    """An event that leaves one state writes the token that was given."""
    token = UUID(int=7 << 70)

    assert variants(token, 1) == [token]
    assert [source_number(token, variant, 3) for variant in variants(token, 3)] == [0, 1, 2]
