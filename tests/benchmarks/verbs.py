"""The verbs of statelatch, as a user calls them: each contestant is an adapter that was given the database's URL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING

from statelatch import PersistenceAdapter, Request
from statelatch.batcher import Batcher
from tests.benchmarks.place import UnprovenError
from tests.benchmarks.race import Block, Move, timed
from tests.benchmarks.ring import EVENTS, Ring, WatchedRing, mapping_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Table

    from tests.benchmarks.place import Place

__all__ = ["THREADS", "batch", "batched_threads", "bulk", "compiled", "interpreted", "sending_threads"]

THREADS = 32


@contextmanager
def _single(place: Place, table: Table, machine: type[Ring], *, compiled: bool) -> Generator[Block]:
    with PersistenceAdapter(place.url, mapping_of(table, machine)) as adapter:
        if any(adapter.explain(event).compiled != compiled for event in EVENTS.values()):
            raise UnprovenError(f"statelatch: expected compiled={compiled}, found\n{adapter.explain('there')}")
        yield timed(_sender(adapter.send))


def compiled(place: Place, table: Table) -> AbstractContextManager[Block]:
    """`send`, where SQL decides."""
    return _single(place, table, Ring, compiled=True)


def interpreted(place: Place, table: Table) -> AbstractContextManager[Block]:
    """`send`, where a callback is Python."""
    return _single(place, table, WatchedRing, compiled=False)


@contextmanager
def batch(place: Place, table: Table) -> Generator[Block]:
    """`send_batch`; the requests are made before the clock starts."""
    with PersistenceAdapter(place.url, mapping_of(table)) as adapter:

        def block(moves: Sequence[Move]) -> int:
            requests = [Request(each.key, each.event, expected_version=each.version) for each in moves]
            start = perf_counter_ns()
            answers = adapter.send_batch(requests)
            nanoseconds = perf_counter_ns() - start
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return nanoseconds

        yield block


@contextmanager
def bulk(place: Place, table: Table) -> Generator[Block]:
    """`send_where` for a range of rows."""
    mapping = mapping_of(table)
    with PersistenceAdapter(place.url, mapping) as adapter:

        def block(moves: Sequence[Move]) -> int:
            first, last = moves[0], moves[-1]
            start = perf_counter_ns()
            result = adapter.send_where(first.event, mapping.entity.id.between(first.key, last.key))
            nanoseconds = perf_counter_ns() - start
            if result.count != len(moves):
                raise UnprovenError(f"send_where: expected to move {len(moves)} rows, moved {result.count}")
            return nanoseconds

        yield block


@contextmanager
def sending_threads(place: Place, table: Table) -> Generator[Block]:
    """`send` from each of the threads."""
    with PersistenceAdapter(place.url, mapping_of(table)) as adapter, _threads(_sender(adapter.send)) as block:
        yield block


@contextmanager
def batched_threads(place: Place, table: Table) -> Generator[Block]:
    """`Batcher.send` from each of the threads."""
    with (
        PersistenceAdapter(place.url, mapping_of(table)) as adapter,
        Batcher(adapter) as batcher,
        _threads(_sender(batcher.send)) as block,
    ):
        yield block


def _sender(send: Callable[..., object]) -> Callable[[Move], object]:
    return lambda each: send(each.key, each.event, expected_version=each.version)


@contextmanager
def _threads(move: Callable[[Move], object]) -> Generator[Block]:
    """Blocks whose moves are shared out among threads, from the start of the first to the end of the last."""
    one = timed(move)
    with ThreadPoolExecutor(THREADS) as pool:

        def block(moves: Sequence[Move]) -> int:
            start = perf_counter_ns()
            for _ in pool.map(one, [moves[n::THREADS] for n in range(THREADS)]):
                pass
            return perf_counter_ns() - start

        yield block
