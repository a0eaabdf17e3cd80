"""Mutants can be made of the product as it is, and say so when it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, SOURCE, Edit, Mutant, MutantError, applied


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_differs_where_it_says(mutant: Mutant, tmp_path: Path) -> None:
    """The files that a mutant edits are Python, and others than the product's; no other file differs."""
    copy = applied(mutant, tmp_path)
    different = {
        str(path.relative_to(copy / "statelatch"))
        for path in copy.rglob("*.py")
        if path.read_text() != (SOURCE / path.relative_to(copy)).read_text()
    }

    assert {edit.file for edit in mutant.edits} == different
    for name in different:
        compile((copy / "statelatch" / name).read_text(), name, "exec")


@pytest.mark.parametrize("old", ["no such text", "import"])
def test_a_text_that_is_not_there_once(old: str, tmp_path: Path) -> None:
    """A mutant whose text the product no longer has, or has several times, is an error that says what to do."""
    mutant = Mutant("some mistake", (), (Edit("faults.py", old, "x"),))

    with pytest.raises(MutantError, match=r"some mistake: expected this text once in faults\.py, found it \d+ times"):
        applied(mutant, tmp_path)


def test_names_are_unique() -> None:
    """There are a dozen mistakes and more, each with a name of its own."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 12
