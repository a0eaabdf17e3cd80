"""Threads whose calls are recorded: what they were told can be true, on each database."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from statelatch import (
    BatchInterruptedError,
    ConnectionFailureError,
    PersistenceAdapter,
    Request,
    RequestError,
    RowNotFoundError,
    Snapshot,
    StatelatchError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.testing import Fault, FaultInjector, History, HistoryError, ProcessDied, Recorder, Verb, check_history
from tests.integration.test_adversaries import Sliding, adapter_of
from tests.lights import PATHS, light_adapter

if TYPE_CHECKING:
    from sqlalchemy import Engine

THREADS, CALLS = 8, 25


def work(recorder: Recorder, keys: list[int], seed: int) -> Counter[str]:
    """What one thread does: it sends what it likes to the version that it has seen, or to any."""
    draw, told = Random(seed), Counter[str]()
    for _ in range(CALLS):
        key = draw.choice(keys)
        try:
            if draw.random() < 0.2:
                recorder.load(key)
                continue
            expected = recorder.load(key).version if draw.random() < 0.5 else None
            recorder.send(key, draw.choice(["step", "step", "stop", "blink"]), expected_version=expected)
        except StatelatchError as error:
            told[type(error).__name__] += 1
        else:
            told["applied"] += 1
    return told


@pytest.mark.parametrize("path", PATHS)
def test_threads_are_told_the_truth(engine: Engine, path: str) -> None:
    """Eight threads, three rows, lost acknowledgements in between: an order exists that explains every answer."""
    adapter = light_adapter(engine, PATHS[path])
    recorder = Recorder(adapter)
    keys = [recorder.create().key for _ in range(3)]

    with (
        FaultInjector(adapter) as injector,
        injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, skip=10, times=5) as fault,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        told = sum(pool.map(partial(work, recorder, keys), range(THREADS)), Counter[str]())

    assert fault.fired == 5
    assert min(told["applied"], told["StaleVersionError"], told["TransitionRefusedError"]) > 0
    assert len(recorder.history) > THREADS * CALLS
    check_history(recorder.history)


def test_a_lie_is_found(engine: Engine) -> None:
    """What was written behind the clients' backs cannot be explained by what they were told."""
    adapter = light_adapter(engine)
    recorder = Recorder(adapter, client="me")
    light = recorder.create()
    adapter.send(light.key, "step")  # nobody has recorded it
    recorder.load(light.key)

    with pytest.raises(HistoryError, match=r"me +load +version 2, 'yellow'"):
        check_history(recorder.history)


def test_each_verb_is_recorded(engine: Engine) -> None:
    """What is asked and told is noted, and handed on as it is; a batch is as many operations as it has requests."""
    adapter = light_adapter(engine)
    history = History()
    recorder = Recorder(adapter, history, client="me")
    light = recorder.create()
    stepped = recorder.send(light.key, "step", expected_version=1)
    batch = recorder.send_batch([Request(light.key, "step"), Request(4711, "step")])
    with pytest.raises(RequestError):
        recorder.send(light.key, "no event")

    told = [(each.verb, each.key, each.event, each.expected_version, type(each.answer)) for each in history]
    assert [
        (Verb.CREATE, light.key, None, None, Snapshot),
        (Verb.SEND, light.key, "step", 1, Transitioned),
        (Verb.SEND, light.key, "step", None, Transitioned),
        (Verb.SEND, 4711, "step", None, RowNotFoundError),
        (Verb.SEND, light.key, "no event", None, RequestError),
    ] == told
    assert [light, stepped, *batch] == [each.answer for each in history][:4]
    assert all(each.returned and each.called < each.returned and each.client == "me" for each in history)
    check_history(history)


def test_what_was_interrupted_may_have_landed(engine: Engine) -> None:
    """A client that died has no answer; a batch that was interrupted has answers, and tokens for the others."""
    adapter = light_adapter(engine)
    recorder = Recorder(adapter)
    one, other = (recorder.create().key for _ in range(2))
    with FaultInjector(adapter) as injector:
        with injector.inject(Fault.LOSE_ACKNOWLEDGEMENT, dies=True), pytest.raises(ProcessDied):
            recorder.send(one, "step")
        with injector.inject(Fault.DIE_BEFORE_EXECUTE, skip=1), pytest.raises(BatchInterruptedError) as interrupted:
            recorder.send_batch([Request(one, "step"), Request(other, "end")])

    *_, died, first, second = recorder.history
    assert (died.returned, died.answer) == (None, None)
    assert isinstance(first.answer, Transitioned)
    assert isinstance(second.answer, ConnectionFailureError)
    assert second.token == interrupted.value.requests[0].token
    check_history(recorder.history)


def test_a_chart_that_moves_by_itself_is_believed(engine: Engine) -> None:
    """Where an eventless transition comes first, a row leaves a state that is no source of the event."""
    recorder = Recorder(adapter_of(engine, Sliding))
    key, stays = recorder.create(approved=True).key, recorder.create().key
    with engine.begin() as connection:
        connection.execute(text("UPDATE tasks SET amount = 1"))
    with pytest.raises(TransitionRefusedError):
        recorder.send(stays, "go")

    assert recorder.send(key, "go", token=uuid4()).source == "a"
    check_history(recorder.history)


@pytest.mark.parametrize("path", PATHS)
def test_answers_are_those_of_their_calls(engine: Engine, path: str) -> None:
    """Whatever an adapter answers is taken for the answer of its call: tokens of its own and given, every refusal."""
    recorder = Recorder(light_adapter(engine, PATHS[path]))
    one, other, broken = (recorder.create(**more).key for more in ({}, {}, {"broken": True}))
    token = uuid4()
    for call in (
        partial(recorder.send, one, "stop", token=token),
        partial(recorder.send, one, "stop", token=token),
        partial(recorder.send, one, "step", expected_version=1),
        partial(recorder.send, one, "blink"),
        partial(recorder.send, broken, "step"),
        partial(recorder.send, 4711, "step"),
        partial(recorder.load, 4711),
    ):
        with suppress(StatelatchError):
            call()
    if path == "compiled":
        recorder.send_batch([Request(other, "step"), Request(one, "step"), Request(broken, "end")])

    check_history(recorder.history)


def test_what_stands_in_for_an_adapter_is_recorded(engine: Engine) -> None:
    """Whatever has an adapter's verbs can be recorded: one that lies is found out."""

    class Forgetful(PersistenceAdapter):
        """Says that it was applied, and sends nothing."""

        def send(self, key: Any, event: str, **_: Any) -> Transitioned:
            done = super().send(self.create().key, event)
            return Transitioned(
                key=key,
                event=event,
                source=done.source,
                target=done.target,
                version=done.version,
                token=done.token,
                at=done.at,
            )

    recorder = Recorder(Forgetful(engine, light_adapter(engine).mapping))
    key = recorder.create().key
    recorder.send(key, "step")
    recorder.load(key)

    with pytest.raises(HistoryError):
        check_history(recorder.history)
