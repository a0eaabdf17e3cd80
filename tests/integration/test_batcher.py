"""A batcher on each database: every caller gets the truth about its own event, and few statements are sent for many."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import URL, Engine, String, bindparam, event, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    Batcher,
    ConnectionFailureError,
    LogEntry,
    MachineMapping,
    OutcomeUnknownError,
    PersistenceAdapter,
    RowNotFoundError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.columns import TransitionColumns, TransitionLogColumns, state_text
from statelatch.errors import Phase
from tests.databases import kill_connections, on
from tests.lights import entry_of
from tests.outages import LostCommit, Outage
from tests.runs import PATIENCE

ROOT = Path(__file__).parents[2]
THREADS = 32
LAST = 39
"""The key of the last turnstile."""


class Base(DeclarativeBase):
    """Base of the entities here."""


class Turnstile(TransitionColumns, Base):
    """A turnstile, of whose last tickets no two are alike."""

    __tablename__ = "turnstiles"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(state_text(8))
    ticket: Mapped[str | None] = mapped_column(String(20), unique=True)


class TurnstileLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "turnstile_log"

    key: Mapped[int] = mapped_column(primary_key=True)


class Turning(StateMachine):
    """Goes round until it is shut."""

    free = State(initial=True)
    shut = State(final=True)

    turn = free.to(free)
    close = free.to(shut)


ASSIGNS: dict[str, dict[str, object]] = {"turn": {"ticket": bindparam("ticket", None)}}
MAPPING = MachineMapping(machine=Turning, entity=Turnstile, log=TurnstileLog, assigns=ASSIGNS)


@pytest.fixture
def adapter(engine: Engine) -> PersistenceAdapter:
    """Turnstiles with a log: 40 of them."""
    return turnstiles(engine)


def turnstiles(engine: Engine) -> PersistenceAdapter:
    """An adapter with 40 turnstiles; their tables are made."""
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MAPPING)
    for key in range(40):
        adapter.create(id=key)
    return adapter


@pytest.fixture
def batcher(adapter: PersistenceAdapter) -> Generator[Batcher]:
    """A batcher for them."""
    with Batcher(adapter) as batcher:
        yield batcher


def histories(adapter: PersistenceAdapter) -> dict[int, list[LogEntry]]:
    """What was applied to each row after its creation, oldest first."""
    return {key: adapter.history(key)[1:] for key in range(40)}


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """Do the numbered work in all threads at once; the results in order."""
    instant = threading.Barrier(THREADS)

    def at_once(number: int) -> Any:
        instant.wait(PATIENCE)
        return work(number)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(at_once, range(THREADS)))


def outcome(call: Callable[[], Transitioned]) -> Transitioned | Exception:
    """What became of a call."""
    try:
        return call()
    except Exception as error:
        return error


@contextmanager
def gathering(batcher: Batcher, adapter: PersistenceAdapter) -> Generator[None]:
    """While the batcher's thread is held up after a first event, so that what is submitted meanwhile is one batch."""
    held, go = threading.Event(), threading.Event()

    @adapter.after_commit
    def hold(done: Transitioned) -> None:
        if done.key == LAST and not go.is_set():
            held.set()
            assert go.wait(PATIENCE), "the test never let it go"

    batcher.submit(LAST, "turn")
    assert held.wait(PATIENCE), "nothing was written"
    try:
        yield
    finally:
        go.set()


@contextmanager
def locked(engine: Engine, key: int) -> Generator[None]:
    """Somebody else holds this row; on SQLite, everything."""
    with engine.connect() as connection, connection.begin() as transaction:
        connection.execute(update(Turnstile).where(Turnstile.id == key).values(id=key))
        yield
        transaction.rollback()


# -- many callers ---------------------------------------------------------------------------------------------------


