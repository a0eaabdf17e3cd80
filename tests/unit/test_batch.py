"""Batches: what is refused before anything is sent, how requests become statements, and in which order steps come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Integer, LargeBinary, Numeric, String, Text, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.mysql import mariadb
from sqlalchemy.exc import DataError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import NullType
from statemachine import State, StateMachine

from statelatch import (
    BatchInterruptedError,
    ConnectionFailureError,
    MachineMapping,
    OutcomeUnknownError,
    Request,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
    event_requests,
)
from statelatch.batch import send_batch
from statelatch.batch_requests import Batch
from statelatch.batch_statements import NUMBER
from statelatch.columns import TransitionColumns, state_text
from statelatch.commands import Reply
from statelatch.errors import Phase
from statelatch.event_requests import Portion
from statelatch.faults import Contention, LostRace
from statelatch.labels import AT_COLUMN, STATE_COLUMN, TOKEN_COLUMN, VERSION_COLUMN
from statelatch.request_arrays import element_of
from statelatch.request_tables import Cell, Columns
from statelatch.statements import Statements
from tests.unit.test_plans import Script

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BUSY = Contention(phase=Phase.EXECUTE, database="db", detail="deadlock")
RACE = LostRace(phase=Phase.EXECUTE, database="db", detail="could not serialize")
AWAY = ConnectionFailureError(phase=Phase.EXECUTE, database="db", detail="gone")
UNKNOWN = OutcomeUnknownError(phase=Phase.COMMIT, database="db", detail="gone")
REFUSED = DataError("UPDATE", {}, Exception("too long"))
NO_TABLE = ProgrammingError("UPDATE", {}, type("UndefinedTable", (Exception,), {"sqlstate": "42P01"})())


class Base(DeclarativeBase):
    """Base of the entity here."""


class Job(TransitionColumns, Base):
    """A job."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    note: Mapped[str | None] = mapped_column(Text())
    size: Mapped[int | None]


class Piece(TransitionColumns, Base):
    """A piece of a job: its key has two columns."""

    __tablename__ = "pieces"

    job: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(9), primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    note: Mapped[str | None] = mapped_column(Text())
    size: Mapped[int | None]


class Flow(StateMachine):
    """A job's."""

    new = State(initial=True)
    begun = State()
    shut = State(final=True)

    start = new.to(begun)
    stop = begun.to(shut) | new.to(shut)
    resize = new.to(new) | begun.to(begun)
    by_hand = begun.to(shut, on="write")

    def write(self) -> None:
        """Python."""


ASSIGNS: dict[str, dict[str, object]] = {
    "start": {"note": bindparam("note", "-")},
    "resize": {"size": bindparam("size")},
}
MAPPING = MachineMapping(machine=Flow, entity=Job, assigns=ASSIGNS)
PIECES = MachineMapping(machine=Flow, entity=Piece, assigns=ASSIGNS)
SQLITE = Statements(MAPPING, sqlite.dialect())
POSTGRESQL = Statements(MAPPING, postgresql.psycopg.dialect())
MARIADB = Statements(MAPPING, mariadb.MariaDBDialect(paramstyle="pyformat"))


# -- what is refused --------------------------------------------------------------------------------------

