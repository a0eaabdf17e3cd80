"""The rules of `lifecycle_rules` for Hypothesis: what is drawn for each step of a `World`. Nothing is checked here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import TestCase

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from statelatch.errors import ConfigurationError
from statelatch.testing.mishaps import Change, Mishap, Overtaking, mishaps
from statelatch.testing.oracle import Moves, foretell, leaves
from statelatch.testing.rows import Asked, Attempt, Row, Version
from statelatch.testing.world import World

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping

    from hypothesis.strategies import DrawFn, SearchStrategy

    from statelatch.mapping import MachineMapping
    from statelatch.testing.clients import Clients
    from statelatch.testing.fault import Fault

__all__ = ["LifecycleRules", "rules_of"]

Drawn = dict[str, Any]
Step = Callable[..., Any]

ROWS: Bundle[Row] = Bundle("rows")
ATTEMPTS: Bundle[Attempt] = Bundle("attempts")
VERSIONS = st.sampled_from([Version.ANY, Version.ANY, Version.CURRENT, Version.SEEN, Version.STALE, Version.AHEAD])
RIGHT = st.sampled_from([Version.ANY, Version.CURRENT])

WEIGHT = 3
"""How many times a rule is there that sends an event, or makes a new row when all are at their end; others are once.

Hypothesis takes each as often as any other, and leaves some out by their names. So they are several also by name.
"""

LEADING_ON = 3
"""How many times more often a row leads on than to its end, where it can do both; or it would seldom come far."""

ENOUGH = 20
"""So many events are sent before it is an error that none of them was applied."""


@dataclass
class Tally:
    """What all examples of a run have done.

    Attributes:
        sent: how many events.
        applied: how many transitions there were.
    """

    sent: int = 0
    applied: int = 0


class LifecycleRules(RuleBasedStateMachine):
    """What all rules have in common; `lifecycle_rules` makes a subclass for a mapping."""

    mapping: ClassVar[MachineMapping]
    clients: ClassVar[Clients]
    count: ClassVar[int]
    tally: ClassVar[Tally]

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
            ConfigurationError: no example could be run with what was drawn, or no event was applied in any of them.
        """
        with _running(cls):
            run_state_machine_as_test(cls, settings=settings or cls.TestCase.settings)

    @invariant()
    def rows_are_as_they_were_left(self) -> None:
        """Nobody has touched a row to which nothing was sent."""
        self.world.check()

    def teardown(self) -> None:
        """The clients work on in the next example."""
        self.tally.applied += sum(row.stored.version - 1 for row in self.world.rows)
        self.world.leave()


@contextmanager
def _running(rules: type[LifecycleRules]) -> Generator[None]:
    """From the first example to the last: keep the clients, and see that something was shown."""
    tally = rules.tally
    tally.sent = tally.applied = 0
    with rules.clients.kept():
        yield
    if tally.sent >= ENOUGH and not tally.applied:
        raise ConfigurationError(
            f"values, params: none of the {tally.sent} events that were sent to {rules.mapping.machine.__name__} was "
            "applied, so that nothing was shown: its guards were false, or its callbacks raised something, each time; "
            "draw values, params or changes with which they do not"
        )


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
    others: SearchStrategy[Overtaking | Change] = _taken(mapping, params).map(
        lambda asked: Overtaking(asked.event, asked.params)
    )
    if changes is not None:
        others |= st.builds(Change, changes)
    client = st.integers(0, count - 1)
    steps = [*_making(values, client, faults), *_sending(mapping, params, client, faults, others)]
    steps += [
        rule(client=client, row=ROWS, mishap=_seldom(_mishap(faults, "SELECT")))(_load),
        rule(client=client, attempt=ATTEMPTS)(_repeat),
    ]
    if changes is not None:
        steps.append(rule(row=ROWS, values=changes)(_change))
    body: dict[str, Any] = {
        "__doc__": f"Rules of {mapping.machine.__name__} on {mapping.table}.",
        "mapping": mapping,
        "clients": clients,
        "count": count,
        "tally": Tally(),
        **{f"rule_{number}": each for number, each in enumerate(steps)},  # they are printed by their functions' names
    }
    made = type(f"{mapping.machine.__name__}Rules", (LifecycleRules,), body)
    type.__setattr__(made, "TestCase", _test_case(made))
    return made


def _making(values: SearchStrategy[Drawn], client: SearchStrategy[int], faults: Collection[Fault]) -> list[Step]:
    """The rules that make rows: one in the beginning, and more, mostly when all are at their end."""
    create = rule(target=ROWS, client=client, values=values, mishap=_seldom(_mishap(faults, "INSERT")))(_create)
    return [
        # Hypothesis leaves rules out at random; without a row no other could be run, and the example would be wasted
        initialize(target=ROWS, client=client, mishap=st.none(), values=values)(_create),
        create,
        *[precondition(lambda self: not _open(self.world))(create)] * WEIGHT,
    ]


