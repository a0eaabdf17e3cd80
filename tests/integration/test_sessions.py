"""A connection that was lost may live on at the server: its session is ended before anybody says what has landed."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

from statelatch import OutcomeUnknownError, PersistenceAdapter
from statelatch.sessions import Rest, Session, ended, session_of
from statelatch.testing import Proxy
from tests.databases import on, pooled
from tests.orders import KEY, order_adapter, stored_order

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def adapter(engine: Engine) -> Generator[PersistenceAdapter]:
    """Orders, one of them a paid draft, on an engine of the adapter's own, in AUTOCOMMIT."""
    given = order_adapter(engine)
    given.create(tenant="acme", number=7, paid=True)
    with PersistenceAdapter(engine.url, given.mapping) as own:
        own.load(KEY)
        yield own


LOCK = text("LOCK TABLE orders IN SHARE MODE")
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE orders%'"


@on("postgresql")
def test_a_statement_that_waits_for_the_table_does_not_land_later(adapter: PersistenceAdapter) -> None:
    """As while an index is built: its UPDATE has not come to the row, so that no lock of the row tells of it."""
    with pooled(adapter.engine.url) as other, other.connect() as connection:
        connection.execute(LOCK)
        with pytest.raises(OutcomeUnknownError) as caught:
            adapter.limited(0.5).send(KEY, "drop")
        error = caught.value
        assert error.token is not None
        landed = adapter.verify(error.token, KEY, event="drop", session=error.session)
        left = connection.execute(text(WAITING)).scalar()
        connection.rollback()

    time.sleep(0.2)
    assert (landed, left, stored_order(adapter.engine)["version"]) == (False, 0, 1)
    assert adapter.send(KEY, "drop", token=error.token).version == 2


@on("postgresql")
def test_a_session_that_may_not_be_seen_is_not_over(adapter: PersistenceAdapter, postgresql_server: Engine) -> None:
    """With SET ROLE, or a default role, the session belongs to another; what it does is hidden, and it may go on."""
    user, dialect = adapter.engine.url.username, adapter.engine.dialect
    with postgresql_server.connect() as administrator:
        administrator.execute(text(f"CREATE ROLE {user}_app"))
        administrator.execute(text(f"GRANT {user}_app TO {user}"))
    url = adapter.engine.url.update_query_dict({"options": f"-c role={user}_app"})
    try:
        with PersistenceAdapter(url, adapter.mapping) as far, pooled(url) as other, other.connect() as connection:
            session = session_of(dialect, connection.connection.dbapi_connection)
            assert session is not None
            assert far.run(ended(dialect, session)) is Rest.STATEMENT
    finally:
        with postgresql_server.connect() as administrator:
            administrator.execute(text(f"DROP ROLE {user}_app"))


@on("postgresql")
def test_after_a_lost_bulk_update_nothing_follows(adapter: PersistenceAdapter) -> None:
    """Its rows are counted by their token: that must be final."""
    with pooled(adapter.engine.url) as other, other.connect() as connection:
        connection.execute(LOCK)
        with pytest.raises(OutcomeUnknownError) as caught:
            adapter.limited(0.5).send_where("drop")
        left = connection.execute(text(WAITING)).scalar()
        connection.rollback()

    assert caught.value.token is not None
    assert (left, stored_order(adapter.engine)["version"]) == (0, 1)


@on("postgresql")
def test_a_statement_of_a_session_that_is_seen_through_a_proxy_is_not_told_too_early(
    adapter: PersistenceAdapter,
) -> None:
    """Its port is the proxy's: it cannot be ended, and what it still carries out may land.

    MariaDB ends a statement that waits for a table when its client has gone.
    """
    direct = adapter.engine
    with (
        Proxy(direct.url) as proxy,
        PersistenceAdapter(proxy.url, adapter.mapping) as far,
        pooled(direct.url) as other,
        other.connect() as connection,
    ):
        far.send(KEY, "pay")
        connection.execute(LOCK)
        with pytest.raises(OutcomeUnknownError) as caught:
            far.limited(0.5).send(KEY, "drop")
        error = caught.value
        assert error.token is not None
        assert error.session is not None
        asked: dict[str, Any] = {"event": "drop", "session": error.session}
        with pytest.raises(OutcomeUnknownError, match="still carries out") as told:
            far.verify(error.token, KEY, **asked)
        assert told.value.session == error.session
        connection.rollback()
        landed = far.verify(error.token, KEY, **asked)

    assert (landed, stored_order(direct)["version"]) == (True, 3)
    assert adapter.send(KEY, "drop", token=error.token).version == 3


@on("postgresql", "mariadb")
def test_only_that_session_is_ended(adapter: PersistenceAdapter) -> None:
    """Another that came from elsewhere is left alone, though it has the same number; one that is gone is no matter."""
    dialect = adapter.lines.engine.dialect
    with pooled(adapter.engine.url) as other, other.connect() as connection:
        session = session_of(dialect, connection.connection.dbapi_connection)
        assert session is not None
        assert session.port > 0

        assert adapter.run(ended(dialect, Session(session.number, session.port + 1))) is Rest.UNSEEN, "it is idle"
        assert connection.execute(text("SELECT 1")).scalar() == 1
        assert adapter.run(ended(dialect, session)) is Rest.NOTHING
        with pytest.raises(Exception, match=r"terminat|closed|Lost|gone"):
            connection.execute(text("SELECT 1"))
        connection.invalidate()
        assert adapter.run(ended(dialect, session)) is Rest.NOTHING


@on("postgresql", "mariadb")
def test_a_default_timeout_of_python_s_sockets_changes_nothing(adapter: PersistenceAdapter) -> None:
    """It is set for the socket objects by which a connection is watched, and must not reach the connection."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5.0)
    try:
        versions = [adapter.limited(2.0).load(KEY).version for _ in range(5)]
        done: Any = adapter.limited(2.0).send(KEY, "pay")
    finally:
        socket.setdefaulttimeout(before)

    assert (versions, done.version) == ([1] * 5, 2)
