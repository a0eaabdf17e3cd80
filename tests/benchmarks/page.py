"""docs/benchmarks.md and its pictures: the generated sections, written anew from one run.

Rules: what stands between `<!-- generated: NAME -->` and `<!-- end -->` is the program's, the rest is not touched.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import plot
from tests.benchmarks.cases import CASES
from tests.benchmarks.tables import budget_grid, case_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.records import Results

__all__ = ["PAGE", "documented", "sections", "write"]

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def sections(results: Results, command: str, surroundings: list[str]) -> dict[str, str]:
    """The generated sections by name."""
    lines = "\n".join(f"- {line}" for line in surroundings)
    cases = {case.name: case_grid(case, results[case.name]).markdown() for case in CASES}
    return {"run": f"```sh\n{command}\n```\n\n{lines}", "budget": budget_grid(results).markdown(), **cases}


def documented(page: str, texts: Mapping[str, str]) -> str:
    """The page with these sections.

    Raises:
        ValueError: the page has no such section.
    """
    for name, content in texts.items():
        section = re.compile(rf"(?<=<!-- generated: {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        if not section.search(page):
            raise ValueError(f"docs/benchmarks.md has no section <!-- generated: {name} --> … <!-- end -->; add it")
        page = section.sub(lambda _, content=content: f"\n{content}\n\n", page)
    return page


def write(page: Path, results: Results, command: str, surroundings: list[str]) -> None:
    """Write the page and, beside it, the pictures."""
    text = documented(page.read_text(encoding="utf-8"), sections(results, command, surroundings))
    page.write_text(text, encoding="utf-8", newline="\n")
    for name, picture in plot.pictures(results).items():
        (page.parent / name).write_text(picture, encoding="utf-8", newline="\n")
