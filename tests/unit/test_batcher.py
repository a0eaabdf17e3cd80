"""A batcher's threads: who waits for what, and that each gets its own answer; the database is played by the test."""

from __future__ import annotations

import ctypes
import gc
import logging
import signal
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from uuid import UUID

import pytest
from sqlalchemy import Text
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    ConnectionFailureError,
    MachineMapping,
    OutcomeUnknownError,
    PersistenceAdapter,
    RequestError,
    RowNotFoundError,
    Transitioned,
)
from statelatch.batcher import Batcher
from statelatch.columns import TransitionColumns
from statelatch.errors import BatchInterruptedError, Phase
from statelatch.records import Request
from statelatch.statements import Statements
from tests.runs import PATIENCE, eventually, meanwhile

TOKEN = UUID(int=0xA0)
Result = TypeVar("Result")


class Base(DeclarativeBase):
    """Base of the entity here."""


class Row(TransitionColumns, Base):
    """A row."""

    __tablename__ = "rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(Text())


class Flow(StateMachine):
    """An event that is compiled, and one that needs Python."""

    new = State(initial=True)
    done = State(final=True)

    finish = new.to(done)
    by_hand = new.to(done, on="look")

    def look(self) -> None:
        """Python."""


STATEMENTS = Statements(MachineMapping(machine=Flow, entity=Row), sqlite.dialect())


def applied(request: Request) -> Transitioned:
    """The transition that was asked for; its version is the key."""
    return Transitioned(
        key=request.key,
        event=request.event,
        source="new",
        target="done",
        version=request.key,
        token=request.token or TOKEN,
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class Scripted:
    """An adapter whose database the test plays: it answers by a rule, as soon as the test lets it.

    Attributes:
        batches: the keys of each batch, and of each event that was sent alone.
    """

    statements = STATEMENTS

    def __init__(self, answer: Callable[[Request], Any] = applied) -> None:
        self._answer = answer
        self._open = threading.Event()
        self._open.set()
        self._reached = threading.Event()
        self.batches: list[list[Any]] = []
        self.alone: list[Any] = []

    def send(self, key: Any, event: str, *, expected_version: Any, token: Any, **params: Any) -> Transitioned:
        """One event."""
        self.alone.append(key)
        (outcome,) = self._written([Request(key, event, expected_version, params, token)])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def send_batch(self, requests: Sequence[Request]) -> list[Any]:
        """Several."""
        return self._written(requests)

    def _written(self, requests: Sequence[Request]) -> list[Any]:
        self.batches.append([request.key for request in requests])
        self._reached.set()
        assert self._open.wait(PATIENCE), "nobody let the database answer"
        return [self._answer(request) for request in requests]

    @contextmanager
    def holding(self, batcher: Batcher) -> Generator[Future[Transitioned]]:
        """While the database does not answer, with an event on its way that it holds."""
        self._open.clear()
        self._reached.clear()
        try:
            first = batcher.submit(0, "finish")
            del batcher  # the test may drop it
            assert self._reached.wait(PATIENCE), "nothing was written"
            yield first
        finally:
            self._open.set()


def batcher_on(scripted: Scripted, **limits: Any) -> Batcher:
    """A batcher on the test's own database."""
    return Batcher(cast("PersistenceAdapter", scripted), **limits)


def own_threads() -> list[threading.Thread]:
    """The threads of batchers."""
    return [thread for thread in threading.enumerate() if thread.name == "statelatch-batcher"]


# -- what is written together ---------------------------------------------------------------------------------------


def test_a_lone_event_is_sent_alone() -> None:
    """As the adapter would have sent it, with all that was given; nobody waits for others who do not come."""
    seen: list[Request] = []

    def answer(request: Request) -> Transitioned:
        seen.append(request)
        return applied(request)

    scripted = Scripted(answer)
    with batcher_on(scripted, max_delay=60) as batcher:
        said = batcher.send(7, "finish", expected_version=3, token=TOKEN, note="x")

    assert said == applied(Request(7, "finish"))
    assert seen == [Request(7, "finish", 3, {"note": "x"}, TOKEN)]
    assert scripted.alone == [7]


def test_what_comes_while_one_is_written_is_written_together() -> None:
    """In the order in which it came, in batches that are not too large; each caller gets its own answer."""
    scripted = Scripted()
    with batcher_on(scripted, max_size=3) as batcher:
        with scripted.holding(batcher) as first:
            futures = [first, *(batcher.submit(key, "finish") for key in (5, 3, 9, 3, 1))]
        answers = [future.result(PATIENCE).version for future in futures]

    assert scripted.batches == [[0], [5, 3, 9], [3, 1]]
    assert answers == [0, 5, 3, 9, 3, 1]


def test_a_batch_is_waited_for() -> None:
    """After a batch of three an event waits for two more, as long as the delay; with them it is written at once."""
    scripted = Scripted()
    with batcher_on(scripted, max_delay=60) as batcher:
        with scripted.holding(batcher):
            for key in (1, 2, 3):
                batcher.submit(key, "finish")
        batcher.flush()
        waiting = [batcher.submit(4, "finish"), batcher.submit(5, "finish")]
        with pytest.raises(FutureTimeoutError):
            waiting[0].result(0.05)
        assert batcher.send(6, "finish").version == 6

    assert scripted.batches == [[0], [1, 2, 3], [4, 5, 6]]


def test_the_wait_for_a_batch_ends() -> None:
    """Nobody else comes: it is written when the delay is over."""
    scripted = Scripted()
    with batcher_on(scripted, max_delay=0.02) as batcher:
        with scripted.holding(batcher):
            for key in (1, 2, 3):
                batcher.submit(key, "finish")
        batcher.flush()
        batcher.submit(4, "finish").result(PATIENCE)

    assert scripted.batches == [[0], [1, 2, 3], [4]]


# -- answers and errors ------------------------------------------------------------------------------------------------


def test_a_refusal_goes_to_its_caller() -> None:
    """Of a batch, each caller gets what became of its own event."""
    missing = RowNotFoundError(table="rows", key=2, event="finish")
    scripted = Scripted(lambda request: missing if request.key == 2 else applied(request))
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher):
            futures = [batcher.submit(key, "finish") for key in (1, 2, 3)]
        sent = meanwhile(lambda: batcher.send(2, "finish"))

        assert [futures[0].result(PATIENCE).version, futures[2].result(PATIENCE).version] == [1, 3]
        for refused in (futures[1], sent):
            assert refused.exception(PATIENCE) is missing


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((1, "by_hand"), {}, "look"),
    ((1, "fly"), {}, "fly"),
    ((1, "finish"), {"expected_version": "1"}, "expected_version"),
    ((1, "finish"), {"token": "1"}, "token"),
    (((1, 2), "finish"), {}, "rows"),
    ((1, "finish"), {"when": datetime(2026, 1, 1)}, "naive"),
]


