"""What the run manager decides, without a database: each plan is driven by scripted replies.

A script is what the database answers, step by step; the test says which statements were sent and what came out.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError, OperationalError

from statelatch.commands import Applied, Execute, Pause, Plan, Reply
from statelatch.errors import (
    ActiveRunExistsError,
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    Phase,
    Reason,
    RowNotFoundError,
    StaleVersionError,
    TransitionRefusedError,
)
from statelatch.faults import Contention
from statelatch.records import Transitioned
from statelatch.runs import Cancellation, Finalized, Outcome, Progress, run_mapping
from statelatch.runs.answers import Answer, Interruption, finalized, left_in_spool, of_request, through
from statelatch.runs.last_word import LastWord
from statelatch.runs.plans import Beat, CancelRequestedError, beat, cancel, cancel_own, create
from statelatch.runs.statements import RunStatements
from statelatch.statements import Statements

RUN, OTHER, TOKEN, FOREIGN = (UUID(int=number) for number in (1, 2, 0x1000, 0x2000))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNS = RunStatements(Statements(run_mapping(), sqlite.dialect()))
MAPPING = RUNS.of_mapping.mapping

NO_ANSWER = ConnectionFailureError(phase=Phase.CONNECT, database="d", detail="refused")
LOCKED = ConnectionFailureError(phase=Phase.EXECUTE, database="d", detail="lock timeout")
UNKNOWN = OutcomeUnknownError(phase=Phase.COMMIT, database="d", detail="lost", token=TOKEN, key=RUN)
MISSING = RowNotFoundError(table="t", key=RUN, event="complete")
STALE = StaleVersionError(table="t", key=RUN, event="complete", expected_version=2, actual_version=3, state="failed")
REFUSED = TransitionRefusedError(
    table="t", key=RUN, event="complete", state="cancelled", version=3, reason=Reason.STATE
)
APPLIED = Transitioned(key=RUN, event="complete", source="running", target="completed", version=3, token=TOKEN, at=NOW)

Answers = list[Reply | Exception]


def row(status: str, version: int = 1, token: UUID = FOREIGN, **columns: Any) -> Reply:
    """The run's row, read whole."""
    values = dict.fromkeys(MAPPING.columns) | {"id": RUN, "status": status, "version": version}
    return Reply(1, [values | {"transition_token": token} | columns])


def outcome(status: str, version: int, token: UUID = FOREIGN, *guards: bool) -> Reply:
    """The state, version and token of the run, as an UPDATE returns them or a diagnosis reads them."""
    read = {"latch_state": status, "latch_version": version, "latch_token": token, "latch_at": NOW}
    return Reply(1, [read | {f"latch_guard_{number}_0": guard for number, guard in enumerate(guards)}])


NO_ROW = Reply(0)


def play(plan: Plan[Any], answers: Answers) -> tuple[Any, list[Any]]:
    """What a plan returned or raised, and the first statement of each transaction that it sent."""
    sent: list[Any] = []
    pending = iter(answers)
    try:
        command = next(plan)
        while True:
            if isinstance(command, Applied | Pause):
                command = plan.send(None)
                continue
            assert isinstance(command, Execute)
            sent.append(command.statements[0])
            answer = next(pending)
            command = plan.throw(answer) if isinstance(answer, Exception) else plan.send(answer)
    except StopIteration as stop:
        return stop.value, sent
    except (NotAppliedError, ConnectionFailureError, IntegrityError) as error:
        return error, sent
    finally:
        assert list(pending) == [], "the plan has left answers over"


def duplicate() -> IntegrityError:
    """What PostgreSQL says of a second row with the same unique value."""
    origin: Any = Exception("duplicate key")
    origin.sqlstate = "23505"
    return IntegrityError("INSERT", {}, origin)


# -- through: the order of connections ------------------------------------------------------------------


def asked(order: Generator[str, Any, Answer[Any]], answers: list[Any]) -> tuple[list[str], Answer[Any]]:
    """Which connections were asked, in order, and the answer."""
    vias: list[str] = []
    pending = iter(answers)
    try:
        via = next(order)
        while True:
            vias.append(via)
            answer = next(pending)
            via = order.throw(answer) if isinstance(answer, Exception) else order.send(answer)
    except StopIteration as stop:
        return vias, stop.value


FAILURES = [NO_ANSWER, UNKNOWN, RuntimeError("a bug"), OperationalError("UPDATE", {}, Exception())]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_through_goes_on_after_any_failure(failure: Exception) -> None:
    """No answer, an unknown outcome, any other exception: the next connection is asked, and its answer counts."""
    vias, answer = asked(through(["primary", "reconnected", "fallback 1"]), [failure, failure, "written"])

    assert vias == ["primary", "reconnected", "fallback 1"]
    assert answer == Answer("fallback 1", result="written", failures=(failure, failure))
    assert answer.unwrap() == "written"


