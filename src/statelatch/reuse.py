"""One machine for each class and thread, used again for row after row, of which none sees another.

Building a machine costs more than sending it an event, for it looks up every callback. So a thread keeps the
machines that it built, each with the one model that its callbacks and guards are bound to, and gives that model
another row's contents.

- `take` brings a row in; `give_back` keeps the machine for the next one. In between nobody else has it: a callback
  that sends an event of its own gets another machine. Who does not come to `give_back` throws the machine away;
  after *any* exception nobody comes there.
- A machine is kept only if it is as it was built. An attribute set on it or on its states, a listener added, an event
  left in a queue, or a reference that a callback put somewhere, to the machine, a part of it, its model or
  SQLAlchemy's state of that, ends it: who has the reference keeps what it refers to, and the next row gets a new
  machine. References are counted, before and after.
- What is kept holds no row: the model is emptied, with the history and the recorder.
- Classes of which that would not tell enough have their machines built for each row: see `statelatch.blueprints`.
"""

from __future__ import annotations

import sys
import threading
import weakref
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy.orm.attributes import instance_state

from statelatch import framework
from statelatch.blueprints import Blueprint, Kind, blueprint_of, hold
from statelatch.machines import Recorder, build_machine, detached, empty, fill, refuse_in_event_loop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from statemachine import State, StateChart

__all__ = ["KEPT", "Fitted", "give_back", "take"]

KEPT = 16
"""How many machines a thread keeps, one of a kind and some 100 KB each; the one used longest ago goes first."""

_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, UUID})
"""Types of values that callbacks cannot change in place, so that nobody needs a copy. Of subclasses nobody knows."""


@dataclass(slots=True)
class Fitted:
    """A machine, its one model, and the recorder that listens.

    Attributes:
        blueprint: of its kind.
        attributes: what the machine held when it was built; empty if it is not to be kept.
        holders: how many held the machine and what belongs to it.
    """

    blueprint: Blueprint
    machine: StateChart[Any]
    model: Any
    recorder: Recorder
    attributes: tuple[object, ...] = ()
    holders: tuple[int, ...] = ()


class _Shelf(threading.local):
    """What a thread keeps."""

    def __init__(self) -> None:
        self.machines: dict[Kind, Fitted] = {}
        self.blueprints: dict[Kind, Blueprint] = {}


_shelf = _Shelf()


def _keep(shelf: dict[Kind, Any], kind: Kind, kept: object) -> None:
    """Put it last, and let the first go if there are too many."""
    shelf.pop(kind, None)
    shelf[kind] = kept
    if len(shelf) > KEPT:
        shelf.pop(next(iter(shelf)), None)


def take(kind: Kind, values: Mapping[str, Any]) -> Fitted:
    """A machine with a copy of this row, in the row's state, or newly in the initial one if the row has none.

    Raises:
        RequestError: its callbacks are coroutines, and this thread's event loop is running already.
    """
    own = {name: value if type(value) in _IMMUTABLE else deepcopy(value) for name, value in values.items()}
    kept = _shelf.machines.pop(kind, None)
    blueprint = _blueprint(kind)
    if blueprint.reason is None:
        fits = kept is not None and kept.blueprint is blueprint
        fitted = kept if fits else _built_to_keep(blueprint, own)
        if fitted is not None and _brought_in(fitted, own):
            return fitted
    return _build(blueprint, own)


def give_back(fitted: Fitted) -> None:
    """Keep the machine for the thread's next row, if it is as it was built. Never after an exception of any kind."""
    if not fitted.attributes:
        return
    framework.let_go(fitted.machine)
    if _is_as_built(fitted):
        framework.rest(fitted.machine)
        _take_out(fitted)
        _keep(_shelf.machines, fitted.blueprint.kind, fitted)


def _blueprint(kind: Kind) -> Blueprint:
    blueprint = _shelf.blueprints.get(kind)
    if blueprint is None or not blueprint.holds:
        blueprint = blueprint_of(kind)
    _keep(_shelf.blueprints, kind, blueprint)
    return blueprint


def _build(blueprint: Blueprint, values: Mapping[str, Any]) -> Fitted:
    kind, recorder = blueprint.kind, Recorder()
    model = detached(kind.entity, values)
    return Fitted(blueprint, build_machine(kind.machine, model, kind.state_field, (recorder,)), model, recorder)


def _built_to_keep(blueprint: Blueprint, values: Mapping[str, Any]) -> Fitted | None:
    """A machine that may be kept, without a row; None if building one shows that it may not.

    It is built in a state, so that nothing runs before it is known what it is made of.
    """
    machine, state_field = blueprint.kind.machine, blueprint.kind.state_field
    state = values[state_field]
    initial = cast("State", machine.initial_state).value
    fitted = _build(blueprint, {**values, state_field: initial if state is None else state})
    if reason := _shown_by_building(fitted.machine):
        _not_again(blueprint, reason)
        return None
    framework.let_go(fitted.machine)
    fitted.attributes, fitted.holders = tuple(vars(fitted.machine).values()), _holders(fitted)
    _take_out(fitted)
    return fitted


def _shown_by_building(machine: StateChart[Any]) -> str | None:
    """Why a machine may not be used again, as only the machine itself tells."""
    if own := framework.attributes_of_its_own(machine):
        return f"building {type(machine).__name__} sets {', '.join(sorted(own))}"
    if framework.has_invoke(machine):
        return f"{type(machine).__name__} has `invoke`, which may outlive the event"
    return None


def _brought_in(fitted: Fitted, values: Mapping[str, Any]) -> bool:
    """Give the model a row, as building on it would: what is computed is read, and the initial state is entered.

    False if a machine has to be built on this row: something computed is a callback, and would be that row's for ever.
    """
    refuse_in_event_loop(fitted.machine)
    fill(fitted.model, values)
    blueprint, machine, model = fitted.blueprint, fitted.machine, fitted.model
    callbacks = [name for name in blueprint.machine_names if callable(getattr(machine, name))]
    callbacks += [name for name in blueprint.model_names if callable(getattr(model, name))]
    if callbacks:
        _not_again(blueprint, f"the callback {callbacks[0]!r} is computed from the row")
        return False
    framework.start(machine)
    return True


def _not_again(blueprint: Blueprint, reason: str) -> None:
    _keep(_shelf.blueprints, blueprint.kind, replace(blueprint, reason=reason))


def _take_out(fitted: Fitted) -> None:
    empty(fitted.model)
    fitted.recorder.latch_steps, fitted.recorder.latch_selected = [], False


def _is_as_built(fitted: Fitted) -> bool:
    return (
        hold((vars(fitted.machine).values(),), fitted.attributes)
        and framework.is_untouched(fitted.machine, fitted.recorder)
        and _holders(fitted) == fitted.holders
    )


def _holders(fitted: Fitted) -> tuple[int, ...]:
    """How many hold the machine, its parts, its model and SQLAlchemy's state of that; an event in a queue does too.

    Weak references count, of which those without a callback are one object, that is held in turn.
    """
    held = (fitted.machine, fitted.model, instance_state(fitted.model))
    weakly = (*map(weakref.getweakrefcount, held), *map(sys.getrefcount, map(weakref.ref, held)))
    own = vars(fitted.machine)
    parts = (part for part in own.values() if not isinstance(part, str | bool))  # everybody holds these
    return (sys.getrefcount(own), *map(sys.getrefcount, held), *map(sys.getrefcount, parts), *weakly)
