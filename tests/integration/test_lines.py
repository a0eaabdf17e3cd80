"""The two ways to the database answer and fail alike: SQLAlchemy's Connection, and the cursor beneath it.

The first serves an engine that somebody listens to, the second all others; each in AUTOCOMMIT, on an engine of the
adapter's own, and in transactions, on an engine of the caller's.
"""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    String,
    bindparam,
    create_engine,
    event,
    func,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool
from statemachine import State, StateMachine

from statelatch import ConnectionFailureError, MachineMapping, OutcomeUnknownError, PersistenceAdapter, cursor_line
from statelatch.columns import TransitionColumns, UTCDateTime, now, state_text
from statelatch.commands import Execute, Plan, Reply
from statelatch.cursor_line import CursorLine
from statelatch.errors import Phase
from statelatch.lines import CoreLine, FreshLine, Lines
from statelatch.prepared import Prepared
from statelatch.sessions import pooled_session
from tests.databases import administrator, kill_connections, on, pooled


class Base(DeclarativeBase):
    """Base of the entity here."""


class Seat(TransitionColumns, Base):
    """A seat, of whose tickets no two are alike."""

    __tablename__ = "seats"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    ticket: Mapped[str | None] = mapped_column(String(20), unique=True)
    until: Mapped[Any | None] = mapped_column(UTCDateTime())


class Booking(StateMachine):
    """Two sources, and two targets of one source."""

    free = State(initial=True)
    held = State()
    sold = State(final=True)

    hold = free.to(held) | held.to(held)
    sell = held.to(sold, cond="ticket") | held.to(free)


ASSIGNS: dict[str, dict[str, object]] = {
    "hold": {"ticket": bindparam("ticket", None), "until": bindparam("until", None)}
}
MAPPING = MachineMapping(machine=Booking, entity=Seat, assigns=ASSIGNS)

ENGINES = ["autocommit", "transaction"]
LINES = {"cursor": CursorLine, "core": CoreLine}


@pytest.fixture(params=[(engine, line) for engine in ENGINES for line in LINES], ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which engine, and which line."""
    return request.param


@pytest.fixture
def adapter(kind: tuple[str, str], database_url: URL) -> Generator[PersistenceAdapter]:
    """Seats, on this engine and line."""
    with pooled(database_url) as engine:
        Base.metadata.create_all(engine)
        with PersistenceAdapter(database_url if kind[0] == "autocommit" else engine, MAPPING) as adapter:
            for key in (1, 2, 3):
                adapter.create(id=key)
            adapter.send(3, "hold")  # now the adapter knows the database's time
            if kind[1] == "core":
                event.listen(sending(adapter), "before_cursor_execute", lambda *_: None)
            lines = Lines(sending(adapter), keeps=False)
            assert type(lines.line_for(Execute(((adapter.statements.load, {}),)))) is LINES[kind[1]]
            yield adapter
            adapter._lines.close()  # pyright: ignore[reportPrivateUsage]
            assert sending(adapter).pool.checkedout() == 0  # pyright: ignore  a QueuePool


def sending(adapter: PersistenceAdapter) -> Engine:
    """The engine that the adapter sends over."""
    return adapter._sending  # pyright: ignore[reportPrivateUsage]


def stored(adapter: PersistenceAdapter, key: int = 1) -> tuple[str, int]:
    """State and version, as another connection sees them."""
    with pooled(sending(adapter).url) as engine, engine.connect() as connection:
        return tuple(connection.execute(text(f"SELECT state, version FROM seats WHERE id = {key}")).one())  # pyright: ignore


def test_both_tell_the_same(adapter: PersistenceAdapter) -> None:
    """Source, target and version of every kind of event, and the database's time between its time before and after."""
    before = clock(adapter)
    done = [
        adapter.send(1, "hold"),
        adapter.send(1, "hold", expected_version=2),
        adapter.send(1, "sell"),
        adapter.send(1, "hold", ticket="A 1"),
        adapter.send(1, "sell", expected_version=5),
    ]
    after = clock(adapter)

    assert [(each.source, each.target, each.version) for each in done] == [
        ("free", "held", 2),
        ("held", "held", 3),
        ("held", "free", 4),
        ("free", "held", 5),
        ("held", "sold", 6),
    ]
    times = [before, *(each.at for each in done), after]
    assert sorted(times) == times
    assert stored(adapter) == ("sold", 6)


def clock(adapter: PersistenceAdapter) -> Any:
    """The database's time."""
    with sending(adapter).connect() as connection:
        return connection.scalar(now().select())


def test_a_constraint_speaks_for_itself(adapter: PersistenceAdapter) -> None:
    """A duplicate is SQLAlchemy's IntegrityError, with the statement; nothing is written, and the next call works."""
    adapter.send(1, "hold", ticket="A 1")

    with pytest.raises(IntegrityError, match="UPDATE seats"):
        adapter.send(2, "hold", ticket="A 1")

    assert stored(adapter, 2) == ("free", 1)
    assert adapter.send(2, "hold", ticket="A 2").version == 2


def test_a_type_that_refuses_a_value(adapter: PersistenceAdapter) -> None:
    """What a column's type cannot bind is SQLAlchemy's StatementError; nothing is sent."""
    with pytest.raises(StatementError, match="UPDATE seats"):
        adapter.send(1, "hold", until="tomorrow")

    assert stored(adapter) == ("free", 1)


@on("sqlite")
def test_a_database_that_went_away(adapter: PersistenceAdapter) -> None:
    """Where no new connection is had: phase `connect`."""
    folder = Path(sending(adapter).url.database or "").parent
    sending(adapter).dispose()
    adapter.close()
    elsewhere = folder.rename(folder.with_name("elsewhere"))

    with pytest.raises(ConnectionFailureError) as caught:
        adapter.send(1, "hold")

    assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.CONNECT)
    elsewhere.rename(folder)
    assert adapter.send(1, "hold").version == 2