def test_each_of_many_callers_gets_its_own_answer(batcher: Batcher, adapter: PersistenceAdapter) -> None:
    """32 threads, 200 events each, on own rows and shared ones: an entry of the log for each answer, and no other."""

    def work(number: int) -> list[tuple[UUID, Transitioned]]:
        sent: list[tuple[UUID, Transitioned]] = []
        for count in range(200):
            token = uuid4()
            sent.append((token, batcher.send(number if count % 8 else 32 + count % 5, "turn", token=token)))
        return sent

    answers = [answer for answers in in_threads(work) for answer in answers]

    assert len(answers) == 6400
    assert [token for token, _ in answers] == [done.token for _, done in answers]
    entries = {(key, entry.version): entry for key, entries in histories(adapter).items() for entry in entries}
    assert entries == {(done.key, done.version): entry_of(done) for _, done in answers}
    turns = Counter(done.key for _, done in answers)
    assert {key: adapter.load(key).version for key in range(40)} == {key: 1 + turns[key] for key in range(40)}


def test_few_statements_are_sent_for_many_callers(batcher: Batcher, adapter: PersistenceAdapter) -> None:
    """640 events of 32 threads need less than a quarter of that in UPDATEs, and in transactions."""
    counts: Counter[str] = Counter()

    @event.listens_for(adapter.engine, "before_cursor_execute")
    def executing(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        counts["UPDATE"] += "UPDATE" in statement

    @event.listens_for(adapter.engine, "commit")
    def committing(_connection: object) -> None:
        counts["commit"] += 1

    in_threads(lambda number: [batcher.send(number, "turn") for _ in range(20)])

    assert [adapter.load(key).version for key in range(32)] == [21] * 32
    assert 0 < counts["UPDATE"] < 160
    assert 0 < counts["commit"] < 160


def test_of_many_callers_one_wins(batcher: Batcher, adapter: PersistenceAdapter) -> None:
    """32 threads close the same 8 turnstiles: each is closed once, the other 31 are refused in their own words."""
    outcomes = in_threads(lambda _: [outcome(lambda key=key: batcher.send(key, "close")) for key in range(8)])

    for key in range(8):
        of_key: Sequence[Any] = [each[key] for each in outcomes]
        (winner,) = [done for done in of_key if isinstance(done, Transitioned)]
        losers = [refused for refused in of_key if isinstance(refused, TransitionRefusedError)]
        assert [(r.key, r.event, r.state, r.version) for r in losers] == [(key, "close", "shut", 2)] * 31
        assert adapter.history(key)[1:] == [entry_of(winner)]
        assert len({id(refused) for refused in losers}) == 31


def test_one_row_s_events_are_applied_in_the_order_in_which_they_were_submitted(
    batcher: Batcher, adapter: PersistenceAdapter
) -> None:
    """Also those of one batch, where each expects the version that the one before it makes."""
    with gathering(batcher, adapter):
        futures = [batcher.submit(7, "turn", expected_version=version) for version in range(1, 9)]
        futures += [batcher.submit(7, "close"), batcher.submit(7, "turn")]
    batcher.flush()

    assert [future.result(0).version for future in futures[:-1]] == list(range(2, 11))
    refused = futures[-1].exception(0)
    assert isinstance(refused, TransitionRefusedError)
    assert refused.state == "shut"


def test_refusals_of_every_kind_go_to_their_callers(batcher: Batcher, adapter: PersistenceAdapter) -> None:
    """Stale, refused, missing and applied in one batch: each caller is told about its own."""
    adapter.send(2, "close")
    with gathering(batcher, adapter):
        futures = [
            batcher.submit(1, "turn", expected_version=9),
            batcher.submit(2, "turn"),
            batcher.submit(4711, "turn"),
            batcher.submit(3, "turn", expected_version=1),
        ]
    kinds = [type(future.exception(PATIENCE)) for future in futures]

    assert kinds == [StaleVersionError, TransitionRefusedError, RowNotFoundError, type(None)]
    assert [batcher.submit(key, "turn").result(PATIENCE).version for key in (1, 3)] == [2, 3]


def test_one_caller_s_bad_value_harms_nobody_else(batcher: Batcher, adapter: PersistenceAdapter) -> None:
    """A ticket that another turnstile has breaks a constraint of the table: its caller gets the driver's error."""
    adapter.send(0, "turn", ticket="a")
    with gathering(batcher, adapter):
        futures = [batcher.submit(key, "turn", ticket=ticket) for key, ticket in enumerate("bcdae", start=1)]
    errors = [future.exception(PATIENCE) for future in futures]

    assert [type(error) for error in errors] == [*[type(None)] * 3, IntegrityError, type(None)]
    with adapter.engine.connect() as connection:
        tickets = connection.scalars(select(Turnstile.ticket).where(Turnstile.id < 6).order_by(Turnstile.id)).all()
    assert tickets == ["a", "b", "c", "d", None, "e"]


def test_a_hook_may_send(adapter: PersistenceAdapter) -> None:
    """An `after_commit` hook sees what is durable before its caller does, and may use the same batcher."""
    told: list[tuple[int, int]] = []

    @adapter.after_commit
    def follow(done: Transitioned) -> None:
        told.append((done.key, done.version))
        if done.key < 3:
            batcher.send(done.key + 10, "turn")

    with Batcher(adapter) as batcher:
        with gathering(batcher, adapter):
            futures = [batcher.submit(key, "turn") for key in (1, 2, 3)]
        for future in futures:
            future.result(PATIENCE)

    assert sorted(told) == [(1, 2), (2, 2), (3, 2), (11, 2), (12, 2), (LAST, 2)]


# -- a slow database --------------------------------------------------------------------------------------------


def test_a_slow_database_holds_up_those_who_send(adapter: PersistenceAdapter) -> None:
    """A row is locked: so many are taken, the next one waits until it is free again, and none is lost."""
    with Batcher(adapter, max_pending=3) as batcher, ThreadPoolExecutor(1) as thread:
        with locked(adapter.engine, 0):
            futures = [batcher.submit(key, "turn") for key in (0, 1, 2)]
            late = thread.submit(batcher.submit, 3, "turn")
            with pytest.raises(FutureTimeoutError):
                late.result(0.2)
        futures.append(late.result(PATIENCE))

        assert [future.result(PATIENCE).version for future in futures] == [2, 2, 2, 2]


def test_closing_writes_what_was_submitted(adapter: PersistenceAdapter) -> None:
    """All of it is in the table when the block is left."""
    with Batcher(adapter, max_delay=60) as batcher:
        futures = [batcher.submit(key, "turn") for key in range(40)]

    assert [future.result(0).version for future in futures] == [2] * 40
    assert [adapter.load(key).version for key in range(40)] == [2] * 40


# -- lost connections -------------------------------------------------------------------------------------------


@on("postgresql", "mariadb")
def test_every_answer_is_true_when_connections_are_killed(adapter: PersistenceAdapter, database_url: URL) -> None:
    """All are killed again and again: what was acknowledged is in the log, once; what was not written is not in it."""
    killed = 0
    stop = threading.Event()

    def kill() -> None:
        nonlocal killed
        while not stop.wait(0.1):
            killed += kill_connections(database_url)

    def work(number: int) -> list[tuple[UUID, Any]]:
        sent: list[tuple[UUID, Any]] = []
        while not stop.is_set():
            token = uuid4()
            sent.append((token, outcome(lambda token=token: batcher.send(number, "turn", token=token))))
        return sent

    with Batcher(adapter) as batcher, ThreadPoolExecutor(1) as killer:
        killing = killer.submit(kill)
        threading.Timer(2.0, stop.set).start()
        answers = dict(answer for answers in in_threads(work) for answer in answers)
        killing.result(PATIENCE)
    adapter.engine.dispose()  # its connections are dead
    tokens = Counter(entry.token for entries in histories(adapter).values() for entry in entries)
    kinds = Counter[object](map(type, answers.values()))
    written = {token for token, answer in answers.items() if isinstance(answer, Transitioned)}
    unknown = {token: answer for token, answer in answers.items() if isinstance(answer, OutcomeUnknownError)}

    assert killed > 0
    assert set(kinds) <= {Transitioned, ConnectionFailureError, OutcomeUnknownError}
    assert kinds[ConnectionFailureError] + kinds[OutcomeUnknownError] > 0
    assert [answer.token for answer in unknown.values()] == list(unknown)
    assert set(tokens.values()) == {1}
    assert written <= tokens.keys() <= written | unknown.keys()


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])
def test_a_batch_whose_commit_is_lost_is_applied_once(
    batcher: Batcher, adapter: PersistenceAdapter, *, landed: bool
) -> None:
    """Each caller gets its transition: what has landed is found by its token, what has not is sent again with it."""
    lost = LostCommit(adapter.engine, landed=landed)
    with gathering(batcher, adapter):
        futures = {key: batcher.submit(key, "turn") for key in (1, 2, 3)}
        lost.arm()
    done = {key: future.result(PATIENCE) for key, future in futures.items()}

    assert lost.strikes == 1
    for key, each in done.items():
        assert (each.key, each.version) == (key, 2)
        assert [entry.token for entry in adapter.history(key)[1:]] == [each.token]


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])
def test_a_batch_that_nobody_can_be_asked_about_is_unknown_to_each_caller(
    batcher: Batcher, adapter: PersistenceAdapter, *, landed: bool
) -> None:
    """Each is told with its own key and token, in an exception of its own; sent again, it is applied once."""
    lost, outage = LostCommit(adapter.engine, landed=landed), Outage(adapter.engine)
    with gathering(batcher, adapter):
        futures = {key: batcher.submit(key, "turn") for key in (1, 2, 3)}
        lost.arm()
        lost.then = outage.begin
    errors = {key: future.exception(PATIENCE) for key, future in futures.items()}

    outage.end()
    assert (lost.strikes, outage.refused > 0) == (1, True)
    assert len({id(error) for error in errors.values()}) == 3
    for key, error in errors.items():
        assert isinstance(error, OutcomeUnknownError)
        assert (error.key, error.phase) == (key, Phase.COMMIT)
        assert error.__cause__ is not None
        done = batcher.send(key, "turn", token=error.token)
        assert (done.version, done.token) == (2, error.token)
        assert [entry.token for entry in adapter.history(key)[1:]] == [error.token]


