# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""What statelatch uses of python-statemachine beyond its documented interface, all of it in this file.

The dependency is pinned to the versions for which `tests/unit/test_framework.py`, the contract of this file,
holds. Nothing here knows SQL.
"""

from __future__ import annotations

import asyncio
import inspect
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from statemachine import StateChart
from statemachine.callbacks import SpecReference
from statemachine.event import BoundEvent
from statemachine.spec_parser import UnsupportedExpression, operator_mapping, parse_boolean_expr, replace_operators
from statemachine.utils import _cached_loop, run_async_from_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from statemachine import State
    from statemachine.callbacks import CallbackSpec
    from statemachine.event import Event
    from statemachine.event_data import TriggerData
    from statemachine.transition import Transition

__all__ = [
    "ENGINE_ARGUMENTS",
    "abandon_event_loop",
    "arguments_of",
    "attributes_of_its_own",
    "builds_its_own_way",
    "callbacks_of",
    "cannot_be_built",
    "deferred_events",
    "enters",
    "event_ids",
    "false_guards",
    "fired_as",
    "guard_expression",
    "guard_key",
    "handles_errors",
    "has_async_callbacks",
    "has_invoke",
    "has_listeners",
    "has_own_init",
    "is_fired_by_the_engine",
    "is_name",
    "is_unless",
    "is_untouched",
    "let_go",
    "listener_names",
    "names_bound",
    "names_in",
    "names_on",
    "rest",
    "send",
    "start",
    "would_call",
]

ERROR_EVENT = "error.execution"

FIRED_BY_THE_ENGINE = {
    "error_execution": "error.execution",
    "done_state_": "done.state.",
    "done_invoke_": "done.invoke.",
}
"""Beginnings of attribute names that declare an event of the engine's own, and how it calls the event."""

ENGINE_ARGUMENTS = frozenset({"event", "event_data", "machine", "model", "source", "state", "target", "transition"})
"""Arguments that the engine injects into callbacks. An event's own parameter of such a name is dropped."""

_ATTRIBUTES = frozenset(
    {
        "_callbacks",
        "_config",
        "_engine",
        "_listeners",
        "catch_errors_as_events",
        "history_values",
        "model",
        "start_configuration_values",
        "state_field",
    }
)
"""What a machine is made of, besides its states. statelatch itself may set `catch_errors_as_events`."""

_STATE_ATTRIBUTES = 4
"""What a machine's own view of a state is made of; what it holds beyond is copied from the class's state when asked."""


def event_ids(machine: type[StateChart[Any]]) -> tuple[str, ...]:
    """The events that a transition has, in the order of their declaration."""
    transitions = [transition for state in machine.states_map.values() for transition in state.transitions]
    return tuple(
        event.id
        for event in machine._events  # noqa: SLF001
        if any(not transition.initial and transition.match(event.id) for transition in transitions)
    )


def deferred_events(machine: type[StateChart[Any]]) -> tuple[str, ...]:
    """The events declared with a delay, or to be internal: sending one does not run it now."""
    return tuple(event.id for event in machine._events if event.delay or event.internal)  # noqa: SLF001


def fired_as(event: str) -> str:
    """The event's id where the engine itself fires it; attribute names have no dots."""
    for name, fired in FIRED_BY_THE_ENGINE.items():
        if event.startswith(name):
            return fired + event.removeprefix(name)
    return event


def is_fired_by_the_engine(event: str) -> bool:
    """Whether the engine itself fires the event, with arguments of its own."""
    return event.startswith((*FIRED_BY_THE_ENGINE, *FIRED_BY_THE_ENGINE.values()))


def enters(machine: type[StateChart[Any]], transition: Transition) -> bool:
    """Whether a transition of a flat machine runs the entry of its target."""
    if transition.target is None:
        return False
    return machine.enable_self_transition_entries or not (transition.internal and transition.is_self)


def has_listeners(machine: type[StateChart[Any]]) -> bool:
    """Whether the class declares listeners, which may bring callbacks and guards that no class shows."""
    return bool(machine._class_listeners)  # noqa: SLF001


def has_own_init(machine: type[StateChart[Any]]) -> bool:
    """Whether the class has an `__init__` that python-statemachine did not write."""
    return machine.__init__ is not StateChart.__init__


def builds_its_own_way(machine: type[StateChart[Any]]) -> str | None:
    """The method of the class that has a say in how a machine is built, kept or thrown away, if there is one."""
    names = ("__init__", "__new__", "__del__", "_get_engine")
    return next((name for name in names if getattr(machine, name, None) is not getattr(StateChart, name, None)), None)