@on("sqlite")
def test_a_connection_that_died_in_the_pool(kind: tuple[str, str], adapter: PersistenceAdapter) -> None:
    """It is not used a second time: a read has failed before it wrote anything, and the next call works."""
    deaths: list[object] = []

    @event.listens_for(sending(adapter), "checkout")
    def close(connection: Any, record: object, _proxy: object) -> None:
        if not deaths:
            deaths.append(record)
            connection.close()

    adapter.close()
    with pytest.raises(ConnectionFailureError) as caught:
        adapter.load(1)

    assert (type(caught.value), len(deaths)) == (ConnectionFailureError, 1)
    assert adapter.send(1, "hold").version == 2


@on("sqlite")
def test_a_busy_file(database_url: URL, adapter: PersistenceAdapter, kind: tuple[str, str]) -> None:
    """A lock that outlasts the patience is no answer: nothing is written, and later it is."""

    @event.listens_for(sending(adapter), "connect")
    def impatient(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA busy_timeout=20")

    sending(adapter).dispose()
    adapter.close()
    with pooled(database_url) as other, other.connect() as connection:
        connection.execute(text("UPDATE seats SET version = version WHERE id = 2"))
        with pytest.raises(ConnectionFailureError) as caught:
            adapter.send(1, "hold")
        connection.rollback()

    assert (type(caught.value), "locked" in caught.value.detail) == (ConnectionFailureError, True)
    assert stored(adapter) == ("free", 1)
    assert adapter.send(1, "hold").version == 2


WAITING = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE info LIKE 'UPDATE seats%' AND db = database()",
}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}


@contextmanager
def locked(adapter: PersistenceAdapter) -> Generator[Connection]:
    """Another connection, which has locked seat 1."""
    with pooled(sending(adapter).url) as engine, engine.connect() as connection:
        connection.execute(text("SELECT * FROM seats WHERE id = 1 FOR UPDATE"))
        yield connection


def waiting(adapter: PersistenceAdapter) -> int:
    """The session that waits for the lock, as soon as it does."""
    dialect = sending(adapter).dialect.name
    with pooled(sending(adapter).url) as engine, engine.connect() as connection:
        for _ in range(500):
            found = connection.scalars(text(WAITING[dialect])).all()
            connection.rollback()
            if found:
                return int(found[0])
            time.sleep(0.01)
    raise AssertionError("nobody waits for the lock")


@on("postgresql", "mariadb")
def test_killed_while_it_waits(kind: tuple[str, str], adapter: PersistenceAdapter) -> None:
    """The UPDATE's session is killed: in a transaction nothing was written; in AUTOCOMMIT the outcome is unknown."""
    with locked(adapter), ThreadPoolExecutor() as threads:
        sent = threads.submit(adapter.send, 1, "hold")
        victim = waiting(adapter)
        with administrator(sending(adapter).url) as server, server.connect() as connection:
            connection.execute(text(KILL[server.dialect.name].format(victim)))
        error = sent.exception()

    unknown = kind[0] == "autocommit"
    assert isinstance(error, ConnectionFailureError)
    assert (type(error) is OutcomeUnknownError, error.phase) == (unknown, Phase.COMMIT if unknown else Phase.EXECUTE)
    assert stored(adapter) == ("free", 1)
    assert adapter.send(1, "hold", token=getattr(error, "token", None)).version == 2


