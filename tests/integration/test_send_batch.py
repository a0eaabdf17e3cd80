"""Batches of requests, on each database: each request is decided, written and answered as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Engine, Update, delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from statelatch import (
    BatchInterruptedError,
    PersistenceAdapter,
    Request,
    RowNotFoundError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
    UnknownStateError,
    event_requests,
)
from statelatch.batch import Answer
from statelatch.errors import Phase, Reason
from tests import databases
from tests.lights import LightLog, entry_of, light_adapter
from tests.orders import KEY, Order, order_adapter, stored_order
from tests.outages import LostCommit, Outage, Traffic

ORDERS: Any = Order.__table__


@pytest.fixture
def orders(engine: Engine) -> PersistenceAdapter:
    """Orders, compiled."""
    return order_adapter(engine)


def fill(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Orders with these columns, in the draft state at version 1 unless they say something else."""
    common = {"tenant_id": "acme", "st": "draft", "version": 1, "amount": 0, "visits": 0, "limit_": None}
    with engine.begin() as connection:
        for number, row in enumerate(rows):
            connection.execute(insert(ORDERS).values({**common, "number": number, **row}))


def rows_of(engine: Engine, tenant: str = "acme") -> list[dict[str, Any]]:
    """All orders of a tenant's, as another connection sees them."""
    query = select(ORDERS).where(ORDERS.c.tenant_id == tenant).order_by(ORDERS.c.number)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def told(answer: Answer) -> tuple[Any, ...]:
    """What an answer says, but for what differs from call to call: time and token."""
    if isinstance(answer, Transitioned):
        return (answer.key, answer.event, answer.source, answer.target, answer.version, answer.committed)
    return (type(answer), str(answer), {name: value for name, value in vars(answer).items() if name != "token"})


def sent_alone(adapter: PersistenceAdapter, request: Request) -> Answer:
    """What `send` says."""
    try:
        return adapter.send(
            request.key,
            request.event,
            expected_version=request.expected_version,
            token=request.token,
            **request.params,
        )
    except Exception as error:
        return error


# -- each its own answer ----------------------------------------------------------------------------------


