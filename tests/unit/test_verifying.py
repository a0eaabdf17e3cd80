"""What is asked after a lost acknowledgement, and what each answer means: plans driven by scripted replies."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    ConnectionFailureError,
    MachineMapping,
    OutcomeUnknownError,
    OvertakenError,
    RowNotFoundError,
    StaleVersionError,
    TransitionRefusedError,
)
from statelatch.columns import TransitionColumns, TransitionLogColumns, state_text
from statelatch.commands import Execute, Plan, Reply
from statelatch.errors import Phase
from statelatch.faults import Exhausted, ReadOnly
from statelatch.labels import EXPECTED
from statelatch.plans import create, send, verify
from statelatch.prepared import Prepared
from statelatch.sessions import Session
from statelatch.statements import Statements
from tests.unit.test_plans import AWAY, BUSY, NOTHING, NOW, OTHER, TOKEN, Script, outcome, sql

LOST = OutcomeUnknownError(phase=Phase.COMMIT, database="db", detail="gone", token=TOKEN, key=7)


class Base(DeclarativeBase):
    """Base of the entities here."""


class Lamp(TransitionColumns, Base):
    """A lamp."""

    __tablename__ = "lamp"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


class LampLog(TransitionLogColumns, Base):
    """Its log."""

    __tablename__ = "lamp_log"

    key: Mapped[int] = mapped_column(primary_key=True)


class Named(TransitionColumns, Base):
    """A row whose key is made by the client."""

    __tablename__ = "named"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    state: Mapped[str] = mapped_column(state_text(8))


class Switch(StateMachine):
    """Fresh once, then on and off as often as one likes, until it breaks."""

    fresh = State(initial=True)
    on = State()
    off = State()
    broken = State(final=True)

    begin = fresh.to(on)
    flip = on.to(off) | off.to(on)
    shatter = on.to(broken) | off.to(broken)


class WatchedSwitch(Switch):
    """The same, with Python in every transition."""

    def after_transition(self) -> None:
        """Look on."""


WATCHED = Statements(MachineMapping(machine=WatchedSwitch, entity=Lamp), sqlite.dialect())
PLAIN = Statements(MachineMapping(machine=Switch, entity=Lamp), sqlite.dialect())
LOGGED = Statements(MachineMapping(machine=Switch, entity=Lamp, log=LampLog), sqlite.dialect())
OF_NAMED = Statements(MachineMapping(machine=Switch, entity=Named), sqlite.dialect())


def sent(event: str, version: int | None = None, statements: Statements = PLAIN) -> Plan[Any]:
    """A `send` to lamp 7."""
    return send(statements, 7, event, expected_version=version, token=TOKEN, params={})


def entry(version: int, source: str, target: str, token: UUID = TOKEN) -> Reply:
    """An entry of the log."""
    values = {"version": version, "event": "flip", "source": source, "target": target, "token": token}
    return Reply(1, [{"key": 7, **values, "at": NOW, "actor": None, "data": None}])


def read(state: str, version: int) -> Reply:
    """The row as an interpreted event reads it."""
    return Reply(1, [{"id": 7, "state": state, "version": version, "transition_token": OTHER}])


class Answering(Script):
    """Replies that depend on what was sent."""

    def _reply(self, command: Any) -> object:
        reply = super()._reply(command)
        return reply(self) if callable(reply) else reply


def found_version(found: Reply) -> int:
    """The version of the row that was found."""
    (row,) = found.rows
    return row["latch_version"]


def is_fresh(script: Script, number: int) -> bool:
    """Whether a transaction was asked of a new connection, within a time limit."""
    command = script.commands[number]
    return isinstance(command, Execute) and command.fresh and command.seconds is not None


def test_what_has_landed_is_applied() -> None:
    """The row has our token: it is applied; it was asked on a new connection, and nothing is sent again."""
    script = Script(LOST, outcome("on", 2, TOKEN))

    done = script.run(sent("begin"))

    assert (done.source, done.target, done.version, script.kinds) == ("fresh", "on", 2, ["UPDATE", "SELECT"])
    assert (is_fresh(script, 0), is_fresh(script, 1)) == (False, True)
    assert script.applied == [done]


NOT_LANDED = [
    pytest.param("begin", None, outcome("fresh", 1, OTHER), id="nobody comes back to its source"),
    pytest.param("begin", None, outcome("fresh", 1, None), id="it never had a token"),
    pytest.param("flip", None, outcome("on", 1, OTHER), id="it is as it was created"),
    pytest.param("flip", None, outcome("on", 2, OTHER), id="its only transition was another's"),
    pytest.param("flip", 4, outcome("on", 4, OTHER), id="its version is the expected one"),
    pytest.param("shatter", None, outcome("off", 9, OTHER), id="nobody leaves a terminal state"),
]


@pytest.mark.parametrize(("event", "version", "found"), NOT_LANDED)
def test_what_has_not_landed_is_sent_again(event: str, version: int | None, found: Reply) -> None:
    """The same token, in an UPDATE that does not move a row which has it already: the first may still arrive."""
    script = Script(LOST, found, outcome("off", 10, TOKEN))

    script.run(sent(event, version))

    first, again = script.transaction(0), script.transaction(2)
    pinned = {EXPECTED: found_version(found)}
    assert (again.token, again.statements[0][1]) == (first.token, {**first.statements[0][1], **pinned})
    assert script.kinds == ["UPDATE", "SELECT", "UPDATE"]
    assert "transition_token NOT IN" in sql(again.statements[0][0])


def test_the_second_try_is_kept_off_a_row_that_has_the_first_one_s_token() -> None:
    """Also if the token was made by the call itself, and not given."""
    mine = lambda script: outcome("on", 2, script.transaction(0).token)  # noqa: E731  # pyright: ignore
    script = Answering(LOST, outcome("fresh", 1, OTHER), mine)  # pyright: ignore

    script.run(send(PLAIN, 7, "begin", expected_version=None, token=None, params={}))

    tries = [sql(script.transaction(number).statements[0][0]) for number in (0, 2)]
    assert ["transition_token NOT IN" in each for each in tries] == [False, True]


def test_an_interpreted_event_knows_what_it_was_based_on() -> None:
    """It has read the version, so that even in a state to which one comes back it is told that nothing has landed."""
    script = Script(read("on", 4), LOST, outcome("on", 4, OTHER), read("on", 4), outcome("off", 5, TOKEN))
    assert script.run(sent("flip", statements=WATCHED)).version == 5
    assert script.kinds == ["SELECT", "FIRE", "UPDATE", "SELECT", "SELECT", "FIRE", "UPDATE"]

    with pytest.raises(OvertakenError) as caught:
        Script(read("on", 4), LOST, outcome("on", 6, OTHER)).run(sent("flip", statements=WATCHED))
    assert caught.value.expected_version == 4


def test_what_a_callback_could_not_find_out_is_not_this_call_s() -> None:
    """A callback that sends an event of its own, whose outcome is unknown: it is told, and nothing is asked for it."""

    class Nested(Switch):
        def on_flip(self) -> None:
            raise LOST

    nested = Statements(MachineMapping(machine=Nested, entity=Lamp), sqlite.dialect())
    with pytest.raises(OutcomeUnknownError) as caught:
        Answering(read("on", 4)).run(sent("flip", statements=nested))
    assert caught.value is LOST


@pytest.mark.parametrize("statement", [PLAIN.reread_locked, PLAIN.load_locked])
def test_whoever_still_writes_the_row_is_waited_for(statement: Prepared) -> None:
    """What is asked, locks: an old session may be about to commit."""
    clause: Any = statement.statement
    assert str(clause.compile(dialect=postgresql.dialect())).endswith("FOR UPDATE")


@pytest.mark.parametrize(
    ("event", "version", "guarded"), [("flip", None, True), ("flip", 4, False), ("begin", None, False)]
)
def test_a_statement_that_arrives_late_is_not_taken_twice(event: str, version: int | None, guarded: bool) -> None:
    """An UPDATE that would match again where it has led is kept off by its token; others by version or state."""
    command = next(send(PLAIN, 7, event, expected_version=version, token=None, params={}))

    assert isinstance(command, Execute)
    assert ("transition_token NOT IN" in sql(command.statements[0][0])) is guarded


OVERTAKEN = [
    pytest.param("begin", None, outcome("broken", 5, OTHER), id="in a state that follows"),
    pytest.param("flip", None, outcome("on", 3, OTHER), id="in its source, to which one comes back"),
    pytest.param("flip", 4, outcome("off", 6, OTHER), id="two versions further"),
]


@pytest.mark.parametrize(("event", "version", "found"), OVERTAKEN)
def test_what_may_have_been_overtaken_is_unknown(event: str, version: int | None, found: Reply) -> None:
    """Our token may have been written and written over, and no log tells: neither applied nor refused."""
    script = Script(LOST, found)

    with pytest.raises(OvertakenError) as caught:
        script.run(sent(event, version))

    error = caught.value
    assert (error.phase, error.token, error.key, error.event) == (Phase.COMMIT, TOKEN, 7, event)
    assert error.expected_version == version
    assert "again might apply it twice" in str(error)


@pytest.mark.parametrize(("event", "version", "found"), OVERTAKEN)
def test_the_log_tells_what_was_overtaken(event: str, version: int | None, found: Reply) -> None:
    """Its entry is the transition, as it was; without an entry it has not landed, and is sent again."""
    script = Script(LOST, found, entry(2, "on", "off"))
    done = script.run(sent(event, version, LOGGED))
    assert (done.source, done.target, done.version, done.token, done.at) == ("on", "off", 2, TOKEN, NOW)
    assert script.kinds == ["UPDATE+INSERT", "SELECT", "SELECT"]

    script = Script(LOST, found, NOTHING, outcome("off", 7, TOKEN))
    assert script.run(sent(event, version, LOGGED)).version == (version or found_version(found)) + 1
    assert script.kinds == ["UPDATE+INSERT", "SELECT", "SELECT", "UPDATE+INSERT"]


@pytest.mark.parametrize(
    ("found", "refusal"),
    [(outcome("off", 5, OTHER), StaleVersionError), (outcome("broken", 5, OTHER), StaleVersionError)],
)
def test_one_version_further_by_another_is_stale(found: Reply, refusal: type[Exception]) -> None:
    """Behaviour 19: another writer has taken the version that we asked for, so that ours can never have landed."""
    script = Script(LOST, found, NOTHING, found)

    with pytest.raises(refusal):
        script.run(sent("flip", 4))

    assert script.kinds == ["UPDATE", "SELECT", "UPDATE", "SELECT"]


def test_a_terminal_state_by_another_is_a_refusal() -> None:
    """Ours would have been kept for ever: it has not landed, and the second UPDATE is refused."""
    ended = outcome("broken", 5, OTHER)
    with pytest.raises(TransitionRefusedError):
        Script(LOST, ended, NOTHING, ended).run(sent("shatter"))


def test_a_row_that_is_gone_may_have_been_written_before() -> None:
    """Only a log can tell that it was not; nor does a second try find out."""
    for replies in ([NOTHING], [outcome("fresh", 1, OTHER), NOTHING, NOTHING]):
        with pytest.raises(OvertakenError, match="gone"):
            Script(LOST, *replies).run(sent("begin"))
    with pytest.raises(RowNotFoundError):
        Script(LOST, NOTHING, NOTHING).run(sent("begin", statements=LOGGED))
    with pytest.raises(OvertakenError, match="gone"):
        Script(read("on", 4), LOST, outcome("on", 4, OTHER), NOTHING, NOTHING).run(sent("flip", statements=WATCHED))


# -- it lands after it has been looked for ---------------------------------------------------------------------

FOUND, NEXT, LATER = (outcome("on", version, OTHER) for version in (2, 3, 4))


def of_server(statements: Statements) -> Statements:
    """The same on a database in which a lost session may go on; here nobody knows it."""
    return Statements(statements.mapping, postgresql.dialect())


@pytest.mark.parametrize("version", [None, 2])
def test_a_hidden_session_may_have_landed_after_all(version: int | None) -> None:
    """It had not at version 2; at version 3 it may have: version 4 is neither stale, nor one to send it at."""
    script = Script(LOST, FOUND, NOTHING, LATER)
    with pytest.raises(OvertakenError):
        script.run(sent("flip", version, of_server(PLAIN)))
    assert script.kinds == ["UPDATE", "SELECT", "UPDATE", "SELECT"]


def test_an_interpreted_event_of_a_hidden_session_is_not_run_again_at_another_version() -> None:
    """The row has moved by two versions while it was looked for."""
    with pytest.raises(OvertakenError):
        Script(read("on", 2), LOST, FOUND, read("on", 4)).run(sent("flip", statements=of_server(WATCHED)))


FOLLOWED = [
    pytest.param(PLAIN, LATER, id="its session is gone: others have moved the row"),
    pytest.param(of_server(PLAIN), NEXT, id="one version further, by another"),
]


@pytest.mark.parametrize(("statements", "found"), FOLLOWED)
def test_what_can_not_have_landed_meanwhile_is_sent_again(statements: Statements, found: Reply) -> None:
    """It is known that it has not, up to the version that was found."""
    done = Script(LOST, FOUND, NOTHING, found, outcome("off", 9, TOKEN)).run(sent("flip", statements=statements))
    assert done.target == "off"


def test_the_log_knows_what_landed_later() -> None:
    """There it is found, however far the row has moved."""
    replies = [FOUND, NOTHING, NOTHING, entry(3, "on", "off")]
    assert Script(LOST, *replies).run(sent("flip", statements=of_server(LOGGED))).version == 3


@pytest.mark.parametrize("failure", [AWAY, BUSY])
def test_nobody_to_ask_is_an_unknown_outcome(failure: ConnectionFailureError) -> None:
    """Behaviour 20: it is asked a few times, with pauses; then the error has all that `verify` needs."""
    script = Script(LOST, *[failure] * 3)

    with pytest.raises(OutcomeUnknownError) as caught:
        script.run(sent("flip", 4))

    error = caught.value
    assert (error.phase, error.token, error.key, error.event) == (Phase.COMMIT, TOKEN, 7, "flip")
    assert (error.expected_version, len(script.pauses)) == (4, 2)
    assert not isinstance(error, OvertakenError)


def test_the_lost_session_is_told_so_that_verify_can_end_it() -> None:
    """Nobody answers now: whoever asks later needs to know what may still be on its way."""
    lost = OutcomeUnknownError(phase=Phase.COMMIT, database="db", detail="gone", token=TOKEN, session=Session(5, 40000))
    statements = Statements(PLAIN.mapping, postgresql.dialect())

    with pytest.raises(OutcomeUnknownError) as caught:
        Script(lost, *[AWAY] * 3).run(sent("flip", 4, statements))

    assert caught.value.session == lost.session


def full() -> Exhausted:
    """The disk is full; after three times it would be the driver's own error."""
    error = Exhausted(phase=Phase.EXECUTE, database="db", detail="full")
    error.__cause__ = DBAPIError("SELECT", {}, ValueError("full"))
    return error