@on("postgresql", "mariadb")
def test_interrupted_while_it_waits(adapter: PersistenceAdapter) -> None:
    """Ctrl-C in the middle of an answer: that connection is not used again, and its lock is let go."""

    def interrupt() -> None:
        waiting(adapter)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with locked(adapter):
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            adapter.send(1, "hold")
        interrupter.join()

    assert adapter.send(2, "hold").version == 2


@on("mariadb")
@pytest.mark.parametrize("version", [2**21 - 2, 2**21 - 1, 2**22, 2**31 - 3])
def test_a_version_that_leaves_no_room_for_the_time(adapter: PersistenceAdapter, version: int) -> None:
    """Where version and time do not fit into one number, both are right all the same."""
    with pooled(sending(adapter).url) as engine, engine.begin() as connection:
        connection.execute(text(f"UPDATE seats SET version = {version} WHERE id = 1"))
    before = clock(adapter)

    done = [adapter.send(1, "hold"), adapter.send(1, "sell", expected_version=version + 1)]

    assert [(each.source, each.target, each.version) for each in done] == [
        ("free", "held", version + 1),
        ("held", "free", version + 2),
    ]
    assert before <= done[0].at <= done[1].at <= clock(adapter)


def two_updates(adapter: PersistenceAdapter) -> Plan[None]:
    """A transaction whose second statement breaks a constraint."""
    seats: Any = Seat.__table__

    def ticketed(key: int) -> Prepared:
        return adapter.statements.prepared(update(seats).where(seats.c.id == key).values(ticket=literal("A 1")))

    yield Execute(((ticketed(1), {}), (ticketed(2), {})))


def test_what_fails_half_way_is_taken_back(adapter: PersistenceAdapter) -> None:
    """The first statement's write is gone, and no later commit on that connection carries it."""
    with pytest.raises(IntegrityError):
        adapter.run(two_updates(adapter))
    adapter.send(2, "hold")

    with pooled(sending(adapter).url) as engine, engine.connect() as connection:
        assert connection.scalars(text("SELECT ticket FROM seats")).all() == [None] * 3


@on("postgresql", "mariadb")
def test_connections_lost_together_are_renewed_together(adapter: PersistenceAdapter) -> None:
    """After a restart of the server one call fails, not one for each connection in the pool."""
    pooled_connections = [sending(adapter).raw_connection() for _ in range(3)]
    for connection in pooled_connections:
        connection.close()
    assert kill_connections(sending(adapter).url) >= 3

    with pytest.raises(ConnectionFailureError):
        adapter.load(1)

    assert [adapter.send(1, "hold").version, adapter.send(2, "hold").version] == [2, 2]


# -- lines that an adapter keeps ----------------------------------------------------------------------------------


@pytest.fixture
def by_url(database_url: URL) -> Generator[PersistenceAdapter]:
    """Seats, on an engine of the adapter's own, to which nobody listens."""
    with pooled(database_url) as engine:
        Base.metadata.create_all(engine)
    with PersistenceAdapter(database_url, MAPPING) as adapter:
        for key in range(1, 31):
            adapter.create(id=key)
        yield adapter
    assert sending(adapter).pool.checkedout() == 0  # pyright: ignore  a QueuePool


def test_a_line_is_kept(by_url: PersistenceAdapter) -> None:
    """One connection is taken from the pool, and serves one event after the other."""
    taken: list[object] = []
    event.listen(sending(by_url), "checkout", lambda *_: taken.append(_))  # pyright: ignore

    for key in range(1, 6):
        by_url.send(key, "hold")

    assert len(taken) == 1