OWN, LOCAL = UUID(int=7), datetime(2026, 1, 1)
WRONG: list[tuple[Sequence[Any], str]] = [
    ([], "empty batch"),
    ([Request(1, "start"), "start"], "request 1: expected a Request, found 'start'"),
    ([Request(1, "start"), (2, "start")], "request 1: expected a Request"),
    ([Request(1, "start"), Request("2", "start")], "request 1: .*expected a key of type int, found '2'"),
    ([Request(1, "start"), Request(True, "start")], "request 1: .*expected a key of type int, found True"),
    ([Request((1, 2), "start")], "request 0: .*expected a key of"),
    ([Request(1, "start"), Request(None, "start")], "request 1: .*expected a key of"),
    ([Request(1, "start"), Request(2, "sail")], "request 1: .*no event 'sail'"),
    ([Request(1, "start"), Request(2, 5)], "request 1: expected the name of an event, found 5"),  # pyright: ignore
    ([Request(1, "start"), Request(2, ["x"])], "request 1: expected the name of an event"),  # pyright: ignore
    ([Request(1, "by_hand")], "request 0: 'by_hand' needs the Python machine.*action 'write' is Python"),
    ([Request(1, "start", 1), Request(2, "start", "1")], "request 1: expected_version"),  # pyright: ignore
    ([Request(1, "start", True)], "request 0: expected_version: expected an integer, found True"),
    ([Request(1, "start", params={"note": "x"}), Request(2, "start", params=["x"])], "request 1: expected parameters"),  # pyright: ignore
    ([Request(1, "start", params={1: "x"})], "request 0: expected parameters by name"),  # pyright: ignore
    ([Request(1, "start", params={"state": "x"})], "request 0: .*state cannot be a parameter"),
    ([Request(1, "resize", params={"size": 1}), Request(2, "resize")], "request 1: 'resize' needs 'size'"),
    (
        [Request(1, "start", params={"at": NOW}), Request(2, "start", params={"at": LOCAL})],
        "request 1: at: naive",
    ),
    ([Request(1, "start", token="x")], "request 0: token: expected a UUID"),  # pyright: ignore
    ([Request(1, "start", token=OWN), Request(2, "stop", token=OWN)], "request 1: it has the token of request 0"),
    ([Request(1, "stop", token=UUID(int=2)), Request(2, "stop", token=UUID(int=3))], "differ in the last byte only"),
]


@pytest.mark.parametrize(("requests", "message"), WRONG)
def test_a_wrong_request_is_told_with_its_number(requests: Sequence[Any], message: str) -> None:
    """Before any statement; the message says that nothing was written."""
    with pytest.raises(RequestError, match=f"(?s){message}.*nothing was written"):
        next(send_batch(SQLITE, requests))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((1, 2), "expected a key of type str"),
        ((1,), "expected a key of"),
        (1, "expected a key of"),
        ((1, None), "expected"),
    ],
)
def test_a_wrong_composite_key_is_told_with_its_number(key: object, message: str) -> None:
    """Each of its columns is checked."""
    statements = Statements(PIECES, sqlite.dialect())

    with pytest.raises(RequestError, match=f"request 1: .*{message}"):
        next(send_batch(statements, [Request((1, "a"), "start"), Request(key, "start")]))


# -- portions ---------------------------------------------------------------------------------------------


def portions(statements: Statements, requests: Sequence[Request]) -> list[tuple[str, list[int]]]:
    """The event of each portion, and the numbers of its requests."""
    return [
        (portion.of.event.event, [portion.of.numbers[place] for place in portion.places])
        for portion in Batch(statements, requests).portions()
    ]


def test_requests_are_sorted_by_key() -> None:
    """So that two batches lock the rows that both want in the same order."""
    requests = [Request(key, "start") for key in (5, 1, 4, 2, 3)]
    assert portions(SQLITE, requests) == [("start", [1, 3, 4, 2, 0])]

    pieces = [Request(key, "start") for key in ((2, "a"), (1, "b"), (1, "a"))]
    assert portions(Statements(PIECES, postgresql.psycopg.dialect()), pieces) == [("start", [2, 1, 0])]


def test_requests_of_one_key_come_in_rounds() -> None:
    """Within a statement each key occurs once; whatever the event, an earlier request comes first."""
    requests = [Request(key, event) for event in ("start", "stop") for key in (2, 1)]
    requests += [Request(2, "start"), Request(3, "start"), Request(1, "start")]

    assert portions(SQLITE, requests) == [
        ("start", [1, 0, 5]),
        ("stop", [3, 2]),
        ("start", [6, 4]),
    ]


def test_a_portion_is_no_longer_than_a_statement_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """By requests, and on SQLite by parameters."""
    requests = [Request(key, "resize", params={"size": key}) for key in range(2500)]
    assert [len(numbers) for _, numbers in portions(SQLITE, requests)] == [1000, 1000, 500]

    monkeypatch.setattr(event_requests, "CELLS", 40)
    assert {len(numbers) for _, numbers in portions(SQLITE, requests)} == {10}
    assert {len(numbers) for _, numbers in portions(POSTGRESQL, requests)} == {1000, 500}


