"""Diagrams and tables of machines, drawn by python-statemachine's own diagram package.

Rules:

- The machine's class is read, never built and never changed; what is edited is the package's model of it.
- Mermaid and tables need nothing but the core, dot needs pydot, svg and png need pydot and Graphviz.
- Every transition is drawn, whatever the machine's names and guards are.
- The same machine gives the same text in every process; an SVG is the same for the same Graphviz and fonts.
- A guard's SQL is the one that `statelatch.statements` sends. Nothing here translates a guard.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from sqlalchemy import BindParameter, Column, ColumnElement, literal_column, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, CompileError, NoSuchModuleError
from sqlalchemy.sql import visitors
from statemachine import StateChart
from statemachine.contrib.diagram.extract import extract  # pyright: ignore[reportUnknownVariableType]
from statemachine.contrib.diagram.graphviz import GraphvizError, run_graphviz
from statemachine.contrib.diagram.model import ActionType, DiagramAction
from statemachine.contrib.diagram.renderers.mermaid import MermaidRenderer
from statemachine.contrib.diagram.renderers.table import TransitionTableRenderer

from statelatch import framework
from statelatch.edges import Edge, Guard
from statelatch.errors import ConfigurationError, RequestError
from statelatch.guards import PARAMETER
from statelatch.references import load_machine
from statelatch.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Dialect
    from statemachine import State
    from statemachine.contrib.diagram.model import DiagramGraph, DiagramState, DiagramTransition
    from statemachine.transition import Transition

    from statelatch.mapping import MachineMapping

__all__ = ["Format", "guards_table", "lifecycle_page", "load_machine", "render"]

PYDOT = "pydot (pip install 'statelatch[diagrams]')"
GRAPHVIZ = (
    "Graphviz, whose program `dot` is not on the PATH (install your system's package `graphviz`, "
    "for instance apt install graphviz or brew install graphviz)"
)

LAYOUT = {"ordering": "", "nodesep": "0.5", "ranksep": "0.6"}
"""Attributes of the whole graph: Graphviz may order the edges, so that few cross, and there is room for guards."""


class Format(StrEnum):
    """What a machine can be rendered as."""

    MERMAID = "mermaid"  # text that GitHub, GitLab and most documentation tools draw
    DOT = "dot"  # Graphviz's language; needs pydot
    SVG = "svg"  # a picture as text; needs pydot and Graphviz
    PNG = "png"  # a picture as bytes; needs pydot and Graphviz
    TABLE = "table"  # the transitions as a Markdown table


@overload
def render(machine: type[StateChart[Any]], fmt: Literal["mermaid", "dot", "svg", "table"]) -> str: ...
@overload
def render(machine: type[StateChart[Any]], fmt: Literal["png"]) -> bytes: ...
@overload
def render(machine: type[StateChart[Any]], fmt: str) -> str | bytes: ...
def render(machine: type[StateChart[Any]], fmt: str) -> str | bytes:
    """Render a machine.

    Args:
        machine: any `StateMachine` or `StateChart` class.
        fmt: a `Format`, or its value.

    Returns:
        Text; bytes for png.

    Raises:
        RequestError: there is no such format.
        ConfigurationError: pydot or Graphviz is missing or failed; install what the message names.
    """
    match fmt:
        case Format.MERMAID:
            return _mermaid(machine)
        case Format.TABLE:
            return _table(machine)
        case Format.DOT:
            return _dot(machine, fmt)
        case Format.SVG:
            return _drawn(machine, fmt).decode()
        case Format.PNG:
            return _drawn(machine, fmt)
        case _:
            raise RequestError(f"expected one of the formats {', '.join(Format)}, found {fmt!r}")


# -- the package's model of a machine, made fit for each language -------------------------------------

KEYWORDS = frozenset(
    {"accdescr", "acctitle", "class", "classdef", "click", "default", "href", "note", "scale", "state", "statediagram"}
    | {"digraph", "edge", "graph", "node", "strict", "style", "subgraph"}
)
"""Words of Mermaid's state diagrams and of dot, in any case: as a state's id they change the diagram."""

_PROCESS_NUMBER = re.compile(r"\b(__initial_|cluster___atomic_)(\d+)")


def _states(states: Iterable[DiagramState]) -> Iterator[DiagramState]:
    for state in states:
        yield state
        yield from _states(state.children)


def _model(machine: type[StateChart[Any]]) -> DiagramGraph:
    """The package's model of the machine, with all transitions and ids that Mermaid and dot both take."""
    graph = extract(machine)
    _show_every_transition(graph, machine)
    ids = _plain_ids([state.id for state in _states(graph.states)])
    for state in _states(graph.states):
        state.id = ids[state.id]
    for transition in graph.transitions:
        transition.source = ids[transition.source]
        transition.targets = [ids[target] for target in transition.targets]
    graph.compound_state_ids = {ids[state_id] for state_id in graph.compound_state_ids}
    graph.bidirectional_compound_ids = {ids[state_id] for state_id in graph.bidirectional_compound_ids}
    return graph