@pytest.mark.parametrize(("positional", "named", "word"), WRONG)
@pytest.mark.parametrize("verb", ["send", "submit"])
def test_what_cannot_be_sent_is_told_to_its_caller(
    verb: str, positional: tuple[Any, ...], named: dict[str, Any], word: str
) -> None:
    """Before it is collected: those who are written together with it are not harmed."""
    scripted = Scripted()
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher), pytest.raises(RequestError, match=word):
            getattr(batcher, verb)(*positional, **named)
        assert batcher.send(1, "finish").version == 1

    assert scripted.batches == [[0], [1]]


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        (Phase.CONNECT, ConnectionFailureError),
        (Phase.EXECUTE, ConnectionFailureError),
        (Phase.COMMIT, OutcomeUnknownError),
    ],
)
def test_a_batch_that_is_not_answered_is_told_apart(phase: Phase, kind: type[ConnectionFailureError]) -> None:
    """What was answered is an answer; the others each get an exception of their own, with their own key and token."""
    cause = OSError("gone")

    class Interrupted(Scripted):
        """Its database answers the first of a batch, and is gone."""

        def send_batch(self, requests: Sequence[Request]) -> list[Any]:
            first, *left = requests
            done = self._written([first])
            raise BatchInterruptedError(
                phase=phase, database="db", detail="gone", answers=[*done, *(None for _ in left)], requests=left
            ) from cause

    scripted = Interrupted()
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher):
            futures = [
                batcher.submit(1, "finish"),
                batcher.submit(2, "finish"),
                batcher.submit(3, "finish", token=TOKEN),
            ]
        assert futures[0].result(PATIENCE).version == 1
        second, third = (future.exception(PATIENCE) for future in futures[1:])

    assert (type(second), type(third)) == (kind, kind)
    assert second is not third
    for error, key in ((second, 2), (third, 3)):
        assert isinstance(error, ConnectionFailureError)
        assert (error.phase, error.database, error.detail, error.__cause__) == (phase, "db", "gone", cause)
        if isinstance(error, OutcomeUnknownError):
            assert (error.key, error.token == TOKEN) == (key, key == 3)
            assert error.token is not None