# -- statements -------------------------------------------------------------------------------------------


def sent(statements: Statements, *requests: Request) -> tuple[str, Any]:
    """The text of the first statement of a batch, in one line, and its parameters as the driver takes them."""
    portion: Portion = next(iter(Batch(statements, requests).portions()))
    prepared, parameters = portion.of.filled(portion.of.writing[0], portion.places)
    return " ".join(prepared.sql.split()), prepared.bound(parameters)


def test_postgresql_is_sent_arrays() -> None:
    """One text for any number of rows; an array for each column, spelled as PostgreSQL reads it."""
    texts = ['q"\\,{}', "NULL", "", None]
    requests = [Request(key, "start", None if key else 3, {"note": note}) for key, note in enumerate(texts)]

    (text, parameters), (same, _) = sent(POSTGRESQL, *requests), sent(POSTGRESQL, *requests[:2])

    assert text == same
    assert "FROM unnest((SELECT CAST(%(latch_c0)s AS INTEGER[]) AS anon_1), " in text
    assert [parameters[name] for name in ("latch_c0", "latch_c1")] == ["{0,1,2,3}", "{3,NULL,NULL,NULL}"]
    assert r'{"q\"\\,{}","NULL","",NULL}' in parameters.values()
    assert r'{"q\"\\,{}","NULL",""}' in sent(POSTGRESQL, *requests[:3])[1].values()


def test_others_are_sent_values() -> None:
    """A row of parameters for each request, within the statement; a table before it they do not take."""
    requests = [Request(key, "start", params={"note": "x"}, token=UUID(int=key)) for key in (2, 1)]

    for statements, mark in ((SQLITE, "?"), (MARIADB, "%s")):
        text, parameters = sent(statements, *requests)

        assert text.startswith("UPDATE jobs")
        assert f"VALUES ({', '.join([mark] * 3)}), ({', '.join([mark] * 3)}))" in text
        assert [value for value in parameters if value in {1, 2, "x", f"{1:032x}", f"{2:032x}"}].count("x") == 2


def test_a_parameter_that_nobody_names_is_sent_once() -> None:
    """It keeps its default in the statement; where one request names it, the others bring theirs along."""
    nobody, one = Request(1, "start"), Request(2, "start", params={"note": "x"})

    assert "-" in sent(SQLITE, nobody, replace(nobody, key=3))[1]
    assert sorted(value for value in sent(SQLITE, nobody, one)[1] if value in ("-", "x")) == ["-", "x"]


def test_tokens_are_counted_from_one_uuid() -> None:
    """Each request has a UUID version 7 of its own, with room for the variants of the source states."""
    tokens = Batch(SQLITE, [Request(key, "stop") for key in range(3)]).tokens

    assert [token - tokens[0] for token in tokens] == [0, 2, 4]
    assert {(UUID(int=token).version, UUID(int=token).variant) for token in tokens} == {(7, "specified in RFC 4122")}
    assert tokens[0] >> 32 != Batch(SQLITE, [Request(1, "stop")]).tokens[0] >> 32


# -- the order of steps -----------------------------------------------------------------------------------


TOKENS = [UUID(int=0x100 * n) for n in range(1, 9)]
STARTS = [Request(key, "start", token=token) for key, token in enumerate(TOKENS)]


def wrote(*numbers: int) -> Reply:
    """An UPDATE's answer: these requests have moved their rows."""
    rows = [{VERSION_COLUMN: 2, TOKEN_COLUMN: TOKENS[number], AT_COLUMN: NOW} for number in numbers]
    return Reply(len(rows), rows)


def diagnosed(*rows: tuple[int, str, int]) -> Reply:
    """A diagnosis: number, state and version of those rows that are there."""
    columns = (NUMBER, STATE_COLUMN, VERSION_COLUMN)
    return Reply(
        len(rows), [{**dict(zip(columns, row, strict=True)), TOKEN_COLUMN: None, AT_COLUMN: NOW} for row in rows]
    )


def answered(*replies: Reply | Exception, requests: Sequence[Request] = STARTS[:4]) -> tuple[list[Any], Script]:
    """The answers to a batch, and what it has sent."""
    script = Script(*replies)
    return script.run(send_batch(SQLITE, requests)), script


