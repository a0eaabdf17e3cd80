"""The fault table, SQLite: each of its errors that can be had here, real, and what becomes of the transition.

`docs/faults.md` lists the rows, the tests that provoke them, and those that were not provoked.
"""

from __future__ import annotations

import resource
import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import DatabaseError, OperationalError

from statelatch import ConnectionFailureError, OutcomeUnknownError, PersistenceAdapter
from statelatch.errors import Phase
from tests.databases import on, pooled, unreachable
from tests.heard import WAYS, Heard
from tests.orders import KEY, order_adapter, stored_order

pytestmark = on("sqlite")

LARGE = "x" * 200_000
"""A note that needs many pages."""


def created(url: URL, journal: str = "wal") -> URL:
    """A file with one paid draft that may be shipped, in this journal mode, and its impatient URL."""
    with pooled(url) as engine:
        with engine.connect() as connection:
            connection.execute(text(f"PRAGMA journal_mode = {journal}"))
        order_adapter(engine).create(tenant="acme", number=7, paid=True, limit=9)
    return url.update_query_dict({"timeout": "0.05"})


@contextmanager
def opened(url: URL, way: str) -> Generator[PersistenceAdapter]:
    """An adapter on an engine of this way."""
    engine = WAYS[way](url)
    try:
        yield order_adapter(engine)
    finally:
        engine.dispose()


def row(url: URL) -> dict[str, Any]:
    """The row as somebody else sees it."""
    with pooled(url) as engine:
        return stored_order(engine)


@contextmanager
def reading(url: URL) -> Generator[None]:
    """Somebody reads the file, in the middle of a statement."""
    with closing(sqlite3.connect(str(url.database))) as connection:
        cursor = connection.execute("SELECT tenant_id FROM orders")
        cursor.fetchone()
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM orders").fetchone()
        yield


def test_busy_at_commit(database_url: URL, way: str) -> None:
    """SQLITE_BUSY at COMMIT, in rollback journal mode while somebody reads: not written, given up after three tries.

    Behaviour 21: nothing stays locked, and no later commit of the same pool carries the lost write.
    """
    url = created(database_url, "delete")
    with opened(url, way) as adapter:
        heard = Heard(adapter.engine)
        with reading(url), pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.COMMIT)
        assert heard.codes == {"SQLITE_BUSY": 3}
        with adapter.engine.begin() as connection:
            connection.execute(text("UPDATE orders SET note = 'later'"))
        assert (row(url)["version"], row(url)["note"]) == (1, "later")
        assert adapter.send(KEY, "pay").version == 2


def test_busy_snapshot(database_url: URL) -> None:
    """SQLITE_BUSY_SNAPSHOT: another wrote after this transaction's first read; begun anew, the event is applied."""
    url = created(database_url)
    with opened(url, "transaction") as adapter, pooled(url) as other:
        heard = Heard(adapter.engine)
        read: list[int] = []

        @event.listens_for(adapter.engine, "begin")
        def beginning(connection: Connection) -> None:
            driver: Any = connection.connection.dbapi_connection
            if not read:
                driver.execute("BEGIN")
                read.append(driver.execute("SELECT version FROM orders").fetchone()[0])
                with other.begin() as elsewhere:
                    elsewhere.execute(text("UPDATE orders SET note = 'other'"))

        assert adapter.send(KEY, "pay").version == 2
        assert (read, heard.codes) == ([1], {"SQLITE_BUSY_SNAPSHOT": 1})
        assert (row(url)["version"], row(url)["note"]) == (2, "other")


@pytest.mark.filterwarnings("ignore:Selection of the")
def test_locked(database_url: URL, way: str) -> None:
    """SQLITE_LOCKED: a connection of the same shared cache is writing the table; given up after three tries."""
    url = created(database_url)
    shared = url.set(database=f"file:{url.database}").update_query_dict({"cache": "shared", "uri": "true"})
    with opened(shared, way) as adapter, pooled(shared) as other:
        heard = Heard(adapter.engine)
        with other.connect() as connection:
            connection.execute(text("UPDATE orders SET note = 'other'"))
            with pytest.raises(ConnectionFailureError) as caught:
                adapter.send(KEY, "pay")
            connection.rollback()

        assert type(caught.value) is ConnectionFailureError
        assert heard.codes == {"SQLITE_LOCKED_SHAREDCACHE": 3}
        assert row(url)["version"] == 1
        assert adapter.send(KEY, "pay").version == 2


