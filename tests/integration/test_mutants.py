"""The test kit finds each mistake that is put into the product, and none in the product as it is."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine

from tests.databases import fresh_database, sqlite_file
from tests.mutants import BUDGET, MUTANTS, SOURCE, Mutant, applied, soaked

if TYPE_CHECKING:
    from collections.abc import Generator

CHOSEN = [mutant for mutant in MUTANTS if not mutant.by_hand]
SOAKS = list(dict.fromkeys((mutant.soak, mutant.only) for mutant in MUTANTS))
SECONDS = 2.0
"""How long the product is soaked: about as long as a mutant lives."""


@contextmanager
def database(request: pytest.FixtureRequest, dialect: str | None, folder: Path) -> Generator[str]:
    """The URL of an empty database on this dialect, by default SQLite."""
    if dialect is None:
        yield sqlite_file(folder).render_as_string()
        return
    server: Engine = request.getfixturevalue(f"{dialect}_server")
    with fresh_database(server) as url:
        yield url.render_as_string(hide_password=False)


@pytest.mark.parametrize("mutant", CHOSEN, ids=lambda mutant: mutant.name)
def test_each_mutant_is_found(mutant: Mutant, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """`lifecycle_rules` or `check_history` find the mistake within a minute."""
    with database(request, mutant.only, tmp_path) as url:
        found = soaked(applied(mutant, tmp_path), mutant.soak, url, BUDGET)

    assert found is not None


@pytest.mark.parametrize(
    ("soak", "dialect"), SOAKS, ids=[" ".join(filter(None, [*soak, only])) for soak, only in SOAKS]
)
def test_the_product_is_not(
    soak: tuple[str, ...], dialect: str | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The same soaks find nothing wrong with the product as it is."""
    with database(request, dialect, tmp_path) as url:
        assert soaked(SOURCE, soak, url, SECONDS) is None