@pytest.mark.parametrize("failures", [[full(), full(), full()], [DBAPIError("SELECT", {}, ValueError("no right"))]])
def test_whatever_keeps_one_from_asking_the_outcome_is_unknown(failures: list[Exception]) -> None:
    """The driver's own error would say that nothing was written."""
    with pytest.raises(OutcomeUnknownError):
        Script(LOST, *failures).run(sent("flip", 4))
    with pytest.raises(OutcomeUnknownError):
        Script(LOST, *failures).run(create(PLAIN, {"id": 7}))


@pytest.mark.parametrize("failure", [AWAY, BUSY])
def test_a_failure_after_a_lost_one_is_unknown(failure: ConnectionFailureError) -> None:
    """The second try did not come through; the first may arrive yet: it must not be called "nothing was written"."""
    tries = 1 if failure is AWAY else 3
    with pytest.raises(OutcomeUnknownError) as caught:
        Script(LOST, outcome("fresh", 1, OTHER), *[failure] * tries).run(sent("begin"))

    assert (caught.value.phase, caught.value.token) == (Phase.COMMIT, TOKEN)


def test_three_lost_ones_are_enough() -> None:
    """Each was asked about, and none had landed; the last may arrive yet."""
    with pytest.raises(OutcomeUnknownError):
        Script(*[LOST, outcome("fresh", 1, OTHER)] * 3).run(sent("begin"))


