"""`lifecycle_rules` on one machine after the other, over engines and URLs, with new seeds, until the time is over."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant
from sqlalchemy import URL, Engine, create_engine

from statelatch import PersistenceAdapter
from statelatch.testing.injector import FaultInjector
from statelatch.testing.rules import lifecycle_rules
from tests.soak.machines import MACHINES, Machine

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from statelatch import MachineMapping
    from statelatch.commands import Plan
    from statelatch.testing.fault import Fault
    from statelatch.testing.injected import Injected
    from statelatch.testing.stateful import LifecycleRules

__all__ = ["Examples", "soak_rules"]

Result = TypeVar("Result")

SETTINGS = settings(
    max_examples=15,
    stateful_step_count=25,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    phases=[Phase.generate, Phase.shrink],
)


@dataclass
class Examples:
    """What happened in all of them.

    Attributes:
        machines: how many examples of each machine.
        steps: how many there were in all examples.
        answers: how often each kind was told.
        faults: how often a call was struck by each kind.
    """

    machines: Counter[str] = field(default_factory=Counter[str])
    steps: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])


def soak_rules(
    url: URL, seconds: float, first_seed: int, machines: Sequence[str], examples: Examples, *, quick: bool = False
) -> None:
    """Repeat the rules until the time is over.

    Args:
        url: a database in which the machines' tables are made, if they are not there.
        seconds: how long.
        first_seed: of the random numbers.
        machines: names of `MACHINES`.
        examples: what happened is added here.
        quick: tell the first mistake, without a search for the smallest program that shows it.

    Raises:
        LifecycleError: an answer was wrong; Hypothesis has printed the program that shows it.
    """
    draw, end = random.Random(first_seed), time.monotonic() + seconds
    with ExitStack() as stack:
        rules: list[type[LifecycleRules]] = []
        for name in machines:
            engine = create_engine(url)
            stack.callback(engine.dispose)
            MACHINES[name].create_tables(engine)
            mapping = MACHINES[name].mapping()
            rules += [_counted(name, MACHINES[name], source, mapping, examples) for source in (engine, url)]
        while time.monotonic() < end:
            each = draw.choice(rules)
            seed(draw.randrange(2**32))(each)
            with _counted_faults(examples.faults):
                each.check(settings(SETTINGS, phases=[Phase.generate]) if quick else SETTINGS)


def _counted(
    name: str,
    machine: Machine,
    source: Engine | URL,
    mapping: MachineMapping,
    examples: Examples,
) -> type[LifecycleRules]:
    """The rules of this machine, counting what they do."""
    rules = lifecycle_rules(
        mapping, lambda: CountedAdapter(source, mapping, examples), values=machine.values, params=machine.params
    )

    class Counted(rules):
        def __init__(self) -> None:
            super().__init__()
            examples.machines[name] += 1

        @invariant()
        def step_is_counted(self) -> None:
            examples.steps += 1

    return Counted


class CountedAdapter(PersistenceAdapter):
    """An adapter that counts its answers."""

    def __init__(self, source: Engine | URL, mapping: MachineMapping, examples: Examples) -> None:
        super().__init__(source, mapping)
        self._examples = examples

    def run(self, plan: Plan[Result]) -> Result:
        """Count what a plan returns or raises."""
        try:
            answer = super().run(plan)
        except BaseException as error:
            self._examples.answers[type(error).__name__] += 1
            raise
        self._examples.answers[type(answer).__name__] += 1
        return answer


@contextmanager
def _counted_faults(faults: Counter[str]) -> Generator[None]:
    """Count what injectors strike; they do what they do otherwise."""
    inject = FaultInjector.inject
    planned: list[tuple[str, Injected]] = []

    def counted(self: FaultInjector, fault: Fault, **options: Any) -> Injected:
        injected = inject(self, fault, **options)
        planned.append((f"{fault}, the process dies" if options.get("dies") else str(fault), injected))
        return injected

    FaultInjector.inject = counted  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        FaultInjector.inject = inject
        for name, injected in planned:
            faults[name] += injected.fired
