"""`lifecycle_rules`: from any mapping, a Hypothesis state machine that tests it. What is asked for is checked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean
from sqlalchemy.dialects import sqlite

from statelatch.errors import ConfigurationError
from statelatch.statements import Statements
from statelatch.testing.fault import Fault
from statelatch.testing.keys import missing

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

    There is a rule for each event: any client sends it, for any version, the row's or a stale one, with a fault or
    without, dies on the way, or is overtaken; for batches; for calls repeated with their tokens; for reading; and for
    others who write columns without a transition. What an event must do is asked of python-statemachine itself, in
    memory; the row, and the log, are read by plain SELECTs.

    The class is a test by `TestOrders = lifecycle_rules(mapping, factory).TestCase`, or, within a test of yours that
    has made the database, by `.check(settings)`. Each example makes new rows; the database is not emptied.

    Args:
        mapping: machine, entity and columns; its callbacks are run in memory, too.
        adapter_factory: returns a new `PersistenceAdapter` of this mapping on the test's database, where the tables
            are. Best made from a URL: then each client has connections of its own.
        values: draws the columns of a new row, by attribute name; by default none. A key that is left out is made up.
        params: draws the parameters of events, by event name; by default none.
        changes: draws columns that somebody writes without a transition; by default the entity's booleans.
        faults: those that may happen; by default all that the database can have.
        clients: how many, at least one.

    Returns:
        A `RuleBasedStateMachine` class; what it finds is a `LifecycleError`, printed as a program.

    Raises:
        ConfigurationError: the machine has no terminal state, a required column has no values, an event no parameters,
            or an argument makes no sense; the message says what to pass.
        ImportError: Hypothesis is not installed.
    """
    _check(mapping, params or {}, values)
    if clients < 1:
        raise ConfigurationError(f"clients: expected at least one, found {clients}")
    try:
        from hypothesis import strategies as st

        from statelatch.testing.clients import Clients
        from statelatch.testing.stateful import rules_of
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; it comes with: pip install 'statelatch[testing]'") from error
    drawn = {event: (params or {}).get(event, st.just({})) for event in mapping.events}
    flags = _flags(mapping)
    if changes is None and flags:
        changes = st.one_of(*(st.fixed_dictionaries({name: st.sampled_from(told)}) for name, told in flags.items()))
    return rules_of(
        mapping,
        Clients(mapping, adapter_factory),
        values=st.just({}) if values is None else values,
        params=drawn,
        changes=changes,
        faults=frozenset(Fault if faults is None else faults),
        count=clients,
    )


def _check(mapping: MachineMapping, params: Mapping[str, Any], values: object) -> None:
    """Refuse what could not work, before any example is run."""
    machine = mapping.machine.__name__
    if not any(state.final for state in mapping.states.values()):
        raise ConfigurationError(
            f"lifecycle_rules: {machine} has no terminal state, so that nothing would show that one holds; "
            "declare at least one with State(final=True)"
        )
    if values is None and (lacking := missing(mapping)):
        raise ConfigurationError(
            f"values: {mapping.table} requires {', '.join(lacking)}, and nothing fills it; pass a strategy, for "
            f"instance values=st.fixed_dictionaries({{{lacking[0]!r}: ...}})"
        )
    if unknown := [event for event in params if event not in mapping.events]:
        raise ConfigurationError(f"params: {machine} has no event {unknown[0]!r}; it has {', '.join(mapping.events)}")
    statements = Statements(mapping, sqlite.dialect())
    for event in mapping.events:
        required = [name for name, is_required in statements.event(event).parameters.items() if is_required]
        if required and event not in params:
            raise ConfigurationError(
                f"params: the event {event!r} needs {', '.join(required)}; pass a strategy, for instance "
                f"params={{{event!r}: st.fixed_dictionaries({{{required[0]!r}: ...}})}}"
            )


def _flags(mapping: MachineMapping) -> dict[str, list[bool | None]]:
    """The boolean columns that anybody may write, and what."""
    return {
        name: [False, True, None] if column.nullable else [False, True]
        for name, column in mapping.columns.items()
        if isinstance(column.type, Boolean) and name not in mapping.kept and name != mapping.state
    }