def test_a_resent_call_is_looked_for_in_the_log() -> None:
    """A token that was overtaken is found there, and the event is not applied again."""
    done = Script(NOTHING, entry(2, "on", "off")).run(sent("flip", statements=LOGGED))

    assert (done.version, done.target) == (2, "off")


def test_a_database_that_takes_no_writes_is_asked_once_more() -> None:
    """The second connection may lead to another server; if it does not, the driver's error is told."""
    read_only = ReadOnly(phase=Phase.EXECUTE, database="db", detail="read-only")
    read_only.__cause__ = ZeroDivisionError("the driver's own")
    assert Script(read_only, outcome("on", 2, TOKEN)).run(sent("begin")).version == 2

    script = Script(read_only, read_only)
    with pytest.raises(ZeroDivisionError):
        script.run(sent("begin"))
    assert len(script.commands) == 2


# -- create ------------------------------------------------------------------------------------------------


def row(script: Script, version: int = 1, token: UUID | None = None, **values: object) -> Reply:
    """The row as it is read, with the token that the INSERT had unless another is given."""
    written = script.transaction(0)
    columns = {"id": written.key, "state": "fresh", "version": version, "transition_token": token or written.token}
    return Reply(1, [{**columns, **values}])


def duplicate() -> IntegrityError:
    """The key is there already."""
    import sqlite3

    error = sqlite3.IntegrityError()
    error.sqlite_errorname = "SQLITE_CONSTRAINT_PRIMARYKEY"
    return IntegrityError("INSERT", {}, error)


