"""What a proxy between a program and its server shows: silence, lateness, and connections cut on the wire.

Behaviour 26, and 17 and 18 once more: a peer that does not answer is given up in time, and what was sent to it is
applied once, whenever it arrives.
"""

import re
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from sqlalchemy import URL, Engine, event

from statelatch import ConnectionFailureError, PersistenceAdapter
from statelatch.errors import Phase
from statelatch.runs import Outcome, RunManager
from statelatch.testing import Proxy
from tests.ambiguity import KINDS, Kind, Lights, commits_with, of_kind, opened, skipped
from tests.databases import on
from tests.runs import NEVER, PATIENCE, nothing

servers = on("postgresql", "mariadb")


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Whose engine it is, whether events are compiled, whether there is a log."""
    return request.param


@pytest.fixture
def proxy(database_url: URL) -> Generator[Proxy]:
    """Before the test's database."""
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def led(proxy: Proxy, engine: Engine, kind: Kind) -> Generator[Lights]:
    """Lights whose adapter is led through the proxy."""
    with opened(proxy.url, kind, engine) as lights:
        yield lights


@servers
def test_a_silent_peer(led: Lights, proxy: Proxy) -> None:
    """26: the answer to what made it durable never comes: the time limit ends the wait, and it is found out."""
    with proxy.swallow(commits_with(led), skip=skipped(led)) as swallowed:
        began = time.monotonic()
        done = led.sent_by.limited(0.15).send(1, "step")

    assert (swallowed.fired, done.version, 0.1 < time.monotonic() - began < 5) == (1, 2, True)
    assert (led.row, led.entries, led.hooked) == (("yellow", 2), led.path[:2], [done])


@servers
def test_a_peer_that_is_silent_after_it_has_committed(led: Lights, proxy: Proxy) -> None:
    """26: the answer to COMMIT was the last: nothing more is sent, for which somebody would wait."""
    event.listen(led.sent_by.lines.engine, "before_cursor_execute", lambda *_: None)  # pyright: ignore
    began = time.monotonic()
    with proxy.stall("ROLLBACK", 5, skip=skipped(led), must_fire=False) as stalled:
        done = led.sent_by.limited(0.5).send(1, "step")

    assert (stalled.fired, done.version, time.monotonic() - began < 4) == (0, 2, True)
    assert (led.row, led.hooked) == (("yellow", 2), [done])


@servers
def test_a_peer_that_is_silent_after_its_greeting(database_url: URL, proxy: Proxy, engine: Engine) -> None:
    """26: SQLAlchemy has asked it something that it never answers: that ends, too, and the next may ask again."""
    with opened(database_url, ("url", "compiled", "no log"), engine) as lights:
        anew = PersistenceAdapter(proxy.url, lights.seen_by.mapping)
        with anew, proxy.swallow(re.compile("SELECT|SHOW", re.IGNORECASE)) as swallowed:
            with pytest.raises(ConnectionFailureError, match=r"\(connect\)"):
                anew.limited(0.1).load(1)
            assert anew.limited(PATIENCE).load(1).version == 1

    assert swallowed.fired == 1


@servers
@of_kind("url", "compiled")
@pytest.mark.parametrize("expected_version", [None, 1])
def test_a_statement_that_arrives_too_late(led: Lights, proxy: Proxy, expected_version: int | None) -> None:
    """26: held back until its sender has given up, verified and done it again: it must not be applied a second time."""
    with proxy.stall("UPDATE", 0.3) as stalled:
        try:
            applied = led.sent_by.limited(0.1).send(1, "step", expected_version=expected_version).version - 1
        except ConnectionFailureError as error:
            applied = 0
            told = error.phase
        else:
            told = None
        time.sleep(0.35)

    assert (stalled.fired, told in {None, Phase.EXECUTE}) == (1, True)
    assert (led.row, len(led.hooked)) == (led.path[applied], applied)
    assert led.entries == led.path[: 1 + applied]


@servers
@of_kind("log")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_is_cut_on_the_wire(led: Lights, proxy: Proxy, when: Any) -> None:
    """17, 18: on the wire, too, a lost COMMIT is applied once."""
    with proxy.cut(commits_with(led), when=when, skip=skipped(led)) as cut:
        done = led.sent_by.send(1, "step")

    assert (cut.fired, done.version) == (1, 2)
    assert (led.row, led.entries, led.hooked) == (("yellow", 2), led.path[:2], [done])


@servers
def test_the_fallback_goes_on_when_the_primary_is_silent(proxy: Proxy, runs_engine: Engine) -> None:
    """26 of a last word: its connection, and the next to the same place, never answer; the fallback writes it, once."""
    with (
        RunManager(proxy.url, fallbacks=[runs_engine], heartbeat=NEVER, time_limit=0.15) as manager,
        proxy.swallow(re.compile("UPDATE|FOR UPDATE"), skip=1, times=99, must_fire=False) as swallowed,
    ):
        said = manager.start(nothing).wait(PATIENCE)

    assert swallowed.fired >= 1
    assert (said.outcome, said.state, said.version, said.via) == (Outcome.APPLIED, "completed", 3, "fallback 1")


def verbs(adapter: PersistenceAdapter) -> list[Callable[[], object]]:
    """Each of them that reads."""
    return [lambda: adapter.load(1), lambda: adapter.send(1, "step", expected_version=9)]


@servers
@of_kind("compiled", "no log")
def test_a_silent_peer_of_a_reader(led: Lights, proxy: Proxy) -> None:
    """26: a read has written nothing, so its failure is of phase `execute`, after so many seconds."""
    for verb in verbs(led.sent_by.limited(0.1)):
        swallowing = proxy.swallow("SELECT", times=9, must_fire=False)
        with swallowing as swallowed, pytest.raises(ConnectionFailureError) as caught:
            verb()
        assert (type(caught.value), caught.value.phase) == (ConnectionFailureError, Phase.EXECUTE)
        assert swallowed.fired >= 1

    assert led.row == ("green", 1)
