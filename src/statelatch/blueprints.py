"""PURE: what all machines of a class have in common, and whether one of them can be used for row after row.

A machine that is used again must be as new, which is checked from outside (`statelatch.reuse`): its attributes, who
holds it, what its model holds. `built_each_time` names the classes for which that would not do, because something
of theirs is out of sight, or runs only when a machine or a model is made or goes away.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from itertools import chain
from operator import is_
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.ext.hybrid import hybrid_method
from sqlalchemy.orm import DeclarativeBase
from statemachine import Event, StateChart, StateMachine

from statelatch import framework

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, ValuesView

__all__ = ["Blueprint", "Kind", "blueprint_of", "built_each_time", "hold"]

_BOUND_FOR_GOOD = (FunctionType, staticmethod, classmethod, hybrid_method, Event)
"""Descriptors that give every row the same callback; a property may give each another."""


class Kind(NamedTuple):
    """Which machines can do each other's work."""

    machine: type[StateChart[Any]]
    entity: type[Any]
    state_field: str


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What all machines of a kind have in common.

    Attributes:
        kind: of which machines.
        reason: why one is built for each row; None if it can be used again.
        namespaces: what the user's own classes hold, as views.
        callbacks: what they held when this was drawn.
        machine_names: by which a machine that is built looks up something of its own that its row decides.
        model_names: by which it looks up something of its model.
    """

    kind: Kind
    reason: str | None
    namespaces: tuple[ValuesView[object], ...]
    callbacks: tuple[object, ...]
    machine_names: tuple[str, ...]
    model_names: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nobody has replaced a callback since, as a test may do: machines are bound to the old one."""
        return hold(self.namespaces, self.callbacks)


def blueprint_of(kind: Kind) -> Blueprint:
    """Look at the classes."""
    libraries = {*StateMachine.__mro__, *DeclarativeBase.__mro__}
    classes = (each for each in (*kind.machine.__mro__, *kind.entity.__mro__) if each not in libraries)
    namespaces = tuple(vars(each).values() for each in classes)
    names = framework.names_bound(kind.machine)
    return Blueprint(
        kind,
        built_each_time(kind.machine, kind.entity),
        namespaces,
        tuple(chain.from_iterable(namespaces)),
        _computed(kind.machine, names & framework.names_on(kind.machine)),
        _computed(kind.entity, names & set(dir(kind.entity)) - {kind.state_field}),
    )


def hold(views: Collection[ValuesView[object]], expected: tuple[object, ...]) -> bool:
    """Whether the views together hold the very same objects."""
    return sum(map(len, views)) == len(expected) and all(map(is_, chain.from_iterable(views), expected))


def built_each_time(machine: type[StateChart[Any]], entity: type[Any]) -> str | None:
    """Why a machine of this class is built anew for each row; None if it can be used again."""
    if sys.implementation.name != "cpython":
        return "only CPython counts references, by which it is told whether a callback kept the row"
    if method := framework.builds_its_own_way(machine):
        return f"{machine.__name__} has a {method} of its own"
    if framework.has_listeners(machine):
        return f"{machine.__name__} has listeners, which may remember the row"
    if method := next((name for name in ("__new__", "__del__") if _has_own(entity, name)), None):
        return f"{entity.__name__} has a {method} of its own"
    for owner in (machine, entity):
        if not _keeps_all_in_its_dict(owner):
            return f"{owner.__name__} has __slots__, or a base that is not written in Python"
    return None


def _has_own(owner: type[Any], method: str) -> bool:
    return getattr(owner, method, None) is not getattr(object, method, None)


class _Plain:
    """A class whose instances keep every attribute in their `__dict__`."""


def _keeps_all_in_its_dict(owner: type[Any]) -> bool:
    """Whether an instance is as small as can be: a slot takes space, and so does what a base written in C keeps."""
    return (owner.__basicsize__, owner.__itemsize__) == (_Plain.__basicsize__, _Plain.__itemsize__)


def _computed(owner: type[Any], names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names whose attribute the class computes from the row."""
    attributes = ((name, inspect.getattr_static(owner, name, property())) for name in sorted(names))
    return tuple(name for name, attribute in attributes if not _is_for_all_rows(attribute))


def _is_for_all_rows(attribute: object) -> bool:
    return isinstance(attribute, _BOUND_FOR_GOOD) or not hasattr(type(attribute), "__get__")