def test_interrupt(database_url: URL, way: str) -> None:
    """SQLITE_INTERRUPT: a progress handler breaks the UPDATE off, once; tried again, it is applied."""
    with opened(created(database_url), way) as adapter:
        engine = adapter.engine
        heard = Heard(engine, lambda _: event.remove(engine, "before_cursor_execute", interrupt))

        def interrupt(connection: Connection, *_: object) -> None:
            driver: Any = connection.connection.dbapi_connection
            driver.set_progress_handler(lambda: not heard.codes, 1)

        event.listen(engine, "before_cursor_execute", interrupt)

        assert adapter.send(KEY, "pay").version == 2
        assert heard.codes == {"SQLITE_INTERRUPT": 1}


class Quota:
    """A file that may have so many pages more than it has; lifted at once."""

    def __init__(self, engine: Engine, pages: int) -> None:
        self._pages, self.is_set = pages, True
        event.listen(engine, "before_cursor_execute", self._limit)

    def _limit(self, connection: Connection, *_: object) -> None:
        driver: Any = connection.connection.dbapi_connection
        (count,) = driver.execute("PRAGMA page_count").fetchone()
        driver.execute(f"PRAGMA max_page_count = {count + self._pages if self.is_set else 2**30}")

    def lift(self) -> None:
        """From now on there is room."""
        self.is_set = False


def test_full(database_url: URL, way: str) -> None:
    """SQLITE_FULL: three tries with a pause between them, then the driver's error as it is; nothing is written."""
    url = created(database_url)
    with opened(url, way) as adapter:
        adapter.send(KEY, "pay")
        quota, heard = Quota(adapter.engine, 4), Heard(adapter.engine)

        with pytest.raises(OperationalError):
            adapter.send(KEY, "ship", note=LARGE)

        assert heard.codes == {"SQLITE_FULL": 3}
        assert (row(url)["version"], row(url)["note"]) == (2, None)
        quota.lift()
        assert adapter.send(KEY, "ship", note=LARGE).version == 3


def test_full_for_a_moment(database_url: URL, way: str) -> None:
    """SQLITE_FULL, and then somebody makes room: the next try applies the event."""
    with opened(created(database_url), way) as adapter:
        adapter.send(KEY, "pay")
        quota = Quota(adapter.engine, 4)
        heard = Heard(adapter.engine, lambda _: quota.lift())

        assert adapter.send(KEY, "ship", note=LARGE).version == 3
        assert heard.codes == {"SQLITE_FULL": 1}


def test_read_only(database_url: URL, way: str) -> None:
    """SQLITE_READONLY: once more on a new connection, then the driver's error as it is."""
    url = created(database_url)
    read_only = url.set(database=f"file:{url.database}").update_query_dict({"mode": "ro", "uri": "true"})
    with opened(url, way) as writable, pooled(read_only) as engine:
        heard = Heard(engine)

        with pytest.raises(OperationalError):
            PersistenceAdapter(engine, writable.mapping).send(KEY, "pay")

    assert heard.codes == {"SQLITE_READONLY": 2}
    assert row(url)["version"] == 1


def test_read_only_on_one_connection(database_url: URL, way: str) -> None:
    """SQLITE_READONLY of a connection that may only query: the new connection may write, and the event is applied."""
    with opened(created(database_url), way) as adapter:
        heard = Heard(adapter.engine)
        with adapter.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")

        assert adapter.send(KEY, "pay").version == 2
        assert heard.codes == {"SQLITE_READONLY": 1}