def _sending(
    mapping: MachineMapping,
    params: Mapping[str, SearchStrategy[Drawn]],
    client: SearchStrategy[int],
    faults: Collection[Fault],
    others: SearchStrategy[Overtaking | Change],
) -> list[Step]:
    """The rules that send events: what a row takes, for rows that are not at their end; and anything."""
    takes = _taken(mapping, params)
    anything = _anything(params)
    unseen = st.one_of(*(st.tuples(st.just(event), drawn) for event, drawn in params.items()))
    mishap, other = _mishap(faults, "UPDATE", "SELECT", "INSERT"), st.none() | others
    sent: Drawn = {"target": ATTEMPTS, "client": client, "own_token": st.booleans()}
    moving: list[Step] = [
        rule(**sent, asked=takes)(_send_as("advance")),
        rule(**sent, asked=takes, mishap=mishap, overtaken_by=_seldom(other))(_send_as("stumble")),
        rule(**sent, asked=takes, overtaken_by=other)(_send_as("race")),
    ]
    requests = st.lists(takes | anything, min_size=1, max_size=5)
    any_: list[Step] = [
        rule(**sent, asked=anything, mishap=_seldom(mishap), overtaken_by=_seldom(other))(_send_as("send"))
    ] * WEIGHT
    any_ += [rule(client=client, requests=requests, mishap=_seldom(_mishap(faults, "UPDATE")))(_send_batch)]
    return [
        *[precondition(lambda self: bool(_open(self.world)))(each) for each in moving] * WEIGHT,
        *[precondition(lambda self: bool(self.world.rows))(each) for each in any_],
        rule(client=client, unseen=unseen)(_send_to_nobody),
    ]


@st.composite
def _anything(draw: DrawFn, params: Mapping[str, SearchStrategy[Drawn]]) -> Asked:
    """Any event, whatever row and version it is for."""
    row, event = draw(ROWS), draw(st.sampled_from([*params]))
    return Asked(row, event, draw(params[event]), draw(VERSIONS))


@st.composite
def _taken(draw: DrawFn, mapping: MachineMapping, params: Mapping[str, SearchStrategy[Drawn]]) -> Asked:
    """An event that a row takes, as it is now; any that leaves its state, or any at all, if there is none."""
    world: World = draw(st.runner()).world
    row = draw(st.sampled_from(_open(world) or world.rows))
    leaving = [event for event in params if leaves(mapping, row.stored.state, event)]
    taken: list[Asked] = []
    for event in leaving:
        asked = Asked(row, event, draw(params[event]))
        foretold = foretell(mapping, row.stored.values, event, asked.params)
        if isinstance(foretold, Moves):
            taken += [asked] * (1 if mapping.states[foretold.target].final else LEADING_ON)
    if not taken:
        event = draw(st.sampled_from(leaving or [*params]))
        taken = [Asked(row, event, draw(params[event]))]
    return replace(draw(st.sampled_from(taken)), version=draw(RIGHT))


def _open(world: World) -> list[Row]:
    """The rows that have not come to their end."""
    return [row for row in world.rows if not world.mapping.states[row.stored.state].final]


def _mishap(faults: Collection[Fault], *at: str) -> SearchStrategy[Mishap | None]:
    return st.sampled_from([None, *mishaps(faults, at)])


def _seldom(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Most calls are left in peace, or no row would ever come far."""
    return st.none() | st.none() | strategy


def _test_case(rules: type[LifecycleRules]) -> type[TestCase]:
    """The test of these rules, which keeps its clients from the first example to the last."""
    plain: Any = rules.TestCase

    class LifecycleTestCase(plain):
        def runTest(self) -> None:  # noqa: N802  unittest's name
            with _running(rules):
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


@_named("send_to_nobody")
def _send_to_nobody(self: LifecycleRules, client: int, unseen: tuple[str, Drawn]) -> None:
    self.world.send_to_nobody(client, *unseen)


@_named("change")
def _change(self: LifecycleRules, row: Row, values: Drawn) -> None:
    self.world.change(row, values)


@_named("send_batch")
def _send_batch(self: LifecycleRules, client: int, requests: list[Asked], mishap: Mishap | None) -> None:
    self.tally.sent += len(requests)
    self.world.send_batch(client, requests, mishap)


def _send_as(name: str) -> Callable[..., Any]:
    """A step that sends an event."""

    @_named(name)
    def send(self: LifecycleRules, *, client: int, asked: Asked, **more: Any) -> Any:
        self.tally.sent += 1
        attempt = self.world.send(client, asked, **more)
        return _nothing() if attempt is None else attempt

    return send


def _nothing() -> Any:
    """No value for a bundle."""
    return multiple()  # pyright: ignore[reportUnknownVariableType]
