"""Time: one clock, the database's; aware, in UTC, whatever the session's time zone; and what a new attempt forgets."""

import itertools
from collections.abc import Generator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, insert, select, text
from sqlalchemy.exc import StatementError

from statelatch import PersistenceAdapter, RequestError, TransitionRefusedError
from statelatch.columns import now
from statelatch.runs import Run, create_tables, run_mapping
from tests.orders import KEY, Order, OrderFlow, order_adapter

ELSEWHERE: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {"options": "-c timezone=Asia/Kathmandu"},
    "mariadb": {"init_command": "SET time_zone = '+05:45'"},
}
"""Arguments of a connection whose session has another time zone than UTC."""

TICK = {"sqlite": timedelta(milliseconds=1), "postgresql": timedelta(0), "mariadb": timedelta(0)}
"""How much a database's clock rounds off."""


@pytest.fixture
def elsewhere(database_url: URL) -> Generator[Engine]:
    """An engine whose sessions are in Kathmandu."""
    engine = create_engine(database_url, connect_args=ELSEWHERE[database_url.get_backend_name()])
    create_tables(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def adapter(elsewhere: Engine) -> PersistenceAdapter:
    """Runs, from there."""
    return PersistenceAdapter(elsewhere, run_mapping())


def database_time(engine: Engine) -> datetime:
    """What the database's clock says."""
    with engine.connect() as connection:
        return connection.execute(select(now())).scalar_one()


def test_times_are_aware_and_in_utc(adapter: PersistenceAdapter) -> None:
    """Behaviour 14: what is read is aware and in UTC, and lies between two looks at the database's clock."""
    tick = TICK[adapter.engine.dialect.name]
    before = database_time(adapter.engine)
    created = adapter.create()
    started = adapter.send(created.key, "start", worker="w", lease=60)
    after = database_time(adapter.engine)

    values = adapter.load(created.key).values
    times = [before, created.values["created_at"], values["started_at"], started.at, after]
    assert [time.tzinfo for time in times] == [UTC] * 5
    assert all(one <= other + tick for one, other in itertools.pairwise(times))
    assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("lease", [90.5, 0.25, 31536000.5])
def test_the_lease_is_measured_by_the_same_clock(adapter: PersistenceAdapter, lease: float) -> None:
    """Behaviour 14: started_at, lease_expires_at and the transition's own time are of one statement and one clock."""
    created = adapter.create()
    started = adapter.send(created.key, "start", worker="w", lease=lease)

    values = adapter.load(created.key).values
    assert values["lease_expires_at"] - values["started_at"] == timedelta(seconds=lease)
    assert abs(started.at - values["started_at"]) < timedelta(seconds=5)


def test_a_lease_runs_out_by_the_databases_clock(adapter: PersistenceAdapter) -> None:
    """Behaviour 14: a session elsewhere neither shortens nor lengthens a lease."""
    alive, expired = (adapter.create(max_attempts=2).key for _ in range(2))
    adapter.send(alive, "start", worker="w", lease=3600)
    adapter.send(expired, "start", worker="w", lease=-1)

    assert adapter.send(expired, "requeue").target == "pending"
    with pytest.raises(TransitionRefusedError, match="lease_expired"):
        adapter.send(alive, "requeue")


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-9, minutes=-30))])
def test_an_instant_survives_every_zone(engine: Engine, elsewhere: Engine, zone: timezone) -> None:
    """Behaviour 14: an aware datetime of any zone comes back as the same instant, to the microsecond, in UTC."""
    instant = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=zone)
    run = PersistenceAdapter(engine, run_mapping()).create(cancel_requested_at=instant)

    read = PersistenceAdapter(elsewhere, run_mapping()).load(run.key).values["cancel_requested_at"]

    assert (read, read.tzinfo) == (instant, UTC)


def test_naive_datetimes_are_refused(adapter: PersistenceAdapter) -> None:
    """Behaviour 14: a naive datetime is refused as column, as parameter, and by the column type itself."""
    naive = datetime(2026, 1, 1)
    created = adapter.create()

    with pytest.raises(RequestError, match="created_at: naive datetime"):
        adapter.create(created_at=naive)
    with pytest.raises(RequestError, match="at: naive datetime"):
        adapter.send(created.key, "cancel", at=naive)
    with adapter.engine.connect() as connection, pytest.raises(StatementError, match="which zone it is in"):
        connection.execute(insert(Run).values(status="pending", started_at=naive))
    assert adapter.load(created.key).version == 1


def test_a_new_attempt_forgets_the_old_error(adapter: PersistenceAdapter) -> None:
    """Behaviour 15: entering `pending` and `running` again clears what an earlier attempt has left."""

    def leave_an_error() -> None:
        with adapter.engine.begin() as connection:
            connection.execute(text("UPDATE statelatch_runs SET error = 'old', error_type = 'Old'"))

    def left() -> tuple[object, ...]:
        values = adapter.load(key).values
        return values["status"], values["error"], values["error_type"], values["lease_owner"], values["attempt"]

    key = adapter.create(max_attempts=2).key
    adapter.send(key, "start", worker="w", lease=-1)
    leave_an_error()
    adapter.send(key, "requeue")
    assert left() == ("pending", None, None, None, 1)

    leave_an_error()
    adapter.send(key, "start", worker="v", lease=30)
    assert left() == ("running", None, None, "v", 2)


def test_a_callbacks_naive_datetime_is_refused(engine: Engine) -> None:
    """Behaviour 14: what a callback sets is held to the same rule."""

    class Careless(OrderFlow):
        def on_drop(self, model: Order) -> None:
            model.sent_at = datetime(2026, 1, 1)

    adapter = order_adapter(engine, Careless)
    adapter.create(tenant="acme", number=7)

    with pytest.raises(RequestError, match="sent_at: naive datetime"):
        adapter.send(KEY, "drop")
    assert adapter.load(KEY).version == 1
