"""What is measured: the table of cases, and who runs in each race with how many rows and calls.

Rules: every race is proved afterwards; a contestant whose table does not hold what it was timed for ends the program.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tests.benchmarks import django_fsm, handwritten, memory, peers, verbs
from tests.benchmarks.race import Entry, race
from tests.benchmarks.records import Case, Effort, Measurement, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Table

    from tests.benchmarks.place import Place
    from tests.benchmarks.race import Block

__all__ = ["CASES", "Contestant", "measured"]

STRIDE = 7919
"""Between the keys of successive calls where the size of the table matters; a prime."""


@dataclass(frozen=True)
class Contestant:
    """Who runs a race, and with what.

    Attributes:
        name: as the tables call it.
        enter: yields what makes its moves.
        rows: of its table.
        calls: moves of one block.
        stride: between the keys of successive moves.
        size: by which the tables tell it from others of its name.
    """

    name: str
    enter: Callable[[Place, Table], AbstractContextManager[Block]]
    rows: int
    calls: int
    stride: int = 1
    size: int | None = None


def measured(contestants: Sequence[Contestant], place: Place, effort: Effort, progress: Progress) -> list[Measurement]:
    """Run a race, and prove that each contestant did its work."""
    with ExitStack() as stack:
        entries: list[Entry] = []
        proofs: list[Callable[[], None]] = []
        for number, each in enumerate(contestants):
            table = stack.enter_context(place.table(str(number), each.rows))
            block = stack.enter_context(each.enter(place, table))
            progress(0.0)
            entry = Entry(each.name, block, each.rows, each.calls, each.stride, partial(place.tidy, table))
            entries.append(entry)
            proofs.append(partial(place.prove, table, entry))
        race(entries, seconds=effort.seconds, rounds=effort.rounds, progress=progress)
        for prove in proofs:
            prove()
        return [
            Measurement(each.name, each.size, entry.samples) for each, entry in zip(contestants, entries, strict=True)
        ]


def transition(place: Place, effort: Effort, progress: Progress) -> list[Measurement]:
    """One guarded state change, durable when the call returns."""
    contestants = {
        "raw driver": handwritten.single,
        "statelatch, compiled": verbs.compiled,
        "statelatch, interpreted": verbs.interpreted,
        "ORM with version_id_col": peers.orm,
        "transitions + ORM": peers.transitions,
        "python-statemachine + ORM": peers.python_statemachine,
        "django-fsm-2": django_fsm.contestant,
    }
    entries = [Contestant(name, enter, 100, effort.calls) for name, enter in contestants.items()]
    return measured(entries, place, effort, progress)


def batch(place: Place, effort: Effort, progress: Progress) -> list[Measurement]:
    """Many rows, each with its own version and token."""
    contestants = {"hand-written": handwritten.batch, "send_batch": verbs.batch}
    entries = [Contestant(name, enter, 10 * effort.batch, effort.batch) for name, enter in contestants.items()]
    return measured(entries, place, effort, progress)


def bulk(place: Place, effort: Effort, progress: Progress) -> list[Measurement]:
    """All rows of a table."""
    contestants = {"hand-written": handwritten.bulk, "send_where": verbs.bulk}
    entries = [Contestant(name, enter, effort.bulk, effort.bulk) for name, enter in contestants.items()]
    return measured(entries, place, effort, progress)


def threads(place: Place, effort: Effort, progress: Progress) -> list[Measurement]:
    """Single calls from many threads, each with rows of its own."""
    contestants = {"send": verbs.sending_threads, "Batcher.send": verbs.batched_threads}
    moves = verbs.THREADS * effort.calls
    entries = [Contestant(name, enter, moves, moves) for name, enter in contestants.items()]
    return measured(entries, place, effort, progress)


def growth(place: Place, effort: Effort, progress: Progress) -> list[Measurement]:
    """`send` on small and large tables; the others for few and many rows of one size of table.

    A small table would flatter them: it is a few pages, which the database writes together.
    """
    single = [Contestant("send", verbs.compiled, rows, effort.calls, STRIDE, size=rows) for rows in effort.sizes]
    most = max(effort.sizes)
    many = [
        Contestant(name, enter, most, rows, size=rows)
        for name, enter in {"send_batch": verbs.batch, "send_where": verbs.bulk}.items()
        for rows in effort.sizes
    ]
    return measured([*single, *many], place, effort, progress)


CASES = (
    Case(name="transition", title="One transition", unit="µs", floor="raw driver", measure=transition),
    Case(name="batch", title="A batch", unit="µs a row", floor="hand-written", rate=True, measure=batch),
    Case(name="bulk", title="A whole table", unit="µs a row", floor="hand-written", rate=True, measure=bulk),
    Case(name="threads", title="32 threads", unit="µs", floor="send", rate=True, measure=threads),
    Case(name="growth", title="Growth with the number of rows", unit="µs a row", measure=growth),
    Case(name="memory", title="Peak memory of send_where", unit="MB", measure=memory.measure),
)