def _show_every_transition(graph: DiagramGraph, machine: type[StateChart[Any]]) -> None:
    """The package hides some: eventless ones of a compound state, internal ones without an action, their guards."""
    names = frozenset(dir(machine))
    states = {state.id: state for state in _states(graph.states)}
    for state in states.values():
        state.actions = [action for action in state.actions if action.type is not ActionType.INTERNAL]
    for shown, transition in zip(graph.transitions, _transitions(machine.states), strict=True):
        shown.is_initial = transition.initial
        if transition.internal:
            does = ", ".join(str(spec) for spec in transition.on if framework.would_call(spec, names))
            body = f"{_label(shown)} / {does}" if does else _label(shown)
            states[shown.source].actions.append(DiagramAction(ActionType.INTERNAL, body))


def _transitions(states: Iterable[State]) -> Iterator[Transition]:
    """Every transition in the order in which the package's model has them."""
    for state in states:
        yield from state.transitions
        yield from _transitions(state.states)
        yield from _transitions(state.history)


def _label(transition: DiagramTransition) -> str:
    guards = f"[{', '.join(transition.guards)}]" if transition.guards else ""
    return f"{transition.event} {guards}".strip()


def _plain_ids(ids: Sequence[str]) -> dict[str, str]:
    """For each id one that is a word and no keyword: itself, or with underscores."""
    plain = {state_id: state_id for state_id in ids if re.fullmatch(r"\w+", state_id)}
    plain = {state_id: state_id for state_id in plain if state_id.lower() not in KEYWORDS}
    for state_id in ids:
        if state_id not in plain:
            candidate = re.sub(r"\W", "_", state_id)
            while candidate in plain.values() or candidate.lower() in KEYWORDS:
                candidate += "_"
            plain[state_id] = candidate
    return plain


def _mermaid(machine: type[StateChart[Any]]) -> str:
    """The package's Mermaid; the guards go into the label, since of two equal labels it draws only one."""
    graph = _model(machine)
    for state in _states(graph.states):
        state.name = _mermaid_text(state.name)
        for action in state.actions:
            action.body = _mermaid_text(action.body)
    for transition in graph.transitions:
        transition.event, transition.guards = _mermaid_text(_label(transition)), []
    return MermaidRenderer().render(graph)


def _mermaid_text(text: str) -> str:
    """Text as Mermaid's entities, where a character would end the label or begin an HTML tag."""
    return re.sub('[#;:"<\n]', lambda match: f"#{ord(match[0])};", text)


def _table(machine: type[StateChart[Any]]) -> str:
    """The package's transition table, with internal transitions, which it would leave out."""
    graph = _model(machine)
    for state in _states(graph.states):
        state.name = _markdown_text(state.name)
    for transition in graph.transitions:
        event = f"{transition.event} (internal)" if transition.is_internal else transition.event
        transition.event, transition.is_internal = _markdown_text(event.strip()), False
        transition.guards = [_code(guard) for guard in transition.guards]
    return TransitionTableRenderer().render(graph, fmt="md")


def _dot(machine: type[StateChart[Any]], fmt: str) -> str:
    """The package's dot; the addresses in its names, which differ in each process, become numbers."""
    _require(fmt)
    from statemachine.contrib.diagram.renderers.dot import DotRenderer, DotRendererConfig

    numbers: dict[str, int] = {}
    source = DotRenderer(DotRendererConfig(graph_attrs=LAYOUT)).render(_model(machine)).to_string()
    return _PROCESS_NUMBER.sub(lambda match: f"{match[1]}{numbers.setdefault(match[2], len(numbers))}", source)


def _drawn(machine: type[StateChart[Any]], fmt: str) -> bytes:
    try:
        return run_graphviz(_dot(machine, fmt), fmt)
    except GraphvizError as error:
        raise ConfigurationError(f"{fmt}: {' '.join(str(error).split())}") from error


def _require(fmt: str) -> None:
    """Raise unless what the format needs is installed; all that is missing is named at once."""
    missing: list[str] = []
    try:
        importlib.import_module("pydot")
    except ImportError:
        missing.append(PYDOT)
    if fmt != Format.DOT and shutil.which("dot") is None:
        missing.append(GRAPHVIZ)
    if missing:
        raise ConfigurationError(
            f"{fmt} needs {' and '.join(missing)}; mermaid and table need neither pydot nor Graphviz"
        )


# -- guards and their SQL ---------------------------------------------------------------------------------

PREAMBLE = (
    "A guard stands in the WHERE clause of the UPDATE that its event sends; `:name` is a parameter of the event. "
    "A guard that SQL does not have is evaluated in Python, on the row that was read."
)
DIALECTS = {"postgresql": "PostgreSQL", "sqlite": "SQLite", "mariadb": "MariaDB"}


