"""The log under many writers, on each database: no gap, no duplicate; it agrees with every answer and every row.

`STATELATCH_LOG_EVENTS` sets how many events each of the 32 threads sends; the project promises it for 1,000.
"""

import os
import random
from collections import Counter
from itertools import pairwise
from threading import Thread
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Index, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    LogEntry,
    MachineMapping,
    NotAppliedError,
    PersistenceAdapter,
    Request,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.columns import TransitionColumns, TransitionLogColumns, state_text
from statelatch.tokens import source_number
from tests.lights import entry_of

THREADS = 32
EVENTS = int(os.environ.get("STATELATCH_LOG_EVENTS", "100"))
ROWS = range(1, 101)


class Base(DeclarativeBase):
    """Base of the entities here."""


class Light(TransitionColumns, Base):
    """A light that many switch."""

    __tablename__ = "light"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(state_text(8))
    turns: Mapped[int] = mapped_column(default=0)
    __table_args__ = (Index("light_token", "transition_token"),)


class LightLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "light_log"

    key: Mapped[int] = mapped_column(primary_key=True)


class Crossing(StateMachine):
    """Events of one source and of several, into one target and into several; one needs Python."""

    green = State(initial=True)
    yellow = State()
    red = State()
    off = State(final=True)

    step = green.to(yellow) | yellow.to(red) | red.to(green)
    stop = green.to(red) | yellow.to(red)
    blink = yellow.to(yellow)
    turn = green.to(red, on="count") | red.to(green, on="count")
    end = red.to(off, cond="turns < 0")

    def count(self, model: Light) -> None:
        """Change a column."""
        model.turns += 1


COMPILED = ["step", "step", "stop", "blink"]


class Witness:
    """One thread's events, and what the database has answered to them."""

    def __init__(self, adapter: PersistenceAdapter, seed: int) -> None:
        self._adapter = adapter
        self._chance = random.Random(seed)
        self._seen: dict[int, int] = {}
        self.applied: list[Transitioned] = []
        self.bulks: list[tuple[UUID, int]] = []
        self.refused: Counter[type[object]] = Counter()

    def send_events(self) -> None:
        """Send so many events: alone, or some in a batch; now and then one to several rows at once."""
        left = EVENTS
        while left > 0:
            if left % 25 == 0:
                self._send_where()
                left -= 1
            if self._chance.random() < 0.05:
                count = min(left, 10)
                self._note(self._adapter.send_batch([self._request(COMPILED) for _ in range(count)]))
                left -= count
            else:
                self._send(self._request([*COMPILED, "turn"]))
                left -= 1

    def _request(self, events: list[str]) -> Request:
        """An event for some row; one in four expects the version that was seen last."""
        key = self._chance.choice(ROWS)
        expected = self._seen.get(key) if self._chance.random() < 0.25 else None
        return Request(key, self._chance.choice(events), expected, {"actor": f"for {key}"})

    def _send(self, request: Request) -> None:
        try:
            answer: Any = self._adapter.send(
                request.key, request.event, expected_version=request.expected_version, **request.params
            )
        except NotAppliedError as refusal:
            answer = refusal
        self._note([answer])

    def _note(self, answers: list[Any]) -> None:
        for answer in answers:
            if isinstance(answer, Transitioned):
                self.applied.append(answer)
                self._seen[answer.key] = answer.version
            else:
                self.refused[type(answer)] += 1

    def _send_where(self) -> None:
        first = self._chance.choice(ROWS)
        result = self._adapter.send_where("step", Light.id.between(first, first + 3), actor="bulk")
        self.bulks.append((result.token, result.count))


def test_no_gap_and_no_duplicate(engine: Engine) -> None:
    """Must show 2: 32 threads send mixed events to shared rows; each acknowledged one is logged once."""
    Base.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Crossing, entity=Light, log=LightLog))
    for key in ROWS:
        adapter.create(id=key)
    witnesses = [Witness(adapter, seed) for seed in range(THREADS)]

    threads = [Thread(target=witness.send_events) for witness in witnesses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    histories = {key: adapter.history(key) for key in ROWS}
    with engine.connect() as connection:
        for row in connection.execute(select(Light.id, Light.version, Light.state, Light.transition_token)):
            judge_history(histories[row.id], row)
    judge_answers(witnesses, [entry for history in histories.values() for entry in history[1:]])


def judge_history(history: list[LogEntry], row: Any) -> None:
    """Versions without gap or duplicate; each entry leaves where the one before it came; the last is the row."""
    assert [entry.version for entry in history] == list(range(1, row.version + 1))
    assert all(before.target == after.source for before, after in pairwise(history))
    last = history[-1]
    assert (last.version, last.target, last.token) == (row.version, row.state, row.transition_token)


def judge_answers(witnesses: list[Witness], entries: list[LogEntry]) -> None:
    """Each acknowledged transition is in the log exactly once, as it was told, and the log has nothing else."""
    applied = [done for witness in witnesses for done in witness.applied]
    told = Counter(entry_of(done, f"for {done.key}") for done in applied)
    others = Counter(entries)
    others.subtract(told)
    for token, count in (bulk for witness in witnesses for bulk in witness.bulks):
        mine = [entry for entry in others if source_number(token, entry.token, 3) is not None]
        assert [others.pop(entry) for entry in mine] == [1] * count
        assert {(entry.event, entry.actor) for entry in mine} <= {("step", "bulk")}
    assert set(others.values()) == {0}
    assert len({done.token for done in applied}) == len(applied) > THREADS * EVENTS / 4
    assert {kind for witness in witnesses for kind in witness.refused} == {StaleVersionError, TransitionRefusedError}