def cannot_be_built(machine: type[StateChart[Any]]) -> str | None:
    """Why statelatch could not call the class, if so: its own `__init__` takes other arguments."""
    try:
        inspect.signature(machine.__init__).bind(None, None, state_field="state", listeners=[])
    except TypeError as error:
        return str(error)
    return None


def names_on(machine: type[StateChart[Any]]) -> frozenset[str]:
    """The names by which callbacks and guards find something on the machine; its states are not among them."""
    return (frozenset(dir(machine)) | {"history_values"}) - machine._protected_attrs  # noqa: SLF001


def listener_names(machine: type[StateChart[Any]]) -> frozenset[str]:
    """The names by which callbacks and guards find something on the listeners that the class declares."""
    declared = (each.func if isinstance(each, partial) else each for each in machine._class_listeners)  # noqa: SLF001
    return frozenset(name for listener in declared for name in dir(listener))


def callbacks_of(owner: State | Transition) -> Iterable[CallbackSpec]:
    """Every callback and guard of a state or transition."""
    return iter(owner._specs)  # noqa: SLF001


def is_name(spec: CallbackSpec) -> bool:
    """Whether the callback is a name or an expression of names, not a callable or a property."""
    return spec.reference is SpecReference.NAME


def is_unless(spec: CallbackSpec) -> bool:
    """Whether a guard stands under `unless`: the transition runs where it is false."""
    return spec.expected_value is False


def would_call(spec: CallbackSpec, names: frozenset[str]) -> bool:
    """Whether the callback is called where these names exist; a conventional name need not exist."""
    return not spec.is_convention or spec.func in names


def arguments_of(spec: CallbackSpec, *owners: type[Any]) -> Iterator[inspect.Parameter]:
    """What the functions of a callback, on the machine's and the model's class, take of the event's parameters."""
    names = names_in(spec) or {spec.attr_name}
    found = [inspect.getattr_static(owner, name, None) for owner in owners for name in names]
    if not is_name(spec) and spec.func not in found:
        yield from _injected(inspect.signature(spec.func).parameters.values() if callable(spec.func) else ())
        return
    for each in found:
        function = getattr(each, "__func__", getattr(each, "func", each))  # of a classmethod, or of a hybrid method
        if inspect.isfunction(function):
            first = 0 if isinstance(each, staticmethod) else 1
            yield from _injected(islice(inspect.signature(function).parameters.values(), first, None))


