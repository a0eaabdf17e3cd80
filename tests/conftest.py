"""Fixtures: each database, one server a session and one empty database a test.

A test that asks for `database_url` or `engine` runs once on each dialect of `tests.databases`, or on those
that it names with `tests.databases.on`. A server is started when the first test needs it.
"""

import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import URL, Engine

from tests import databases, servers
from tests.servers import Server

Served = TypeVar("Served")

SERVERS: dict[databases.Dialect, Callable[[], AbstractContextManager[Server]]] = {
    "postgresql": servers.postgresql,
    "mariadb": servers.mariadb,
}


def pytest_configure() -> None:
    """Refuse an unknown name in STATELATCH_REQUIRE before any test runs."""
    try:
        _required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def postgresql_server() -> Generator[Engine]:
    """The administrator's engine of the session's PostgreSQL."""
    yield from _served("postgresql", databases.postgresql_server)


@pytest.fixture(scope="session")
def mariadb_server() -> Generator[Engine]:
    """The administrator's engine of the session's MariaDB."""
    yield from _served("mariadb", databases.mariadb_server)


@pytest.fixture(params=SERVERS)
def killable_server(request: pytest.FixtureRequest) -> Generator[Server]:
    """A server of this test's own, which it may kill and start again; `indirect` chooses one of them."""
    yield from _served(request.param, SERVERS[request.param])


@pytest.fixture(params=databases.DIALECTS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[URL]:
    """The URL of an empty database that belongs to this test alone."""
    if request.param == "sqlite":
        yield databases.sqlite_file(tmp_path)
    else:
        server: Engine = request.getfixturevalue(f"{request.param}_server")
        with databases.fresh_database(server) as url:
            yield url


@pytest.fixture
def engine(database_url: URL) -> Generator[Engine]:
    """An engine on `database_url` for up to 50 connections at once."""
    with databases.pooled(database_url) as engine:
        yield engine


def _served(dialect: databases.Dialect, start: Callable[[], AbstractContextManager[Served]]) -> Generator[Served]:
    try:
        with start() as server:
            yield server
    except databases.UnavailableError as error:
        databases.absent(dialect, str(error), required=_required())


def _required() -> frozenset[str]:
    return databases.required(os.environ.get("STATELATCH_REQUIRE", ""))