def test_those_that_moved_no_row_are_diagnosed_together() -> None:
    """One SELECT for all of them, in a new transaction."""
    answers, script = answered(wrote(1, 2), diagnosed((0, "shut", 7)))

    assert [type(each) for each in answers] == [TransitionRefusedError, Transitioned, Transitioned, RowNotFoundError]
    assert script.kinds == ["UPDATE", "SELECT"]
    assert script.applied == answers[1:3]
    assert answers[0].__traceback__ is None  # its frames would keep the whole batch


def test_a_row_that_changed_in_between_is_tried_again() -> None:
    """Three times; then it is stale, as for `send`. The others are not sent again."""
    lost = diagnosed((0, "new", 7))

    answers, script = answered(wrote(1, 2, 3), lost, wrote(), lost, wrote(0))
    assert [type(each) for each in answers] == [Transitioned] * 4
    assert script.kinds == ["UPDATE", "SELECT", "UPDATE", "SELECT", "UPDATE"]

    answers, _ = answered(wrote(1, 2, 3), lost, wrote(), lost, wrote(), lost)
    assert isinstance(answers[0], StaleVersionError)
    assert (answers[0].expected_version, answers[0].actual_version) == (None, 7)


def test_a_statement_that_is_broken_off_is_sent_again() -> None:
    """A deadlock says nothing about the requests."""
    answers, script = answered(BUSY, BUSY, wrote(0, 1, 2, 3))

    assert [type(each) for each in answers] == [Transitioned] * 4
    assert script.kinds == ["UPDATE"] * 3


def test_what_is_always_broken_off_goes_in_halves() -> None:
    """Fewer rows meet fewer others; a single one that cannot be had is no answer of the database's."""
    answers, _ = answered(BUSY, BUSY, BUSY, wrote(0, 1), wrote(2, 3))
    assert [type(each) for each in answers] == [Transitioned] * 4

    with pytest.raises(BatchInterruptedError) as caught:
        answered(BUSY, BUSY, BUSY, wrote(0, 1), *[BUSY] * 3, wrote(2), *[BUSY] * 3)
    assert [type(each) for each in caught.value.answers] == [Transitioned] * 3 + [type(None)]
    assert caught.value.requests == [STARTS[3]]


def test_a_lost_race_is_not_all_of_theirs() -> None:
    """Where the database takes a whole statement for lost, those rows that are as they were get another chance."""
    moved, free = (0, "shut", 2), [(number, "new", 1) for number in (1, 2, 3)]

    answers, script = answered(RACE, diagnosed(moved, *free), wrote(1, 2, 3))
    assert [type(each) for each in answers] == [TransitionRefusedError, *[Transitioned] * 3]
    assert script.kinds == ["UPDATE", "SELECT", "UPDATE"]

    free = [(0, "new", 1), *free]
    answers, _ = answered(*[RACE, diagnosed(*free)] * 3, wrote(0, 1), wrote(2), diagnosed((3, "shut", 2)))
    assert [type(each) for each in answers] == [*[Transitioned] * 3, TransitionRefusedError]


def test_one_refused_value_is_found_by_halves() -> None:
    """Its request is answered with what the driver raised; a statement for each half, and each half of the bad one."""
    answers, script = answered(REFUSED, wrote(0, 1), REFUSED, REFUSED, wrote(3))

    assert answers[2] is REFUSED
    assert [type(each) for each in answers] == [Transitioned, Transitioned, DataError, Transitioned]
    assert script.kinds == ["UPDATE"] * 5


def test_a_statement_that_cannot_work_is_raised_unless_something_was_answered() -> None:
    """No halves help; what has been answered before is not given up for it."""
    with pytest.raises(ProgrammingError):
        answered(NO_TABLE)

    stops = [replace(request, event="stop") for request in STARTS[4:6]]
    answers, script = answered(wrote(0), NO_TABLE, requests=[STARTS[0], *stops])
    assert [type(each) for each in answers] == [Transitioned, ProgrammingError, ProgrammingError]
    assert script.kinds == ["UPDATE", "UPDATE"]