def test_a_batch_that_breaks_is_sent_one_by_one() -> None:
    """What it raised tells nothing about the single events: each is sent again, with the token that it had."""
    tokens: dict[int, list[UUID | None]] = {}

    def answer(request: Request) -> Transitioned:
        tokens.setdefault(request.key, []).append(request.token)
        if request.key == 3:
            raise KeyError(request.key)
        return applied(request)

    scripted = Scripted(answer)
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher):
            futures = [batcher.submit(key, "finish") for key in (1, 2, 3, 4)]
        errors = [future.exception(PATIENCE) for future in futures]

    assert [type(error) for error in errors] == [type(None), type(None), KeyError, type(None)]
    assert scripted.batches == [[0], [1, 2, 3, 4], [1], [2], [3], [4]]
    assert [tokens[key][0] == tokens[key][1] is not None for key in (1, 2, 3)] == [True] * 3
    assert len({*tokens[1], *tokens[2], *tokens[3], *tokens[4]}) == 4


def test_nobody_shares_an_error() -> None:
    """A batch may answer several with one exception object: these are sent again, so that each has its own."""
    shared = KeyError("no such table")

    class Sharing(Scripted):
        """Its batches fail for all but the first, with one error."""

        def send_batch(self, requests: Sequence[Request]) -> list[Any]:
            first, *left = self._written(requests)
            return [first, *(shared for _ in left)]

    def answer(request: Request) -> Any:
        return KeyError(request.key) if request.key == 3 else applied(request)

    scripted = Sharing(answer)
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher):
            futures = [batcher.submit(key, "finish") for key in (1, 2, 3)]
        errors = [future.exception(PATIENCE) for future in futures]

    assert [type(error) for error in errors] == [type(None), type(None), KeyError]
    assert shared not in errors
    assert scripted.alone == [0, 2, 3]


def test_even_an_exit_goes_to_its_caller() -> None:
    """What a driver or a listener raises to end a thread does not end the batcher's."""

    def answer(request: Request) -> Transitioned:
        if request.key == 2:
            raise SystemExit(3)
        return applied(request)

    with batcher_on(Scripted(answer)) as batcher:
        with pytest.raises(SystemExit):
            batcher.send(2, "finish")
        assert batcher.send(3, "finish").version == 3


# -- back-pressure, flush, close --------------------------------------------------------------------------------------


def test_whoever_comes_when_it_is_full_waits() -> None:
    """While so many are unanswered nobody is let in, and none is lost: each is let in, in the end, and answered."""
    scripted = Scripted()
    with batcher_on(scripted, max_pending=3) as batcher:
        with scripted.holding(batcher):
            for key in (1, 2):
                batcher.submit(key, "finish")
            late = [meanwhile(lambda key=key: batcher.submit(key, "finish").result(PATIENCE)) for key in (3, 4, 5, 6)]
            with pytest.raises(FutureTimeoutError):
                late[0].result(0.05)
            assert not any(each.done() for each in late)

        assert [each.result(PATIENCE).version for each in late] == [3, 4, 5, 6]
    assert sorted(key for batch in scripted.batches for key in batch) == [0, 1, 2, 3, 4, 5, 6]
    assert max(map(len, scripted.batches)) <= 3


def test_flush_returns_when_all_are_answered() -> None:
    """Not before, and without waiting for more; with nothing to do it returns at once."""
    scripted = Scripted()
    with batcher_on(scripted, max_delay=60) as batcher:
        batcher.flush()
        with scripted.holding(batcher):
            futures = [batcher.submit(key, "finish") for key in (1, 2)]
            flushed = meanwhile(batcher.flush)
            with pytest.raises(FutureTimeoutError):
                flushed.result(0.05)
        flushed.result(PATIENCE)
        assert all(future.done() for future in futures)
        last = batcher.submit(3, "finish")  # it would wait for another
        batcher.flush()

        assert last.done()


