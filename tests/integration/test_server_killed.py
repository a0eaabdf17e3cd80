"""Servers that are killed with SIGKILL while many write, and started again on the same data.

Each call leaves its name in the log, if it is written; so the log tells of each answer whether it is true.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from sqlalchemy import URL, Engine, Row, select, text

from statelatch import ConnectionFailureError, NotAppliedError, OutcomeUnknownError, PersistenceAdapter, Transitioned
from tests import servers
from tests.databases import administrator, fresh_database, pooled
from tests.lights import PATHS, Light, LightLog, light_adapter
from tests.runs import eventually
from tests.servers import Server

CALLS = 200
THREADS = 32
ROWS = 8
HELD = 0.1
"""Seconds for which nothing is acknowledged before the server is killed."""
PAUSE = 0.01
"""Seconds that a thread waits after a failure."""


@contextmanager
def database_on(server: Server) -> Generator[URL]:
    """An empty database on this server."""
    with administrator(server.url) as engine, fresh_database(engine) as url:
        engine.dispose()  # its connection would not outlive the server
        yield url


def test_a_killed_server_starts_again_on_its_data(killable_server: Server) -> None:
    """What was committed before SIGKILL is there after the restart, on the same URL; what was not, is not."""
    server = killable_server
    with database_on(server) as url:
        with pooled(url) as engine, engine.connect() as connection:
            connection.execute(text("CREATE TABLE kept (id INTEGER PRIMARY KEY)"))
            connection.execute(text("INSERT INTO kept VALUES (1)"))
            connection.commit()
            connection.execute(text("INSERT INTO kept VALUES (2)"))
            killed = server.kill()
            is_away = not servers.answers(server.url)
            connection.invalidate()
        server.start()

        assert (killed >= 1, is_away) == (True, True)
        with pooled(url) as engine, engine.connect() as connection:
            assert connection.scalars(text("SELECT id FROM kept")).all() == [1]


@dataclass
class Calls:
    """Calls of many threads, and the answer of each."""

    adapters: list[PersistenceAdapter]
    keys: list[Any]
    numbers: Iterator[int] = field(default_factory=count)
    over: threading.Event = field(default_factory=threading.Event)
    applied: dict[str, Transitioned] = field(default_factory=dict[str, Transitioned])
    refused: dict[str, NotAppliedError] = field(default_factory=dict[str, NotAppliedError])
    failed: dict[str, ConnectionFailureError] = field(default_factory=dict[str, ConnectionFailureError])
    unknown: dict[str, OutcomeUnknownError] = field(default_factory=dict[str, OutcomeUnknownError])

    @property
    def answered(self) -> int:
        """How many have an answer of the database."""
        return len(self.applied) + len(self.refused)

    @contextmanager
    def by_threads(self) -> Generator[None]:
        """Have them made, until the block is left."""
        with ThreadPoolExecutor(THREADS) as threads:
            sending = [threads.submit(self.send) for _ in range(THREADS)]
            try:
                yield
            finally:
                self.over.set()
            for thread in sending:
                thread.result()

    def send(self) -> None:
        """Send one event after the other, until it is over."""
        while not self.over.is_set():
            number = next(self.numbers)
            adapter, key = self.adapters[number % len(self.adapters)], self.keys[number % len(self.keys)]
            self.send_one(adapter, key, str(number), expected=1 if number % 5 == 0 else None)

    def send_one(self, adapter: PersistenceAdapter, key: Any, name: str, *, expected: int | None) -> None:
        """Send one event, and keep its answer."""
        try:
            self.applied[name] = adapter.send(key, "step", expected_version=expected, actor=name)
        except NotAppliedError as answer:
            self.refused[name] = answer
        except OutcomeUnknownError as answer:
            self.unknown[name] = answer
        except ConnectionFailureError as answer:
            self.failed[name] = answer
            time.sleep(PAUSE)


def entries(engine: Engine) -> dict[str, Row[Any]]:
    """The log, by the name of the call that wrote each entry."""
    with engine.connect() as connection:
        return {row.actor: row for row in connection.execute(select(LightLog.__table__))}


def versions(engine: Engine) -> dict[Any, list[int]]:
    """Of each row, the versions in its log, in order, and the row's own."""
    with engine.connect() as connection:
        logged = connection.execute(select(LightLog.key, LightLog.version).order_by(LightLog.version)).all()
        rows = connection.execute(select(Light.id, Light.version)).all()
    return {key: [*(version for of, version in logged if of == key), at] for key, at in rows}


def has_landed(adapter: PersistenceAdapter, lost: OutcomeUnknownError) -> bool:
    """What the database says of a write whose outcome was unknown."""
    assert lost.token is not None
    return adapter.verify(lost.token, lost.key, event=lost.event)


@pytest.mark.parametrize("path", PATHS)
def test_killed_in_the_middle_of_200_transitions(killable_server: Server, path: str) -> None:
    """Behaviour 24: acknowledged is written, a reported failure is not, an unknown one is told exactly; no gap."""
    server = killable_server
    with database_on(server) as url, pooled(url) as engine:
        by_engine = light_adapter(engine, PATHS[path])
        with PersistenceAdapter(url, by_engine.mapping) as by_url:
            calls = Calls([by_engine, by_url], [by_engine.create().key for _ in range(ROWS)])
            with calls.by_threads():
                assert eventually(lambda: calls.answered >= CALLS // 2)
                server.hold_acknowledgements()
                time.sleep(HELD)
                acknowledged, killed_at = set(calls.applied), datetime.now(UTC)
                server.kill()
                server.start()
                assert eventually(lambda: calls.answered >= len(acknowledged) + CALLS // 2)
            settled = {name: has_landed(by_url, lost) for name, lost in calls.unknown.items()}

        engine.dispose()
        written, found = entries(engine), versions(engine)
        landed = [name for name, row in written.items() if name not in acknowledged and row.at < killed_at]
        assert len(landed) >= ROWS // 2, "nobody's acknowledgement was lost"
        assert {name: (row.key, row.version, row.token) for name, row in written.items() if name in calls.applied} == {
            name: (done.key, done.version, done.token) for name, done in calls.applied.items()
        }
        assert written.keys() & (calls.refused.keys() | calls.failed.keys()) == set()
        assert {name for name, landed in settled.items() if landed} == written.keys() & calls.unknown.keys()
        assert {key: [*range(1, at[-1] + 1), at[-1]] for key, at in found.items()} == found
