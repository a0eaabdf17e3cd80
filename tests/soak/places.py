"""Where a soak works: a server of its own, or the database that its user names."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy import URL, make_url

from tests import servers
from tests.databases import administrator, fresh_database, sqlite_file

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.servers import Server

__all__ = ["SERVERS", "database", "server"]

SERVERS = {"postgresql": servers.postgresql, "mariadb": servers.mariadb}


@contextmanager
def server(name: str) -> Generator[Server | None]:
    """A running server of this name; None for `sqlite`, which has none."""
    if name == "sqlite":
        yield None
    else:
        with SERVERS[name]() as running:
            yield running


@contextmanager
def database(name: str) -> Generator[URL]:
    """An empty database: on a server of its own if this is the name of one, a file for `sqlite`; else the URL's own."""
    if name == "sqlite":
        with TemporaryDirectory(prefix="statelatch-soak-") as folder:
            yield sqlite_file(Path(folder))
    elif name in SERVERS:
        with SERVERS[name]() as running, administrator(running.url) as engine, fresh_database(engine) as url:
            yield url
    else:
        yield make_url(name)