def test_moved(database_url: URL, way: str) -> None:
    """SQLITE_READONLY_DBMOVED: the file was replaced under an open connection; the new one is written, not the old."""
    url = created(database_url, "delete")
    path = Path(str(url.database))
    old = path.with_name("old.db")
    with opened(url, way) as adapter:
        heard = Heard(adapter.engine)
        assert adapter.load(KEY).version == 1
        path.rename(old)
        shutil.copy(old, path)

        assert adapter.send(KEY, "pay").version == 2
        assert heard.codes == {"SQLITE_READONLY_DBMOVED": 1}
    assert (row(url)["version"], row(url.set(database=str(old)))["version"]) == (2, 1)


def test_cannot_open(database_url: URL, way: str) -> None:
    """SQLITE_CANTOPEN: the folder is not there; a connection failure in phase `connect`."""
    with opened(created(database_url), way) as adapter:
        engine = WAYS[way](unreachable(database_url))
        heard = Heard(engine)

        with pytest.raises(ConnectionFailureError) as caught:
            PersistenceAdapter(engine, adapter.mapping).send(KEY, "pay")

    assert (caught.value.phase, heard.codes) == (Phase.CONNECT, {"SQLITE_CANTOPEN": 1})


def overwritten(url: URL, start: int) -> None:
    """Write noise over the file from this byte on."""
    path = Path(str(url.database))
    content = path.read_bytes()
    path.write_bytes(content[:start] + b"noise" * ((len(content) - start) // 5))


@pytest.mark.parametrize(("start", "code"), [(0, "SQLITE_NOTADB"), (4096, "SQLITE_CORRUPT")])
def test_damaged(database_url: URL, way: str, start: int, code: str) -> None:
    """SQLITE_NOTADB and SQLITE_CORRUPT: no other try and no other connection helps; the driver's error as it is."""
    url = created(database_url, "delete")
    with opened(url, way) as adapter:
        mapping = adapter.mapping
    overwritten(url, start)
    engine = WAYS[way](url)
    heard = Heard(engine)

    with pytest.raises(DatabaseError):
        PersistenceAdapter(engine, mapping).send(KEY, "pay")

    assert heard.codes == {code: 1}
    engine.dispose()


@contextmanager
def no_larger_files() -> Generator[Callable[[], None]]:
    """Let the kernel refuse every write that would make a file longer; yields what ends that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield lift
    finally:
        lift()


def test_io_error(database_url: URL) -> None:
    """SQLITE_IOERR before COMMIT, of the journal: a connection failure in phase `execute`; nothing is written."""
    url = created(database_url, "delete")
    with opened(url, "transaction") as adapter:
        heard = Heard(adapter.engine)
        with no_larger_files(), pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
        assert heard.codes == {"SQLITE_IOERR_WRITE": 1}
        assert row(url)["version"] == 1
        assert adapter.send(KEY, "pay").version == 2


def test_io_error_at_commit(database_url: URL, way: str) -> None:
    """SQLITE_IOERR at COMMIT, of the write-ahead log: verified and tried again, then unknown; the token settles it."""
    url = created(database_url)
    with opened(url, way) as adapter:
        heard = Heard(adapter.engine)
        adapter.load(KEY)
        with no_larger_files(), pytest.raises(OutcomeUnknownError) as caught:
            adapter.send(KEY, "pay")
        token = caught.value.token

        assert (caught.value.phase, heard.codes) == (Phase.COMMIT, {"SQLITE_IOERR_WRITE": 3})
        assert token is not None
        assert (adapter.verify(token, KEY, event="pay"), row(url)["version"]) == (False, 1)
        assert adapter.send(KEY, "pay", token=token).version == 2


def test_io_error_at_commit_once(database_url: URL, way: str) -> None:
    """SQLITE_IOERR at COMMIT, and then there is room: found not to have landed, and applied by the next try."""
    url = created(database_url)
    with opened(url, way) as adapter, no_larger_files() as lift:
        heard = Heard(adapter.engine, lambda _: lift())

        assert adapter.send(KEY, "pay").version == 2
        assert heard.codes == {"SQLITE_IOERR_WRITE": 1}
