"""What must hold of a mapping's guards and of their SQL twins; what is wrong is a `ConfigurationError`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ClauseElement, Column, SelectBase, types

from statelatch import framework
from statelatch.errors import ConfigurationError
from statelatch.expressions import has_cte
from statelatch.guards import has_sql, unlike_constants
from statelatch.parameters import bound_in, check_bound
from statelatch.writes import clause_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from statemachine.callbacks import CallbackSpec
    from statemachine.transition import Transition

    from statelatch.mapping import MachineMapping

__all__ = ["check_guards", "columns_of_row"]


def check_guards(mapping: MachineMapping) -> None:
    """Raise `ConfigurationError` for a guard, or a twin, that cannot mean what it says."""
    for name, twin in mapping.guards.items():
        _check_name(mapping, name)
        _check_twin(mapping, f"guards[{name!r}]", twin)
    for transition in _transitions(mapping):
        _check_alike(mapping, transition)
        for spec in transition.cond:
            _check_constants(mapping, transition, spec)


def _transitions(mapping: MachineMapping) -> Iterator[Transition]:
    return (transition for state in mapping.states.values() for transition in state.transitions)


def _check_alike(mapping: MachineMapping, transition: Transition) -> None:
    """Two guards that python-statemachine does not tell apart; it would not build the machine."""
    seen: dict[str, CallbackSpec] = {}
    for spec in transition.cond:
        other = seen.setdefault(framework.guard_key(spec), spec)
        if other is not spec:
            raise ConfigurationError(
                f"{mapping.machine.__name__}, {transition}: python-statemachine takes {str(other)!r} and {str(spec)!r} "
                "for one guard; write the two as one expression, or leave one out"
            )


def _check_constants(mapping: MachineMapping, transition: Transition, spec: CallbackSpec) -> None:
    for column, constant in unlike_constants(spec, mapping):
        raise ConfigurationError(
            f"{mapping.machine.__name__}, {transition}: the guard {str(spec)!r} compares {column}, of type "
            f"{column.type!r}, with {constant!r}; Python finds no value of that type equal to it, and cannot order the "
            "two; compare with a constant of the column's type, or write the condition as a hybrid of "
            f"{mapping.entity.__name__}"
        )


def _check_name(mapping: MachineMapping, name: str) -> None:
    """The name is that of one guard, which has no SQL of its own."""
    where, machine = f"guards[{name!r}]", mapping.machine.__name__
    specs = [spec for transition in _transitions(mapping) for spec in transition.cond]
    found = [cast("Any", spec).func for spec in specs if not framework.is_name(spec) and spec.attr_name == name]
    callables: dict[int, object] = {id(function): function for function in found}
    named = any(name in framework.names_in(spec) for spec in specs)
    if not (callables or named):
        raise ConfigurationError(
            f"{where}: no guard of {machine} has that name; it has {_names(specs) or 'none'}; name one of these, or "
            "remove it. Validators have no twins"
        )
    if len(callables) > 1 or any(named and not _is_found(mapping, name, function) for function in callables.values()):
        raise ConfigurationError(
            f"{where}: several guards of {machine} have that name, and one twin cannot stand for all; rename them"
        )
    if not named or mapping.is_python(name) or name not in mapping.model_names:
        return
    if name in mapping.columns or has_sql(name, mapping):
        kind = "a column" if name in mapping.columns else "a hybrid that is SQL already"
        raise ConfigurationError(
            f"{where}: {mapping.entity.__name__}.{name} is {kind}; remove the twin, or give a hybrid the SQL that you "
            "mean with .expression"
        )


def _is_found(mapping: MachineMapping, name: str, function: object) -> bool:
    """Whether a guard of this name is this function, and nothing else."""
    found = [getattr(owner, name, None) for owner in (mapping.machine, mapping.entity)]
    return [each for each in found if each is not None] == [function]


def _names(specs: list[CallbackSpec]) -> str:
    names = [sorted(framework.names_in(spec)) if framework.is_name(spec) else [spec.attr_name] for spec in specs]
    return ", ".join(dict.fromkeys(name for each in names for name in each))


def _check_twin(mapping: MachineMapping, where: str, twin: object) -> None:
    clause = clause_of(twin)
    if clause is None:
        raise ConfigurationError(
            f"{where}: expected an SQL expression over {mapping.entity.__name__}, found {twin!r}; of a constant, make "
            "one with sqlalchemy.literal or sqlalchemy.true, of a query with .scalar_subquery()"
        )
    if foreign := [column for column in columns_of_row(clause) if column not in set(mapping.columns.values())]:
        raise ConfigurationError(
            f"{where}: it reads {foreign[0]}, which is no column of {mapping.table}; one UPDATE reads one table's row: "
            "look into another with sqlalchemy.exists or .scalar_subquery()"
        )
    if has_cte(clause):
        raise ConfigurationError(
            f"{where}: it has a CTE, which an UPDATE does not have on every database; write it as a subquery"
        )
    if isinstance(clause.type, types.NullType):
        raise ConfigurationError(
            f"{where}: the type of {str(clause)!r} is not known, and so not what is true of it; give it one with "
            "sqlalchemy.type_coerce, for instance type_coerce(..., Boolean())"
        )
    check_bound(where, clause)
    for bound in bound_in(clause):
        if isinstance(bound.value, datetime) and bound.value.tzinfo is None:
            raise ConfigurationError(f"{where}: naive datetime {bound.value!r}; say which zone it is in")


def columns_of_row(clause: ClauseElement) -> Iterator[Column[Any]]:
    """The columns that an expression reads, but for those of its subqueries."""
    if isinstance(clause, Column):
        yield clause
    children: Iterable[ClauseElement] = cast("Any", clause).get_children()
    for child in children:
        if not isinstance(child, SelectBase):
            yield from columns_of_row(child)