@pytest.mark.parametrize("refusal", [REFUSED, STALE, MISSING], ids=lambda error: type(error).__name__)
def test_through_stops_at_a_refusal(refusal: NotAppliedError) -> None:
    """A refusal is an answer: no further connection is asked, and it is what `unwrap` raises."""
    vias, answer = asked(through(["primary", "reconnected", "fallback 1"]), [refusal])

    assert vias == ["primary"]
    assert answer == Answer("primary", refusal=refusal)
    with pytest.raises(type(refusal)):
        answer.unwrap()


def test_through_keeps_every_failure_in_order() -> None:
    """Where no connection answers all failures are kept, and the first connection's is raised."""
    first, second = RuntimeError("first"), RuntimeError("second")
    vias, answer = asked(through(["primary", "reconnected"]), [first, second])

    assert vias == ["primary", "reconnected"]
    assert answer == Answer(None, failures=(first, second))
    with pytest.raises(RuntimeError, match="first"):
        answer.unwrap()


@pytest.mark.parametrize("escaping", [KeyboardInterrupt, SystemExit])
def test_through_lets_an_interrupt_pass(escaping: type[BaseException]) -> None:
    """Ctrl-C is no failure of a connection."""
    order: Generator[str, object, Answer[object]] = through(["primary", "reconnected"])
    next(order)

    with pytest.raises(escaping):
        order.throw(escaping())


RAISED = [
    ((NO_ANSWER, UNKNOWN), UNKNOWN),  # some connection may have written: not told that nothing was
    ((NO_ANSWER, RuntimeError()), NO_ANSWER),
]


@pytest.mark.parametrize(("failures", "expected"), RAISED, ids=range(len(RAISED)))
def test_unwrap_raises_what_is_unknown_else_the_first(failures: tuple[Exception, ...], expected: Exception) -> None:
    """One that does not know whether it has written outweighs those that know they have not."""
    answer: Answer[str] = Answer(None, failures=failures)
    with pytest.raises(ConnectionFailureError) as raised:
        answer.unwrap()

    assert raised.value is expected


OUTAGES: list[tuple[Answer[str], bool]] = [
    (Answer(None, failures=(NO_ANSWER,)), True),
    (Answer(None, failures=(NO_ANSWER, UNKNOWN)), False),  # one was there, and was lost
    (Answer(None, failures=(NO_ANSWER, LOCKED)), False),  # or met a lock
    (Answer(None, failures=(NO_ANSWER, ValueError())), False),  # or could not do this
    (Answer("primary", result="r"), False),
    (Answer("fallback 1", result="r", failures=(NO_ANSWER,)), False),
    (Answer("primary", refusal=REFUSED), False),
]


@pytest.mark.parametrize(("answer", "expected"), OUTAGES, ids=range(len(OUTAGES)))
def test_an_outage_is_one_of_all(answer: Answer[str], expected: bool) -> None:
    """Only if no connection was to be had would nobody answer anything else either."""
    assert answer.is_outage is expected


def test_an_answer_tells_of_interrupts() -> None:
    """What came in between is a failure like any other, and is known as what it was."""
    interrupt = SystemExit(3)
    vias, answer = asked(through(["primary", "reconnected"]), [Interruption(interrupt), "written"])

    assert (vias, answer.result, answer.interrupts) == (["primary", "reconnected"], "written", [interrupt])


# -- finalized: what an answer means --------------------------------------------------------------------

MEANINGS: list[tuple[Answer[Transitioned], Outcome, str | None, int | None, str | None, str | None]] = [
    (Answer("primary", result=APPLIED), Outcome.APPLIED, "completed", 3, "primary", None),
    (Answer("fallback 1", result=APPLIED, failures=(NO_ANSWER,)), Outcome.APPLIED, "completed", 3, "fallback 1", None),
    (Answer("primary", refusal=REFUSED), Outcome.NO_OP, "cancelled", 3, "primary", None),
    (Answer("primary", refusal=STALE), Outcome.NO_OP, "failed", 3, "primary", None),
    (Answer("primary", refusal=MISSING), Outcome.NO_OP, None, None, "primary", None),
    (Answer(None, failures=(ValueError("a"), ValueError("b"))), Outcome.UNSAVED, None, None, None, "b"),
]


