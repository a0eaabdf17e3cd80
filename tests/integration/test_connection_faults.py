"""Connections that are refused, killed and cut, on each database: the phase is told, and nothing is written twice.

A fault is real: the server kills the session, or SQLite's connection is closed, in the middle of a `send`. Each
test asserts that its fault struck.
"""

from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, event

from statelatch import (
    ConnectionFailureError,
    OutcomeUnknownError,
    PersistenceAdapter,
    StaleVersionError,
    TransitionRefusedError,
)
from statelatch.errors import Phase
from tests.databases import kill_connections, on, pooled, unreachable
from tests.orders import KEY, PATHS, order_adapter, stored_order
from tests.outages import LostCommit, Outage

CREATED: dict[str, Any] = {"tenant": "acme", "number": 7, "paid": True}

Moment = Literal["before_cursor_execute", "after_cursor_execute"]


class Strike:
    """Cuts the connection once, before or after the next statement that begins with a word."""

    def __init__(self, engine: Engine, moment: Moment, word: str) -> None:
        self._word, self._url = word, engine.url
        self.count = 0
        event.listen(engine, moment, self._executing)

    def _executing(self, connection: Any, _cursor: object, statement: str, *_: object) -> None:
        if not self.count and statement.startswith(self._word):
            self.count += 1
            cut(connection.connection.dbapi_connection, self._url)


def cut(driver_connection: Any, url: URL) -> None:
    """Kill the sessions of this database; SQLite's connection is closed under the driver's hands."""
    if url.get_backend_name() == "sqlite":
        driver_connection.close()
    else:
        kill_connections(url)


@pytest.fixture(params=PATHS)
def adapter(request: pytest.FixtureRequest, engine: Engine) -> PersistenceAdapter:
    """Orders on this path, one of them a paid draft."""
    adapter = order_adapter(engine, PATHS[request.param])
    adapter.create(**CREATED)
    return adapter


