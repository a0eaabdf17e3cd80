"""What really happened: behaviours 16 to 20, 22 and 23 of a send, a create and a last word, with real faults.

Each runs over an adapter by URL and one with an engine, compiled and interpreted, with and without a log. Whatever the
fault: an answer says what the row says, an event that was sent once is applied once, and a hook is called once for it.
"""

import re
from collections.abc import Callable, Generator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from statelatch import (
    ConnectionFailureError,
    OutcomeUnknownError,
    OvertakenError,
    PersistenceAdapter,
    Request,
    StaleVersionError,
    TransitionRefusedError,
)
from statelatch.errors import Phase
from statelatch.runs import Outcome, RunManager
from statelatch.testing import Fault, FaultInjector, Injected
from tests.ambiguity import KINDS, Kind, Lights, commits_with, mapping_of, of_kind, opened, skipped
from tests.databases import on
from tests.lights import PATHS, light_adapter
from tests.runs import NEVER, PATIENCE, nothing

servers = on("postgresql", "mariadb")

LANDED = pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Whose engine it is, whether events are compiled, whether there is a log."""
    return request.param


@pytest.fixture
def lights(engine: Engine, kind: Kind) -> Generator[Lights]:
    """Lights of each kind."""
    with opened(engine.url, kind, engine) as lights:
        yield lights


@pytest.fixture
def injector(lights: Lights) -> Generator[FaultInjector]:
    """Of the adapter that sends."""
    with FaultInjector(lights.sent_by) as injector:
        yield injector


# -- 16: nothing was written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.DIE_BEFORE_EXECUTE, Fault.DIE_AFTER_EXECUTE], ids=str)
def test_a_connection_that_fails_before_commit(lights: Lights, injector: FaultInjector, fault: Fault) -> None:
    """16: refused, or cut before or after the UPDATE: its phase is told and nothing is written.

    Where the UPDATE is its own COMMIT, it is verified instead, and applied once.
    """
    ambiguous = commits_with(lights) == "UPDATE" and fault is not Fault.REFUSE

    with injector.inject(fault) as injected:
        if ambiguous:
            assert lights.sent_by.send(1, "step").version == 2
        else:
            with pytest.raises(ConnectionFailureError) as caught:
                lights.sent_by.send(1, "step")
            phase = Phase.CONNECT if fault is Fault.REFUSE else Phase.EXECUTE
            assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, phase)

    written = 1 if ambiguous else 0
    assert (injected.fired, lights.row, len(lights.hooked)) == (1, lights.path[written], written)
    assert lights.entries == lights.path[: 1 + written]


# -- 17, 18: the acknowledgement of COMMIT is lost ----------------------------------------------------------------


@LANDED
@pytest.mark.parametrize("expected_version", [None, 1])
def test_a_lost_commit(lights: Lights, injector: FaultInjector, landed: bool, expected_version: int | None) -> None:
    """17, 18: what has landed is found and what has not is done again, with the same token: applied, once."""
    fault = Fault.LOSE_ACKNOWLEDGEMENT if landed else Fault.DIE_BEFORE_EXECUTE
    with injector.inject(fault, statement=commits_with(lights), skip=skipped(lights)) as injected:
        done = lights.sent_by.send(1, "step", expected_version=expected_version)

    assert (injected.fired, done.source, done.target, done.version) == (1, "green", "yellow", 2)
    assert (lights.row, lights.entries, lights.hooked) == (("yellow", 2), lights.path[:2], [done])
    assert lights.seen_by.load(1).values["transition_token"] == done.token


@of_kind("compiled")
@LANDED
def test_a_lost_create(lights: Lights, injector: FaultInjector, landed: bool) -> None:
    """17, 18 of an INSERT: one row, at version 1, whether it is found or inserted again."""
    fault = Fault.LOSE_ACKNOWLEDGEMENT if landed else Fault.DIE_BEFORE_EXECUTE
    with injector.inject(fault, statement="COMMIT") as injected:
        snapshot = lights.sent_by.create(id=9)

    assert (injected.fired, snapshot.state, snapshot.version) == (1, "green", 1)
    assert lights.seen_by.load(9) == snapshot


@of_kind("compiled")
@LANDED
def test_a_lost_batch(lights: Lights, injector: FaultInjector, landed: bool) -> None:
    """17, 18 of a batch: each of its requests is applied once, and answered."""
    fault = Fault.LOSE_ACKNOWLEDGEMENT if landed else Fault.DIE_BEFORE_EXECUTE
    reads_back = lights.sent_by.lines.engine.dialect.name == "mariadb"  # so that its batch is always a transaction
    commit = "COMMIT" if reads_back else commits_with(lights)
    with injector.inject(fault, statement=commit) as injected:
        answers = lights.sent_by.send_batch([Request(1, "step", 1), Request(2, "step", 2)])

    assert (injected.fired, [getattr(answer, "version", answer) for answer in answers]) == (1, [2, 3])
    assert [lights.seen_by.load(key).version for key in (1, 2)] == [2, 3]
    assert lights.entries == lights.path[:2]


@of_kind("compiled")
def test_the_same_commit_is_lost_twice(lights: Lights, injector: FaultInjector) -> None:
    """18: not landed, and sent again, and then its acknowledgement is lost as well: applied once."""
    commit = commits_with(lights)
    with (
        injector.inject(Fault.DIE_BEFORE_EXECUTE, statement=commit) as first,
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, statement=commit) as second,
    ):
        done = lights.sent_by.send(1, "step")

    assert (first.fired, second.fired, done.version) == (1, 1, 2)
    assert (lights.row, lights.entries, lights.hooked) == (("yellow", 2), lights.path[:2], [done])


# -- 19: another writer in between --------------------------------------------------------------------------------

ASKED = {"sqlite": "SELECT", "postgresql": re.compile("FOR UPDATE"), "mariadb": re.compile("FOR UPDATE")}


def overtaking(lights: Lights, injector: FaultInjector, action: Callable[[], object]) -> Injected:
    """Another writer does this, before it is asked what became of the first."""
    interpreted = not lights.sent_by.explain("step").compiled
    dialect = lights.sent_by.lines.engine.dialect.name
    skip = 1 if interpreted and dialect == "sqlite" else 0  # the reading of the row
    return injector.before(ASKED[dialect], action, skip=skip)


@pytest.mark.parametrize("expected_version", [None, 1])
def test_it_landed_and_another_moved_on(lights: Lights, injector: FaultInjector, expected_version: int | None) -> None:
    """19: the log knows that it was applied; without one nobody can know, and that is said."""
    statement, skip = commits_with(lights), skipped(lights)
    with (
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, statement=statement, skip=skip) as injected,
        overtaking(lights, injector, lambda: lights.seen_by.send(1, "step")) as overtaken,
    ):
        if lights.sent_by.mapping.log is None:
            with pytest.raises(OutcomeUnknownError) as caught:
                lights.sent_by.send(1, "step", expected_version=expected_version)
            read = None if lights.sent_by.explain("step").compiled else 1
            error, asked_for = caught.value, expected_version or read
            assert (error.key, error.event, error.expected_version) == (1, "step", asked_for)
        else:
            done = lights.sent_by.send(1, "step", expected_version=expected_version)
            assert (done.target, done.version, lights.hooked) == ("yellow", 2, [done])

    assert (injected.fired, overtaken.fired) == (1, 1)
    assert (lights.row, lights.entries) == (("red", 3), lights.path)


def test_it_did_not_land_and_another_was_faster(lights: Lights, injector: FaultInjector) -> None:
    """19: it is stale, and nothing of it is written."""
    statement, skip = commits_with(lights), skipped(lights)
    with (
        injector.inject(Fault.DIE_BEFORE_EXECUTE, statement=statement, skip=skip) as injected,
        overtaking(lights, injector, lambda: lights.seen_by.send(1, "step")) as overtaken,
        pytest.raises(StaleVersionError) as caught,
    ):
        lights.sent_by.send(1, "step", expected_version=1)

    assert (caught.value.expected_version, caught.value.actual_version) == (1, 2)
    assert (injected.fired, overtaken.fired, lights.hooked) == (1, 1, [])
    assert (lights.row, lights.entries) == (("yellow", 2), lights.path[:2])


@of_kind("compiled")
@LANDED
def test_a_terminal_state_is_exact_without_a_log(lights: Lights, injector: FaultInjector, landed: bool) -> None:
    """19: nobody overwrites the token of a terminal state, so the loser is refused, and the winner is told."""

    def other() -> None:
        if landed:
            with pytest.raises(TransitionRefusedError):
                lights.seen_by.send(1, "end")
        else:
            lights.seen_by.send(1, "end")

    fault = Fault.LOSE_ACKNOWLEDGEMENT if landed else Fault.DIE_BEFORE_EXECUTE
    with (
        injector.inject(fault, statement=commits_with(lights), skip=skipped(lights)) as injected,
        overtaking(lights, injector, other) as overtaken,
    ):
        if landed:
            assert lights.sent_by.send(1, "end").version == 2
        else:
            with pytest.raises(TransitionRefusedError):
                lights.sent_by.send(1, "end")

    assert (injected.fired, overtaken.fired, lights.row) == (1, 1, ("off", 2))
    assert len(lights.hooked) == landed


@of_kind("compiled", "no log")
def test_a_row_that_is_gone(lights: Lights, injector: FaultInjector, engine: Engine) -> None:
    """19: somebody has deleted it meanwhile: that nothing was written would be a lie."""

    def delete() -> None:
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM light WHERE id = 1"))

    with (
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, statement=commits_with(lights)) as injected,
        overtaking(lights, injector, delete) as deleted,
        pytest.raises(OvertakenError, match="gone"),
    ):
        lights.sent_by.send(1, "step")

    assert (injected.fired, deleted.fired) == (1, 1)


# -- 20: nobody can be asked --------------------------------------------------------------------------------------


@LANDED
def test_nobody_answers(lights: Lights, injector: FaultInjector, landed: bool) -> None:
    """20: the outcome is unknown, with what is needed to ask later; then the answer is exact, and repeating is safe."""
    fault = Fault.LOSE_ACKNOWLEDGEMENT if landed else Fault.DIE_BEFORE_EXECUTE
    with (
        injector.inject(fault, statement=commits_with(lights), skip=skipped(lights)) as injected,
        injector.inject(Fault.REFUSE, skip=1, times=99, must_fire=False) as refused,
        pytest.raises(OutcomeUnknownError) as caught,
    ):
        lights.sent_by.send(1, "step")
    error = caught.value

    assert (injected.fired, refused.fired > 0, error.phase, error.key) == (1, True, Phase.COMMIT, 1)
    assert error.token is not None
    assert lights.hooked == []
    asked = {"event": error.event, "expected_version": error.expected_version}
    assert lights.sent_by.verify(error.token, error.key, **asked) is landed  # pyright: ignore[reportArgumentType]
    again = [lights.sent_by.send(1, "step", token=error.token).version for _ in range(2)]
    assert (again, lights.row, lights.entries) == ([2, 2], ("yellow", 2), lights.path[:2])
    assert lights.seen_by.verify(error.token, error.key) is True


@of_kind("engine")
def test_what_is_done_again_fails_as_well(lights: Lights, injector: FaultInjector) -> None:
    """20: after a COMMIT that was lost, a later failure is no proof that nothing was written: ask later, or repeat."""
    with (
        injector.inject(Fault.DIE_BEFORE_COMMIT) as lost,
        injector.inject(Fault.DIE_BEFORE_EXECUTE, skip=1) as failed,
        pytest.raises(OutcomeUnknownError) as caught,
    ):
        lights.sent_by.send(1, "step")
    token = caught.value.token

    assert (lost.fired, failed.fired, lights.hooked) == (1, 1, [])
    assert token is not None
    assert lights.sent_by.verify(token, 1, event="step") is False
    assert lights.sent_by.send(1, "step", token=token).version == 2
    assert (lights.row, lights.entries) == (("yellow", 2), lights.path[:2])


# -- 22, 23: contention is no failure -----------------------------------------------------------------------------


@of_kind("compiled")
def test_a_short_lock(lights: Lights, injector: FaultInjector) -> None:
    """22: it is waited for, and the UPDATE is sent once."""
    with (
        injector.inject(Fault.LOCK, seconds=0.05) as injected,
        injector.before("UPDATE", nothing, times=9, must_fire=False) as sent,
    ):
        done = lights.sent_by.send(1, "step")

    assert (injected.fired, sent.fired, done.version) == (1, 1, 2)
    assert (lights.row, lights.hooked) == (("yellow", 2), [done])


def test_a_short_lock_needs_no_fallback(runs_engine: Engine) -> None:
    """22 of a last word: the primary writes it."""
    with (
        FaultInjector(runs_engine) as injector,
        RunManager(runs_engine, fallbacks=[runs_engine.url], heartbeat=NEVER) as manager,
        injector.inject(Fault.LOCK, statement="UPDATE", skip=1, seconds=0.1) as injected,
    ):
        said = manager.start(nothing).wait(PATIENCE)

    assert (injected.fired, said.outcome, said.via) == (1, Outcome.APPLIED, "primary")


@of_kind("engine")
@pytest.mark.parametrize("fault", [Fault.SERIALIZATION_FAILURE, Fault.DISK_FULL], ids=str)
def test_a_transaction_that_is_broken_off(lights: Lights, injector: FaultInjector, fault: Fault) -> None:
    """23: the database's own error, once: begun anew, and applied once."""
    with injector.inject(fault) as injected:
        done = lights.sent_by.send(1, "step")

    assert (injected.fired, done.version) == (1, 2)
    assert (lights.row, lights.entries, lights.hooked) == (("yellow", 2), lights.path[:2], [done])


LEVELS = ["REPEATABLE READ", "SERIALIZABLE"]


@servers
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("path", PATHS)
def test_a_lost_race_is_stale(engine: Engine, path: str, level: Any) -> None:
    """23: who loses against another that has begun later is told that the row moved, not that nobody answers."""
    mapping, other = mapping_of(path, "log"), light_adapter(engine)
    key = other.create(id=1).key
    strict = create_engine(engine.url, isolation_level=level)
    with (
        FaultInjector(strict) as injector,
        injector.before("UPDATE", lambda: other.send(key, "step")) as overtaken,
        pytest.raises(StaleVersionError),
    ):
        PersistenceAdapter(strict, mapping).send(key, "step", expected_version=1)
    strict.dispose()

    assert (overtaken.fired, other.load(key).version) == (1, 2)
