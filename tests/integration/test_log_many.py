"""The log of `send_where` and `send_batch`, on each database: each row that moves has its own entry."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from statelatch import (
    LogEntry,
    PersistenceAdapter,
    Request,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from tests.lights import Light, entry_of, light_adapter, write_entry

DATA = {"rows": [1, 2.5, None, True], "who": {"näme": "100% 'q' \"d\" \\ \u2028"}}


def prepared_lights(engine: Engine) -> PersistenceAdapter:
    """Six lights: 1, 5 and 6 are green, 2 is yellow, 3 is red, 4 is off, and 6 is broken."""
    adapter = light_adapter(engine)
    for key in range(1, 7):
        adapter.create(id=key, broken=key == 6)
    ways = {2: ["step"], 3: ["step", "step"], 4: ["end"]}
    for key, events in ways.items():
        for event in events:
            adapter.send(key, event)
    return adapter


def histories(adapter: PersistenceAdapter) -> dict[int, list[LogEntry]]:
    """All entries, by row."""
    return {key: adapter.history(key) for key in range(1, 7)}


def token_of(adapter: PersistenceAdapter, key: int) -> Any:
    """The row's token, as another connection sees it."""
    with adapter.engine.connect() as connection:
        return connection.execute(select(Light.transition_token).where(Light.id == key)).scalar_one()


# -- send_where ---------------------------------------------------------------------------------------------


def test_each_row_of_a_bulk_has_its_entry(engine: Engine) -> None:
    """`send_where` enters each row that it moves, with the state that this one was in, and no other."""
    adapter = prepared_lights(engine)
    before = histories(adapter)

    result = adapter.send_where("step", Light.id < 7, actor="Ann", data=DATA)

    after = histories(adapter)
    added = {key: entries[len(before[key]) :] for key, entries in after.items()}
    moved = {1: ("green", "yellow", 2), 2: ("yellow", "red", 3), 3: ("red", "green", 4), 5: ("green", "yellow", 2)}
    assert (result.count, added[4], added[6]) == (4, [], [])
    for key, (source, target, version) in moved.items():
        (entry,) = added[key]
        assert (entry.source, entry.target, entry.version, entry.event) == (source, target, version, "step")
        assert (entry.actor, entry.data) == ("Ann", DATA)
        assert entry.token == token_of(adapter, key)
    assert before == {key: entries[: len(before[key])] for key, entries in after.items()}


def test_a_bulk_that_moves_nothing_enters_nothing(engine: Engine) -> None:
    """Its count is 0, and the log is as it was."""
    adapter = light_adapter(engine)
    adapter.create(id=7)

    assert adapter.send_where("blink").count == 0
    assert len(adapter.history(7)) == 1


def test_a_limited_bulk_with_keys_is_entered(engine: Engine) -> None:
    """Where the keys are asked for, they are those that have an entry."""
    adapter = light_adapter(engine)
    for key in range(1, 6):
        adapter.create(id=key)

    result = adapter.send_where("stop", limit=3, keys=True)

    assert result.keys is not None
    assert sorted(result.keys) == [key for key in range(1, 6) if len(adapter.history(key)) == 2] == [1, 2, 3]


def test_a_bulk_that_cannot_be_entered_moves_nothing(engine: Engine) -> None:
    """One entry that is there already takes every row back."""
    adapter = light_adapter(engine)
    for key in (6, 7, 8):
        adapter.create(id=key)
    write_entry(engine, {"key": 7, "version": 2})

    with pytest.raises(IntegrityError):
        adapter.send_where("step")
    with pytest.raises(RequestError, match="actor: expected text"):
        adapter.send_where("step", actor=7)

    assert [adapter.load(key).version for key in (6, 7, 8)] == [1, 1, 1]
    assert [len(adapter.history(key)) for key in (6, 7, 8)] == [1, 2, 1]


# -- send_batch ---------------------------------------------------------------------------------------------


def test_each_request_that_is_applied_has_its_entry(engine: Engine) -> None:
    """Each with its own source, target, token, actor and data; refused, stale and missing ones leave none."""
    adapter = prepared_lights(engine)
    before = histories(adapter)
    requests = [
        Request(1, "step", None, {"actor": "Ann", "data": DATA}),
        Request(2, "step", 2, {"actor": "Bob"}),
        Request(3, "step", 2),
        Request(3, "step", 3, {"data": [1]}),
        Request(1, "stop", 2, {"actor": "Cid"}),
        Request(4, "step"),
        Request(6, "step"),
        Request(9, "stop"),
        Request(1, "step"),
        Request(5, "end", None, {"data": None}),
    ]

    answers = adapter.send_batch(requests)

    applied = [done for done in answers if isinstance(done, Transitioned)]
    refusals = [TransitionRefusedError, TransitionRefusedError, RowNotFoundError]
    assert [type(answer) for answer in answers if answer not in applied] == [StaleVersionError, *refusals]
    recorded = [("Ann", DATA), ("Bob", None), (None, [1]), ("Cid", None), (None, None), (None, None)]
    expected = {key: list(entries) for key, entries in before.items()}
    for done, (actor, data) in zip(applied, recorded, strict=True):
        expected[done.key].append(entry_of(done, actor, data))
    assert histories(adapter) == expected


def test_a_batch_that_is_sent_again_is_entered_once(engine: Engine) -> None:
    """What an earlier try has written is recognised, row and entry; the others are applied now."""
    adapter = prepared_lights(engine)
    tokens = [uuid4() for _ in range(3)]
    first = adapter.send(1, "step", token=tokens[0])
    before = histories(adapter)

    answers = adapter.send_batch(
        [Request(key, "step", None, {}, token) for key, token in zip((1, 2, 3), tokens, strict=True)]
    )

    done = [answer for answer in answers if isinstance(answer, Transitioned)]
    assert [(each.key, each.version) for each in done] == [(1, first.version), (2, 3), (3, 4)]
    assert histories(adapter) == before | {each.key: [*before[each.key], entry_of(each)] for each in done[1:]}


def test_one_entry_that_is_there_already_stops_one_request(engine: Engine) -> None:
    """It is answered with the driver's IntegrityError, its row is as it was, and the others are applied."""
    adapter = prepared_lights(engine)
    write_entry(engine, {"key": 3, "version": 4})
    before = histories(adapter)

    one, two, three = adapter.send_batch([Request(key, "step") for key in (2, 3, 1)])

    assert isinstance(two, IntegrityError)
    assert isinstance(one, Transitioned)
    assert isinstance(three, Transitioned)
    assert adapter.load(3).version == 3
    assert histories(adapter) == before | {d.key: [*before[d.key], entry_of(d)] for d in (one, three)}


def test_what_cannot_be_recorded_stops_the_batch(engine: Engine) -> None:
    """It is told with the request's number, before anything is sent."""
    adapter = prepared_lights(engine)
    before = histories(adapter)

    with pytest.raises(RequestError, match=r"request 1: .*data\['x'\]: .* nothing was written"):
        adapter.send_batch([Request(1, "step"), Request(2, "step", None, {"data": {"x": {1}}})])

    assert histories(adapter) == before
