"""Histories: what can have happened, what cannot, and which part of it is told."""

from __future__ import annotations

import pickle
import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import permutations, product
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from statelatch import (
    ConnectionFailureError,
    OutcomeUnknownError,
    RowNotFoundError,
    Snapshot,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.errors import Phase, Reason
from statelatch.testing import reduction
from statelatch.testing.claims import Statement
from statelatch.testing.history import HistoryError, check_history
from statelatch.testing.linearization import ABSENT, Claim, Maybe, Saw, Wrote, is_explained
from statelatch.testing.operations import History, Operation, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = 7
TOKENS = [UUID(int=number << 64) for number in range(100)]
PAY = {"new": frozenset({"paid"})}


def moved(version: int, source: str = "new", target: str = "paid", token: int | None = None) -> Transitioned:
    """It was applied."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    proof = uuid4() if token is None else TOKENS[token]
    return Transitioned(key=KEY, event="pay", source=source, target=target, version=version, token=proof, at=at)


def stale(expected: int | None, actual: int, state: str = "paid") -> StaleVersionError:
    """Somebody else was faster."""
    return StaleVersionError(
        table="orders", key=KEY, event="pay", expected_version=expected, actual_version=actual, state=state
    )


def refused(version: int, state: str, reason: Reason = Reason.STATE) -> TransitionRefusedError:
    """There was no way."""
    return TransitionRefusedError(
        table="orders", key=KEY, event="pay", state=state, version=version, reason=reason, sources=("new",)
    )


def row(version: int, state: str = "new") -> Snapshot:
    """It was seen."""
    return Snapshot(key=KEY, state=state, version=version, values={})


MISSING = RowNotFoundError(table="orders", key=KEY)
FAILURE = ConnectionFailureError(phase=Phase.EXECUTE, database="sqlite://", detail="gone")
UNKNOWN = OutcomeUnknownError(phase=Phase.COMMIT, database="sqlite://", detail="gone", token=TOKENS[99], key=KEY)


def send(called: float, returned: float | None, answer: object, **known: Any) -> Operation:
    """An event was sent."""
    known = {"event": "pay", **known}
    return Operation(verb=Verb.SEND, key=KEY, called=called, returned=returned, answer=answer, **known)


def load(called: float, returned: float, answer: object) -> Operation:
    """The row was read."""
    return Operation(verb=Verb.LOAD, key=KEY, called=called, returned=returned, answer=answer)


def create(called: float, returned: float | None, answer: object) -> Operation:
    """The row was made."""
    return Operation(verb=Verb.CREATE, key=KEY, called=called, returned=returned, answer=answer)


GOOD = {
    "nothing happened": [],
    "one after the other": [create(1, 2, row(1)), send(3, 4, moved(2)), load(5, 6, row(2, "paid"))],
    "two at once, one of them stale": [send(1, 4, moved(2)), send(2, 3, stale(1, 2), expected_version=1)],
    "a refusal before the write that overlaps": [send(1, 9, moved(3, "held")), send(2, 3, refused(2, "held"))],
    "a reader between two writes": [send(1, 9, moved(2)), load(2, 3, row(2, "paid")), send(4, 5, moved(3, "paid"))],
    "a row that is not there yet": [load(1, 4, MISSING), create(2, 3, row(1))],
    "a lost acknowledgement that landed": [create(1, 2, row(1)), send(3, 4, UNKNOWN), load(5, 6, row(2, "paid"))],
    "a lost acknowledgement that did not": [create(1, 2, row(1)), send(3, 4, UNKNOWN), load(5, 6, row(1))],
    "one that lands long afterwards": [send(1, 2, UNKNOWN), load(3, 4, row(1)), load(5, 6, row(2, "paid"))],
    "a client that died": [create(1, 2, row(1)), send(3, None, None), load(5, 6, row(2, "paid"))],
    "a creation that landed unseen": [create(1, 2, UNKNOWN), load(3, 4, row(1))],
    "a call that was repeated": [
        send(1, 2, UNKNOWN),
        send(3, 4, moved(2, token=99), token=TOKENS[99]),
        load(5, 6, row(2, "paid")),
    ],
    "one repeated though it was told": [
        send(1, 2, moved(2, token=5), token=TOKENS[5]),
        send(3, 4, moved(2, token=5), token=TOKENS[5]),
    ],
    "one repeated in vain, that had landed": [
        create(1, 2, row(1)),
        send(3, 4, UNKNOWN),
        send(5, 6, moved(3, "paid", "held")),
        send(7, 8, refused(3, "held"), token=TOKENS[99]),
    ],
    "seen by others before it was repeated": [
        send(1, 2, UNKNOWN),
        load(3, 4, row(2, "paid")),
        send(5, 6, moved(2, token=99), token=TOKENS[99]),
    ],
    "a failure": [create(1, 2, row(1)), send(3, 4, FAILURE), load(5, 6, row(1))],
    "an error of a callback": [create(1, 2, row(1)), send(3, 4, ZeroDivisionError()), load(5, 6, row(1))],
    "the machine allows it": [send(1, 2, moved(2), moves=PAY)],
    "a variant of the token": [send(1, 2, replace(moved(2), token=UUID(int=5 << 64 | 3)), token=TOKENS[5])],
    "a variant for the second source": [
        send(
            1,
            2,
            replace(moved(2, "new"), token=UUID(int=5 << 64 | 1)),
            token=TOKENS[5],
            moves={"old": PAY["new"], **PAY},
        )
    ],
    "tokens of one batch": [
        send(1, 3, moved(2, token=5)),
        send(2, 3, replace(moved(3, "paid"), token=UUID(int=5 << 64 | 1))),
    ],
    "one repeated with the token that it was told": [
        send(1, 2, moved(2, token=5)),
        send(3, 4, moved(2, token=5), token=TOKENS[5]),
    ],
    "three races lost, whatever the version": [send(1, 2, stale(None, 3))],
    "a refusal of the machine": [send(1, 2, refused(2, "paid"), moves=PAY)],
    "a guard": [send(1, 2, refused(2, "new", Reason.GUARD), moves=PAY)],
}

BAD = {
    "a lost update": ([create(1, 2, row(1)), send(3, 6, moved(2)), send(4, 7, moved(2))], [1, 2]),
    "a write that is gone": ([create(1, 2, row(1)), send(3, 4, moved(2)), load(5, 6, row(1))], [1, 2]),
    "back in time": ([load(1, 2, row(2, "paid")), load(3, 4, row(1)), load(5, 6, row(2, "paid"))], [0, 1]),
    "two states of one version": ([load(1, 9, row(2, "paid")), load(2, 3, row(2, "held"))], [0, 1]),
    "a transition out of another state": ([load(1, 2, row(1, "held")), send(3, 4, moved(2))], [0, 1]),
    "two bumps": ([create(1, 2, row(1)), send(3, 4, moved(3)), load(5, 6, row(3, "paid"))], [0, 1]),
    "no bump": ([create(1, 2, row(1)), send(3, 4, moved(2)), send(5, 6, moved(2, "paid", "held"))], [1, 2]),
    "a failure that was written": ([create(1, 2, row(1)), send(3, 4, FAILURE), load(3, 4, row(2))], [0, 1, 2]),
    "a refusal that was written": ([create(1, 2, row(1)), send(3, 5, refused(1, "x")), load(4, 6, row(2))], [1, 2]),
    "stale, and it was not": ([send(1, 2, stale(2, 2), expected_version=2)], [0]),
    "refused at another version": ([send(1, 2, refused(3, "paid"), expected_version=2)], [0]),
    "refused by a guard that was not asked": ([send(1, 2, refused(3, "paid", Reason.GUARD))], [0]),
    "refused by a state that it leaves": ([send(1, 2, refused(3, "new"))], [0]),
    "applied to another version": ([send(1, 2, moved(3), expected_version=1)], [0]),
    "not what the machine does": ([send(1, 2, moved(3, "paid", "new"), moves=PAY)], [0]),
    "created at another version": ([create(1, 2, row(2))], [0]),
    "created twice": ([create(1, 2, row(1)), create(3, 4, row(1))], [0, 1]),
    "missing after it was there": ([create(1, 2, row(1)), load(3, 4, MISSING)], [0, 1]),
    "applied twice": (
        [send(1, 2, moved(2, token=5), token=TOKENS[5]), send(3, 4, moved(3, "paid", token=5), token=TOKENS[5])],
        [0, 1],
    ),
    "one token, left twice": (
        [send(1, 2, moved(2, token=5)), load(3, 4, row(2, "paid")), send(5, 6, moved(3, "paid", token=5))],
        [0, 2],
    ),
    "an unknown outcome that was two": (
        [create(1, 2, row(1)), send(3, 4, UNKNOWN), load(5, 6, row(3, "paid"))],
        [0, 2],
    ),
    "one repeated without need": (
        [create(1, 2, row(1)), send(3, 4, UNKNOWN), send(5, 6, moved(3, token=99), token=TOKENS[99])],
        [0, 1, 2],
    ),
    "an outcome that its call could not have": (
        [create(1, 2, row(1)), send(3, 4, UNKNOWN, moves=PAY), load(5, 6, row(2, "held"))],
        [0, 1, 2],
    ),
    "an outcome at a version that it did not expect": (
        [create(1, 2, row(1)), send(3, 4, moved(2)), send(5, 6, UNKNOWN, expected_version=1), load(7, 8, row(3))],
        [1, 2, 3],
    ),
    "a creation is no transition": (
        [load(1, 2, row(1)), create(3, 4, UNKNOWN), load(5, 6, row(2, "paid"))],
        [0, 1, 2],
    ),
    "an event makes no row": ([load(1, 2, MISSING), send(3, 4, UNKNOWN), load(5, 6, row(1))], [0, 1, 2]),
    "one fresh token for two calls": ([send(1, 2, moved(2, token=5)), send(3, 4, moved(2, token=5))], [0, 1]),
    "variants of one token, left twice": (
        [
            send(1, 2, moved(2, token=5), token=TOKENS[5]),
            send(3, 4, replace(moved(3, "paid"), token=UUID(int=5 << 64 | 1)), token=TOKENS[5]),
        ],
        [0, 1],
    ),
    "landed before it was called": ([load(1, 2, row(1)), load(3, 4, row(2)), send(5, 6, UNKNOWN)], [0, 1]),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_what_can_have_happened_is_believed(operations: list[Operation]) -> None:
    """A history is accepted if some order explains it, in whatever order it is told."""
    check_history(operations)
    check_history(reversed(operations))


@pytest.mark.parametrize(("operations", "core"), BAD.values(), ids=BAD)
def test_what_cannot_have_happened_is_told(operations: list[Operation], core: list[int]) -> None:
    """A history that no order explains is an error, which names the operations that cannot all be true."""
    with pytest.raises(HistoryError) as error:
        check_history(operations)

    found = error.value.operations
    assert core == [operations.index(each) for each in found], str(error.value)
    assert all(each.asked() in str(error.value) for each in found)


OTHER_EVENT = replace(moved(2), event="ship")
OTHER_SOURCES = TransitionRefusedError(
    table="orders", key=KEY, event="pay", state="x", version=2, reason=Reason.STATE, sources=("old",)
)
CONTRADICTIONS: dict[str, tuple[Operation, str]] = {
    "the key of a transition": (send(1, 2, replace(moved(2), key=8)), "the key 7, found 8"),
    "the key of a snapshot": (load(1, 2, replace(row(1), key=8)), "the key 7, found 8"),
    "the key of a missing row": (load(1, 2, RowNotFoundError(table="orders", key=8)), "the key 7, found 8"),
    "the key of a refusal": (replace(send(1, 2, refused(2, "paid")), key=8), "the key 8, found 7"),
    "the key of an unknown outcome": (replace(send(1, 2, UNKNOWN), key=8), "the key 8, found 7"),
    "the event of a transition": (send(1, 2, OTHER_EVENT), "the event pay, found ship"),
    "the event of a refusal": (send(1, 2, refused(2, "paid"), event="ship"), "the event ship, found pay"),
    "the event of a missing row": (send(1, 2, MISSING), "the event pay, found load"),
    "the token": (send(1, 2, moved(2, token=5), token=TOKENS[6]), "the token .*, found"),
    "the next token of a batch": (
        send(1, 2, replace(moved(2), token=UUID(int=5 << 64 | 1)), token=TOKENS[5], moves=PAY),
        "the token .*, found",
    ),
    "the token of an unknown outcome": (send(1, 2, UNKNOWN, token=TOKENS[6]), "the token .*, found"),
    "the version that was expected": (send(1, 2, stale(4, 2), expected_version=3), "expected_version 3, found 4"),
    "a version that was not expected": (send(1, 2, stale(4, 2)), "expected_version None, found 4"),
    "a transition that is not durable": (send(1, 2, replace(moved(2), committed=False)), "committed=False"),
    "an event that makes a row": (send(1, 2, moved(1)), "an event makes no row"),
    "a row before its creation": (load(1, 2, row(0)), "version 1, .* found 0"),
    "the sources of a refusal": (send(1, 2, OTHER_SOURCES, moves=PAY), "leaves 'new', found 'old'"),
    "a snapshot of an event": (send(1, 2, row(2)), "expected a Transitioned or an exception"),
    "no answer at all": (load(1, 2, answer=True), "expected a Snapshot or an exception, found True"),
}


@pytest.mark.parametrize(("operation", "told"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_an_answer_is_that_of_its_call(operation: Operation, told: str) -> None:
    """An answer to another call, or of no row whatever, is an error by itself, which says what was expected."""
    with pytest.raises(HistoryError, match=told) as error:
        check_history([create(0, 0.5, FAILURE), operation])

    assert (operation.key, (operation,)) == (error.value.key, error.value.operations)


def test_a_token_is_left_in_one_row() -> None:
    """A token that an adapter has made for one row is not another's; one that clients sent to both rows is in both."""
    mine, other = send(1, 2, moved(2, token=5)), replace(send(3, 4, replace(moved(2, token=5), key=8)), key=8)

    check_history([replace(each, token=TOKENS[5]) for each in (mine, other)])
    with pytest.raises(HistoryError, match="to key 8") as error:
        check_history([mine, other])

    assert (mine, other) == error.value.operations


@pytest.mark.parametrize(("failures", "told"), [(3, 5), (30, 2)])
def test_suspects_are_told_if_they_are_few(failures: int, told: int) -> None:
    """Each of the calls that failed may have been written after all; where they are many, none of them is blamed."""
    suspects = [send(3 + number / 100, 5, FAILURE) for number in range(failures)]

    with pytest.raises(HistoryError) as error:
        check_history([create(1, 2, row(1)), *suspects, load(6, 7, row(2))])

    assert told == len(error.value.operations)
    assert ("as long as they changed no more than they say" in str(error.value)) == (failures == 30)


def test_a_reduction_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be reduced in the time there is, is told all the same; of a long table a part is printed."""
    monkeypatch.setattr(reduction, "CLAIMS", 1)
    seen = [load(3 + number / 100, 5, row(1)) for number in range(100)]

    with pytest.raises(HistoryError, match="not reduced to the end") as error:
        check_history([create(1, 2, row(1)), *seen, create(6, 7, row(1))])

    assert len(error.value.operations) == 102
    assert str(error.value).endswith("... and 52 more, in `operations`")


def test_the_row_before_counts() -> None:
    """What is told of the row before the history must fit to it."""
    operations = [send(1, 2, moved(5))]

    check_history(operations, initial=[row(4), Snapshot(key=8, state="paid", version=1, values={})])
    for wrong in (row(3), row(5), row(4, "held")):
        with pytest.raises(HistoryError) as error:
            check_history(operations, initial=[wrong])
        assert f"version {wrong.version} in state {wrong.state!r}" in str(error.value)


def test_rows_are_judged_by_themselves() -> None:
    """What happens to one row does not excuse another."""
    other = [replace(each, key=8, answer=replace(row(1), key=8)) for each in (create(1, 2, None), load(5, 6, None))]
    mine = [create(1, 2, row(1)), load(5, 6, row(2, "paid"))]

    with pytest.raises(HistoryError) as error:
        check_history([*other, *mine, replace(send(3, None, None), key=8)])

    assert (KEY, tuple(mine)) == (error.value.key, error.value.operations)


def test_the_error_survives_pickling() -> None:
    """A history that a worker process has found wrong can be told to its parent."""
    with pytest.raises(HistoryError) as error:
        check_history([create(1, 2, row(1)), create(3, 4, row(1))])

    again = pickle.loads(pickle.dumps(error.value))
    assert (str(error.value), len(error.value.operations)) == (str(again), len(again.operations))


def test_times_of_two_clocks_are_refused() -> None:
    """An operation that returned before it was called is no history, and the message says what to do."""
    with pytest.raises(ValueError, match="one clock"):
        check_history([send(2, 1, moved(2))])


def test_a_call_without_an_answer_yet_is_in_the_history() -> None:
    """A client that hangs may have written: its call is told although it has not returned."""
    history = History()
    history.called(send(0, None, None))

    assert [(each.called, each.returned) for each in history] == [(1, None)]
    assert len(history) == 1


def crowd(draw: random.Random, threads: int, count: int, lost: float) -> list[Operation]:
    """What so many threads may have done to one row: each operation has a moment at which it took effect."""
    operations: list[Operation] = []
    free, version = [0.0] * threads, 1
    for now in range(1, threads * count + 1):
        thread = now % threads
        called = min(max(free[thread], now - draw.random() * threads), now - 0.001)
        returned: float | None = now + draw.random() * threads
        free[thread] = returned
        answer: object = stale(None, version)
        if draw.random() < 0.5:
            version += 1
            answer = moved(version, "paid")
            if draw.random() < lost:
                answer = returned = None
        operations.append(replace(send(called, returned, answer), client=f"thread {thread}"))
    return operations


@pytest.mark.parametrize("lost", [0, 0.1])
def test_a_crowd_is_judged_at_once(lost: float) -> None:
    """32 threads with 100 operations each on one row take far less than a second, answers that were lost included."""
    operations = crowd(random.Random(1), 32, 100, lost)
    begun = time.perf_counter()

    check_history(operations)

    assert time.perf_counter() - begun < 1


def test_a_lie_in_a_crowd_is_found_at_once() -> None:
    """One wrong answer among 3,200 is found, and told with few others, within seconds."""
    operations = crowd(random.Random(2), 32, 100, 0.1)
    number, done = next(
        (number, each)
        for number, each in enumerate(operations)
        if number > 1600 and isinstance(each.answer, Transitioned)
    )
    assert isinstance(done.answer, Transitioned)
    operations[number] = replace(done, answer=moved(done.answer.version + 1, "paid"))
    begun = time.perf_counter()

    with pytest.raises(HistoryError) as error:
        check_history(operations)

    assert operations[number] in error.value.operations
    assert len(error.value.operations) < 10
    assert time.perf_counter() - begun < 5


def ring(draw: random.Random, count: int, lost: float) -> list[Operation]:
    """What 64 clients may have done to one row that goes round: most know what their event can do."""
    operations: list[Operation] = []
    states, version = "abc", 1
    for now in range(1, count + 1):
        event, state = draw.choice(states), states[version % 3]
        moves = {event: frozenset(states[states.index(event) - 2])}
        call = partial(send, now - draw.random() * 32, now + draw.random() * 32, moves=moves)
        if event != state:
            sources = (event,)
            answer: object = TransitionRefusedError(
                table="t", key=KEY, event="pay", state=state, version=version, reason=Reason.STATE, sources=sources
            )
        elif draw.random() < lost:
            version += draw.random() < 0.5
            answer = OutcomeUnknownError(phase=Phase.COMMIT, database="sqlite://", detail="gone", token=uuid4())
        else:
            version += 1
            answer = moved(version, state, states[version % 3])
        operations.append(call(answer))
    return operations


@pytest.mark.parametrize("seed", range(3))
def test_a_failure_of_thousands_is_told_soon(seed: int) -> None:
    """One wrong answer among 10,000 on one row, of which each third outcome is unknown: told with few others."""
    draw = random.Random(seed)
    operations = ring(draw, 10_000, 0.3)
    check_history(operations)
    wrong = [number for number, each in enumerate(operations) if isinstance(each.answer, Transitioned)][700 + seed]
    told = operations[wrong].answer
    assert isinstance(told, Transitioned)
    operations[wrong] = replace(operations[wrong], answer=replace(told, version=told.version + 1))
    begun = time.perf_counter()

    with pytest.raises(HistoryError) as error:
        check_history(operations)

    assert time.perf_counter() - begun < 10
    assert len(error.value.operations) < 30, str(error.value)


def possible(claims: Sequence[Claim], initial: tuple[int, object]) -> bool:
    """The definition itself: try every order, and for each that may have had an effect whether it had one."""
    doubtful = [claim for claim in claims if isinstance(claim, Maybe)]
    for landed in product([True, False], repeat=len(doubtful)):
        taken = [claim for claim in claims if claim not in doubtful]
        taken += [claim for claim, has in zip(doubtful, landed, strict=True) if has]
        if any(_holds(order, initial) for order in permutations(taken)):
            return True
    return False


def _holds(order: Sequence[Claim], initial: tuple[int, object]) -> bool:
    latest = float("-inf")
    rows = {initial}
    for claim in order:
        latest = max(latest, claim.called)
        if latest > claim.returned:
            return False
        rows = {after for before in rows for after in _after(claim, before)}
    return bool(rows)


def _after(claim: Claim, before: tuple[int, object]) -> set[tuple[int, object]]:
    version, state = before
    match claim:
        case Wrote():
            return {(claim.version, claim.target)} if before == (claim.version - 1, claim.source) else set()
        case Saw():
            return {before} if before == (claim.version, claim.state) else set()
        case Maybe():
            if version == 0 and not claim.creates:
                return set()
            targets = "ab" if claim.moves is None else claim.moves.get(state, ())
            return {(version + 1, target) for target in targets} if claim.expected in {None, version} else set()


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    """A claim about a row with two states and few versions, at one of few times."""
    called = draw(st.integers(0, 6))
    returned = called + draw(st.integers(0, 4))
    version, states = draw(st.integers(0, 4)), st.sampled_from("ab")
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return Wrote(called, returned, version + 1, draw(states) if version else ABSENT, draw(states))
    if kind == 1:
        return Saw(called, returned, version, draw(states) if version else ABSENT)
    if kind == 2:
        return Maybe(called, returned, creates=draw(st.booleans()))
    moves = st.sampled_from([None, {"a": frozenset("b")}, {"a": frozenset("ab"), "b": frozenset("a")}])
    expected = draw(st.sampled_from([None, version]))
    return Maybe(called, expected=expected, moves=draw(moves), creates=draw(st.booleans()))


ROWS = st.sampled_from([(0, ABSENT), (1, "a")])


@settings(max_examples=600, deadline=None)
@given(st.lists(claims(), max_size=5), ROWS)
@example([Maybe(5, expected=1), Maybe(0, 3), Saw(6, 9, 3, "a")], (1, "a"))  # the first can be no other than the first
@example([Maybe(0, expected=0, creates=False), Saw(6, 9, 1, "a")], (0, ABSENT))  # nor has it made the row
@example([Maybe(5, 6), Maybe(0, 3, creates=False), Saw(4, 9, 2, "a")], (0, ABSENT))  # the other is too early for it
def test_the_search_agrees_with_the_definition(told: list[Claim], before: tuple[int, object]) -> None:
    """Whatever is claimed: an order is found if and only if one of all orders explains it."""
    assert possible(told, before) == is_explained(told, before)


@settings(max_examples=600, deadline=None)
@given(st.lists(claims(), max_size=7), ROWS)
def test_what_is_told_is_an_error_and_no_more(told: list[Claim], before: tuple[int, object]) -> None:
    """Whatever the others did, what is told cannot be; without any part of it, it could."""
    statements = [Statement((), each, Maybe(each.called, each.returned)) for each in told]
    core = reduction.core_of(statements, before)

    def is_error(kept: Sequence[Statement]) -> bool:
        others = [each.forgotten for each in statements if all(each is not one for one in kept)]
        return not is_explained([each for each in (*(one.claim for one in kept), *others) if each], before)

    assert (core is None) == is_explained(told, before)
    if core is not None:
        assert core.is_whole
        assert core.is_smallest
        assert is_error(core.statements)
        assert not any(is_error([each for each in core.statements if each is not one]) for one in core.statements)
