"""The time limit of a manager's connections: whoever does not answer in time is left for the next.

The faults are real: a lock that another connection holds, a server that accepts connections and is silent.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, event, update

from statelatch.errors import ConnectionFailureError, RequestError
from statelatch.runs import Outcome, Run, RunManager, current_run
from statelatch.testing import Proxy
from tests.databases import LOOPBACK, on
from tests.outages import disconnect
from tests.runs import NEVER, PATIENCE, nothing, stored
from tests.spools import applied

LIMIT = 0.3
"""Seconds."""


@contextmanager
def held(engine: Engine) -> Generator[Callable[[], None]]:
    """A way for a run's function to have its own row locked by somebody, until the end of the block."""
    connections: list[Connection] = []

    def hold() -> None:
        connection = engine.connect()
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(update(Run).where(Run.id == current_run().id).values(name="locked"))
        connections.append(connection)

    try:
        yield hold
    finally:
        for connection in connections:
            connection.rollback()
            connection.close()


def test_a_lock_that_outlasts_the_limit(
    runs_engine: Engine, fallback: Engine, database_url: URL, tmp_path: Path
) -> None:
    """Primary, reconnection and fallback are given up in turn, the word is kept; written when the lock is gone."""
    holder = create_engine(database_url)
    with RunManager(
        runs_engine, fallbacks=[fallback], heartbeat=NEVER, time_limit=LIMIT, spool=tmp_path / "spool.db"
    ) as manager:
        with held(holder) as hold:
            handle = manager.start(hold)
            said = handle.wait(PATIENCE)
            assert (said.outcome, said.via) == (Outcome.SPOOLED, "spool")
        assert manager.recover() == [applied(handle, "completed")]
    holder.dispose()

    assert stored(runs_engine, handle.id).version == 3


def test_a_lock_that_ends_within_the_limit(runs_engine: Engine, fallback: Engine, database_url: URL) -> None:
    """It is waited for: applied over the primary, and nobody falls back."""
    holder = create_engine(database_url)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER, time_limit=PATIENCE) as manager:
        with held(holder) as hold:
            handle = manager.start(hold)
            with pytest.raises(TimeoutError):
                handle.wait(2 * LIMIT)
        said = handle.wait(PATIENCE)
    holder.dispose()

    assert said == applied(handle, "completed")


class Silence:
    """A server that accepts connections and says nothing, and an engine's way there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._server = socket.create_server((LOOPBACK, 0))
        self._accepted: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        self.away = False
        event.listen(engine, "do_connect", self._lead_away)

    @property
    def heard(self) -> int:
        """Connections that have come."""
        return len(self._accepted)

    def begin(self) -> None:
        """From now on whoever connects meets with silence."""
        self.away = True
        disconnect(self._engine)

    def close(self) -> None:
        """Answer normally again, and let all go."""
        self.away = False
        self._server.close()
        for connection in self._accepted:
            connection.close()

    def _accept(self) -> None:
        try:
            while True:
                self._accepted.append(self._server.accept()[0])
        except OSError:
            return

    def _lead_away(self, dialect: Any, _record: object, arguments: list[Any], keywords: dict[str, Any]) -> None:
        if self.away:
            silent = self._engine.url.set(host=LOOPBACK, port=self._server.getsockname()[1])
            arguments[:], elsewhere = dialect.create_connect_args(silent)
            keywords |= elsewhere


@on("postgresql", "mariadb")
def test_a_silent_server_is_given_up_for_the_fallback(runs_engine: Engine, fallback: Engine) -> None:
    """The last word waits no longer than the limit, for each connection, and goes over the fallback."""
    silence = Silence(runs_engine)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER, time_limit=LIMIT) as manager:
        handle = manager.start(silence.begin)
        begun = time.monotonic()
        said = handle.wait(PATIENCE)
        took = time.monotonic() - begun
    silence.close()

    assert silence.heard >= 1
    assert said == applied(handle, "completed", via="fallback 1")
    assert LIMIT / 2 < took < 10 * LIMIT


@on("postgresql", "mariadb")
def test_a_start_that_nobody_answers_is_told(runs_engine: Engine) -> None:
    """A caller is not held for longer either: the database did not answer, nothing was written."""
    silence = Silence(runs_engine)
    with RunManager(runs_engine, heartbeat=NEVER, time_limit=LIMIT) as manager:
        silence.begin()
        with pytest.raises(ConnectionFailureError, match="Nothing was written"):
            manager.start(nothing)
        heard = silence.heard
        silence.close()
        assert manager.start(nothing).wait(PATIENCE).state == "completed"

    assert heard >= 1


@on("postgresql", "mariadb")
@pytest.mark.parametrize("landed", [True, False], ids=["landed", "on its way"])
def test_a_peer_that_falls_silent_at_the_last_word(runs_engine: Engine, fallback: Engine, *, landed: bool) -> None:
    """The connection stays open and nothing comes: written once, in time; what arrives late changes nothing."""
    with (
        Proxy(runs_engine.url) as proxy,
        RunManager(proxy.url, fallbacks=[fallback], heartbeat=NEVER, time_limit=LIMIT) as manager,
        proxy.swallow("UPDATE", skip=1) if landed else proxy.stall("UPDATE", 3 * LIMIT, skip=1) as silent,
    ):
        begun = time.monotonic()
        handle = manager.start(nothing)  # its claim is the first UPDATE
        said = handle.wait(PATIENCE)
        took = time.monotonic() - begun
        time.sleep(0 if landed else max(0, 4 * LIMIT - took))

    assert silent.fired == 1
    assert (said.state, said.outcome, said.version) == ("completed", Outcome.APPLIED, 3)
    assert LIMIT / 2 < took < 10 * LIMIT
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("completed", 3)


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan"), "5", None, True])
def test_a_limit_that_is_none(tmp_path: Path, limit: Any) -> None:
    """Refused when the manager is made, with what was expected."""
    with pytest.raises(RequestError, match="time_limit: expected 0 < seconds"):
        RunManager(f"sqlite:///{tmp_path}/runs.db", time_limit=limit)
