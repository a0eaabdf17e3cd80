"""What `statelatch.testing` exports: documented, and nothing by accident."""

import inspect
from pathlib import Path

import pytest

import statelatch.testing

GUIDE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
TOLD_BY_OTHERS = {"Conflict", "Injected", "Path", "Step", "Verb"}
"""What one gets from the documented names, and seldom writes down."""


@pytest.mark.parametrize("name", statelatch.testing.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """Each name is there, has a docstring of its own, and stands in the guide."""
    value = getattr(statelatch.testing, name)

    assert inspect.getdoc(value)
    assert value.__module__.startswith("statelatch.testing.")
    assert name in TOLD_BY_OTHERS or f"`{name}" in GUIDE


def test_they_are_in_order() -> None:
    """The list is sorted, without a name that is there twice."""
    assert sorted(set(statelatch.testing.__all__)) == list(statelatch.testing.__all__)
