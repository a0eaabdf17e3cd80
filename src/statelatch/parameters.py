"""PURE: which parameters of an event its statements bind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import BindParameter, types
from sqlalchemy.sql import visitors

from statelatch.errors import ConfigurationError
from statelatch.guards import PARAMETER

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["parameters_of"]


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


_SENT_AS_THEY_ARE = {types.Integer, types.Float, types.Numeric, types.String, types.NullType}


def _alike(one: BindParameter[Any], other: BindParameter[Any]) -> bool:
    kinds: set[Any] = {bound.type._type_affinity for bound in (one, other)}  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return one.value == other.value and (len(kinds) == 1 or kinds <= _SENT_AS_THEY_ARE)
