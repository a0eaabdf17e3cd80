"""PURE: what an UPDATE of statelatch writes, column by column, and in which order.

Every transition writes the token, version + 1 and the state; beside them what `assigns` says of the event and
of the state that is entered. Where the edges of an event differ, the value is a CASE over their predicates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import BindParameter, Column, ColumnElement, bindparam, case, literal, types
from sqlalchemy.sql import visitors

from statelatch import framework
from statelatch.guards import event_parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from statelatch.edges import Edge
    from statelatch.interpreter import Step
    from statelatch.mapping import MachineMapping

__all__ = [
    "as_expression",
    "assign_names",
    "assigned",
    "bookkeeping",
    "clause_of",
    "columns_read",
    "compiled_sets",
    "set_order",
    "token_parameter",
    "with_event_parameters",
]

TOKEN = "latch_token"  # noqa: S105  a parameter's name


def token_parameter(source: int) -> str:
    """Name of the token's parameter for the event's n-th source state."""
    return f"{TOKEN}_{source}"


def compiled_sets(
    mapping: MachineMapping, event: str, sources: Sequence[object], whens: list[tuple[ColumnElement[bool], Edge]]
) -> dict[Column[Any], ColumnElement[Any]]:
    """What a compiled UPDATE writes; a CASE only where the edges differ."""
    per_edge = [_edge_sets(mapping, event, edge) for _, edge in whens]
    sets: dict[Column[Any], ColumnElement[Any]] = {}
    for column in dict.fromkeys(column for writes in per_edge for column in writes):
        if all(writes.get(column) is per_edge[0].get(column) for writes in per_edge):
            sets[column] = per_edge[0][column]
        else:
            cases = [(when, writes.get(column, column)) for (when, _), writes in zip(whens, per_edge, strict=True)]
            sets[column] = case(*cases, else_=column)
    targets = list(dict.fromkeys(edge.target for _, edge in whens))
    if len(targets) == 1:
        target = mapping.bound_state(targets[0])
    else:
        state = mapping.columns[mapping.state]
        target = case(*((when, mapping.bound_state(edge.target)) for when, edge in whens), else_=state)
    return sets | bookkeeping(mapping, sources, target)


def _edge_sets(mapping: MachineMapping, event: str, edge: Edge) -> dict[Column[Any], ColumnElement[Any]]:
    sets = dict(assigned(mapping, event))
    if edge.enters:
        sets |= assigned(mapping, mapping.states[edge.target].id)
    return sets


def assigned(mapping: MachineMapping, name: str) -> dict[Column[Any], ColumnElement[Any]]:
    """The columns that a state or an event assigns; the same objects each time."""
    return mapping.assigned_columns.get(name, {})


def assign_names(mapping: MachineMapping, steps: Iterable[Step]) -> Iterable[str]:
    """The events that fired and the states that were entered, in order."""
    for step in steps:
        if step.event is not None and step.event in mapping.assigns:
            yield step.event
        target = step.transition.target
        if target is not None and target.id in mapping.assigns and framework.enters(mapping.machine, step.transition):
            yield target.id


def bookkeeping(
    mapping: MachineMapping, sources: Sequence[object], target: ColumnElement[Any]
) -> dict[Column[Any], ColumnElement[Any]]:
    """Token, version and state."""
    columns = mapping.columns
    token, version, state = columns[mapping.token], columns[mapping.version], columns[mapping.state]
    first, *others = (bindparam(token_parameter(n), type_=token.type) for n in range(len(sources)))
    whens = [mapping.is_in(source) for source in sources[1:]]
    proof = case(*zip(whens, others, strict=True), else_=first) if others else first
    return {token: proof, version: version + literal(1), state: target}


def set_order(sets: Mapping[Column[Any], ColumnElement[Any]]) -> list[Column[Any]] | None:
    """The columns, each written after all that read it; None if there is no such order.

    MariaDB evaluates SET from left to right (https://mariadb.com/kb/en/update/), the others all at once.
    """
    reads = {column: columns_read(value) - {column} for column, value in sets.items()}
    order: list[Column[Any]] = []
    left = list(sets)
    while left:
        free = next((c for c in left if not any(c in reads[other] for other in left if other is not c)), None)
        if free is None:
            return None
        order.append(free)
        left.remove(free)
    return order


def columns_read(value: ColumnElement[Any]) -> set[Column[Any]]:
    """The columns that an expression reads."""
    return {cast("Column[Any]", node) for node in visitors.iterate(value) if isinstance(node, Column)}


def as_expression(column: Column[Any], value: object) -> ColumnElement[Any]:
    """A value of `assigns` as the column takes it; a bindparam of no type gets the column's."""
    clause = clause_of(value)
    if clause is None:
        return literal(value, column.type)
    if isinstance(clause, BindParameter):
        return _as_event_parameter(clause, column.type)
    return with_event_parameters(clause)


def with_event_parameters(clause: ColumnElement[Any]) -> ColumnElement[Any]:
    """The user's SQL; its bindparams are event parameters."""

    def rename(element: object, **_: object) -> ColumnElement[Any] | None:
        bound = isinstance(element, BindParameter) and not cast("BindParameter[Any]", element).unique
        return _as_event_parameter(cast("BindParameter[Any]", element)) if bound else None

    return cast("ColumnElement[Any]", visitors.replacement_traverse(cast("Any", clause), {}, rename))


def clause_of(value: object) -> ColumnElement[Any] | None:
    """A value of `assigns` as SQL; None if it is a constant. An attribute of the entity stands for its column."""
    clause: object = value.__clause_element__() if hasattr(value, "__clause_element__") else value  # pyright: ignore
    return cast("ColumnElement[Any]", clause) if isinstance(clause, ColumnElement) else None


def _as_event_parameter(bound: BindParameter[Any], kind: types.TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """The user's bindparam under the name by which event parameters are bound."""
    use = kind if isinstance(bound.type, types.NullType) else bound.type
    name = event_parameter(bound.key)
    return bindparam(name, type_=use) if bound.required else bindparam(name, bound.value, type_=use)