@pytest.mark.parametrize("error", [AWAY, UNKNOWN])
def test_no_answer_keeps_the_answers(error: ConnectionFailureError, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has them all, and the requests that have none, each with the token that it was sent with."""
    monkeypatch.setattr(event_requests, "ROWS", 2)
    requests = [*STARTS[:3], Request(3, "start"), Request(4, "start")]

    unverified = [AWAY] * 3 if error is UNKNOWN else []
    with pytest.raises(BatchInterruptedError) as caught:
        answered(wrote(0, 1), error, *unverified, requests=requests)

    interrupted = caught.value
    assert (interrupted.phase, interrupted.database, interrupted.detail) == (error.phase, "db", "gone")
    assert [type(each) for each in interrupted.answers] == [Transitioned] * 2 + [type(None)] * 3
    assert [each.key for each in interrupted.requests] == [2, 3, 4]
    assert interrupted.session == getattr(error, "session", None)
    assert interrupted.requests[0] == STARTS[2]
    assert len({each.token for each in interrupted.requests} - {None}) == 3
    assert "2 of 5 requests have an answer" in str(interrupted)


def test_rows_of_others_are_no_answers() -> None:
    """Without RETURNING the rows are read by key: one with another's token was not moved by its request."""
    other = {VERSION_COLUMN: 9, TOKEN_COLUMN: UUID(int=5), AT_COLUMN: NOW}
    reply = Reply(1, [other, *wrote(0).rows])

    answers, _ = answered(reply, diagnosed((1, "shut", 9)), requests=STARTS[:2])

    assert [type(each) for each in answers] == [Transitioned, TransitionRefusedError]
    assert (answers[0].key, answers[0].version, answers[0].token) == (0, 2, TOKENS[0])


# -- columns ----------------------------------------------------------------------------------------------


def test_columns_are_rows_too() -> None:
    """They can be read row by row, and made of rows."""
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]

    columns = Columns.of(rows)

    assert (list(columns), len(columns), columns["b"]) == (rows, 2, ["x", "y"])
    assert Columns.of(columns) is columns
    assert list(columns.where([False, True])) == rows[1:]
    assert {"a": 2, "b": "y"} in columns
    assert len(Columns.of([])) == 0


def cell(kind: Any) -> Cell:
    """A column of this type."""
    return Cell.of("latch_c0", "event_x", kind, POSTGRESQL.dialect)


ELEMENTS: list[tuple[Any, list[Any], str]] = [
    (Integer(), [1, None], "INTEGER"),
    (String(3), ["long text"], "VARCHAR"),  # not VARCHAR(3), to which a cast would cut it
    (Numeric(4, 1), [Decimal("1.25")], "NUMERIC"),
    (Numeric(4, 1), [None], "TEXT"),
    (NullType(), [1, None], "INTEGER"),
    (NullType(), [2**40], "BIGINT"),
    (NullType(), [2**70], "NUMERIC"),
    (NullType(), [1, 2.5], "FLOAT8"),
    (NullType(), [1, Decimal(2)], "NUMERIC"),
    (NullType(), ["x"], "TEXT"),
    (NullType(), [True], "BOOLEAN"),
    (NullType(), [NOW], "TIMESTAMPTZ"),
    (NullType(), [datetime(2026, 1, 1)], "TIMESTAMP"),
    (LargeBinary(), [b"x"], "BYTEA"),
    (postgresql.ARRAY(Integer()), [[1], []], "INTEGER[]"),
]


@pytest.mark.parametrize(("kind", "values", "element"), ELEMENTS)
def test_a_column_has_the_type_that_a_single_parameter_would_have(kind: Any, values: list[Any], element: str) -> None:
    """Of the SQLAlchemy type where it casts its parameters, else of the values."""
    assert element == element_of(cell(kind), values, POSTGRESQL.dialect)


def test_values_without_a_common_type_are_refused() -> None:
    """A parameter of no type that is a text here and a number there: PostgreSQL has no column for both."""
    with pytest.raises(RequestError, match=r"found values of types int, str.*nothing was written"):
        element_of(cell(NullType()), [1, "x"], POSTGRESQL.dialect)
    with pytest.raises(RequestError, match=r"type list have no type in SQL; nothing was written.*type_="):
        element_of(cell(NullType()), [[1]], POSTGRESQL.dialect)
