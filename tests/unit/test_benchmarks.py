"""The benchmark's own arithmetic: who moves which row, whose turn it is, what is promised, what is written."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.benchmarks import page, plot, surroundings
from tests.benchmarks.budget import BUDGET, verdicts
from tests.benchmarks.cases import CASES
from tests.benchmarks.interruption import interruptible
from tests.benchmarks.memory import peak
from tests.benchmarks.race import Entry, Move, race
from tests.benchmarks.records import Measurement
from tests.benchmarks.tables import Grid, case_grid, number

ROOT = Path(__file__).parents[2]
DIALECTS: tuple[str, ...] = ("sqlite", "postgresql", "mariadb")


def measurement(name: str, *samples: float, rows: int | None = None) -> Measurement:
    """What somebody was measured at."""
    return Measurement(name, rows, samples)


def results(scale: float = 1.0) -> dict[str, dict[str, list[Measurement]]]:
    """A run as it might be, on every database."""
    names = {
        "transition": ("raw driver", "statelatch, compiled", "python-statemachine + ORM"),
        "batch": ("hand-written", "send_batch"),
        "bulk": ("hand-written", "send_where"),
        "threads": ("send", "Batcher.send"),
    }
    found = {
        case: [measurement(name, scale * n, scale * n + 1) for n, name in enumerate(each, 1)]
        for case, each in names.items()
    }
    sized = {"growth": ("send", "send_batch", "send_where"), "memory": ("count only", "with keys")}
    for case, each in sized.items():
        found[case] = [measurement(name, 5.0, 6.0, rows=rows) for name in each for rows in (1000, 100_000)]
    return {case: dict.fromkeys(DIALECTS, measurements) for case, measurements in found.items()}


@pytest.mark.parametrize(("rows", "calls", "stride"), [(1, 3, 1), (4, 3, 1), (10, 7, 3), (100, 50, 7919), (6, 6, 1)])
def test_the_proof_knows_where_each_row_must_be(rows: int, calls: int, stride: int) -> None:
    """`lap` is how often the moves have named the row, and each move begins where the last one of its row ended."""
    laps: Counter[int] = Counter()

    def block(moves: Sequence[Move]) -> int:
        for move in moves:
            assert (move.version, move.source) == (laps[move.key] + 1, "ab"[laps[move.key] % 2])
            laps[move.key] += 1
        return 1

    entry = Entry("any", block, rows, calls, stride)
    for _ in range(5):
        entry.run()
        assert {key: laps[key] for key in range(1, rows + 1)} == {key: entry.lap(key) for key in range(1, rows + 1)}


def test_contestants_take_turns() -> None:
    """In each round everybody has one block, and the order is not always the same."""
    turns: list[str] = []

    def block(name: str) -> Callable[[object], int]:
        return lambda _: turns.append(name) or 1

    names = "abcd"
    race([Entry(name, block(name), 1, 2000) for name in names], seconds=1e-9, rounds=9, progress=lambda _: None)

    rounds = ["".join(turns[start : start + 4]) for start in range(4, len(turns), 4)]
    assert ["".join(sorted(each)) for each in rounds] == ["abcd"] * 9
    assert len(set(rounds)) > 1


@pytest.mark.parametrize(
    ("found", "kept"), [((10.0, 12.4), True), ((10.0, 12.6), False), ((10.0, 1.0), True), ((10.0, 99.0), False)]
)
def test_a_ratio_above_the_promise_is_missed(found: tuple[float, float], kept: bool) -> None:
    """The first line of the budget: at most 1.25 times the raw driver on PostgreSQL."""
    raw, compiled = found
    measured = [measurement("raw driver", raw, raw), measurement("statelatch, compiled", compiled, compiled)]

    verdict = verdicts({"transition": {"postgresql": [*measured, measurement("python-statemachine + ORM", 1, 1)]}})[0]

    assert (verdict.found, verdict.kept) == (compiled / raw, kept)


def test_every_promise_is_judged() -> None:
    """No line of the budget is lost on the way from the measurements, and some are missed here."""
    judged = verdicts(results())

    assert {verdict.promise.what for verdict in judged} == {promise.what for promise in BUDGET}
    assert {verdict.kept for verdict in judged} == {True, False, None}


def test_a_table_has_the_median_the_quartiles_and_the_ratio() -> None:
    """Numbers are told with three digits, the ratio is that of the medians."""
    case = next(case for case in CASES if case.name == "batch")
    found = {"sqlite": [measurement("hand-written", 4, 5, 6), measurement("send_batch", 1000, 2000, 3000)]}

    assert case_grid(case, found) == Grid(
        "A batch",
        ("µs a row", "SQLite", "×"),  # noqa: RUF001
        (
            ("hand-written", "5.00 (4.50–5.50)", "1.00"),  # noqa: RUF001
            ("send_batch", "2,000 (1,500–2,500)", "400"),  # noqa: RUF001
            ("hand-written, a second", "200,000", ""),
            ("send_batch, a second", "500", ""),
        ),
    )


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), (-0.04, "-0.04")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """More would be noise."""
    assert number(value) == text


def test_only_the_generated_sections_are_written() -> None:
    """What is outside the marks stays, what is inside is replaced, a second time too."""
    text = "before\n<!-- generated: run -->\nold\n<!-- end -->\nafter <!-- generated: other -->\nkept\n<!-- end -->\n"

    once = page.documented(text, {"run": "new"})

    assert once == text.replace("old\n", "\nnew\n\n")
    assert page.documented(once, {"run": "new"}) == once


def test_a_section_that_the_page_lacks_is_told() -> None:
    """Nothing that was measured is dropped silently."""
    with pytest.raises(ValueError, match="generated: run"):
        page.documented("no section", {"run": "new"})


def test_the_page_has_every_section(tmp_path: Path) -> None:
    """A copy of docs/benchmarks.md takes what a run found, and shows the pictures that are written beside it."""
    copy = tmp_path / "benchmarks.md"
    copy.write_text(page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")

    page.write(copy, results(), "python -m tests.benchmarks", ["Python 3"])

    written = copy.read_text(encoding="utf-8")
    assert "Not measured" not in written
    assert [each for each in page.sections(results(), "", []).values() if each not in written][:-1] == []
    assert {each.name for each in tmp_path.glob("*.svg") if each.name in written} == set(plot.pictures(results()))


def test_pictures_are_the_same_each_time_and_differ_with_the_numbers() -> None:
    """A picture changes in a commit only if what it shows has changed."""
    assert plot.pictures(results()) == plot.pictures(results())
    assert plot.pictures(results()) != plot.pictures(results(2.0))


def test_what_is_written_names_no_place() -> None:
    """The page is the same from whichever machine, but for the numbers."""
    command = surroundings.shown_command(DIALECTS, seconds=5)

    assert command == (
        "python -m tests.benchmarks --db sqlite:///bench.db --db postgresql://USER@HOST/DATABASE "
        "--db 'mariadb://USER@HOST/DATABASE?ssl_disabled=true' --seconds 5 --write"
    )
    assert str(ROOT) not in "".join(plot.pictures(results()).values())


def test_the_peak_of_memory_is_that_of_the_process_alone() -> None:
    """A large parent does not hide what its child needs, and what the child allocates is seen."""
    program = (
        "from tests.benchmarks.memory import peak; before = peak(); block = bytearray(64_000_000); "
        "print(before, peak() - before)"
    )
    ours = bytearray(400_000_000)
    done = subprocess.run((sys.executable, "-c", program), cwd=ROOT, check=True, capture_output=True, text=True)
    before, more = map(float, done.stdout.split())

    assert before < len(ours) / 1e6 < peak()
    assert 60 < more < 70


def test_ctrl_c_waits_for_the_end_of_a_block() -> None:
    """The first Ctrl-C is raised where nothing is under way, the second at once; afterwards all is as before."""
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as check:
        check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) == before