def test_a_database_that_is_away_is_told_to_each_caller(batcher: Batcher, adapter: PersistenceAdapter) -> None:
    """Each gets an exception of its own, nothing is written, and when it is back the same batcher goes on."""
    outage = Outage(adapter.engine)
    outage.begin()
    for _ in range(2):  # over connections that are dead, and over new ones, which are refused
        errors = in_threads(lambda number: outcome(lambda: batcher.send(number, "turn")))
        assert {type(error) for error in errors} == {ConnectionFailureError}
        assert len({id(error) for error in errors}) == THREADS
    outage.end()

    assert outage.refused >= 1
    assert batcher.send(0, "turn").version == 2
    assert [adapter.load(key).version for key in range(1, 40)] == [1] * 39


# -- processes ------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, threading
from statelatch import Batcher, PersistenceAdapter
from tests.integration.test_batcher import MAPPING

adapter = PersistenceAdapter(sys.argv[1], MAPPING)
batcher = Batcher(adapter, max_delay=60)
"""


def run(program: str, url: URL) -> subprocess.CompletedProcess[str]:
    """Run a program with a batcher on this database, in a process of its own."""
    shown = url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", PROGRAM + program, shown]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=ROOT)


def test_a_process_that_ends_without_closing_writes_what_was_submitted(
    adapter: PersistenceAdapter, database_url: URL
) -> None:
    """The interpreter waits for the batcher's thread, which waits for nobody else then."""
    done = run("for key in range(40): batcher.submit(key, 'turn')", database_url)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [adapter.load(key).version for key in range(40)] == [2] * 40


FORK = """
batcher.send(0, "turn")
child = os.fork()
if child == 0:
    for verb in batcher.send, batcher.submit:
        try:
            verb(1, "turn")
        except RuntimeError as error:
            print(error)
    batcher.flush()
    batcher.close()
    with Batcher(adapter.reconnected()) as own:
        print(own.send(2, "turn").version)
    sys.exit()
os.waitpid(child, 0)
print(batcher.send(1, "turn").version, flush=True)
"""


def test_a_forked_process_is_told_to_make_its_own(adapter: PersistenceAdapter, database_url: URL) -> None:
    """Its copy has no thread: it says so and writes nothing, ends in order, and the first process goes on."""
    done = run(FORK, database_url)

    refusal = "this Batcher belongs to the process that forked this one; nothing was written. Make one in each process."
    assert done.stdout.splitlines() == [refusal, refusal, "2", "2"]
    assert (done.returncode, done.stderr) == (0, "")