def test_close_writes_what_is_there_and_ends_the_thread() -> None:
    """Everything is answered when it returns, no thread is left, and closing again does nothing."""
    scripted = Scripted()
    batcher = batcher_on(scripted, max_delay=60)
    with scripted.holding(batcher):
        futures = [batcher.submit(key, "finish") for key in (1, 2, 3)]
        closed = meanwhile(batcher.close)
        with pytest.raises(FutureTimeoutError):
            closed.result(0.05)
    closed.result(PATIENCE)

    assert [future.result(0).version for future in futures] == [1, 2, 3]
    assert own_threads() == []
    batcher.close()
    batcher.flush()


def test_close_does_not_wait_for_more() -> None:
    """What waits for others is written when there will be none."""
    scripted = Scripted()
    batcher = batcher_on(scripted, max_delay=60)
    with scripted.holding(batcher):
        for key in (1, 2):
            batcher.submit(key, "finish")
    batcher.flush()
    waiting = batcher.submit(3, "finish")
    meanwhile(batcher.close).result(PATIENCE)

    assert waiting.result(0).version == 3


def test_a_closed_batcher_takes_nothing() -> None:
    """It says so, also to whoever was waiting for room; nothing of theirs is written."""
    scripted = Scripted()
    batcher = batcher_on(scripted, max_pending=1)
    with scripted.holding(batcher):
        waiting = meanwhile(lambda: batcher.submit(1, "finish"))
        with pytest.raises(FutureTimeoutError):
            waiting.result(0.05)
        closed = meanwhile(batcher.close)
        with pytest.raises(RuntimeError, match="this Batcher is closed; nothing was written"):
            waiting.result(PATIENCE)
    closed.result(PATIENCE)
    for verb in (batcher.send, batcher.submit):
        with pytest.raises(RuntimeError, match="this Batcher is closed"):
            verb(1, "finish")

    assert scripted.batches == [[0]]


def test_a_batcher_that_nobody_used_has_no_thread() -> None:
    """It is made when the first event comes: a process that forks workers may have made its batcher before."""
    with batcher_on(Scripted()):
        assert own_threads() == []


def test_callers_who_are_first_at_once_make_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread, made by who came before the first had begun, leaves again: one thread alone keeps the order."""
    start = threading.Thread.start

    def twice(thread: threading.Thread) -> None:
        if thread.name == "statelatch-batcher":
            start(threading.Thread(target=vars(thread)["_target"], name=thread.name, daemon=True))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", twice)
    with batcher_on(Scripted()) as batcher:
        batcher.send(1, "finish")

        assert eventually(lambda: len(own_threads()) == 1)
        assert batcher.send(2, "finish").version == 2
    assert eventually(lambda: own_threads() == [])


def test_a_batcher_that_is_dropped_writes_what_it_has() -> None:
    """Nobody closed it: what was submitted is answered, and its thread ends."""
    scripted = Scripted()
    batcher = batcher_on(scripted, max_delay=60)
    with scripted.holding(batcher):
        future = batcher.submit(1, "finish")
        gone = weakref.ref(batcher)
        del batcher
        gc.collect()
        assert gone() is None

    assert future.result(PATIENCE).version == 1
    assert eventually(lambda: own_threads() == [])


def test_an_idle_batcher_holds_nothing_of_what_it_wrote() -> None:
    """Neither parameters nor results stay in memory once their callers have let go of them."""

    class Large:
        """Something that one would notice."""

    large = Large()
    gone = weakref.ref(large)
    with batcher_on(Scripted()) as batcher:
        batcher.submit(1, "finish", note=large).result(PATIENCE)
        del large

        assert eventually(lambda: gc.collect() >= 0 and gone() is None)


# -- interruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_a_caller_who_is_interrupted_harms_nobody() -> None:
    """Ctrl-C while it waits: it is raised, its event may be written all the same, and others are answered."""
    scripted = Scripted()
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher):
            other = batcher.submit(1, "finish")
            main = threading.main_thread().ident
            assert main is not None
            threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                batcher.send(2, "finish")

        assert other.result(PATIENCE).version == 1
        assert batcher.send(3, "finish").version == 3
    assert scripted.batches == [[0], [1, 2], [3]]


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_a_caller_who_is_interrupted_while_it_waits_for_room_is_not_written() -> None:
    """Ctrl-C before it was let in: nothing of it is written, and it takes nobody's room."""
    scripted = Scripted()
    with batcher_on(scripted, max_pending=1) as batcher:
        with scripted.holding(batcher):
            main = threading.main_thread().ident
            assert main is not None
            threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                batcher.submit(1, "finish")

        assert batcher.send(2, "finish").version == 2
    assert scripted.batches == [[0], [2]]


