"""`after_commit` hooks: called once per applied transition, when it is durable; what they do changes nothing of it."""

import logging
from collections.abc import Generator

import pytest
from sqlalchemy import URL, Engine

from statelatch import OutcomeUnknownError, PersistenceAdapter, Transitioned, TransitionRefusedError
from tests.databases import pooled
from tests.orders import KEY, PATHS, order_adapter, stored_order
from tests.outages import LostCommit, Outage
from tests.runs import PATIENCE, meanwhile


@pytest.fixture(params=PATHS)
def adapter(request: pytest.FixtureRequest, engine: Engine) -> PersistenceAdapter:
    """Orders on this path, one of them a paid draft."""
    adapter = order_adapter(engine, PATHS[request.param])
    adapter.create(tenant="acme", number=7, paid=True)
    return adapter


def test_a_hook_sees_what_is_durable(adapter: PersistenceAdapter) -> None:
    """When it is called, another connection sees the transition; it is given what the caller is given."""
    seen: list[tuple[Transitioned, str]] = []

    @adapter.after_commit
    def look(done: Transitioned) -> None:
        with pooled(adapter.engine.url) as other:
            seen.append((done, stored_order(other)["st"]))

    done = adapter.send(KEY, "pay")

    assert seen == [(done, "paid 100%")]


def test_hooks_are_called_in_order_and_for_transitions_only(adapter: PersistenceAdapter) -> None:
    """Each hook once per transition; not for a refusal, nor for `create` and `load`."""
    calls: list[tuple[int, str]] = []

    @adapter.after_commit
    def first(done: Transitioned) -> None:
        calls.append((1, done.event))

    @adapter.after_commit
    def second(done: Transitioned) -> None:
        calls.append((2, done.event))

    adapter.create(tenant="acme", number=8)
    adapter.load(KEY)
    with pytest.raises(TransitionRefusedError):
        adapter.send(KEY, "release")
    adapter.send(KEY, "drop")

    assert calls == [(1, "drop"), (2, "drop")]


def test_a_hook_that_raises(adapter: PersistenceAdapter, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with the row; the transition is reported as applied, and the next hook is called."""
    calls: list[Transitioned] = []

    @adapter.after_commit
    def fail(_: Transitioned) -> None:
        raise OSError("the mail server is away")

    adapter.after_commit(calls.append)
    with caplog.at_level(logging.ERROR, logger="statelatch"):
        done = adapter.send(KEY, "drop")

    (record,) = caplog.records
    assert (done.target, calls) == ("dropped", [done])
    assert "drop ('acme', 7)" in record.getMessage()
    assert "the mail server is away" in str(record.exc_info)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_hook(adapter: PersistenceAdapter, interrupt: type[BaseException]) -> None:
    """Durable, and the next hook is called; then it reaches who called in the main thread, and nobody elsewhere."""
    calls: list[Transitioned] = []

    @adapter.after_commit
    def leave(_: Transitioned) -> None:
        raise interrupt

    adapter.after_commit(calls.append)
    elsewhere = meanwhile(lambda: adapter.send(KEY, "pay")).result(PATIENCE)
    with pytest.raises(interrupt):
        adapter.send(KEY, "drop")

    assert (calls[0], calls[1].target, len(calls)) == (elsewhere, "dropped", 2)
    assert stored_order(adapter.engine)["st"] == "dropped"


def test_a_hook_may_send(adapter: PersistenceAdapter) -> None:
    """It holds no connection and no transaction: another event of the same row is free to run."""

    @adapter.after_commit
    def go_on(done: Transitioned) -> None:
        if done.event == "pay":
            adapter.send(KEY, "drop")

    adapter.send(KEY, "pay")

    assert (stored_order(adapter.engine)["st"], stored_order(adapter.engine)["version"]) == ("dropped", 3)


@pytest.mark.parametrize("landed", [True, False])
def test_of_a_lost_commit_a_hook_learns_once(adapter: PersistenceAdapter, landed: bool) -> None:
    """When it is known what has become of it, whether it had landed or was sent again."""
    calls: list[Transitioned] = []
    adapter.after_commit(calls.append)
    fault = LostCommit(adapter.engine, landed=landed)
    fault.arm(skip=0 if adapter.explain("pay").compiled else 1)

    done = adapter.send(KEY, "pay")

    assert (calls, fault.strikes) == ([done], 1)


@pytest.mark.parametrize("landed", [True, False])
def test_of_an_unknown_outcome_a_hook_learns_when_it_is_known(adapter: PersistenceAdapter, landed: bool) -> None:
    """Not while nobody answers; once, when the call is repeated with its token."""
    calls: list[Transitioned] = []
    adapter.after_commit(calls.append)
    fault, outage = LostCommit(adapter.engine, landed=landed), Outage(adapter.engine)
    fault.arm(skip=0 if adapter.explain("pay").compiled else 1)

    with pytest.raises(OutcomeUnknownError) as caught:
        outage.after(fault, lambda: adapter.send(KEY, "pay"))
    outage.end()
    assert (calls, fault.strikes) == ([], 1)
    done = adapter.send(KEY, "pay", token=caught.value.token)

    assert calls == [done]


def test_a_reconnected_adapter_has_the_same_hooks(adapter: PersistenceAdapter) -> None:
    """New connections are no other adapter: what is registered on one is called by the other."""
    calls: list[Transitioned] = []
    with adapter.reconnected() as anew:
        adapter.after_commit(calls.append)
        done = anew.send(KEY, "drop")

    assert calls == [done]


# -- an adapter that was given a URL ----------------------------------------------------------------------


@pytest.fixture
def by_url(database_url: URL) -> Generator[PersistenceAdapter]:
    """Orders, by the URL of their database."""
    with pooled(database_url) as engine:
        mapping = order_adapter(engine).mapping
    with PersistenceAdapter(database_url, mapping) as adapter:
        adapter.create(tenant="acme", number=7, paid=True)
        yield adapter


def test_its_engine_is_for_transactions(by_url: PersistenceAdapter) -> None:
    """The adapter sends in AUTOCOMMIT; on `adapter.engine` the caller's own transactions roll back all the same."""
    with by_url.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE orders SET note = 'lost'")
        connection.rollback()

    assert by_url.load(KEY).values["note"] is None
    assert by_url.send(KEY, "pay").version == 2


def test_closed_it_may_be_used_again(by_url: PersistenceAdapter) -> None:
    """Closing ends connections, of both engines; whoever goes on opens new ones."""
    engine = by_url.engine
    engine.connect().close()

    by_url.close()

    assert by_url.send(KEY, "pay").version == 2
    assert by_url.engine is engine
