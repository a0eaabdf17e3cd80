"""Machines of the tests, as `lifecycle_rules` wants them: a mapping, and what is drawn for rows and events.

Those that differ in one thing only, a callback, are there twice: what is one UPDATE for one of them runs in Python for
the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import strategies as st
from statemachine import State, StateMachine

from statelatch import MachineMapping
from statelatch.runs import Run
from statelatch.runs.model import run_mapping
from tests import guarded, lights, orders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine, MetaData

__all__ = ["MACHINES", "Machine"]

Drawn = st.SearchStrategy[dict[str, Any]]


@dataclass(frozen=True)
class Machine:
    """A mapping, and what is drawn for it.

    Attributes:
        mapping: makes it.
        metadata: of its tables.
        values: columns of a new row.
        params: parameters of its events.
    """

    mapping: Callable[[], MachineMapping]
    metadata: MetaData
    values: Drawn = field(default_factory=lambda: st.just({}))
    params: Mapping[str, Drawn] = field(default_factory=dict[str, Drawn])

    def create_tables(self, engine: Engine) -> None:
        """Make its tables, if they are not there."""
        self.metadata.create_all(engine)


class Judged(StateMachine):
    """Guards of several kinds, compiled, on the rows of `tests.guarded`."""

    a = State(initial=True)
    b = State()
    c = State(final=True)

    go = a.to(b, cond="large") | a.to(c, cond="count == size and !flag") | b.to(a, unless="flag")
    try_ = a.to(c, cond="exceeds") | b.to(b, cond="title == 'a' or label", unless="busy")
    finish = b.to(c, cond="at_least", unless="other_flag")


class WatchedJudged(Judged):
    """The same, with Python in every transition."""

    def after_transition(self) -> None:
        """Look on."""


class NotedLights(lights.Crossing):
    """With a callback that writes a column."""

    def on_step(self, model: lights.Light) -> None:
        """Write down what the state was, and how often."""
        model.by = f"{model.by or ''}{model.state[0]}"[-20:]


def _light(machine: type[StateMachine]) -> MachineMapping:
    return MachineMapping(machine=machine, entity=lights.Light, log=lights.LightLog, assigns=lights.ASSIGNS)


def _order(machine: type[StateMachine]) -> MachineMapping:
    return MachineMapping(machine=machine, entity=orders.Order, state="stage", assigns=orders.ASSIGNS)


def _judged(machine: type[StateMachine]) -> MachineMapping:
    return MachineMapping(machine=machine, entity=guarded.Guarded)


_LIGHT: dict[str, Any] = {
    "values": st.fixed_dictionaries({"broken": st.booleans()}),
    "params": {
        "stop": st.fixed_dictionaries({}, optional={"actor": st.sampled_from(["ann", "bob"])}),
        "step": st.fixed_dictionaries({}, optional={"data": st.sampled_from([None, {"a": 1}])}),
    },
}
_OWNERS = st.sampled_from([None, "", "ann", "bob"])
_ORDER: dict[str, Any] = {
    "values": st.fixed_dictionaries(
        {
            "paid": st.sampled_from([True, True, False, None]),
            "owner": _OWNERS,
            "amount": st.integers(0, 2),
            "limit": st.sampled_from([None, 0, 1, 2]),
        }
    ),
    "params": {
        "claim": st.fixed_dictionaries(
            {"owner": st.sampled_from(["", "ann"]), "heir": _OWNERS}, optional={"limit": st.integers(0, 3)}
        ),
        "ship": st.fixed_dictionaries({}, optional={"note": st.sampled_from(["", "fragile"])}),
    },
}
_LEAST = st.fixed_dictionaries({"least": st.integers(0, 3)})
_JUDGED: dict[str, Any] = {
    "values": st.fixed_dictionaries(
        {name: st.sampled_from([None, *guarded.VALUES[name]]) for name in ("flag", "other_flag", "title", "label")}
        | {name: st.sampled_from([None, 0, 1, 2, 3]) for name in ("count", "size")}
    ),
    "params": {"try_": _LEAST, "finish": _LEAST},
}
_WORKERS = st.sampled_from(["one", "two"])
_WORKER = st.fixed_dictionaries({"worker": _WORKERS})
_RUN: dict[str, Any] = {
    "values": st.fixed_dictionaries(
        {"name": st.just("run"), "max_attempts": st.integers(1, 2)}, optional={"key": st.builds(lambda: str(uuid4()))}
    ),
    "params": {
        "start": st.fixed_dictionaries({"worker": _WORKERS, "lease": st.just(3600.0)}),
        "complete": _WORKER,
        "fail": st.fixed_dictionaries({"worker": _WORKERS}, optional={"error": st.just("it broke")}),
    },
}

MACHINES: dict[str, Machine] = {
    "lights": Machine(lambda: _light(lights.Crossing), lights.Base.metadata, **_LIGHT),
    "watched-lights": Machine(lambda: _light(lights.WatchedCrossing), lights.Base.metadata, **_LIGHT),
    "noted-lights": Machine(lambda: _light(NotedLights), lights.Base.metadata, **_LIGHT),
    "orders": Machine(lambda: _order(orders.OrderFlow), orders.Base.metadata, **_ORDER),
    "watched-orders": Machine(lambda: _order(orders.WatchedOrderFlow), orders.Base.metadata, **_ORDER),
    "guarded": Machine(lambda: _judged(Judged), guarded.Base.metadata, **_JUDGED),
    "watched-guarded": Machine(lambda: _judged(WatchedJudged), guarded.Base.metadata, **_JUDGED),
    "runs": Machine(lambda: run_mapping(Run), Run.metadata, **_RUN),
}
