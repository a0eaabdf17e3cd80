"""The floors: what a person would write for one database, over the driver alone, and no more than the job needs.

Each batch statement is the fastest of several that were tried: executemany and JSON were slower on PostgreSQL and
MariaDB, and no faster on SQLite.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.benchmarks.place import UnprovenError
from tests.benchmarks.race import Block, Move, timed

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import Table

    from tests.benchmarks.place import Place

__all__ = ["batch", "bulk", "single"]

ONE = """UPDATE {table} SET state = %s, version = version + 1, transition_token = %s
WHERE id = %s AND state = %s AND version = %s"""

ALL = """UPDATE {table} SET transition_token = %s, version = version + 1, state = %s
WHERE id BETWEEN %s AND %s AND state = %s"""

POSTGRESQL = """UPDATE {table} AS t SET state = %s, version = t.version + 1, transition_token = new.token
FROM unnest(%s::integer[], %s::integer[], %s::uuid[]) AS new(id, version, token)
WHERE t.id = new.id AND t.version = new.version AND t.state = %s RETURNING t.id"""

SQLITE = """WITH new(id, version, token) AS (VALUES {values})
UPDATE {table} SET state = %s, version = {table}.version + 1, transition_token = new.token
FROM new WHERE {table}.id = new.id AND {table}.version = new.version AND state = %s RETURNING {table}.id"""

MARIADB = """UPDATE {table} AS t
JOIN (WITH new(id, version, token) AS (VALUES {values}) SELECT * FROM new) AS new
ON t.id = new.id AND t.version = new.version
SET t.transition_token = new.token, t.version = t.version + 1, t.state = %s WHERE t.state = %s"""


@contextmanager
def single(place: Place, table: Table) -> Generator[Block]:
    """One UPDATE of one row, on a connection that is held."""
    update = place.marked(ONE.format(table=table.name))
    with closing(place.driver()) as connection, closing(connection.cursor()) as cursor:

        def move(each: Move) -> None:
            cursor.execute(update, (each.target, uuid4().hex, each.key, each.source, each.version))
            _matched(cursor.rowcount, 1)

        yield timed(move)


@contextmanager
def bulk(place: Place, table: Table) -> Generator[Block]:
    """One UPDATE of a range of rows."""
    update = place.marked(ALL.format(table=table.name))
    with closing(place.driver()) as connection, closing(connection.cursor()) as cursor:

        def block(moves: Sequence[Move]) -> int:
            first, last = moves[0], moves[-1]
            start = perf_counter_ns()
            cursor.execute(update, (uuid4().hex, first.target, first.key, last.key, first.source))
            nanoseconds = perf_counter_ns() - start
            _matched(cursor.rowcount, len(moves))
            return nanoseconds

        yield block


@contextmanager
def batch(place: Place, table: Table) -> Generator[Block]:
    """One UPDATE of many rows, each with its own version and token, and the keys of those that it moved."""
    send = {"postgresql": _postgresql, "sqlite": _sqlite}.get(place.dialect, _mariadb)
    with closing(place.driver()) as connection, closing(connection.cursor()) as cursor:

        def block(moves: Sequence[Move]) -> int:
            start = perf_counter_ns()
            moved = send(cursor, table.name, moves)
            nanoseconds = perf_counter_ns() - start
            _matched(moved, len(moves))
            return nanoseconds

        yield block


def _postgresql(cursor: Any, table: str, moves: Sequence[Move]) -> int:
    """Arrays as text: psycopg is slower in making them of lists."""
    keys = ",".join([str(each.key) for each in moves])
    versions = ",".join([str(each.version) for each in moves])
    tokens = ",".join([uuid4().hex for _ in moves])
    parameters = (moves[0].target, f"{{{keys}}}", f"{{{versions}}}", f"{{{tokens}}}", moves[0].source)
    cursor.execute(POSTGRESQL.format(table=table), parameters)
    return len(cursor.fetchall())


def _sqlite(cursor: Any, table: str, moves: Sequence[Move]) -> int:
    parameters: list[object] = []
    for each in moves:
        parameters += (each.key, each.version, uuid4().hex)
    update = SQLITE.format(table=table, values=",".join(["(?,?,?)"] * len(moves))).replace("%s", "?")
    return len(cursor.execute(update, [*parameters, moves[0].target, moves[0].source]).fetchall())


def _mariadb(cursor: Any, table: str, moves: Sequence[Move]) -> int:
    """Numbers and tokens as they are: PyMySQL would put them into the text, too, and take longer."""
    values = ",".join([f"({each.key},{each.version},'{uuid4().hex}')" for each in moves])
    return cursor.execute(MARIADB.format(table=table, values=values), (moves[0].target, moves[0].source))


def _matched(found: int, expected: int) -> None:
    if found != expected:
        raise UnprovenError(f"hand-written: expected to move {expected} rows, moved {found}")