@pytest.mark.parametrize(("answer", "expected", "state", "version", "via", "error"), MEANINGS)
def test_finalized_tells_what_the_database_holds(
    answer: Answer[Transitioned],
    expected: Outcome,
    state: str | None,
    version: int | None,
    via: str | None,
    error: str | None,
) -> None:
    """State and version are those in the database, not those attempted; unknown where nobody answered."""
    assert finalized(RUN, "completed", answer, None) == Finalized(
        run_id=RUN, target="completed", outcome=expected, state=state, version=version, via=via, error=error
    )


def test_finalized_keeps_the_function_s_own_error() -> None:
    """A failed run that could not be saved tells why the function failed, not why the database did not answer."""
    assert finalized(RUN, "failed", Answer(None, failures=(NO_ANSWER,)), "disk full").error == "disk full"


def test_finalized_tells_what_was_kept() -> None:
    """In the spool: spooled, and why; what a connection took or refused is not."""
    nobody: Answer[Transitioned] = Answer(None, failures=(NO_ANSWER,))
    refused: Answer[Transitioned] = Answer("primary", refusal=STALE)
    spooled = finalized(RUN, "completed", nobody, None, kept=True)

    assert (spooled.outcome, spooled.via, spooled.state, spooled.version) == (Outcome.SPOOLED, "spool", None, None)
    assert spooled.error == "d did not answer (connect): refused. Nothing was written; try another connection."
    assert finalized(RUN, "failed", nobody, "disk full", kept=True).error == "disk full"
    assert finalized(RUN, "completed", refused, None, kept=False).outcome is Outcome.NO_OP


# -- left in the spool -------------------------------------------------------------------------------------

WORD = LastWord(
    run_id=RUN, event="fail", token=TOKEN, worker="w", params={}, target="failed", error="the function's own"
)
LEFT: list[tuple[Answer[Transitioned], str | None]] = [
    (Answer("primary", result=APPLIED), None),
    (Answer("primary", refusal=REFUSED), None),
    (Answer("primary", refusal=STALE), None),
    (Answer("primary", refusal=MISSING), str(MISSING)),
    (Answer(None, failures=(NO_ANSWER, ValueError("not this one"))), "not this one"),
]


@pytest.mark.parametrize(("answer", "reason"), LEFT, ids=range(len(LEFT)))
def test_what_stays_in_the_spool_is_told_with_the_reason(answer: Answer[Transitioned], reason: str | None) -> None:
    """A row that is not there and a write that failed settle nothing; what was applied or refused is settled."""
    left = left_in_spool(WORD, answer)

    assert (left and left.error) == reason
    assert left is None or (left.outcome, left.via, left.target) == (Outcome.SPOOLED, "spool", "failed")


# -- create -----------------------------------------------------------------------------------------------

VALUES = {"id": RUN, "key": "k"}


def test_create_inserts() -> None:
    """A key that nobody holds: one INSERT."""
    snapshot, sent = play(create(RUNS, VALUES), [row("pending", key="k")])

    assert (snapshot.key, snapshot.state, snapshot.version) == (RUN, "pending", 1)
    assert len(sent) == 1


def test_create_names_the_holder_of_a_busy_key() -> None:
    """A key that is busy: the id of the run that holds it."""
    busy, sent = play(create(RUNS, VALUES), [duplicate(), NO_ROW, row("running", id=OTHER)])

    assert isinstance(busy, ActiveRunExistsError)
    assert (busy.run_id, busy.run_key) == (OTHER, "k")
    assert (RUNS.holder, {"run_key": "k"}) == sent[2]


def test_create_tries_again_when_the_holder_has_just_ended() -> None:
    """The holder ended before it could be named: the key is free, and the run is inserted."""
    snapshot, _ = play(create(RUNS, VALUES), [duplicate(), NO_ROW, NO_ROW, row("pending")])

    assert snapshot.state == "pending"


def test_create_gives_up_when_the_holder_is_never_found() -> None:
    """Something else than the key is the duplicate: after three tries the database's own error is raised."""
    error, sent = play(create(RUNS, VALUES), [duplicate(), NO_ROW, NO_ROW] * 3)

    assert isinstance(error, IntegrityError)
    assert len(sent) == 9


def test_create_recognises_its_own_row() -> None:
    """An earlier INSERT whose answer was lost had landed: the run is there, not busy with itself."""
    snapshot, _ = play(create(RUNS, VALUES), [duplicate(), row("pending"), row("pending")])

    assert (snapshot.key, snapshot.state) == (RUN, "pending")


# -- cancel -----------------------------------------------------------------------------------------------

CANCELLED = Cancellation(run_id=RUN, state="cancelled", version=3, written=True)

