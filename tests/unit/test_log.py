"""The transition log: what is recorded in it, its statements, and the plan of `history`."""

import math
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ClauseElement, String, insert, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, RequestError, RowNotFoundError
from statelatch.columns import TransitionColumns, TransitionLogColumns, state_text
from statelatch.commands import Execute, Reply
from statelatch.history import history
from statelatch.log import TransitionLog
from statelatch.records import LogEntry
from statelatch.statements import Statements


class Base(DeclarativeBase):
    """Base of the entities here."""


class Order(TransitionColumns, Base):
    """An order."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


class Article(TransitionColumns, Base):
    """A row with a key of two columns, one of them text."""

    __tablename__ = "article"

    tenant: Mapped[str] = mapped_column("tenant_id", String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


class Flow(StateMachine):
    """From draft to gone, over several states."""

    draft = State(initial=True)
    sent = State()
    gone = State(final=True)

    send_off = draft.to(sent)
    drop = draft.to(gone) | sent.to(gone)


class OrderLog(TransitionLogColumns, Base):
    """A sound log."""

    __tablename__ = "order_log"

    key: Mapped[int] = mapped_column(primary_key=True)


class ArticleLog(TransitionLogColumns, Base):
    """A sound log of a key of two columns."""

    __tablename__ = "article_log"

    tenant: Mapped[str] = mapped_column(String(20), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


MAPPING = MachineMapping(machine=Flow, entity=Order, log=OrderLog)
LOG = TransitionLog(MAPPING)


# -- what is recorded of an event's parameters -----------------------------------------------------------

CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)

UNRECORDED: dict[str, tuple[dict[str, Any], str]] = {
    "actor that is no text": ({"actor": 7}, "actor: expected text for order_log.actor, found 7"),
    "long actor": ({"actor": "a" * 256}, "actor: it has 256 characters, order_log.actor holds 255"),
    "actor with NUL": ({"actor": "a\0"}, r"actor: 'a\\x00' contains NUL"),
    "half an actor": ({"actor": "\ud83d"}, "actor: .* half a surrogate pair"),
    "a moment": (
        {"data": {"a": [1, {"at": datetime(2026, 1, 1, tzinfo=UTC)}]}},
        r"data\['a'\]\[1\]\['at'\]: .*datetime",
    ),
    "a set": ({"data": {1, 2}}, "data: Object of type set is not JSON serializable"),
    "a key that is a tuple": ({"data": {"a": {(1, 2): 3}}}, r"data\['a'\]: keys must be str"),
    "not a number": ({"data": {"ratio": math.nan}}, r"data\['ratio'\]: Out of range float"),
    "a circle": ({"data": {"a": CIRCLE}}, "data: Circular reference"),
    "NUL": ({"data": ["a\0"]}, r"data: 'a\\x00' contains NUL"),
    "NUL in a key": ({"data": {"a\0": 1}}, r"data: 'a\\x00' contains NUL"),
}


@pytest.mark.parametrize("case", UNRECORDED)
def test_what_cannot_be_recorded(case: str) -> None:
    """Before anything is sent, a RequestError says what it is and where, and that nothing was written."""
    params, message = UNRECORDED[case]

    with pytest.raises(RequestError, match=f"{message}.*nothing was written"):
        LOG.recorded(params)


def test_what_is_recorded() -> None:
    """`actor` and `data` as they are given; without them, NULL, which is not JSON's null."""
    given = {"actor": "a" * 255, "data": {"a": [1, "\\u0000", None, {"b": (1.5, True)}]}}

    assert {"latch_log_actor": given["actor"], "latch_log_data": given["data"]} == LOG.recorded({**given, "more": 1})
    assert {name: str(value) for name, value in LOG.recorded({"data": None}).items()} == {
        "latch_log_actor": "None",
        "latch_log_data": "NULL",
    }


# -- statements --------------------------------------------------------------------------------------------


def sql(statement: object, dialect: Any) -> str:
    """A statement as this dialect spells it, in one line."""
    assert isinstance(statement, ClauseElement)
    return re.sub(r"\s+", " ", str(statement.compile(dialect=dialect)))


