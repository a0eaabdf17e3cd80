"""What a number depends on beside the code: versions, cores, and how durable each database is set.

Rules: nothing here names a host, a user or a path; the page must not depend on who wrote it.
"""

from __future__ import annotations

import os
import platform
import sqlite3
from contextlib import closing
from importlib.metadata import version
from typing import TYPE_CHECKING

from tests.benchmarks.tables import DATABASES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.place import Place

__all__ = ["machine", "shown_command", "shown_database"]

PACKAGES = ("SQLAlchemy", "python-statemachine", "transitions", "django-fsm-2", "Django")
URLS = {
    "sqlite": "sqlite:///bench.db",
    "postgresql": "postgresql://USER@HOST/DATABASE",
    "mariadb": "'mariadb://USER@HOST/DATABASE?ssl_disabled=true'",
    "mysql": "'mysql://USER@HOST/DATABASE?ssl_disabled=true'",
}


def shown_command(dialects: Sequence[str], *, seconds: float | None) -> str:
    """The command that measures the same, for a reader who puts in URLs of his own."""
    parts = [f"--db {URLS[dialect]}" for dialect in dialects]
    parts += [f"--seconds {seconds:g}"] * (seconds is not None)
    return " ".join(["python -m tests.benchmarks", *parts, "--write"])


def machine() -> str:
    """Python, the packages and the cores."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Python {platform.python_version()}, {packages}; {platform.system()}, {os.cpu_count()} cores."


def shown_database(place: Place) -> str:
    """A database, its driver, and what it does at a COMMIT."""
    name = DATABASES[place.dialect]
    match place.dialect:
        case "sqlite":
            driver, release = "sqlite3", sqlite3.sqlite_version
            settings = {"journal_mode": "PRAGMA journal_mode", "synchronous": "PRAGMA synchronous"}
        case "postgresql":
            driver, release = f"psycopg {version('psycopg')}", _release(place)
            settings = {each: f"SHOW {each}" for each in ("fsync", "synchronous_commit")}
        case _:
            driver, release = f"PyMySQL {version('PyMySQL')}", _release(place)
            settings = {each: f"SELECT @@{each}" for each in ("innodb_flush_log_at_trx_commit",)}
    with closing(place.driver()) as connection, closing(connection.cursor()) as cursor:
        values: list[str] = []
        for each, question in settings.items():
            cursor.execute(question)
            values.append(f"{each}={cursor.fetchone()[0]}")
    return f"{name} {release} over {driver}: {', '.join(values)}."


def _release(place: Place) -> str:
    with place.engine.connect() as connection:
        return ".".join(map(str, connection.dialect.server_version_info or ()))
