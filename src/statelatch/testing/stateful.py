"""The rules of `lifecycle_rules` for Hypothesis: what is drawn for each step of a `World`. Nothing is checked here."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from unittest import TestCase

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from statelatch.testing.mishaps import Change, Mishap, Overtaking, mishaps
from statelatch.testing.rows import Asked, Attempt, Row, Version
from statelatch.testing.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from hypothesis.strategies import SearchStrategy

    from statelatch.mapping import MachineMapping
    from statelatch.testing.clients import Clients
    from statelatch.testing.fault import Fault

__all__ = ["LifecycleRules", "rules_of"]

Drawn = dict[str, Any]
Step = TypeVar("Step", bound="Callable[..., Any]")

ROWS: Bundle[Row] = Bundle("rows")
ATTEMPTS: Bundle[Attempt] = Bundle("attempts")
VERSIONS = st.sampled_from([Version.ANY, Version.ANY, Version.ANY, Version.SEEN, Version.STALE, Version.AHEAD])


class LifecycleRules(RuleBasedStateMachine):
    """What all rules have in common; `lifecycle_rules` makes a subclass for a mapping."""

    mapping: ClassVar[MachineMapping]
    clients: ClassVar[Clients]
    count: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.mapping, self.clients, self.count)

    @classmethod
    def check(cls, settings: hypothesis_settings | None = None) -> None:
        """Run the rules within a test of yours, which has made the database.

        Args:
            settings: of Hypothesis: how many examples, how many steps.

        Raises:
            LifecycleError: an answer was wrong; the program that shows it is printed.
        """
        with cls.clients.kept():
            run_state_machine_as_test(cls, settings=settings or cls.TestCase.settings)

    @invariant()
    def rows_are_as_they_were_left(self) -> None:
        """Nobody has touched a row to which nothing was sent."""
        self.world.check()

    def teardown(self) -> None:
        """The clients work on in the next example."""
        self.world.leave()


def rules_of(
    mapping: MachineMapping,
    clients: Clients,
    *,
    values: SearchStrategy[Drawn],
    params: Mapping[str, SearchStrategy[Drawn]],
    changes: SearchStrategy[Drawn] | None,
    faults: Collection[Fault],
    count: int,
) -> type[LifecycleRules]:
    """The rules of a mapping: a class for Hypothesis.

    Args:
        mapping: the machine and the entity.
        clients: where clients come from.
        values: columns of a new row.
        params: parameters of each event.
        changes: columns that others write, which is no transition.
        faults: what may go wrong.
        count: how many clients there are.
    """
    client = st.integers(0, count - 1)
    others = st.one_of(*(st.builds(partial(Overtaking, event), drawn) for event, drawn in params.items()))
    if changes is not None:
        others |= st.builds(Change, changes)
    mishap, other = _mishap(faults, "UPDATE", "SELECT", "INSERT"), _seldom(others)
    asked = {event: st.builds(Asked, ROWS, st.just(event), drawn, VERSIONS) for event, drawn in params.items()}
    body: dict[str, Any] = {
        "__doc__": f"Rules of {mapping.machine.__name__} on {mapping.table}.",
        "mapping": mapping,
        "clients": clients,
        "count": count,
        # Hypothesis leaves rules out at random; without a row no other could be run, and the example would be wasted
        "first": initialize(target=ROWS, client=client, mishap=st.none(), values=values)(_create),
        "create": rule(target=ROWS, client=client, values=values, mishap=_mishap(faults, "INSERT"))(_create),
        "load": rule(client=client, row=ROWS, mishap=_mishap(faults, "SELECT"))(_load),
        "repeat": rule(client=client, attempt=ATTEMPTS)(_repeat),
        "send_batch": rule(
            client=client,
            requests=st.lists(st.one_of(*asked.values()), min_size=1, max_size=5),
            mishap=_mishap(faults, "UPDATE"),
        )(_send_batch),
    }
    if changes is not None:
        body["change"] = rule(row=ROWS, values=changes)(_change)
    for event, drawn in params.items():
        step = _sending(event)
        body[step.__name__] = rule(
            target=ATTEMPTS,
            client=client,
            row=ROWS,
            params=drawn,
            version=VERSIONS,
            own_token=st.booleans(),
            mishap=mishap,
            overtaken_by=other,
        )(step)
    made = type(f"{mapping.machine.__name__}Rules", (LifecycleRules,), body)
    type.__setattr__(made, "TestCase", _test_case(made))
    return made


def _mishap(faults: Collection[Fault], *at: str) -> SearchStrategy[Mishap | None]:
    found = mishaps(faults, at)
    return _seldom(st.sampled_from(found)) if found else st.none()


def _seldom(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Most calls are left in peace, or no row would ever come far."""
    return st.none() | st.none() | strategy


def _test_case(rules: type[LifecycleRules]) -> type[TestCase]:
    """The test of these rules, which keeps its clients from the first example to the last."""
    plain: Any = rules.TestCase

    class LifecycleTestCase(plain):
        def runTest(self) -> None:  # noqa: N802  unittest's name
            with rules.clients.kept():
                plain.runTest(self)

    vars(LifecycleTestCase)["runTest"].is_hypothesis_test = True  # what Hypothesis' pytest plugin looks for
    LifecycleTestCase.__name__, LifecycleTestCase.__qualname__ = plain.__name__, plain.__qualname__
    return LifecycleTestCase


# -- the steps, each a method of the class; Hypothesis prints them by their names ----------------------------------


def _named(name: str) -> Callable[[Step], Step]:
    def named(step: Step) -> Step:
        step.__name__ = step.__qualname__ = name
        return step

    return named


@_named("create")
def _create(self: LifecycleRules, client: int, values: Drawn, mishap: Mishap | None) -> Any:
    row = self.world.create(client, values, mishap)
    return _nothing() if row is None else row


@_named("load")
def _load(self: LifecycleRules, client: int, row: Row, mishap: Mishap | None) -> None:
    self.world.load(client, row, mishap)


@_named("repeat")
def _repeat(self: LifecycleRules, client: int, attempt: Attempt) -> None:
    self.world.repeat(client, attempt)


@_named("change")
def _change(self: LifecycleRules, row: Row, values: Drawn) -> None:
    self.world.change(row, values)


@_named("send_batch")
def _send_batch(self: LifecycleRules, client: int, requests: list[Asked], mishap: Mishap | None) -> None:
    self.world.send_batch(client, requests, mishap)


def _sending(event: str) -> Callable[..., Any]:
    """The step that sends this event."""

    @_named(f"send_{re.sub('[^0-9A-Za-z_]', '_', event)}")
    def send(self: LifecycleRules, *, client: int, row: Row, params: Drawn, version: Version, **more: Any) -> Any:
        attempt = self.world.send(client, Asked(row, event, params, version), **more)
        return _nothing() if attempt is None else attempt

    return send


def _nothing() -> Any:
    """No value for a bundle."""
    return multiple()  # pyright: ignore[reportUnknownVariableType]
