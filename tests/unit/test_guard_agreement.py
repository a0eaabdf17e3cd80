"""Guards in Python and in SQL say the same of every row, on SQLite; the other databases follow in integration."""

import math
from collections.abc import Generator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from statelatch import PersistenceAdapter
from tests.guard_agreement import Base, by_database, by_machine, guards, insert_rows, mapping_of, subtle

EXTREMES = {"title": ["\x00", "\x00a"], "score": [math.inf, -math.inf], "ratio": [math.inf]}

Guarded = tuple[PersistenceAdapter, list[Mapping[str, Any]]]


@pytest.fixture(scope="module")
def guarded() -> Generator[Guarded]:
    """The rows in an SQLite database in memory, and as they are read from there."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, mapping_of([], []))
    yield adapter, insert_rows(adapter, EXTREMES)
    engine.dispose()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=guards)
@subtle
def test_python_and_sql_agree_on_every_row(guarded: Guarded, drawn: tuple[list[str], list[str]]) -> None:
    """A guard holds, fails or raises in Python exactly where its predicates say so in SQL."""
    adapter, rows = guarded
    mapping = mapping_of(*drawn)
    note(f"cond={drawn[0]!r}, unless={drawn[1]!r}")

    assert [by_machine(mapping, row) for row in rows] == by_database(mapping, adapter.engine)