def test_each_request_has_its_own_answer_in_order(orders: PersistenceAdapter) -> None:
    """Behaviour 13: stale, missing, refused and good requests mixed, one key twice: each has its answer, in order."""
    fill(orders.engine, [{"paid": True}, {"paid": False}, {"paid": True}, {"paid": True, "owner": "x"}])

    answers = orders.send_batch(
        [
            Request(("acme", 2), "pay", 7),
            Request(("acme", 9), "drop"),
            Request(("acme", 0), "pay", 1),
            Request(("acme", 1), "pay"),
            Request(("acme", 0), "drop", 2),
            Request(("acme", 1), "ship"),
            Request(("acme", 0), "drop"),
            Request(("acme", 3), "drop"),
        ]
    )

    stale, missing, paid, unpaid, dropped, unshipped, late, last = answers
    assert isinstance(stale, StaleVersionError)
    assert (stale.key, stale.expected_version, stale.actual_version, stale.state) == (("acme", 2), 7, 1, "draft")
    assert isinstance(missing, RowNotFoundError)
    assert (missing.key, missing.event) == (("acme", 9), "drop")
    assert isinstance(unpaid, TransitionRefusedError)
    assert (unpaid.key, unpaid.reason, unpaid.guards) == (("acme", 1), Reason.GUARD, ("paid",))
    assert isinstance(unshipped, TransitionRefusedError)
    assert (unshipped.reason, unshipped.state, unshipped.sources) == (Reason.STATE, "draft", ("paid 100%",))
    assert isinstance(late, TransitionRefusedError)
    assert (late.reason, late.state, late.version) == (Reason.STATE, "dropped", 3)
    done = [each for each in (paid, dropped, last) if isinstance(each, Transitioned)]
    assert [(each.key[1], each.source, each.target, each.version) for each in done] == [
        (0, "draft", "paid 100%", 2),
        (0, "paid 100%", "dropped", 3),
        (3, "draft", "dropped", 2),
    ]
    assert [(row["st"], row["version"]) for row in rows_of(orders.engine)] == [
        ("dropped", 3),
        ("draft", 1),
        ("draft", 1),
        ("dropped", 2),
    ]
    assert [rows_of(orders.engine)[n]["transition_token"] for n in (0, 3)] == [done[1].token, done[2].token]


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "st": st.sampled_from(["draft", "paid 100%", "held", "sent", "gone"]),
            "version": st.integers(1, 2),
            "amount": st.integers(0, 2),
            "paid": st.sampled_from([True, False, None]),
            "limit_": st.sampled_from([0, 1, None]),
            "owner": st.sampled_from(["ann", "Ann", None]),
            "visits": st.integers(0, 1),
        }
    ),
    min_size=5,
    max_size=5,
)
NOTES = st.sampled_from(["a", "", 'q"\\', "%s", None, "ä\n,{NULL}", "NULL"])
PARAMS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "ship": st.fixed_dictionaries({}, optional={"note": NOTES}),
    "claim": st.fixed_dictionaries(
        {"owner": st.sampled_from(["ann", "Ann", "ann "]), "heir": NOTES}, optional={"limit": st.integers(0, 2)}
    ),
}
EVENTS = ("pay", "ship", "release", "drop", "claim", "touch", "visit", "swap")


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request for one of a few rows, some of which are there."""
    name = draw(st.sampled_from(EVENTS))
    version = draw(st.sampled_from([None, None, 1, 2, 3]))
    return Request(("batch", draw(st.integers(0, 5))), name, version, draw(PARAMS.get(name, st.just({}))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, batch=st.lists(requests(), min_size=4, max_size=12))
def test_a_batch_does_what_sending_one_by_one_does(
    orders: PersistenceAdapter, rows: list[dict[str, Any]], batch: list[Request]
) -> None:
    """Whatever is sent to whatever rows: the same rows and the same answers as by `send`, one after the other."""
    with orders.engine.begin() as connection:
        connection.execute(delete(ORDERS))
    for tenant in ("batch", "alone"):
        fill(orders.engine, [{**row, "tenant_id": tenant} for row in rows])

    together = orders.send_batch(batch)
    alone = [sent_alone(orders, replace(each, key=("alone", each.key[1]))) for each in batch]

    assert [str(told(each)).replace("alone", "batch") for each in alone] == [str(told(each)) for each in together]
    times = ("tenant_id", "transition_token", "sent_at", "updated_at")
    one, other = (
        [{name: value for name, value in row.items() if name not in times} for row in rows_of(orders.engine, tenant)]
        for tenant in ("batch", "alone")
    )
    assert one == other


def test_requests_of_one_row_are_applied_in_their_order(orders: PersistenceAdapter) -> None:
    """One key many times, by several events: each sees what the one before has left."""
    fill(orders.engine, [{"paid": True, "limit_": 1, "amount": 2}, {"paid": True}])
    names = ["pay", "ship", "visit", "release", "pay", "ship", "touch", "drop", "visit"]

    answers = orders.send_batch([Request(("acme", n), name) for name in names for n in (0, 1)])

    first = [each for each in answers[::2] if isinstance(each, Transitioned)]
    assert [each.event for each in first] == ["pay", "ship", "visit", "release", "ship", "touch", "drop"]
    assert [each.version for each in first] == list(range(2, 9))
    assert {type(answers[n]) for n in (8, 16)} == {TransitionRefusedError}
    assert (stored_order(orders.engine, ("acme", 0))["visits"], stored_order(orders.engine, ("acme", 1))["st"]) == (
        3,
        "dropped",
    )


@pytest.mark.parametrize("others", [0, 300])
def test_assigned_columns_are_computed_from_the_old_row(orders: PersistenceAdapter, others: int) -> None:
    """Whether the server reads the table first or the requests (few rows, many): no column sees what another became."""
    fill(orders.engine, [{"amount": n} for n in range(3)])
    rows = [
        {"tenant_id": "acme", "number": n, "st": "sent", "version": 1, "amount": 0, "visits": 0}
        for n in range(50, 50 + others)
    ]
    with orders.engine.begin() as connection:
        for row in rows:
            connection.execute(insert(ORDERS).values(row))
    missing = [Request(("acme", -n), "swap") for n in range(1, 200 if not others else 2)]

    answers = orders.send_batch([*(Request(("acme", n), "swap") for n in range(3)), *missing])

    assert [type(each) for each in answers] == [Transitioned] * 3 + [RowNotFoundError] * len(missing)
    assert [(row["note"], row["limit_"], row["amount"], row["st"]) for row in rows_of(orders.engine)[:3]] == [
        ("draft", n, n + 1, "held") for n in range(3)
    ]


def test_the_time_is_that_of_the_statement(orders: PersistenceAdapter) -> None:
    """One clock, the database's: what an answer says is what the same statement has written into the row."""
    fill(orders.engine, [{}, {}])

    answers = orders.send_batch([Request(("acme", n), "drop") for n in (0, 1)])

    times = [each.at for each in answers if isinstance(each, Transitioned)]
    assert times == [row["updated_at"] for row in rows_of(orders.engine)]
    assert abs(times[0] - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_row_in_an_unknown_state_does_not_deny_the_others_their_answers(orders: PersistenceAdapter) -> None:
    """Its own answer is the UnknownStateError that `send` would raise."""
    fill(orders.engine, [{"st": "gone"}, {}])

    broken, done = orders.send_batch([Request(("acme", 0), "drop"), Request(("acme", 1), "drop")])

    assert isinstance(broken, UnknownStateError)
    assert (broken.key, broken.value) == (("acme", 0), "gone")
    assert isinstance(done, Transitioned)


def test_what_the_database_refuses_of_one_request_is_its_own_answer(orders: PersistenceAdapter) -> None:
    """A constraint of the user's that one row violates: that request gets the error, all others are applied."""
    fill(orders.engine, [{"paid": True, "limit_": n} for n in range(20)])
    _add_constraint(orders.engine)

    answers = orders.send_batch([Request(("acme", n), "claim", None, {"owner": "x", "heir": "y"}) for n in range(20)])
    assert {type(each) for each in answers} == {TransitionRefusedError}
    answers = orders.send_batch([Request(("acme", n), "swap") for n in range(20)])

    expected = sent_alone(orders, Request(("acme", 13), "swap"))
    assert (type(answers[13]), isinstance(answers[13], Exception)) == (type(expected), True)
    assert [type(each) for n, each in enumerate(answers) if n != 13] == [Transitioned] * 19
    assert [row["version"] for row in rows_of(orders.engine)] == [2] * 13 + [1] + [2] * 6


def _add_constraint(engine: Engine) -> None:
    """Order 13 may not be held."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            refusal = "SELECT RAISE(ABORT, 'not 13')"
            connection.exec_driver_sql(
                "CREATE TRIGGER t BEFORE UPDATE ON orders WHEN NEW.number = 13 AND NEW.st = 'held' "
                f"BEGIN {refusal}; END"
            )
        else:
            connection.exec_driver_sql("ALTER TABLE orders ADD CONSTRAINT c CHECK (number <> 13 OR st <> 'held')")


def test_a_statement_that_cannot_work_is_raised(orders: PersistenceAdapter) -> None:
    """No such table, for instance: the driver's error, once, and not a list of a thousand of them."""
    with orders.engine.begin() as connection:
        connection.execute(text("DROP TABLE orders"))
    traffic = Traffic(orders.engine)
    with pytest.raises(DBAPIError) as alone:
        orders.send(KEY, "drop")
    traffic.statements.clear()

    with pytest.raises(alone.type):
        orders.send_batch([Request(("acme", n), "drop") for n in range(20)])

    assert len(traffic.statements) == 1


# -- in few statements ------------------------------------------------------------------------------------


@pytest.mark.parametrize("observed", [True, False])
def test_a_thousand_requests_are_one_statement(orders: PersistenceAdapter, observed: bool) -> None:
    """One UPDATE for all, and on MariaDB what reads its outcome; whoever watches the engine sees the same."""
    fill(orders.engine, [{} for _ in range(40)])
    batch = [Request(("acme", n), "drop") for n in range(40)]
    if not observed:
        assert {type(each) for each in orders.send_batch(batch)} == {Transitioned}
        return
    traffic = Traffic(orders.engine)

    answers = orders.send_batch(batch)

    assert {type(each) for each in answers} == {Transitioned}
    expected = ["UPDATE", "SELECT"] if orders.engine.dialect.name == "mariadb" else ["UPDATE"]
    assert [statement.split()[0] for statement in traffic.statements] == expected


@databases.on("sqlite")
def test_a_translated_schema_is_written_to(engine: Engine, tmp_path: Path) -> None:
    """Where the engine is told to write to another schema, a batch does, by whatever text it is sent."""

    def attach(driver: Any, _record: object) -> None:
        driver.execute(f"ATTACH '{tmp_path}/other.db' AS elsewhere")

    event.listen(engine, "connect", attach)
    orders = order_adapter(engine.execution_options(schema_translate_map={None: "elsewhere"}))
    for adapter in (orders, order_adapter(engine)):
        for number in (1, 2):
            adapter.create(tenant="acme", number=number)

    answers = orders.send_batch([Request(("acme", number), "drop") for number in (1, 2)])

    assert {type(each) for each in answers} == {Transitioned}
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT st FROM elsewhere.orders").scalars().all() == ["dropped"] * 2
        assert connection.exec_driver_sql("SELECT st FROM main.orders").scalars().all() == ["draft"] * 2


def test_who_listens_for_statements_is_shown_them(orders: PersistenceAdapter) -> None:
    """A listener of SQLAlchemy's that is given statements, and not their text, is given those of a batch."""
    fill(orders.engine, [{}, {}])
    seen: list[object] = []

    def executing(_connection: object, statement: object, *_: object) -> None:
        seen.append(statement)

    event.listen(orders.engine, "before_execute", executing)

    answers = orders.send_batch([Request(("acme", number), "drop") for number in (0, 1)])

    assert {type(each) for each in answers} == {Transitioned}
    assert isinstance(seen[0], Update)


@pytest.mark.parametrize(("rows", "statements"), [(1000, 4), (1, 7)])
def test_long_batches_are_cut(
    orders: PersistenceAdapter, rows: int, statements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the number of requests, and by the text in them: a server refuses packets that are too large."""
    monkeypatch.setattr(event_requests, "ROWS", rows)
    monkeypatch.setattr(event_requests, "TEXT", 50_000)
    notes = ["x" * size for size in (10, 20_000, 20_000, 20_000, 60_000, 10, 10)]
    fill(orders.engine, [{"st": "paid 100%", "limit_": 1} for _ in notes])
    traffic = Traffic(orders.engine)

    answers = orders.send_batch([Request(("acme", n), "ship", None, {"note": note}) for n, note in enumerate(notes)])

    assert {type(each) for each in answers} == {Transitioned}
    assert [row["note"] for row in rows_of(orders.engine)] == notes
    assert sum("UPDATE" in statement for statement in traffic.statements) == statements


def test_hooks_are_told_of_what_was_applied(orders: PersistenceAdapter) -> None:
    """Each applied transition once, a refused one never."""
    fill(orders.engine, [{}, {"st": "sent"}, {}])
    seen: list[Transitioned] = []
    orders.after_commit(seen.append)

    answers = orders.send_batch([Request(("acme", n), "drop") for n in range(3)])

    assert [answers[0], answers[2]] == seen


# -- sent again -------------------------------------------------------------------------------------------


def test_requests_with_tokens_may_be_sent_again(orders: PersistenceAdapter) -> None:
    """What they wrote the first time is recognised, whichever state was left; nothing is done twice."""
    fill(orders.engine, [{"st": "held", "version": 5}, {"st": "held", "version": 5}, {"st": "draft"}])
    batch = [
        Request(("acme", 0), "visit", token=uuid4()),
        Request(("acme", 1), "drop", 5, token=uuid4()),
        Request(("acme", 2), "drop", token=uuid4()),
    ]
    once = orders.send_batch(batch[:2])
    hooked: list[Transitioned] = []
    orders.after_commit(hooked.append)

    twice = orders.send_batch(batch)

    assert sorted(str(each) for each in hooked) == sorted(str(each) for each in twice)
    assert [told(each) for each in twice[:2]] == [told(each) for each in once]
    assert [each.token for each in twice[:2] if isinstance(each, Transitioned)] == [
        row["transition_token"] for row in rows_of(orders.engine)[:2]
    ]
    assert [row["version"] for row in rows_of(orders.engine)] == [6, 6, 2]


@pytest.mark.parametrize("landed", [True, False])
def test_a_batch_whose_commit_is_lost_is_applied_once(
    orders: PersistenceAdapter, landed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three COMMITs is lost: each of its requests is found by its token, or sent again with it."""
    monkeypatch.setattr(event_requests, "ROWS", 2)
    fill(orders.engine, [{"st": "held"} for _ in range(5)])
    lost, hooked = LostCommit(orders.engine, landed=landed), list[Transitioned]()
    orders.after_commit(hooked.append)
    lost.arm(skip=1)

    answers = orders.send_batch([Request(("acme", n), "visit") for n in range(5)])

    assert (lost.strikes, [type(each) for each in answers]) == (1, [Transitioned] * 5)
    assert [(row["version"], row["visits"]) for row in rows_of(orders.engine)] == [(2, 1)] * 5
    tokens = [row["transition_token"] for row in rows_of(orders.engine)]
    assert tokens == [each.token for each in answers if isinstance(each, Transitioned)]
    assert sorted(tokens) == sorted(each.token for each in hooked)


@pytest.mark.parametrize("landed", [True, False])
def test_an_interrupted_batch_is_finished_by_its_error(
    orders: PersistenceAdapter, landed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is gone after the second of three COMMITs: what it answered is in the error, and what is to do."""
    monkeypatch.setattr(event_requests, "ROWS", 2)
    fill(orders.engine, [{"st": "held"} for _ in range(5)])
    lost, outage = LostCommit(orders.engine, landed=landed), Outage(orders.engine)
    lost.arm(skip=1)

    with pytest.raises(BatchInterruptedError) as caught:
        outage.after(lost, lambda: orders.send_batch([Request(("acme", n), "visit") for n in range(5)]))

    outage.end()
    error = caught.value
    assert (lost.strikes, error.phase) == (1, Phase.COMMIT)
    assert outage.refused > 0
    assert [type(each) for each in error.answers] == [Transitioned] * 2 + [type(None)] * 3
    assert [each.key[1] for each in error.requests] == [2, 3, 4]
    rest = orders.send_batch(error.requests)
    assert [type(each) for each in rest] == [Transitioned] * 3
    assert [(row["version"], row["visits"]) for row in rows_of(orders.engine)] == [(2, 1)] * 5
    tokens = [each.token for each in [*error.answers, *rest] if isinstance(each, Transitioned)]
    assert tokens == [row["transition_token"] for row in rows_of(orders.engine)]


@databases.on("postgresql", "mariadb")
def test_a_batch_without_a_server_says_what_it_has(orders: PersistenceAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server kills the connection between two statements: what is durable is told, and the rest can be sent."""
    monkeypatch.setattr(event_requests, "ROWS", 2)
    fill(orders.engine, [{} for _ in range(4)])
    hooked: list[Transitioned] = []

    def strike(done: Transitioned) -> None:
        hooked.append(done)
        if len(hooked) == 2:
            databases.kill_connections(orders.engine.url)

    orders.after_commit(strike)
    with pytest.raises(BatchInterruptedError) as caught:
        orders.send_batch([Request(("acme", n), "drop") for n in range(4)])

    assert caught.value.answers == [*hooked, None, None]
    assert [type(each) for each in orders.send_batch(caught.value.requests)] == [Transitioned] * 2
    assert [row["version"] for row in rows_of(orders.engine)] == [2] * 4


# -- the log ----------------------------------------------------------------------------------------------


def test_a_batch_is_logged(engine: Engine) -> None:
    """Each applied request has its entry, with its own actor and data; one sent again has no second entry."""
    lights = light_adapter(engine)
    for key in range(1, 5):
        lights.create(id=key, broken=key == 4)
    data = {"a": [1, None, "ä"]}
    batch = [
        Request(1, "step", token=uuid4()),
        Request(2, "stop", None, {"actor": 'A"n\\', "data": data}, token=uuid4()),
        Request(3, "stop", None, {"data": None}, token=uuid4()),
        Request(4, "step", token=uuid4()),
        Request(1, "step", token=uuid4()),
        Request(9, "stop", token=uuid4()),
    ]

    answers = lights.send_batch(batch)

    first, second, third, _, last, _ = answers
    assert [type(each) for each in answers[3::2]] == [TransitionRefusedError, RowNotFoundError]
    assert lights.history(1)[1:] == [entry_of(each) for each in (first, last) if isinstance(each, Transitioned)]
    assert isinstance(second, Transitioned)
    assert isinstance(third, Transitioned)
    assert lights.history(2)[1:] == [entry_of(second, 'A"n\\', data)]
    assert lights.history(3)[1:] == [entry_of(third)]
    traffic = Traffic(engine)
    again = lights.send_batch([batch[4], *batch[1:3], Request(4, "stop", token=uuid4())])
    assert sum("UPDATE" in statement for statement in traffic.statements) == 2  # none was refused by the log's key
    assert [told(each) for each in again[:3]] == [told(each) for each in (last, second, third)]
    assert [len(lights.history(key)) for key in range(1, 5)] == [3, 2, 2, 2]


def test_an_adapter_made_from_a_url_is_no_different(database_url: URL) -> None:
    """Its engine commits each statement by itself; a portion is one transaction all the same."""
    with databases.pooled(database_url) as engine:
        made = light_adapter(engine)
        for key in (1, 2, 3):
            made.create(id=key)
        with engine.begin() as connection:
            connection.execute(update(LightLog).where(LightLog.key == 2).values(version=2))
    with PersistenceAdapter(database_url, made.mapping) as lights:
        for names in (["step", "stop", "step"], ["stop", "stop", "stop"]):  # the first call finds a new engine
            answers = lights.send_batch([Request(key, name) for key, name in zip((1, 2, 3), names, strict=True)])

            assert [type(each) for each in answers] == [Transitioned, IntegrityError, Transitioned]
        assert [lights.load(key).version for key in (1, 2, 3)] == [3, 1, 3]
        assert [len(lights.history(key)) for key in (1, 2, 3)] == [3, 1, 3]


def test_a_row_whose_entry_cannot_be_written_is_not_moved(engine: Engine) -> None:
    """Row and entry are one transaction: an entry that is there already is the answer of its request alone."""
    lights = light_adapter(engine)
    for key in (1, 2, 3):
        lights.create(id=key)
    with engine.begin() as connection:
        connection.execute(update(LightLog).where(LightLog.key == 2).values(version=2))

    answers = lights.send_batch([Request(key, "stop") for key in (1, 2, 3)])

    assert [type(each) for each in answers] == [Transitioned, IntegrityError, Transitioned]
    assert [lights.load(key).version for key in (1, 2, 3)] == [2, 1, 2]
