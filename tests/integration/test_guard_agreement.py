"""Guards in Python and in SQL say the same of every row, on the servers."""

import math
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from sqlalchemy import Engine

from statelatch import PersistenceAdapter
from tests.databases import on
from tests.guard_agreement import Base, by_database, by_machine, guards, insert_rows, mapping_of, subtle

EXTREMES: dict[str, dict[str, list[Any]]] = {
    "postgresql": {"score": [math.nan, math.inf], "ratio": [math.nan, -math.inf]},
    "mariadb": {},
}


@on("postgresql", "mariadb")
def test_python_and_sql_agree_on_every_row(engine: Engine) -> None:
    """A guard holds, fails or raises in Python exactly where its predicates say so in SQL."""
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, mapping_of([], []))
    rows = insert_rows(adapter, EXTREMES[engine.dialect.name])

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(drawn=guards)
    @subtle
    def agree(drawn: tuple[list[str], list[str]]) -> None:
        mapping = mapping_of(*drawn)
        note(f"cond={drawn[0]!r}, unless={drawn[1]!r}")

        assert [by_machine(mapping, row) for row in rows] == by_database(mapping, engine)

    agree()
