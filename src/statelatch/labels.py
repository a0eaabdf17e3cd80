"""Names that statelatch gives to parameters and columns of its own statements; no column of a user's begins so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AT_COLUMN",
    "EXPECTED",
    "STATE_COLUMN",
    "TOKEN_COLUMN",
    "VERSION_COLUMN",
    "guard_column",
    "raises_column",
    "value_parameter",
    "value_parameters",
]

EXPECTED = "latch_expected_version"
STATE_COLUMN, VERSION_COLUMN, TOKEN_COLUMN, AT_COLUMN = (
    "latch_state",
    "latch_version",
    "latch_token",
    "latch_at",
)


def value_parameter(attribute: str) -> str:
    """Name of the parameter for an attribute's value."""
    return f"latch_value_{attribute}"


def value_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Column values, by attribute name, as the parameters of an INSERT or an interpreted UPDATE."""
    return {value_parameter(name): value for name, value in values.items()}


def guard_column(edge: int, guard: int) -> str:
    """Name of a guard's column in the diagnosis."""
    return f"latch_guard_{edge}_{guard}"


def raises_column(edge: int) -> str:
    """Name of the column that says, in the diagnosis, whether evaluating the edge's guards raises in Python."""
    return f"latch_raises_{edge}"