CANCELS: list[tuple[str, bool, Answers, object]] = [
    (
        "running: it is asked",
        False,
        [Reply(1), row("running", 2)],
        Cancellation(run_id=RUN, state="running", version=2, written=False),
    ),
    ("running, by force", True, [Reply(1), row("running", 2), outcome("cancelled", 3, TOKEN)], CANCELLED),
    (
        "pending: it ends at once",
        False,
        [Reply(1), row("pending"), outcome("cancelled", 2, TOKEN)],
        Cancellation(run_id=RUN, state="cancelled", version=2, written=True),
    ),
    (
        "its worker cancelled it first",
        True,
        [Reply(1), row("running", 2), NO_ROW, outcome("cancelled", 3)],
        CANCELLED,
    ),
    (
        "written before, and the answer was lost",
        False,
        [NO_ROW, row("cancelled", 3, TOKEN), NO_ROW, outcome("cancelled", 3, TOKEN)],
        CANCELLED,
    ),
]


@pytest.mark.parametrize(("name", "force", "answers", "expected"), CANCELS, ids=lambda value: str(value)[:40])
def test_cancel_says_what_it_did(*, name: str, force: bool, answers: Answers, expected: object) -> None:
    """Asked, or cancelled, and at which version."""
    said, sent = play(cancel(RUNS, RUN, TOKEN, force=force), answers)

    assert expected == said
    assert (RUNS.request_cancel, {"latch_key_0": RUN}) == sent[0]


def test_cancel_asks_again_when_the_database_broke_it_off() -> None:
    """A deadlock or a serialization failure: nothing was written, the same statement is sent again."""
    broken_off = Contention(phase=Phase.EXECUTE, database="d", detail="deadlock")
    said, sent = play(cancel(RUNS, RUN, TOKEN, force=False), [broken_off, broken_off, Reply(1), row("running", 2)])

    assert said == Cancellation(run_id=RUN, state="running", version=2, written=False)
    assert [RUNS.request_cancel] * 3 == [statement for statement, _ in sent[:3]]


LOST_LATER: list[tuple[bool, Answers, type[ConnectionFailureError]]] = [
    (False, [NO_ANSWER], ConnectionFailureError),
    (False, [Reply(1), NO_ANSWER], CancelRequestedError),
    (True, [Reply(1), row("running", 2), NO_ANSWER], CancelRequestedError),
    (False, [Reply(1), row("pending"), LOCKED], CancelRequestedError),
    (False, [NO_ROW, NO_ANSWER], ConnectionFailureError),
]


@pytest.mark.parametrize(("force", "answers", "kind"), LOST_LATER, ids=range(len(LOST_LATER)))
def test_cancel_tells_of_a_request_that_is_written(
    *, force: bool, answers: Answers, kind: type[ConnectionFailureError]
) -> None:
    """What fails after it is no failure of the request: the error says that it is written, else that nothing is."""
    lost, _ = play(cancel(RUNS, RUN, TOKEN, force=force), answers)

    assert type(lost) is kind
    assert ("Nothing was written" in str(lost)) == (kind is ConnectionFailureError)


COMPLETED = TransitionRefusedError(
    table="t", key=RUN, event="cancel", state="completed", version=3, reason=Reason.STATE
)
REQUESTED = CancelRequestedError(phase=Phase.EXECUTE, database="d", detail="lost", key=RUN)


@pytest.mark.parametrize(
    ("refusal", "failure", "ours"),
    [(REFUSED, REQUESTED, True), (REFUSED, NO_ANSWER, False), (COMPLETED, REQUESTED, False)],
    ids=["by us", "by another", "completed"],
)
def test_a_request_that_was_written_may_have_ended_the_run(
    *, refusal: NotAppliedError, failure: Exception, ours: bool
) -> None:
    """Its connection was lost, and the next finds the run cancelled: by us; else it is the refusal that it was."""
    answer: Answer[Cancellation] = Answer("reconnected", refusal=refusal, failures=(failure,))

    assert of_request(RUN, answer) == (replace(answer, result=CANCELLED, refusal=None) if ours else answer)


REFUSALS: list[tuple[str, Answers, type[NotAppliedError], str | None]] = [
    ("no such run", [NO_ROW, NO_ROW], RowNotFoundError, None),
    ("completed", [NO_ROW, row("completed", 3)], TransitionRefusedError, "completed"),
    ("failed", [NO_ROW, row("failed", 3)], TransitionRefusedError, "failed"),
    ("cancelled by another", [NO_ROW, row("cancelled", 3)], TransitionRefusedError, "cancelled"),
    (
        "it ended after the request",
        [Reply(1), row("completed", 3), NO_ROW, outcome("completed", 3)],
        TransitionRefusedError,
        "completed",
    ),
]