def guards_table(mapping: MachineMapping, dialect: str = "postgresql") -> str:
    """Each transition with its guards and their SQL, as a Markdown table.

    Literal values stand in the SQL, the event's parameters as `:name`. A guard that needs Python shows why.

    Args:
        mapping: whose guards.
        dialect: how SQL is spelled: `postgresql`, `sqlite`, `mariadb`, or another dialect of SQLAlchemy.

    Raises:
        RequestError: SQLAlchemy has no such dialect.
    """
    spelled = _dialect(dialect)
    rows = [_guards_row(mapping, event, edge, spelled) for event, edge in _edges(mapping)]
    header = ("event", "transition", "guard", f"SQL on {DIALECTS.get(dialect, dialect)}")
    return _markdown_table(header, [*rows, *_eventless_rows(mapping)])


def lifecycle_page(mapping: MachineMapping) -> str:
    """A Markdown page: the machine's Mermaid diagram, and its guards with their SQL on each database."""
    machine = mapping.machine
    summary = inspect.cleandoc(machine.__doc__ or "").partition("\n\n")[0]
    parts = [
        f"# {machine.__name__}\n",
        f"{summary}\n" if summary else "",
        f"```mermaid\n{render(machine, 'mermaid')}```\n",
        "## Guards\n",
        f"{PREAMBLE}\n",
        guards_table(mapping),
    ]
    if rows := _spellings(mapping):
        parts += [
            "Where another database spells a guard in another way:\n",
            _markdown_table(("guard", *list(DIALECTS.values())[1:]), rows),
        ]
    return "\n".join(part for part in parts if part)


def _edges(mapping: MachineMapping) -> Iterator[tuple[str, Edge]]:
    """Every event with each of its transitions; of `done.x` and its other spelling `done_x` the latter."""
    statements = Statements(mapping, DefaultDialect())
    for event in mapping.events:
        if "." not in event or event.replace(".", "_") not in mapping.events:
            yield from ((event, edge) for edge in statements.event(event).edges)


def _guards_row(mapping: MachineMapping, event: str, edge: Edge, dialect: Dialect) -> tuple[str, ...]:
    labels = [_code(guard.label) for guard in edge.guards]
    sql = [_guard_sql(guard, dialect) for guard in edge.guards]
    transition = _arrow(mapping.states[edge.source], mapping.states[edge.target])
    return _code(event), transition, "<br>".join(labels) or "none", "<br>".join(sql)


def _eventless_rows(mapping: MachineMapping) -> Iterator[tuple[str, ...]]:
    for state in mapping.states.values():
        for transition in state.transitions:
            if transition.is_eventless:
                labels = "<br>".join(_code(str(spec)) for spec in transition.cond)
                target = transition.target or state
                yield "none", _arrow(state, target), labels or "none", "Python: it is taken without an event"


def _arrow(source: State, target: State) -> str:
    return f"{_code(source.id)} → {_code(target.id)}"


def _guard_sql(guard: Guard, dialect: Dialect) -> str:
    if guard.truth is None:
        return f"Python: {_markdown_text(guard.reason)}"
    return _code(_sql(guard.truth.passes(), dialect))


def _sql(predicate: ColumnElement[bool], dialect: Dialect) -> str:
    """The predicate as a person reads it: values in place, and no name of a table where there is only one."""
    named = visitors.replacement_traverse(predicate, {}, _event_parameter)
    tables = {node.table for node in visitors.iterate(predicate) if isinstance(node, Column)}
    shown = {"include_table": len(tables) > 1}
    try:
        sql = str(named.compile(dialect=dialect, compile_kwargs={**shown, "literal_binds": True}))
    except CompileError:  # a type without literals: its values stay parameters
        sql = str(named.compile(dialect=dialect, compile_kwargs={**shown, "render_postcompile": True}))
    return re.sub(r"\s*\n\s*", " ", sql)


def _event_parameter(element: Any, **_: Any) -> Any:
    """`:name` in place of a parameter that the event binds; None, to keep it, for all else."""
    if isinstance(element, BindParameter):
        parameter = cast("BindParameter[Any]", element)
        if parameter.key.startswith(PARAMETER):
            return literal_column(f":{parameter.key.removeprefix(PARAMETER)}", parameter.type)
    return None


def _dialect(name: str) -> Dialect:
    """The dialect with named parameters: with others SQLAlchemy doubles the percent signs of literals."""
    try:
        dialect: Any = make_url(f"{name}://").get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise RequestError(f"expected one of the dialects {', '.join(DIALECTS)}, found {name!r}") from error
    return cast("Dialect", dialect(paramstyle="named"))


def _spellings(mapping: MachineMapping) -> list[tuple[str, ...]]:
    """The guards that another database spells in another way than PostgreSQL, and how."""
    dialects = [_dialect(name) for name in DIALECTS]
    guards = {guard.label: guard for _, edge in _edges(mapping) for guard in edge.guards if guard.truth is not None}
    rows: list[tuple[str, ...]] = []
    for guard in guards.values():
        first, *others = [_guard_sql(guard, dialect) for dialect in dialects]
        if set(others) != {first}:
            rows.append((_code(guard.label), *("as PostgreSQL" if sql == first else sql for sql in others)))
    return rows


# -- Markdown ---------------------------------------------------------------------------------------------


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*<|])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A code span for a table's cell: fenced by more backticks than it holds, its pipes escaped."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", r"\|")
