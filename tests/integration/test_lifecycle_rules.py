"""`lifecycle_rules` on machines of this project, on each database; and what it says of rules that could not work."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Engine, String, bindparam
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, PersistenceAdapter, Transitioned
from statelatch.columns import TransitionColumns, now, state_text
from statelatch.errors import ConfigurationError
from statelatch.runs import create_tables
from statelatch.runs.model import run_mapping
from statelatch.testing import LifecycleError, lifecycle_rules
from tests import lights, orders
from tests.databases import sqlite_file

if TYPE_CHECKING:
    from pathlib import Path

    from statelatch.testing.stateful import LifecycleRules

QUICK = settings(
    max_examples=5,
    stateful_step_count=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
"""A small budget: the same few examples in each run. `python -m tests.soak rules` goes on for as long as you like."""

WORKERS = st.sampled_from(["one", "another"])


def light_mapping(machine: type[StateMachine], log: Any) -> MachineMapping:
    """Lights."""
    return MachineMapping(machine=machine, entity=lights.Light, log=log, assigns=lights.ASSIGNS)


@pytest.mark.parametrize(
    ("path", "log"),
    [("compiled", None), ("compiled", lights.LightLog), ("interpreted", lights.LightLog)],
    ids=["compiled", "compiled, log", "interpreted, log"],
)
def test_lights(database_url: URL, engine: Engine, path: str, log: Any) -> None:
    """Lights hold, compiled and interpreted, with a log and without, whatever happens to their clients."""
    lights.Base.metadata.create_all(engine)
    mapping = light_mapping(lights.PATHS[path], log)

    lifecycle_rules(mapping, lambda: PersistenceAdapter(database_url, mapping)).check(QUICK)


@pytest.mark.parametrize("path", orders.PATHS)
def test_orders(database_url: URL, engine: Engine, path: str) -> None:
    """A composite key, guards with parameters, and columns that are written by events."""
    orders.Base.metadata.create_all(engine)
    mapping = MachineMapping(machine=orders.PATHS[path], entity=orders.Order, state="stage", assigns=orders.ASSIGNS)
    small = st.integers(0, 3)
    rules = lifecycle_rules(
        mapping,
        lambda: PersistenceAdapter(database_url, mapping),
        values=st.fixed_dictionaries({"amount": small, "limit": st.none() | small, "paid": st.none() | st.booleans()}),
        params={"claim": st.fixed_dictionaries({"owner": WORKERS, "limit": small, "heir": st.none() | WORKERS})},
        changes=st.fixed_dictionaries({"owner": st.none() | WORKERS})
        | st.fixed_dictionaries({"paid": st.none() | st.booleans()}),
    )

    rules.check(QUICK)


def test_runs(database_url: URL, engine: Engine) -> None:
    """The lifecycle of a run holds: leases, cancel requests and attempts are its guards."""
    create_tables(engine)
    mapping = run_mapping()
    worker = st.fixed_dictionaries({"worker": WORKERS})
    rules = lifecycle_rules(
        mapping,
        lambda: PersistenceAdapter(database_url, mapping),
        values=st.fixed_dictionaries({"max_attempts": st.integers(1, 2)}),
        params={
            "start": st.fixed_dictionaries({"worker": WORKERS, "lease": st.sampled_from([-60.0, 60.0])}),
            "complete": worker,
            "fail": worker,
        },
        changes=st.sampled_from([{"cancel_requested_at": now()}, {"cancel_requested_at": None}]),
    )

    rules.check(QUICK)


def sqlite_lights(folder: Path, kind: type[PersistenceAdapter] = PersistenceAdapter) -> type[LifecycleRules]:
    """Rules for lights in a file."""
    url, mapping = sqlite_file(folder), light_mapping(lights.Crossing, lights.LightLog)
    with PersistenceAdapter(url, mapping) as adapter:
        lights.Base.metadata.create_all(adapter.engine)
    return lifecycle_rules(mapping, lambda: kind(url, mapping))


class Deaf(PersistenceAdapter):
    """It does not listen to the version that is asked for."""

    def send(self, key: Any, event: str, *, expected_version: int | None = None, **more: Any) -> Transitioned:
        """Send it to any version."""
        return super().send(key, event, **more)


def test_a_broken_adapter_is_found(tmp_path: Path) -> None:
    """An adapter that forgets the version fails, with a program that shows it."""
    quick = settings(QUICK, max_examples=50, phases=[Phase.generate])  # Hypothesis would look for the shortest, too

    with pytest.raises(LifecycleError, match=r"at version \d+: expected (nothing written|another answer)") as error:
        sqlite_lights(tmp_path, Deaf).check(quick)

    program = "\n".join(error.value.__notes__)
    assert "state = CrossingRules()\n" in program
    assert re.search(r"rows_0 = state\.create\(((client=\d|mishap=None|values={})(, )?){3}\)\n", program)
    assert re.search(r"state\.(send|advance|stumble|race)\(.*Asked\(.*rows_\d", program)


def test_they_are_a_test_case(tmp_path: Path) -> None:
    """`TestCase` is a test for unittest and pytest, whose `settings` can be set; its clients are closed in the end."""
    rules = sqlite_lights(tmp_path)
    case: Any = rules.TestCase
    case.settings = settings(QUICK, max_examples=3)

    result = case().run()

    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["statelatch.db"]  # no WAL: nobody is connected


def test_there_is_a_rule_for_each_step(tmp_path: Path) -> None:
    """Each step of a world has one, by whose name it is printed."""
    marked: Any = vars(sqlite_lights(tmp_path)).values()
    found = {each.__name__ for each in marked if hasattr(each, "hypothesis_stateful_rule")}

    assert found >= {"create", "load", "repeat", "change", "send", "send_batch", "send_to_nobody"}


class Endless(StateMachine):
    """Goes round."""

    green = State(initial=True)
    red = State()

    turn = green.to(red) | red.to(green)


class Base(DeclarativeBase):
    """Base of the entity here."""


class Strict(TransitionColumns, Base):
    """A row with a column that nobody fills."""

    __tablename__ = "strict"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    broken: Mapped[bool | None]
    owner: Mapped[str] = mapped_column(String(8))


BY: dict[str, dict[str, object]] = {"end": {"owner": bindparam("by")}}
STRICT = MachineMapping(machine=lights.Crossing, entity=Strict, assigns=BY)
ENDLESS = MachineMapping(machine=Endless, entity=lights.Light)
LIGHTS = light_mapping(lights.Crossing, None)
OWNER: Any = st.just({"owner": "me"})


@pytest.mark.parametrize(
    ("mapping", "options", "message"),
    [
        (ENDLESS, {}, "Endless has no terminal state.*declare at least one"),
        (STRICT, {}, r"values: strict requires owner.*values=st\.fixed_dictionaries\({'owner': \.\.\.}\)"),
        (STRICT, {"values": OWNER}, r"the event 'end' needs by; .*params={'end': st\.fixed_dictionaries\({'by'"),
        (LIGHTS, {"params": {"begin": OWNER}}, "Crossing has no event 'begin'; it has step, stop, blink, end"),
        (LIGHTS, {"clients": 0}, "clients: expected a whole number, at least one, found 0"),
    ],
)
def test_rules_that_could_not_work_are_refused(mapping: MachineMapping, options: Any, message: str) -> None:
    """What would fail in the middle is told when the rules are made, with what to pass instead."""
    with pytest.raises(ConfigurationError, match=message):
        lifecycle_rules(mapping, lambda: pytest.fail("no adapter is needed"), **options)


def test_what_only_shows_in_an_example_is_told_there(tmp_path: Path) -> None:
    """Values that lack a column, or break a constraint each time, and a factory of another mapping's adapters."""
    url = sqlite_file(tmp_path)
    with PersistenceAdapter(url, STRICT) as adapter:
        Base.metadata.create_all(adapter.engine)
        adapter.create(id=1, owner="me")
    by = {"end": st.just({"by": "me"})}

    def rules(values: dict[str, Any], mapping: MachineMapping = STRICT) -> type[LifecycleRules]:
        return lifecycle_rules(STRICT, lambda: PersistenceAdapter(url, mapping), values=st.just(values), params=by)

    for one, message in (
        (rules({}), "expected a value for owner, which strict requires"),
        (rules({"owner": "me", "id": 1}), "it breaks a constraint.*leave out the key"),
        (rules({"owner": "me", "colour": 1}), "RequestError"),
        (rules({"owner": "me"}, light_mapping(lights.Crossing, None)), "adapter of the mapping that the rules"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            one.check(settings(QUICK, phases=[Phase.generate]))


def test_without_hypothesis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit needs Hypothesis for the rules alone, and says what brings it."""
    monkeypatch.delitem(sys.modules, "statelatch.testing.stateful", raising=False)
    monkeypatch.setitem(sys.modules, "hypothesis", None)

    with pytest.raises(ImportError, match=r"pip install 'statelatch\[testing\]'"):
        lifecycle_rules(LIGHTS, lambda: pytest.fail("no adapter is needed"))


def test_the_kit_is_imported_without_what_only_a_part_of_it_needs() -> None:
    """`statelatch.testing` imports neither Hypothesis nor pytest."""
    program = (
        "import sys, statelatch.testing; print([name for name in ('hypothesis', 'pytest') if name in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"