def test_an_insert_that_has_landed_is_found() -> None:
    """By key and token."""
    script = Answering(LOST, row)  # pyright: ignore

    assert script.run(create(PLAIN, {"id": 7})).key == 7
    assert script.kinds == ["INSERT", "SELECT"]
    assert is_fresh(script, 1)


def test_an_insert_that_has_not_landed_is_done_again() -> None:
    """With the same key and token; if it arrives meanwhile, the duplicate is recognised as ours."""
    script = Answering(LOST, NOTHING, row)  # pyright: ignore
    assert script.run(create(PLAIN, {"id": 7})).version == 1
    assert script.transaction(0) == script.transaction(2)

    script = Answering(LOST, NOTHING, duplicate(), row)  # pyright: ignore
    assert script.run(create(PLAIN, {"id": 7})).version == 1


def test_another_s_row_is_not_taken_for_ours() -> None:
    """Somebody has inserted that key: the constraint is told."""
    found = lambda script: row(script, token=OTHER)  # noqa: E731  # pyright: ignore
    with pytest.raises(IntegrityError):
        Answering(LOST, found, duplicate(), found).run(create(PLAIN, {"id": 7}))  # pyright: ignore


def test_a_row_that_has_moved_on_is_ours_if_its_key_is() -> None:
    """A UUID made for this call is nobody else's; a key that was given may be, unless the log says whose it is."""
    moved = lambda script: row(script, version=2, token=OTHER, state="on")  # noqa: E731  # pyright: ignore
    assert Answering(LOST, moved).run(create(OF_NAMED, {})).state == "on"  # pyright: ignore

    with pytest.raises(OvertakenError):
        Answering(LOST, moved).run(create(PLAIN, {"id": 7}))  # pyright: ignore
    assert Answering(LOST, moved, entry(1, "", "fresh")).run(create(LOGGED, {"id": 7})).state == "on"  # pyright: ignore
    with pytest.raises(IntegrityError):
        Answering(LOST, moved, NOTHING, duplicate(), moved, NOTHING).run(create(LOGGED, {"id": 7}))  # pyright: ignore