@on("sqlite")
def test_what_was_not_read_holds_nothing(by_url: PersistenceAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that nobody read would hold on to the state in which they were, as long as somebody has the error."""

    def unread(*_: object) -> Any:
        raise ZeroDivisionError

    with pooled(by_url.engine.url) as engine, engine.connect() as connection:
        connection.execute(text("PRAGMA journal_mode = WAL"))
        with monkeypatch.context() as patched:
            patched.setattr(Prepared, "rows", unread)
            with pytest.raises(ZeroDivisionError) as kept:
                by_url.load(1)
        connection.execute(text("UPDATE seats SET version = 7 WHERE id = 1"))
        connection.commit()

    assert (kept.type, by_url.load(1).version) == (ZeroDivisionError, 7)


def test_a_crowd_that_is_larger_than_the_pool(by_url: PersistenceAdapter) -> None:
    """Nobody waits for a connection that a kept line holds: beyond the pool's size lines go back at once."""

    def ten(key: int) -> None:
        for _ in range(10):
            by_url.send(key, "hold")

    with ThreadPoolExecutor(30) as threads:
        list(threads.map(ten, range(1, 31)))

    assert {by_url.load(key).version for key in range(1, 31)} == {11}
    assert sending(by_url).pool.checkedout() <= 5  # pyright: ignore  a QueuePool


@on("postgresql", "mariadb")
def test_kept_lines_are_lost_together(by_url: PersistenceAdapter) -> None:
    """After a restart of the server one call fails, not one for each line that was kept."""
    with ThreadPoolExecutor() as threads:
        with locked(by_url):
            waits = threads.submit(by_url.send, 1, "hold")
            waiting(by_url)
            by_url.send(2, "hold")
        waits.result()  # its line is the second
    assert len(by_url._lines._idle) == 2  # pyright: ignore[reportPrivateUsage]
    kill_connections(sending(by_url).url)

    with pytest.raises(ConnectionFailureError):
        by_url.load(1)

    assert [by_url.send(key, "hold").version for key in (1, 2)] == [3, 3]


def session(adapter: PersistenceAdapter) -> int:
    """The server's number for the connection that the adapter's next statement goes over."""
    own = {"postgresql": func.pg_backend_pid(), "mariadb": func.connection_id()}[sending(adapter).dialect.name]
    asked = adapter.statements.prepared(select(own.label("session")))

    def ask() -> Plan[int]:
        reply: Reply = yield Execute(((asked, {}),))
        return int(next(iter(reply.rows))["session"])

    return adapter.run(ask())


FORKING = """
import os, sys
from statelatch import PersistenceAdapter
from tests.integration.test_lines import MAPPING, sessions

adapter = PersistenceAdapter(sys.argv[1], MAPPING)
adapter.send(1, "hold")
parents = sessions(adapter)
assert sessions(adapter) == parents, "the parent keeps its connections"
child = os.fork()
if child == 0:
    if sys.argv[2] == "used":
        adapter.create(id=100)
        assert not parents & sessions(adapter)
        assert adapter.send(2, "hold").version == 2
    adapter.close()
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert sessions(adapter) == parents, "the child has ended the parent's connections"
assert adapter.send(2, "hold").version == (3 if sys.argv[2] == "used" else 2)
"""


def sessions(adapter: PersistenceAdapter) -> set[int]:
    """The server's numbers for the line that is kept, and for a connection in the pool."""
    kept = session(adapter)
    with sending(adapter).connect() as connection:
        known = pooled_session(sending(adapter).dialect, connection.connection)
    return {kept, known.number if known else 0}


@on("postgresql", "mariadb")
@pytest.mark.parametrize("what", ["used", "closed"])
def test_a_forked_process_has_connections_of_its_own(by_url: PersistenceAdapter, what: str) -> None:
    """The child leaves the parent's connections alone, and its end does not end them."""
    url = sending(by_url).url.render_as_string(hide_password=False)

    ended = subprocess.run(
        [sys.executable, "-c", FORKING, url, what], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_fresh_line_is_made_for_one_transaction(adapter: PersistenceAdapter) -> None:
    """It is no connection of the pool's, and it is closed when the transaction is over, as well as when it fails."""
    engine = sending(adapter)
    opened: list[Any] = []
    closed: list[Any] = []
    event.listen(engine, "connect", lambda connection, _: opened.append(connection))  # pyright: ignore
    event.listen(engine, "close", lambda connection, _: closed.append(connection))  # pyright: ignore
    command = Execute(((adapter.statements.load, {"latch_key_0": 1}),), fresh=True)

    for broken in (False, True):
        with suppress(ZeroDivisionError), adapter.lines.line_for(command) as line:
            line.begin(several=False)
            assert line.execute(*command.statements[0]).matched == 1
            assert 1 / (not broken)

    assert (len(opened), opened) == (2, closed)
    with adapter.lines.line_for(command) as line:
        assert type(line) is FreshLine


def test_a_database_in_memory_has_no_second_connection() -> None:
    """To ask on a new one would be to ask another database."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    adapter = PersistenceAdapter(engine, MAPPING)
    assert type(adapter.lines.line_for(Execute((), fresh=True))) is not FreshLine


@on("postgresql", "mariadb")
def test_a_connection_that_died_while_idle_loses_nothing(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen before anything is sent over it, so that no outcome is in doubt, not even of an event that repeats."""
    monkeypatch.setattr(cursor_line, "IDLE", 0.0)
    with pooled(database_url) as engine:
        Base.metadata.create_all(engine)
    with PersistenceAdapter(database_url, MAPPING) as adapter:
        adapter.create(id=1)
        for _ in range(3):
            adapter.send(1, "hold")
        assert kill_connections(database_url) == 1
        time.sleep(0.05)

        assert adapter.send(1, "hold").version == 5
