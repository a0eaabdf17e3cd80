"""Threads, faults and conflicts on a few rows, again and again; `check_history` and the log judge what they were told.

An episode: eight threads, each with a client that loads, sends, sends in batches and repeats what it does not know,
over four adapters (compiled or not, by engine or by URL), while a fault after the other is injected into one of them.
A thread whose process "died" goes on as another client.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import URL, Engine, create_engine, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from statelatch import OutcomeUnknownError, PersistenceAdapter, Request, StatelatchError, Transitioned
from statelatch.testing.fault import DEADLY, Fault, InjectionError, ProcessDied
from statelatch.testing.history import check_history
from statelatch.testing.injector import FaultInjector
from statelatch.testing.operations import History
from statelatch.testing.recorder import Recorder
from statelatch.tokens import mint
from tests.lights import Crossing, LightLog, WatchedCrossing, light_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Episodes", "soak_history"]

THREADS = 8
CALLS = 25
"""Calls of each thread in an episode."""
ROWS = 3
EVENTS = ("step",) * 24 + ("stop",) * 8 + ("blink",) * 8 + ("end",)
SECONDS = 0.03
"""How long a lock is held, or silence lasts."""
STATEMENTS = ("UPDATE", "SELECT", "INSERT", "COMMIT", "BEGIN")


@dataclass
class Episodes:
    """What happened in all of them.

    Attributes:
        answers: how often each kind was told.
        faults: how often each kind struck.
    """

    count: int = 0
    operations: int = 0
    answers: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])


def soak_history(url: URL, seconds: float, seed: int, episodes: Episodes) -> None:
    """Repeat episodes until the time is over.

    Args:
        url: a database in which the lights' tables are made, if they are not there.
        seconds: how long.
        seed: of the random numbers; threads remain what they are.
        episodes: what happened is added here.

    Raises:
        HistoryError: no order of the operations explains what clients were told.
        AssertionError: the log does not.
    """
    draw, end = random.Random(seed), time.monotonic() + seconds
    engine = create_engine(url, pool_size=THREADS * 2)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        adapters = [light_adapter(engine), light_adapter(engine, WatchedCrossing)]
        adapters += [stack.enter_context(PersistenceAdapter(url, each.mapping)) for each in list(adapters)]
        injectors = [stack.enter_context(FaultInjector(each)) for each in [engine, *adapters[2:]]]
        while time.monotonic() < end:
            _episode(engine, adapters, injectors, draw, episodes)


def _episode(
    engine: Engine,
    adapters: Sequence[PersistenceAdapter],
    injectors: Sequence[FaultInjector],
    draw: random.Random,
    episodes: Episodes,
) -> None:
    history = History()
    initial = [adapters[0].create() for _ in range(ROWS)]
    keys = [snapshot.key for snapshot in initial]
    clients = [
        Client([Recorder(each, history) for each in adapters], keys, random.Random(draw.random()))
        for _ in range(THREADS)
    ]
    threads = [threading.Thread(target=client.work, name=f"client {n}") for n, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        _strike(draw.choice(injectors), draw, episodes.faults)
    for thread, client in zip(threads, clients, strict=True):
        thread.join()
        if client.failure is not None:
            raise client.failure
    episodes.count += 1
    episodes.operations += len(history)
    episodes.answers.update(type(each.answer).__name__ for each in history)
    check_history(history, initial=initial)
    _check_log(engine, keys, history)


def _strike(injector: FaultInjector, draw: random.Random, faults: Counter[str]) -> None:
    """One fault, for a moment."""
    fault = draw.choice(list(Fault))
    dies = fault in DEADLY and draw.random() < 0.3
    statement, times = draw.choice(STATEMENTS), draw.choice([1, 1, 2, 5])
    if fault is Fault.LOCK:
        statement = "UPDATE"  # a later statement's own transaction would hold the row, and wait for itself
    try:
        injected = injector.inject(fault, statement=statement, times=times, seconds=SECONDS, dies=dies, must_fire=False)
    except InjectionError:  # it cannot happen on this engine
        return
    with injected:
        time.sleep(draw.uniform(0.002, 0.03))
    faults[f"{fault}, the process dies" if dies else str(fault)] += injected.fired


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that may be repeated."""

    key: Any
    event: str
    expected: int | None
    token: UUID | None


