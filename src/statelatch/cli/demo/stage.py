"""Where the demo plays: a database in a temporary folder, two managers on it, a way to cut one off, and a counter.

The primary reaches the database through a symbolic link to its folder, the fallback directly. Cutting the
primary off removes the link and closes its connections: it fails for real, and so does connecting it again.

The counter is a trigger of the database itself. It counts each UPDATE of a run that had ended, whoever sends it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy import URL, text

from statelatch.adapter import PersistenceAdapter
from statelatch.runs import RunLifecycle, RunManager, create_tables, run_mapping

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Connection, Engine

__all__ = ["Stage", "counter_works", "overwritten", "set_up"]

ENDED = ", ".join(f"'{state.value}'" for state in RunLifecycle.final_states)

COUNTER = (
    "CREATE TABLE overwritten (run, old_status, new_status)",
    f"""
    CREATE TRIGGER count_overwritten AFTER UPDATE ON statelatch_runs WHEN old.status IN ({ENDED})
    BEGIN INSERT INTO overwritten VALUES (old.id, old.status, new.status); END
    """,  # noqa: S608  the states of our own lifecycle
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a scene of the demo plays with.

    Attributes:
        manager: runs the functions; its primary goes through the link, its fallback does not.
        other: another manager on the same database, as another process would have it.
        primary: the adapter of `manager`.
        direct: an adapter that does not go through the link.
        link: leads to the folder of the database.
    """

    manager: RunManager
    other: RunManager
    primary: PersistenceAdapter
    direct: PersistenceAdapter
    link: Path

    def cut_primary_off(self) -> None:
        """Make the primary fail, now and when it is connected again."""
        self.link.unlink()
        self.primary.close()

    def restore_primary(self) -> None:
        """Make it work again."""
        self.link.symlink_to(Path(str(self.direct.engine.url.database)).parent, target_is_directory=True)


@contextmanager
def set_up() -> Generator[Stage]:
    """A stage with an empty database, gone afterwards."""
    with TemporaryDirectory(prefix="statelatch-demo-") as name, ExitStack() as open_until_the_end:
        folder, link = Path(name, "data"), Path(name, "primary")
        folder.mkdir()
        link.symlink_to(folder, target_is_directory=True)
        primary, direct = (open_until_the_end.enter_context(_adapter(place)) for place in (link, folder))
        create_tables(direct)
        _add_counter(direct.engine)
        manager = open_until_the_end.enter_context(RunManager(primary, fallbacks=[direct]))
        other = open_until_the_end.enter_context(RunManager(direct))
        yield Stage(manager=manager, other=other, primary=primary, direct=direct, link=link)


def _adapter(folder: Path) -> PersistenceAdapter:
    return PersistenceAdapter(URL.create("sqlite", database=str(folder / "runs.db")), run_mapping())


# -- the counter -------------------------------------------------------------------------------------------


def _add_counter(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in COUNTER:
            connection.exec_driver_sql(statement)


def overwritten(engine: Engine) -> int:
    """How often a run that had ended was written to."""
    with engine.connect() as connection:
        return _count(connection)


def counter_works(engine: Engine) -> bool:
    """Overwrite a run that has ended, see whether it was counted, and take both back."""
    with engine.connect() as connection:  # rolled back when it is left
        before = _count(connection)
        done = connection.execute(text(f"UPDATE statelatch_runs SET status = 'running' WHERE status IN ({ENDED})"))  # noqa: S608
        return done.rowcount > 0 and _count(connection) == before + done.rowcount


def _count(connection: Connection) -> int:
    return connection.execute(text("SELECT count(*) FROM overwritten")).scalar_one()