def _injected(parameters: Iterable[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    """Those that are found by name, but for the engine's."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (each for each in parameters if each.kind in named and each.name not in ENGINE_ARGUMENTS)


def guard_expression(spec: CallbackSpec) -> str:
    """The guard as Python spells it: `!a ^ b` is `not a and b`."""
    expression = str(spec.func)  # a lone name is not parsed: a column may be called `v`, which else means `or`
    return expression if expression.isidentifier() else replace_operators(expression).strip()


def names_in(spec: CallbackSpec) -> set[str]:
    """The names that a callback refers to.

    Raises:
        ValueError: it is not an expression that python-statemachine takes.
    """
    if not is_name(spec):
        return set()
    if not spec.may_contain_boolean_expression:
        return {str(spec.func)}
    names: set[str] = set()
    _parse(spec, names)
    return names


def guard_key(spec: CallbackSpec) -> str:
    """By what python-statemachine tells one guard of a transition from another: of two alike it runs the first.

    Raises:
        ValueError: it is not an expression that python-statemachine takes.
    """
    return _parse(spec, set()).unique_key if is_name(spec) else str(id(spec.func))


def _parse(spec: CallbackSpec, names: set[str]) -> Any:
    """The guard as python-statemachine builds it, with stand-ins for its names, which are collected."""

    def collect(name: str) -> Callable[..., bool]:
        def stand_in(*_: object, **__: object) -> bool:
            return True

        names.add(name)
        stand_in.unique_key = name  # pyright: ignore[reportFunctionMemberAccess]
        return stand_in

    try:
        return parse_boolean_expr(spec.func, collect, operator_mapping)
    except (SyntaxError, UnsupportedExpression, KeyError) as error:
        raise ValueError(f"{spec.func!r} is not a guard expression of python-statemachine ({error!r})") from error


def names_bound(machine: type[StateChart[Any]]) -> frozenset[str]:
    """The names that a machine looks up when it is built, on itself and on its model: of callbacks and guards."""
    owners = (owner for state in machine.states_map.values() for owner in (state, *state.transitions))
    specs = chain(machine._specs, *(callbacks_of(owner) for owner in owners))  # noqa: SLF001
    return frozenset(name for spec in specs for name in names_in(spec))


def handles_errors(machine: type[StateChart[Any]]) -> bool:
    """Whether the chart has a transition for errors that it catches as events."""
    return any(
        transition.match(ERROR_EVENT) for state in machine.states_map.values() for transition in state.transitions
    )


def has_async_callbacks(machine: StateChart[Any]) -> bool:
    """Whether the machine runs coroutines, in an event loop of its own if none is running in this thread."""
    return machine._callbacks.has_async_callbacks  # noqa: SLF001


def has_invoke(machine: StateChart[Any]) -> bool:
    """Whether entering a state starts a thread or a task, which may outlive the event."""
    return any(state.invoke.key in machine._callbacks for state in machine.states_map.values())  # noqa: SLF001


def attributes_of_its_own(machine: StateChart[Any]) -> set[str]:
    """Attributes that something set on the machine while it was built, a cached property for instance."""
    return vars(machine).keys() - _ATTRIBUTES - {state.id for state in machine.states_map.values()}


def is_untouched(machine: StateChart[Any], listener: object) -> bool:
    """Whether this listener is the only one, and nobody has set an attribute of the machine's own states."""
    return (
        machine.active_listeners == [listener]
        and machine.start_configuration_values == type(machine).start_configuration_values
        and all(map(_is_untouched_state, machine._config._instance_states.values()))  # noqa: SLF001
    )


def _is_untouched_state(state: State) -> bool:
    own = vars(state)
    copied = islice(own.items(), _STATE_ATTRIBUTES, None)
    return all(value is getattr(own["_state"], name, None) for name, value in copied)


def let_go(machine: StateChart[Any]) -> None:
    """Forget what the engine remembers until the next event: the last callbacks' arguments, and the states it is in."""
    machine._engine.clear_cache()  # noqa: SLF001
    machine._config._invalidate()  # noqa: SLF001


def rest(machine: StateChart[Any]) -> None:
    """Undo the end, and the history, of what ran; the attributes stay as they are."""
    machine._engine.running = True  # noqa: SLF001
    machine.history_values.clear()


def start(machine: StateChart[Any]) -> None:
    """Enter the initial state if the model has none, as a machine does when it is built."""
    machine._engine.start()  # noqa: SLF001


def abandon_event_loop(machine: StateChart[Any]) -> None:
    """End what an interrupt left in this thread's loop: it would go on, and raise again, within the next event."""
    if has_async_callbacks(machine) and (loop := vars(_cached_loop).pop("loop", None)):
        with closing(loop):
            loop.run_until_complete(_end_other_tasks())


async def _end_other_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def send(machine: StateChart[Any], event: str, params: Mapping[str, Any]) -> None:
    """Send an event; what the callbacks return is not used."""
    _bound(machine, event)(**params)


def false_guards(machine: StateChart[Any], event: str, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The guards that keep the event's transitions from running now, one for each, as the machine spells them."""
    trigger = _bound(machine, event).build_trigger(machine=machine, **params)
    leaving = [transition for state in machine.configuration for transition in state.transitions]
    found = (_false_guard(machine, each, trigger) for each in leaving if not each.initial and each.match(event))
    return tuple(guard for guard in found if guard is not None)


def _bound(machine: StateChart[Any], event: str) -> Event:
    """The machine's own event, so that callbacks find its name as it was declared."""
    own = next(each for each in machine._events if each.id == event)  # noqa: SLF001
    return BoundEvent(own.id, name=own.name, delay=own.delay, internal=own.internal, _sm=machine)


def _false_guard(machine: StateChart[Any], transition: Transition, trigger: TriggerData) -> str | None:
    """The first guard of this transition that is false, evaluated as the engine does."""
    engine: Any = machine._engine  # noqa: SLF001
    guards = machine._callbacks[transition.cond.key]  # noqa: SLF001
    if not has_async_callbacks(machine):
        args, kwargs = engine._get_args_kwargs(transition, trigger)  # noqa: SLF001
        return next((str(guard.meta) for guard in guards if not guard.call(*args, **kwargs)), None)

    async def first() -> str | None:
        args, kwargs = await engine._get_args_kwargs(transition, trigger)  # noqa: SLF001
        for guard in guards:
            if not await guard(*args, **kwargs):
                return str(guard.meta)
        return None

    return run_async_from_sync(first())
