"""Batches that meet: whatever they all want to write, each request has one true answer, and no driver's error."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, select

from statelatch import (
    PersistenceAdapter,
    Request,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.batch import Answer
from statelatch.runs import Run, run_mapping
from statelatch.runs.model import new_run_id
from tests import databases
from tests.lights import Light, LightLog, light_adapter
from tests.outages import Traffic

ROWS = 1000
THREADS = 16


def in_threads(works: list[Callable[[], list[Answer]]]) -> list[list[Answer]]:
    """What these return, done at once."""
    at_once = Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def work(number: int) -> None:
        at_once.wait()
        try:
            results[number] = works[number]()
        except Exception as error:
            results[number] = error

    threads = [Thread(target=work, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each for each in results if isinstance(each, Exception)] == []
    return results


def shuffled(items: list[Any], seed: int) -> list[Any]:
    """Another order for each seed."""
    return random.Random(seed).sample(items, len(items))


def test_many_threads_send_the_same_batch(runs_engine: Engine) -> None:
    """16 threads cancel the same 1,000 runs, each in its own order: every run is cancelled once, the rest refused."""
    adapter = PersistenceAdapter(runs_engine, run_mapping())
    ids = [new_run_id() for _ in range(ROWS)]
    with runs_engine.begin() as connection:
        connection.execute(insert(Run), [{"id": each, "status": "pending", "version": 1} for each in ids])
    batches = [[Request(each, "cancel") for each in shuffled(ids, seed)] for seed in range(THREADS)]

    traffic = Traffic(runs_engine)

    answers = in_threads([lambda batch=batch: adapter.send_batch(batch) for batch in batches])

    done = [each for of_thread in answers for each in of_thread if isinstance(each, Transitioned)]
    assert Counter(each.key for each in done) == Counter(ids)
    assert sum("UPDATE" in statement for statement in traffic.statements) < 3 * THREADS  # hardly a deadlock
    assert Counter(type(each) for of_thread in answers for each in of_thread) == {
        Transitioned: ROWS,
        TransitionRefusedError: ROWS * (THREADS - 1),
    }
    with runs_engine.connect() as connection:
        rows = dict(connection.execute(select(Run.id, Run.transition_token)).all())
    assert {each.key: each.token for each in done} == rows


def test_every_step_of_many_threads_is_told(engine: Engine) -> None:
    """16 threads move the same lights round and round, in batches: each version is one thread's, and has its entry."""
    lights = light_adapter(engine)
    keys = list(range(1, 101))
    with engine.begin() as connection:
        connection.execute(insert(Light), [{"id": key, "state": "green", "version": 1} for key in keys])
    batches = [[Request(key, "step") for key in shuffled(keys, seed)] for seed in range(THREADS)]

    answers = in_threads([lambda batch=batch: lights.send_batch(batch) for batch in batches])

    done = [each for of_thread in answers for each in of_thread if isinstance(each, Transitioned)]
    losers = {type(each) for of_thread in answers for each in of_thread} - {Transitioned}
    assert losers <= {StaleVersionError}
    with engine.connect() as connection:
        entries = connection.execute(select(LightLog.key, LightLog.version, LightLog.token)).all()
        versions = dict(connection.execute(select(Light.id, Light.version)).all())
    assert sorted((each.key, each.version, each.token) for each in done) == sorted(entries)
    assert Counter(each.key for each in done) == {key: version - 1 for key, version in versions.items()}


@pytest.mark.parametrize("isolation_level", ["REPEATABLE READ", "SERIALIZABLE"])
@databases.on("postgresql", "mariadb")
def test_races_at_higher_levels_have_answers(runs_engine: Engine, isolation_level: Any) -> None:
    """Behaviour 23 for batches: a lost race is an answer; a row that nobody else wanted is not lost with it."""
    ids = [new_run_id() for _ in range(60)]
    with runs_engine.begin() as connection:
        connection.execute(insert(Run), [{"id": each, "status": "pending", "version": 1} for each in ids])
    engine = create_engine(runs_engine.url, isolation_level=isolation_level, pool_size=20)
    adapter = PersistenceAdapter(engine, run_mapping())
    common, own = ids[:20], [ids[20 + 10 * n : 30 + 10 * n] for n in range(4)]

    batches = [[Request(each, "cancel") for each in shuffled(common + mine, n)] for n, mine in enumerate(own)]

    answers = in_threads([lambda batch=batch: adapter.send_batch(batch) for batch in batches])

    engine.dispose()
    done = [each for of_thread in answers for each in of_thread if isinstance(each, Transitioned)]
    assert Counter(each.key for each in done) == Counter(ids)
    assert {type(each) for of_thread in answers for each in of_thread} <= {
        Transitioned,
        TransitionRefusedError,
        StaleVersionError,
    }
