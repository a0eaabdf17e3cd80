"""Guards in Python and in SQL say the same of every row, on SQLite; the other databases follow in integration."""

from collections.abc import Generator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from tests import parity
from tests.guard_agreement import SUBTLE, Drawn, Judge, Verdict, events, mapping_of, subtle
from tests.guarded import insert_rows, read_rows

Rows = list[Mapping[str, Any]]


@pytest.fixture(scope="module")
def guarded() -> Generator[tuple[Engine, Rows]]:
    """The rows in an SQLite database in memory, and as they are read from there."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    insert_rows(engine, 150)
    yield engine, read_rows(engine)
    engine.dispose()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=events)
@subtle
def test_python_and_sql_agree_on_every_row(guarded: tuple[Engine, Rows], drawn: Drawn) -> None:
    """The guarded UPDATE moves a row exactly where Python does, and its predicates tell refused from raised."""
    engine, rows = guarded
    tally = parity.Tally()

    parity.compare(tally, drawn, engine, rows)

    note(f"{tally}")
    assert (tally.wrong, tally.misjudged, tally.skipped, tally.interpreted) == ([], [], {}, {})


@pytest.mark.parametrize("drawn", SUBTLE)
def test_a_machine_that_is_used_again_judges_like_a_new_one(guarded: tuple[Engine, Rows], drawn: Drawn) -> None:
    """The judge keeps one machine for all rows; nothing of one row reaches the next."""
    mapping, rows = mapping_of(drawn), guarded[1][:40]
    judge = Judge(mapping)

    assert [Judge(mapping).verdict(row) for row in rows] == [judge.verdict(row) for row in rows]


def tally_of(python: Verdict | str, sql: str | None, said: Verdict | str) -> parity.Tally:
    """One row, counted."""
    tally = parity.Tally()
    tally.count((), {}, python, sql, said)
    return tally


def test_what_is_a_wrong_move() -> None:
    """A row that SQL moves although Python does not, or elsewhere than Python, is wrong; one that it skips is not."""
    moved, elsewhere = tally_of(Verdict.REFUSED, "b", "b"), tally_of("c", "b", "b")
    skipped, right = tally_of("b", None, Verdict.RAISED), tally_of("b", "b", "b")

    assert [len(each.wrong) for each in (moved, elsewhere, skipped, right)] == [1, 1, 0, 0]
    assert skipped.skipped == {"SQL holds that Python raises": 1}
    assert (right.moves, moved.moves) == (1, 0)


def test_the_program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints its counts and ends with 0; with 1 where SQL moves what Python does not."""
    assert parity.main(["--guards", "30", "--rows", "40"]) == 0
    assert "wrong moves" in capsys.readouterr().out

    def refuse(judge: Judge, row: Mapping[str, Any]) -> Verdict:
        return Verdict.REFUSED

    monkeypatch.setattr(Judge, "verdict", refuse)
    assert parity.main(["--guards", "30", "--rows", "40"]) == 1
    assert "DrawnEdge" in capsys.readouterr().out
