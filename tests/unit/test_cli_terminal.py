"""What a person sees: text that no terminal obeys, warnings that do not repeat themselves, times that can be read."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from statelatch.cli.tables import duration, many_ends, many_runs
from statelatch.cli.terminal import log_to_stderr, printable, say
from statelatch.runs import Finalized, Outcome, Run
from statelatch.runs.model import new_run_id

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

TEXTS = [
    ("plain Ünïcode ✓", "plain Ünïcode ✓"),
    ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
    ("two\nlines\r\x9b", r"two\nlines\r\x9b"),
    ("\u202egpj.exe\u2028", r"\u202egpj.exe\u2028"),
    ("\udcff", r"\udcff"),
    (None, "None"),
]


@pytest.mark.parametrize(("value", "shown"), TEXTS)
def test_printable(value: object, shown: str) -> None:
    """Each character that a terminal would obey, or that cannot be encoded → spelled out; all else as it is."""
    assert printable(value) == shown


def test_say(capfd: pytest.CaptureFixture[str]) -> None:
    """What is said → one line on stderr, without colours where nobody sees them."""
    say("one\ntwo", dim=True)
    assert capfd.readouterr() == ("", "statelatch: one\\ntwo\n")


def test_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    """Warnings → a line each, the same kind not again and again; less than a warning is not said."""
    package, logger = logging.getLogger("statelatch"), logging.getLogger("statelatch.runs")
    handlers, propagate = package.handlers[:], package.propagate
    try:
        log_to_stderr()
        for number in range(3):
            logger.warning("no heartbeat %d", number)
        logger.info("nothing")
        logger.error("hook", exc_info=ValueError("why"))
    finally:
        package.handlers[:], package.propagate = handlers, propagate
    assert capfd.readouterr() == ("", "statelatch: no heartbeat 0\nstatelatch: hook: why\n")


DURATIONS = [
    (0, "0.0s"),
    (9.96, "10.0s"),
    (59.4, "59.4s"),
    (59.6, "1m00s"),
    (3599, "59m59s"),
    (3600, "1h00m"),
    (90_000, "25h00m"),
    (864_000, "10d"),
    (-1, "0.0s"),
]


@pytest.mark.parametrize(("seconds", "shown"), DURATIONS)
def test_duration(seconds: float, shown: str) -> None:
    """How long a run took, or has taken so far, in at most seven characters; never less than nothing."""
    run = Run(started_at=NOW - timedelta(seconds=seconds))
    assert duration(run, NOW) == shown


def test_duration_of_a_run_that_waits() -> None:
    """A run that has not started → no duration."""
    assert duration(Run(), NOW) is None


@pytest.mark.parametrize("width", [80, 200])
def test_no_line_is_too_long(width: int) -> None:
    """However long key, name and error are → a line no longer than the terminal."""
    run = Run(
        id=new_run_id(),
        key="k" * 255,
        name="漢" * 255,
        status="completed",
        version=1000,
        attempt=10,
        created_at=NOW,
        progress_current=5,
        progress_total=1000,
        error="x" * 1024,
    )
    table = many_runs([run], width)
    assert sum(max(cell.cell_len for cell in column.cells) + 2 for column in table.columns[:-1]) < width  # pyright: ignore
    (error,) = table.columns[-1].cells
    assert 8 <= len(str(error)) < width


@pytest.mark.parametrize("width", [80, 200])
def test_no_end_is_too_long(width: int) -> None:
    """An end that stays in the spool, with a long reason → a line that fits, and all but the reason is whole."""
    end = Finalized(
        run_id=new_run_id(),
        target="completed",
        outcome=Outcome.SPOOLED,
        state=None,
        version=None,
        via="spool",
        error="x" * 1024,
    )
    table = many_ends([end], width)
    cells = [str(next(iter(column.cells))) for column in table.columns]
    assert cells[0] == (str(end.run_id) if width == 200 else end.run_id.hex[-8:])
    assert cells[1:-1] == ["completed", "spooled", "-", "-", "spool"]
    assert sum(max(cell.cell_len for cell in column.cells) + 2 for column in table.columns) <= width + 2  # pyright: ignore
