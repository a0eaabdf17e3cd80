"""`docs/faults.md` and `statelatch.faults` say the same, and each test that the page names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from statelatch import faults

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| ([^|]+) \| (\w+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)

TABLES: dict[str, dict[str, faults.Meaning]] = {
    "SQLite": faults.SQLITE,
    "PostgreSQL": faults.POSTGRESQL | faults.POSTGRESQL_CLASSES,
    "MariaDB and MySQL": {str(number): meaning for number, meaning in faults.MARIADB.items()},
}


def section(title: str) -> str:
    """One section of the page."""
    page = (ROOT / "docs" / "faults.md").read_text()
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> dict[str, tuple[str, str]]:
    """Of each code: its meaning, and what provokes it."""
    found = [(code.strip(), meaning, by) for code, meaning, by in ROW.findall(section(title)) if meaning != "meaning"]
    return {code: (meaning, by) for codes, meaning, by in found for code in codes.split(", ")}


@pytest.mark.parametrize("title", TABLES)
def test_the_page_has_the_table_of_the_code(title: str) -> None:
    """Each code of the table is on the page with its meaning; what else is there is what no table needs to know."""
    told = {code: meaning for code, (meaning, _) in rows(title).items()}
    known = {code: meaning.name.lower() for code, meaning in TABLES[title].items()}

    assert known == {code: meaning for code, meaning in told.items() if code in known}
    assert {told[code] for code in told.keys() - known.keys()} <= {"fatal", "lost"}


def test_the_page_explains_each_meaning() -> None:
    """No meaning is used that is not explained, and none is left out."""
    explained = re.findall(r"^\| (\w+) \|", section("Meanings"), re.MULTILINE)

    assert {"meaning", *(meaning.name.lower() for meaning in faults.Meaning)} == set(explained)


@pytest.mark.parametrize("title", TABLES)
def test_each_row_is_provoked(title: str) -> None:
    """The tests that a row names exist; a row that names none is told under "Not provoked here"."""
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "integration").glob("test_*.py"))
    missing: dict[str, Any] = {}
    for code, (_, by) in rows(title).items():
        names = re.findall(r"`(\w+)`", by)
        if not names:
            assert by == "not provoked"
            assert code in section("Not provoked here")
        if gone := [name for name in names if f"def {name}(" not in sources]:
            missing[code] = gone

    assert missing == {}
