"""Guards in Python and in SQL say the same of every row, on the servers."""

from hypothesis import HealthCheck, given, note, settings
from sqlalchemy import Engine

from tests import parity
from tests.databases import on
from tests.guard_agreement import Drawn, events, subtle
from tests.guarded import insert_rows, read_rows


@on("postgresql", "mariadb")
def test_python_and_sql_agree_on_every_row(engine: Engine) -> None:
    """The guarded UPDATE moves a row exactly where Python does, and its predicates tell refused from raised."""
    insert_rows(engine, 150)
    rows = read_rows(engine)

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(drawn=events)
    @subtle
    def agree(drawn: Drawn) -> None:
        tally = parity.Tally()
        parity.compare(tally, drawn, engine, rows)
        note(f"{tally}")
        assert (tally.wrong, tally.misjudged, tally.skipped, tally.interpreted) == ([], [], {}, {})

    agree()