VERBS: dict[str, Callable[[PersistenceAdapter], object]] = {
    "create": lambda adapter: adapter.create(**CREATED),
    "load": lambda adapter: adapter.load(KEY),
    "send": lambda adapter: adapter.send(KEY, "pay"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_connection_refused(database_url: URL, verb: str) -> None:
    """Behaviour 16: where nothing listens, each verb fails in phase `connect`, with the URL that was tried."""
    with pooled(database_url) as engine:
        mapping = order_adapter(engine).mapping
    nowhere = unreachable(database_url)

    with PersistenceAdapter(nowhere, mapping) as adapter, pytest.raises(ConnectionFailureError) as caught:
        VERBS[verb](adapter)

    assert type(caught.value) is ConnectionFailureError
    assert (caught.value.phase, caught.value.database) == (Phase.CONNECT, nowhere.render_as_string())


def test_killed_before_the_update(adapter: PersistenceAdapter) -> None:
    """Behaviour 16: a connection killed before the UPDATE reaches the server: phase `execute`, nothing is written."""
    before = stored_order(adapter.engine)
    strike = Strike(adapter.engine, "before_cursor_execute", "UPDATE")

    with pytest.raises(ConnectionFailureError) as caught:
        adapter.send(KEY, "pay")

    assert (type(caught.value), caught.value.phase, strike.count) == (ConnectionFailureError, Phase.EXECUTE, 1)
    assert before == stored_order(adapter.engine)
    assert adapter.send(KEY, "pay").version == 2


AFTER_UPDATE = {
    "sqlite": dict.fromkeys(PATHS, Phase.EXECUTE),
    "postgresql": dict.fromkeys(PATHS, Phase.COMMIT),
    "mariadb": {"compiled": Phase.EXECUTE, "interpreted": Phase.COMMIT},
}
"""What comes next on the dead connection: COMMIT, but SQLite reads the row first, and MariaDB is sent a SELECT by an
adapter that does not know the database's time yet."""


def test_killed_after_the_update(adapter: PersistenceAdapter) -> None:
    """Behaviour 16: killed after the UPDATE, nothing is written; at COMMIT it is asked, and done again."""
    before = stored_order(adapter.engine)
    strike = Strike(adapter.engine, "after_cursor_execute", "UPDATE")
    path = "compiled" if adapter.explain("pay").compiled else "interpreted"

    if AFTER_UPDATE[adapter.engine.dialect.name][path] is Phase.COMMIT:
        assert adapter.send(KEY, "pay").version == 2
    else:
        with pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")
        assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
        assert before == stored_order(adapter.engine)
    assert strike.count == 1


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_lost_read_is_never_an_unknown_outcome(adapter: PersistenceAdapter, moment: Moment) -> None:
    """A SELECT whose connection is killed, even at the end of its transaction, has written nothing."""
    strike = Strike(adapter.engine, moment, "SELECT")

    with pytest.raises(ConnectionFailureError) as caught:
        adapter.load(KEY)

    assert (type(caught.value), caught.value.phase, strike.count) == (ConnectionFailureError, Phase.EXECUTE, 1)


def test_a_lost_diagnosis_is_no_refusal(engine: Engine) -> None:
    """The UPDATE matched nothing, but why could not be asked: the database did not answer."""
    adapter = order_adapter(engine)
    adapter.create(**CREATED)
    strike = Strike(engine, "before_cursor_execute", "SELECT")

    with pytest.raises(ConnectionFailureError) as caught:
        adapter.send(KEY, "release", expected_version=9)

    assert (type(caught.value), caught.value.phase, strike.count) == (ConnectionFailureError, Phase.EXECUTE, 1)


# -- COMMIT ---------------------------------------------------------------------------------------------


def lost_commit(adapter: PersistenceAdapter, event: str, *, landed: bool) -> LostCommit:
    """The COMMIT of the next send of this event is not acknowledged."""
    fault = LostCommit(adapter.engine, landed=landed)
    fault.arm(skip=0 if adapter.explain(event).compiled else 1)  # an interpreted event reads first
    return fault


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("expected_version", [None, 1])
def test_a_lost_commit_is_applied_once(adapter: PersistenceAdapter, landed: bool, expected_version: int | None) -> None:
    """Behaviours 17, 18: what has landed is found by its token, what has not is sent again with it."""
    fault = lost_commit(adapter, "pay", landed=landed)

    done = adapter.send(KEY, "pay", expected_version=expected_version)

    row = stored_order(adapter.engine)
    assert (done.source, done.target, done.version, fault.strikes) == ("draft", "paid 100%", 2, 1)
    assert (row["version"], row["transition_token"]) == (2, done.token)


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_commit_of_a_database_that_is_away(adapter: PersistenceAdapter, landed: bool) -> None:
    """Behaviour 20: an outcome that nobody can be asked for is told with token and key; a later check is exact."""
    fault, outage = lost_commit(adapter, "pay", landed=landed), Outage(adapter.engine)

    with pytest.raises(OutcomeUnknownError) as caught:
        outage.after(fault, lambda: adapter.send(KEY, "pay"))

    error = caught.value
    assert (error.phase, error.key, error.event, fault.strikes) == (Phase.COMMIT, KEY, "pay", 1)
    assert isinstance(error.token, UUID)
    assert outage.refused > 0
    outage.end()
    assert adapter.verify(error.token, KEY, event="pay") is landed
    done = [adapter.send(KEY, "pay", token=error.token) for _ in range(2)]
    row = stored_order(adapter.engine)
    assert [(each.source, each.target, each.version) for each in done] == [("draft", "paid 100%", 2)] * 2
    assert (row["version"], row["transition_token"]) == (2, error.token)
    assert adapter.verify(error.token, KEY) is True


# -- AUTOCOMMIT -----------------------------------------------------------------------------------------


class LostAnswer:
    """Cuts the connection when the next UPDATE has been carried out, before its answer is read."""

    def __init__(self, engine: Engine, *, landed: bool) -> None:
        self._url, self._landed = engine.url, landed
        self.strikes = 0
        event.listen(engine, "do_execute", self._execute)

    def _execute(self, cursor: Any, statement: str, parameters: Any, _context: object) -> bool:
        if self.strikes or not statement.startswith("UPDATE"):
            return False
        self.strikes += 1
        if self._landed:
            cursor.execute(statement, parameters)
            cursor.fetchall()
        cut(cursor.connection, self._url)
        cursor.execute(statement, parameters)  # the driver finds that nobody is there
        return True


@pytest.fixture(params=PATHS)
def autocommitting(request: pytest.FixtureRequest, database_url: URL) -> Any:
    """Orders on an engine whose every statement is durable by itself."""
    with pooled(database_url) as engine:
        order_adapter(engine)
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
    adapter = order_adapter(engine, PATHS[request.param])
    adapter.create(tenant="acme", number=8, paid=True)
    adapter.send(("acme", 8), "pay")  # now the adapter knows the database's time
    yield adapter
    engine.dispose()


def test_autocommit_works(autocommitting: PersistenceAdapter) -> None:
    """On an engine in AUTOCOMMIT everything is as elsewhere."""
    autocommitting.create(**CREATED)

    done = autocommitting.send(KEY, "pay", expected_version=1)

    assert (done.source, done.target, done.version) == ("draft", "paid 100%", 2)
    assert stored_order(autocommitting.engine)["transition_token"] == done.token
    with pytest.raises(StaleVersionError):
        autocommitting.send(KEY, "drop", expected_version=1)
    with pytest.raises(TransitionRefusedError):
        autocommitting.send(KEY, "pay")


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_answer_in_autocommit_is_found(autocommitting: PersistenceAdapter, landed: bool) -> None:
    """There is no COMMIT, so the UPDATE's own answer is the acknowledgement; by its token it is applied once."""
    autocommitting.create(**CREATED)
    fault = LostAnswer(autocommitting.engine, landed=landed)

    done = autocommitting.send(KEY, "pay")

    row = stored_order(autocommitting.engine)
    assert (done.version, row["version"], fault.strikes) == (2, 2, 1)
    assert row["transition_token"] == done.token


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_lost_read_in_autocommit(autocommitting: PersistenceAdapter, moment: Moment) -> None:
    """A read in AUTOCOMMIT leaves nothing unknown either: it fails in phase `execute`, or it has answered."""
    autocommitting.create(**CREATED)
    strike = Strike(autocommitting.engine, moment, "SELECT")

    if moment == "after_cursor_execute" and autocommitting.engine.dialect.name != "sqlite":
        assert autocommitting.load(KEY).version == 1  # the answer had come, and nothing more is sent
    else:
        with pytest.raises(ConnectionFailureError) as caught:
            autocommitting.load(KEY)
        assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
    assert strike.count == 1


@on("sqlite")
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_begin_of_the_user_s_own_is_a_transaction(database_url: URL, moment: Moment) -> None:
    """SQLAlchemy's recipe for SQLite: a listener begins, not the driver; what is lost before COMMIT was not written."""
    with pooled(database_url) as engine:

        @event.listens_for(engine, "connect")
        def connected(driver_connection: Any, _record: object) -> None:
            driver_connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def beginning(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

        adapter = order_adapter(engine)
        adapter.create(**CREATED)
        strike = Strike(engine, moment, "UPDATE")

        with pytest.raises(ConnectionFailureError) as caught:
            adapter.send(KEY, "pay")

        assert strike.count == 1
        assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
        assert stored_order(engine)["version"] == 1