def test_the_entry_is_part_of_the_update_on_postgresql() -> None:
    """One statement: what the UPDATE returns is inserted."""
    moving = update(Order).values(state="gone")

    statement = sql(LOG.in_one(moving, LOG.entry("drop", ("draft", "sent"))), postgresql.dialect())

    assert statement.startswith("WITH latch_moved AS (UPDATE orders SET state=")
    assert "RETURNING orders.id AS latch_log_key, orders.version AS latch_log_version, " in statement
    assert "CASE WHEN (orders.transition_token = %(latch_token_1)s::UUID) THEN " in statement
    assert "INSERT INTO order_log (key, version, event, source, target, token, at, actor, data) SELECT " in statement
    assert statement.endswith("FROM latch_moved")


def test_the_entry_follows_the_update_elsewhere() -> None:
    """The row that was written is read by the INSERT; a single source needs no CASE."""
    statement = LOG.appended(LOG.entry("send_off", ("draft",)), Order.id == 7)

    assert sql(statement, sqlite.dialect()) == (
        'INSERT INTO order_log ("key", version, event, source, target, token, at, actor, data) '
        "SELECT orders.id AS latch_log_key, orders.version AS latch_log_version, ? AS latch_log_event, "
        "? AS latch_log_source, orders.state AS latch_log_target, orders.transition_token AS latch_log_token, "
        "strftime('%Y-%m-%d %H:%M:%f000', 'now') AS latch_log_at, ? AS latch_log_actor, ? AS latch_log_data "
        "FROM orders WHERE orders.id = ?"
    )


def test_a_created_row_is_entered_without_event_and_source() -> None:
    """The first entry has neither; actor and data are not known."""
    statement = LOG.created_in_one(insert(Order).values(id=7), [Order.id.label("id")])

    assert "INSERT INTO order_log (key, version, target, token, at) SELECT " in sql(statement, postgresql.dialect())


def test_text_keys_are_found_to_the_letter() -> None:
    """On MariaDB, whose collation may fold letters, the key is compared by its bytes, too."""
    log = TransitionLog(MachineMapping(machine=Flow, entity=Article, log=ArticleLog))

    statement = sql(log.history, mysql.dialect())

    assert "WHERE article_log.tenant = %s AND CAST(CONVERT(article_log.tenant USING utf8mb4) AS BINARY) = " in statement
    assert statement.endswith("ORDER BY article_log.version")


# -- history -------------------------------------------------------------------------------------------------

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TOKEN = UUID(int=7)
STORED: dict[str, Any] = {
    "key": 7, "version": 1, "event": None, "source": None, "target": "draft", "token": TOKEN, "at": NOW,
    "actor": None, "data": None,
}  # fmt: skip
ENTRY = LogEntry(**STORED)
STATEMENTS = Statements(MAPPING, sqlite.dialect())


def asked(*replies: Reply, statements: Statements = STATEMENTS) -> tuple[list[LogEntry], list[str]]:
    """What `history` of row 7 makes of these replies, and the tables that it asked."""
    plan, left, tables = history(statements, 7), list(replies), list[str]()
    try:
        command = next(plan)
        while True:
            assert isinstance(command, Execute)
            tables.append("order_log" if "order_log" in str(command.statements[0][0]) else "orders")
            command = plan.send(left.pop(0))
    except StopIteration as stop:
        assert left == []
        return stop.value, tables


def test_a_history_is_one_select() -> None:
    """Where there are entries, nothing else is asked: the row may be gone."""
    assert asked(Reply(1, [STORED])) == ([ENTRY], ["order_log"])


def test_no_row_and_no_entries() -> None:
    """Then there is no such row."""
    with pytest.raises(RowNotFoundError) as caught:
        asked(Reply(0), Reply(0))

    assert (caught.value.key, caught.value.event) == (7, "history")


def test_a_row_that_is_older_than_its_log_has_no_history() -> None:
    """The row is there, and the log is asked once more: the row may have been created in between."""
    assert asked(Reply(0), Reply(1, [{}]), Reply(0)) == ([], ["order_log", "orders", "order_log"])
    assert asked(Reply(0), Reply(1, [{}]), Reply(1, [STORED]))[0] == [ENTRY]


def test_a_history_needs_a_log() -> None:
    """A mapping without a log says how to get one."""
    bare = Statements(MachineMapping(machine=Flow, entity=Order), sqlite.dialect())

    with pytest.raises(RequestError, match=r"orders: its mapping keeps no log.*log=\.\.\."):
        asked(statements=bare)