class Client:
    """A thread's client: it draws what to ask, and remembers what it was told."""

    def __init__(self, recorders: Sequence[Recorder], keys: Sequence[Any], draw: random.Random) -> None:
        self._recorders, self._keys, self._draw = recorders, keys, draw
        self._versions = dict.fromkeys(keys, 1)
        self._sent: list[Sent] = []
        self.failure: BaseException | None = None

    def work(self) -> None:
        """Ask so many times; keep what nobody expects."""
        try:
            for _ in range(CALLS):
                self._ask(self._draw.choice(self._recorders))
        except BaseException as error:
            self.failure = error

    def _ask(self, recorder: Recorder) -> None:
        calls: list[Callable[[Recorder], None]] = [self._send, self._send, self._send, self._load]
        if recorder.adapter.statements.mapping.machine is Crossing:
            calls.append(self._send_batch)
        if self._sent:
            calls.append(self._repeat)
        try:
            self._draw.choice(calls)(recorder)
        except ProcessDied:
            self._sent.clear()  # another client takes its place
        except StatelatchError:
            return
        except Exception as error:
            if not _is_of_a_fault(error):
                raise

    def _load(self, recorder: Recorder) -> None:
        key = self._draw.choice(self._keys)
        self._versions[key] = recorder.load(key).version

    def _send(self, recorder: Recorder) -> None:
        key, event = self._draw.choice(self._keys), self._draw.choice(EVENTS)
        expected = self._draw.choice([None, None, self._versions[key], max(self._versions[key] - 1, 1)])
        self._send_again(recorder, Sent(key, event, expected, self._draw.choice([None, mint()])))

    def _repeat(self, recorder: Recorder) -> None:
        """The same call again, with its token: it is applied once."""
        self._send_again(recorder, self._sent.pop(self._draw.randrange(len(self._sent))))

    def _send_again(self, recorder: Recorder, call: Sent) -> None:
        if call.token is not None:
            self._sent.append(call)
        try:
            done = recorder.send(call.key, call.event, expected_version=call.expected, token=call.token)
        except OutcomeUnknownError as lost:
            if call.token is None:
                self._sent.append(replace(call, token=lost.token))
            raise
        self._versions[call.key] = max(done.version, self._versions[call.key])

    def _send_batch(self, recorder: Recorder) -> None:
        requests = [Request(self._draw.choice(self._keys), self._draw.choice(EVENTS)) for _ in range(4)]
        for answer in recorder.send_batch(requests):
            if isinstance(answer, Transitioned):
                self._versions[answer.key] = answer.version


def _is_of_a_fault(error: Exception) -> bool:
    """A full disk is told as the driver tells it."""
    return isinstance(error, DBAPIError) and not isinstance(error, IntegrityError)


def _check_log(engine: Engine, keys: Sequence[Any], history: History) -> None:
    """The log has each version once, and what was told as applied."""
    with engine.connect() as connection:
        entries = connection.execute(
            select(LightLog.key, LightLog.version, LightLog.token).where(LightLog.key.in_(keys))
        ).all()
    logged = {(key, version): token for key, version, token in entries}
    for key in keys:
        versions = sorted(version for of, version in logged if of == key)
        assert versions == [*range(1, len(versions) + 1)], f"light {key}: the log has versions {versions}"
    for done in _applied(history):
        assert logged.get((done.key, done.version)) == done.token, f"{done} is not in the log"


def _applied(history: History) -> Iterator[Transitioned]:
    return (each.answer for each in history if isinstance(each.answer, Transitioned))
