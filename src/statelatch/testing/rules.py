"""`lifecycle_rules`: from any mapping, a Hypothesis state machine that tests it. What is asked for is checked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statelatch.errors import ConfigurationError
from statelatch.testing.clients import Clients
from statelatch.testing.drawn import check_changes, check_params, flags, needed_parameters
from statelatch.testing.fault import Fault
from statelatch.testing.keys import missing, new_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from hypothesis.strategies import SearchStrategy

    from statelatch.adapter import PersistenceAdapter
    from statelatch.mapping import MachineMapping
    from statelatch.testing.stateful import LifecycleRules

__all__ = ["lifecycle_rules"]

Drawn = dict[str, Any]


def lifecycle_rules(
    mapping: MachineMapping,
    adapter_factory: Callable[[], PersistenceAdapter],
    *,
    values: SearchStrategy[Drawn] | None = None,
    params: Mapping[str, SearchStrategy[Drawn]] | None = None,
    changes: SearchStrategy[Drawn] | None = None,
    faults: Collection[Fault] | None = None,
    clients: int = 3,
) -> type[LifecycleRules]:
    """Rules that drive rows of a mapping through everything that several clients and a bad network can do to them.

    There are rules for events that the row takes, and for any: any client sends one, for any version, the row's or a
    stale one, with a fault or without, dies on the way, or is overtaken; for batches; for calls repeated with their
    tokens; for reading; and for others who write columns without a transition. What an event must do is asked of
    python-statemachine itself, in memory; the row, and the log, are read by plain SELECTs.

    The class is a test by `TestOrders = lifecycle_rules(mapping, factory).TestCase`, or, within a test of yours that
    has made the database, by `.check(settings)`. Each example makes new rows; the database is not emptied.

    Args:
        mapping: machine, entity and columns; its callbacks are run in memory, too.
        adapter_factory: returns a new `PersistenceAdapter` of this mapping on the test's database, where the tables
            are. Best made from a URL: then each client has connections of its own.
        values: draws the columns of a new row, by attribute name; by default none. A key that is left out is made up.
        params: draws the parameters of events, by event name; by default none. Those without a default must be there.
        changes: draws columns that somebody writes without a transition; by default the entity's booleans.
        faults: those that may happen; by default all that the database can have. Any other is an error.
        clients: how many, at least one.

    Returns:
        A `RuleBasedStateMachine` class; what it finds is a `LifecycleError`, printed as a program.

    Raises:
        ConfigurationError: the machine has no terminal state, a required column has no values, an event no parameters,
            or an argument makes no sense; the message says what to pass. What only shows in an example, and that no
            event was applied in all of them, is one there.
        ImportError: Hypothesis is not installed.
    """
    params, needed = params or {}, needed_parameters(mapping)
    _check_machine(mapping)
    _check_values(mapping, values)
    _check_params(mapping, params, needed)
    _check_clients(clients)
    asked = None if faults is None else _known(faults)
    _check_strategies({"values": values, "changes": changes, **{f"params[{name!r}]": params[name] for name in params}})
    from hypothesis import strategies as st

    from statelatch.testing.stateful import rules_of

    changes = _of_flags(mapping) if changes is None else changes
    return rules_of(
        mapping,
        Clients(mapping, adapter_factory, asked or ()),
        values=st.just({}) if values is None else values,
        params={event: params.get(event, st.just({})).map(check_params(event, needed[event])) for event in needed},
        changes=None if changes is None else changes.map(check_changes(mapping)),
        faults=frozenset(Fault) if asked is None else asked,
        count=clients,
    )


def _of_flags(mapping: MachineMapping) -> SearchStrategy[Drawn] | None:
    """What is written to the entity's booleans; None if it has none."""
    from hypothesis import strategies as st

    written = flags(mapping)
    drawn = [st.fixed_dictionaries({name: st.sampled_from(told)}) for name, told in written.items()]
    return st.one_of(drawn) if drawn else None


def _check_clients(clients: object) -> None:
    if type(clients) is not int or clients < 1:
        raise ConfigurationError(f"clients: expected a whole number, at least one, found {clients!r}")


def _check_strategies(given: Mapping[str, object]) -> None:
    """Refuse what draws nothing.

    Raises:
        ImportError: Hypothesis is not installed.
    """
    try:
        from hypothesis import strategies as st
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; it comes with: pip install 'statelatch[testing]'") from error
    for name, strategy in given.items():
        if not isinstance(strategy, st.SearchStrategy | None):
            raise ConfigurationError(f"{name}: expected a strategy, found {strategy!r}; say st.just({strategy!r})")


def _check_machine(mapping: MachineMapping) -> None:
    """Refuse what could not work, before any example is run."""
    machine = mapping.machine.__name__
    if not any(state.final for state in mapping.states.values()):
        raise ConfigurationError(
            f"lifecycle_rules: {machine} has no terminal state, so that nothing would show that one holds; "
            "declare at least one with State(final=True)"
        )
    if not mapping.events:
        raise ConfigurationError(
            f"lifecycle_rules: {machine} has no event, so that nothing could be sent; declare at least one transition "
            "with an event"
        )


def _check_values(mapping: MachineMapping, values: object) -> None:
    if values is not None:
        return
    if lacking := missing(mapping):
        raise ConfigurationError(
            f"values: {mapping.table} requires {', '.join(lacking)}, and nothing fills it; pass a strategy, for "
            f"instance values=st.fixed_dictionaries({{{lacking[0]!r}: ...}})"
        )
    new_key(mapping, {})


def _check_params(mapping: MachineMapping, params: Mapping[str, Any], needed: Mapping[str, list[str]]) -> None:
    if unknown := [event for event in params if event not in mapping.events]:
        machine = mapping.machine.__name__
        raise ConfigurationError(f"params: {machine} has no event {unknown[0]!r}; it has {', '.join(mapping.events)}")
    for event, names in needed.items():
        if names and event not in params:
            raise ConfigurationError(
                f"params: the event {event!r} needs {', '.join(names)}; pass a strategy, for instance "
                f"params={{{event!r}: st.fixed_dictionaries({{{names[0]!r}: ...}})}}"
            )


def _known(faults: Collection[Fault]) -> frozenset[Fault]:
    names = ", ".join(f"Fault.{fault.name}" for fault in Fault)
    if isinstance(faults, str):
        raise ConfigurationError(f"faults: expected several, found {faults!r} alone; pass a list, of {names}")
    if unknown := [each for each in faults if not isinstance(each, Fault)]:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"faults: expected some of {names}, found {unknown[0]!r}")
    return frozenset(faults)