def test_a_future_that_is_cancelled_in_time_is_not_written() -> None:
    """Until it is being written; what is being written cannot be cancelled."""
    scripted = Scripted()
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher) as first:
            futures = [batcher.submit(key, "finish") for key in (1, 2, 3)]
            assert (first.cancel(), futures[1].cancel()) == (False, True)
        batcher.flush()

        assert [first.result(0).version, futures[0].result(0).version, futures[2].result(0).version] == [0, 1, 3]
        with pytest.raises(CancelledError):
            futures[1].result(0)
    assert scripted.batches == [[0], [1, 3]]


def test_a_batch_that_nobody_wants_any_more_is_not_written() -> None:
    """All of it was cancelled: nothing is sent, and whoever flushes is not left waiting."""
    scripted = Scripted()
    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher):
            assert batcher.submit(1, "finish").cancel()
        meanwhile(batcher.flush).result(PATIENCE)

    assert scripted.batches == [[0]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_killed_leaves_nobody_waiting() -> None:
    """Whatever ends the batcher's thread, who waits is told, and whoever comes later is refused."""
    scripted = Scripted()
    batcher = batcher_on(scripted)
    batcher.send(1, "finish")
    (thread,) = own_threads()
    struck = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    assert struck == 1
    waiting = batcher.submit(2, "finish")

    with pytest.raises(RuntimeError, match="thread has died; this event may have been written"):
        waiting.result(PATIENCE)
    with pytest.raises(RuntimeError, match="this Batcher is closed"):
        batcher.send(3, "finish")
    meanwhile(batcher.flush).result(PATIENCE)
    meanwhile(batcher.close).result(PATIENCE)


# -- callbacks in the batcher's own thread -----------------------------------------------------------------------------


def test_a_callback_may_send() -> None:
    """It runs in the thread that writes, and would wait for itself: its events are sent at once and alone."""
    scripted = Scripted()
    found: list[int] = []

    def callback(_: Future[Transitioned]) -> None:
        found.append(batcher.send(2, "finish").version)
        found.append(batcher.submit(3, "finish").result(0).version)

    with batcher_on(scripted, max_pending=1) as batcher:
        with scripted.holding(batcher) as first:
            first.add_done_callback(callback)
        batcher.flush()

    assert found == [2, 3]
    assert scripted.alone == [0, 2, 3]


@pytest.mark.parametrize("verb", ["flush", "close"])
def test_a_callback_cannot_wait_for_its_own_thread(verb: str) -> None:
    """It is told so, instead of waiting for ever."""
    scripted = Scripted()
    caught: Future[None] = Future()

    def callback(_: Future[Transitioned]) -> None:
        try:
            getattr(batcher, verb)()
            caught.set_result(None)
        except RuntimeError as error:
            caught.set_exception(error)

    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher) as first:
            first.add_done_callback(callback)
        with pytest.raises(RuntimeError, match="a Batcher's own thread would wait for itself"):
            caught.result(PATIENCE)
        assert batcher.send(1, "finish").version == 1


def test_a_callback_that_exits_keeps_nobody_from_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and those behind it in the batch are answered."""
    scripted = Scripted()

    def callback(_: Future[Transitioned]) -> None:
        raise SystemExit

    with batcher_on(scripted) as batcher:
        with scripted.holding(batcher):
            futures = [batcher.submit(key, "finish") for key in (1, 2)]
            futures[0].add_done_callback(callback)
        assert [future.result(PATIENCE).version for future in futures] == [1, 2]
        batcher.flush()

    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.ERROR, "'finish' for 1: a callback of its future raised")
