"""PURE: which parameters of an event its statements bind, and which ones it can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import BindParameter, types
from sqlalchemy.sql import visitors

from statelatch.comparisons import Compared
from statelatch.errors import ConfigurationError
from statelatch.guards import NOT_PARAMETERS, PARAMETER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import ColumnElement

__all__ = ["bound_in", "check_bound", "compared_in", "parameters_of"]


def bound_in(clause: ColumnElement[Any] | None) -> Iterator[BindParameter[Any]]:
    """The parameters and constants in an expression of the user's."""
    nodes = visitors.iterate(clause) if clause is not None else ()
    return (cast("BindParameter[Any]", node) for node in nodes if isinstance(node, BindParameter))


def check_bound(where: str, clause: ColumnElement[Any] | None) -> None:
    """Raise `ConfigurationError` for a parameter that no event can have."""
    for parameter in bound_in(clause):
        if parameter.key in NOT_PARAMETERS:
            raise ConfigurationError(
                f"{where}: no event can have a parameter {parameter.key!r}: `send` or python-statemachine has an "
                "argument of that name; rename it"
            )
        if parameter.expanding and not parameter.unique:
            raise ConfigurationError(
                f"{where}: the parameter {parameter.key!r} stands for a list, which one event cannot send; compute the "
                "value in a callback"
            )


def parameters_of(clauses: Iterable[Any]) -> dict[str, bool]:
    """Names of the event parameters that these clauses bind, and whether each is required.

    Raises:
        ConfigurationError: one name is bound in two ways, of which SQLAlchemy would take the last.
    """
    found: dict[str, BindParameter[Any]] = {}
    required: dict[str, bool] = {}
    for node in (node for clause in clauses for node in visitors.iterate(clause)):
        if isinstance(node, BindParameter) and str(node.key).startswith(PARAMETER):
            bound = cast("BindParameter[Any]", node)
            name = bound.key.removeprefix(PARAMETER)
            if not _alike(found.setdefault(name, bound), bound):
                one, other = (f"as {each.type!r} with the default {each.value!r}" for each in (found[name], bound))
                raise ConfigurationError(
                    f"the parameter {name!r} is bound {one} and {other}; give the two different names; "
                    "nothing was written"
                )
            required[name] = required.get(name, False) or bool(bound.required)
    return required


def compared_in(clauses: Iterable[Any]) -> dict[str, list[Compared]]:
    """The event's parameters that guards compare in these clauses, by name."""
    found: dict[str, list[Compared]] = {}
    for node in (node for clause in clauses for node in visitors.iterate(clause)):
        if isinstance(node, Compared):
            found.setdefault(node.key.removeprefix(PARAMETER), []).append(node)
    return found


_SENT_AS_THEY_ARE = {types.Integer, types.Float, types.Numeric, types.String, types.NullType}


def _alike(one: BindParameter[Any], other: BindParameter[Any]) -> bool:
    kinds: set[Any] = {bound.type._type_affinity for bound in (one, other)}  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return one.value == other.value and (len(kinds) == 1 or kinds <= _SENT_AS_THEY_ARE)