@pytest.mark.parametrize(("name", "answers", "kind", "state"), REFUSALS, ids=lambda value: str(value)[:40])
def test_cancel_that_cancels_nothing_says_so(
    name: str, answers: Answers, kind: type[NotAppliedError], state: str | None
) -> None:
    """A missing run and one that has ended are refused, with the state that they are in."""
    refusal, _ = play(cancel(RUNS, RUN, TOKEN, force=False), answers)

    assert type(refusal) is kind
    assert getattr(refusal, "state", None) == state


# -- cancel_own -------------------------------------------------------------------------------------------


def test_a_worker_cancels_its_own_run() -> None:
    """The request and the transition; only of a run that the worker holds."""
    done, sent = play(cancel_own(RUNS, RUN, TOKEN, "w", {}), [Reply(1), outcome("cancelled", 3, TOKEN)])

    assert (done.target, done.version) == ("cancelled", 3)
    assert (RUNS.request_own_cancel, {"latch_key_0": RUN, "worker": "w"}) == sent[0]


def test_a_run_that_has_not_started_is_cancelled_without_a_worker() -> None:
    """The executor dropped it: anybody may say so."""
    done, sent = play(cancel_own(RUNS, RUN, TOKEN, None, {}), [Reply(1), outcome("cancelled", 2, TOKEN)])

    assert (done.target, done.version) == ("cancelled", 2)
    assert (RUNS.request_cancel, {"latch_key_0": RUN}) == sent[0]


def test_a_worker_that_lost_its_lease_cancels_nothing() -> None:
    """The run is another's now: refused, and the guard that was false is named."""
    refusal, sent = play(cancel_own(RUNS, RUN, TOKEN, "w", {}), [NO_ROW, row("running", 4)])

    assert isinstance(refusal, TransitionRefusedError)
    assert (refusal.state, refusal.reason, refusal.guards) == ("running", Reason.GUARD, ("holds_lease",))
    assert len(sent) == 2


def test_a_worker_whose_run_has_ended_cancels_nothing() -> None:
    """The state is the reason."""
    refusal, _ = play(cancel_own(RUNS, RUN, TOKEN, "w", {}), [NO_ROW, row("failed", 3)])

    assert isinstance(refusal, TransitionRefusedError)
    assert (refusal.state, refusal.reason, refusal.guards) == ("failed", Reason.STATE, ())


def test_a_worker_recognises_its_own_cancel() -> None:
    """Written over the connection before, whose answer was lost: applied, once."""
    answers: Answers = [NO_ROW, row("cancelled", 3, TOKEN), NO_ROW, outcome("cancelled", 3, TOKEN)]
    done, _ = play(cancel_own(RUNS, RUN, TOKEN, "w", {}), answers)

    assert (done.target, done.version, done.token) == ("cancelled", 3, TOKEN)


# -- beat -------------------------------------------------------------------------------------------------

PROGRESS = Progress(run_id=RUN, current=3, total=9, step="s")


def test_a_beat_without_news_only_looks() -> None:
    """Nothing is due and nothing is new: one SELECT."""
    rows, sent = play(beat(RUNS, Beat(held=[], progress=[], watched=[RUN, OTHER], lease=30)), [row("running")])

    assert [seen["id"] for seen in rows] == [RUN]
    assert [(RUNS.watch, {"ids": [RUN, OTHER]})] == sent


def test_a_beat_renews_saves_and_looks() -> None:
    """Leases first, then progress, each run's by its own worker, then the look at all of them."""
    told = Beat(held=[(OTHER, "v"), (RUN, "w")], progress=[("w", PROGRESS)], watched=[RUN, OTHER], lease=30)
    _, sent = play(beat(RUNS, told), [Reply(1), Reply(1), Reply(1), row("running")])

    assert [RUNS.renew_lease] * 2 + [RUNS.save_progress, RUNS.watch] == [statement for statement, _ in sent]
    assert sent[0][1] == {"latch_key_0": OTHER, "worker": "v", "lease": 30}
    assert sent[1][1] == {"latch_key_0": RUN, "worker": "w", "lease": 30}
    assert sent[2][1] == {
        "latch_key_0": RUN,
        "worker": "w",
        "latch_progress_current": 3,
        "latch_progress_total": 9,
        "latch_progress_step": "s",
    }


def test_a_beat_with_nothing_to_do_sends_nothing() -> None:
    """Not even a SELECT."""
    assert play(beat(RUNS, Beat(held=[], progress=[], watched=[], lease=30)), []) == ([], [])