def test_a_row_without_a_known_key_is_found_by_its_token_or_not_at_all() -> None:
    """The database would have made the key: to insert again might make a second row."""
    assert Answering(LOST, lambda script: row(script, id=3)).run(create(PLAIN, {})).key == 3  # pyright: ignore

    with pytest.raises(OutcomeUnknownError):
        Script(LOST, NOTHING).run(create(PLAIN, {}))


@pytest.mark.parametrize("replies", [[AWAY] * 3, [NOTHING, AWAY]])
def test_an_insert_that_nobody_can_be_asked_about_is_unknown(replies: list[Any]) -> None:
    """Whether it could not be asked, or not be done again."""
    with pytest.raises(OutcomeUnknownError) as caught:
        Script(LOST, *replies).run(create(PLAIN, {"id": 7}))

    assert caught.value is LOST


# -- verify ------------------------------------------------------------------------------------------------

VERDICTS = [
    pytest.param(outcome("on", 2, TOKEN), {}, True, id="the row has it"),
    pytest.param(outcome("on", 2, UUID(int=TOKEN.int ^ 1)), {}, True, id="the row has a variant of it"),
    pytest.param(NOTHING, {}, False, id="there is no row"),
    pytest.param(outcome("fresh", 1, OTHER), {}, False, id="it is as it was created"),
    pytest.param(outcome("on", 4, OTHER), {"expected_version": 4}, False, id="it is at the expected version"),
    pytest.param(outcome("off", 5, OTHER), {"expected_version": 4}, False, id="another took that version"),
    pytest.param(outcome("on", 5, OTHER), {"event": "shatter"}, False, id="nobody leaves a terminal state"),
    pytest.param(outcome("fresh", 5, OTHER), {}, False, id="no event leads there"),
    pytest.param(outcome("off", 6, OTHER), {"expected_version": 4}, None, id="two versions further"),
    pytest.param(outcome("broken", 5, OTHER), {"event": "flip"}, None, id="in a state that follows"),
    pytest.param(outcome("on", 5, OTHER), {}, None, id="nothing is known of it"),
    pytest.param(outcome("on", 2, OTHER), {}, None, id="it may have been created by it"),
    pytest.param(outcome("on", 2, OTHER), {"event": "flip"}, False, id="its only transition was another's"),
    pytest.param(NOTHING, {"event": "begin"}, None, id="it may have been deleted since"),
]


@pytest.mark.parametrize(("found", "told", "verdict"), VERDICTS)
def test_verify(found: Reply, told: dict[str, Any], verdict: bool | None) -> None:
    """What the row tells without a log; None is told as an unknown outcome."""
    script = Script(found)
    asked: Any = verify(PLAIN, TOKEN, 7, **{"event": None, "expected_version": None, **told})

    if verdict is None:
        with pytest.raises(OvertakenError):
            script.run(asked)
    else:
        assert script.run(asked) is verdict
    assert is_fresh(script, 0)


@pytest.mark.parametrize("found", [NOTHING, outcome("on", 5, OTHER)])
def test_verify_by_the_log(found: Reply) -> None:
    """It is exact, even if the row is gone."""
    for logged, verdict in ((entry(2, "on", "off"), True), (NOTHING, False)):
        asked: Any = verify(LOGGED, TOKEN, 7, event=None, expected_version=None)
        assert Script(found, logged).run(asked) is verdict
