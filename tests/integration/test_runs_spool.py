"""The spool: a last word that no connection takes is kept in a file, and `recover` writes it once they answer again.

The faults are real: connections are killed and lead nowhere, COMMIT's acknowledgement is lost, processes are killed.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, insert, select, update

from statelatch.errors import ConfigurationError
from statelatch.runs import Finalized, Outcome, Run, RunCancelled, RunManager, SpoolError, create_tables, current_run
from statelatch.runs.spool import Spool
from tests.databases import on, sqlite_file, unreachable
from tests.outages import LostCommit, Outage, Traffic
from tests.runs import ENDS, NEVER, PATIENCE, Holding, eventually, everything, nothing, stored
from tests.spools import applied, recovered, spooled

EITHER_WAY = pytest.mark.usefixtures("either_way")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Where the spool is to be."""
    return tmp_path / "spool.db"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Generator[Engine]:
    """Another database, with the runs' table and no run."""
    (folder := tmp_path / "elsewhere").mkdir()
    engine = create_engine(sqlite_file(folder))
    create_tables(engine)
    yield engine
    engine.dispose()


# -- into the spool ------------------------------------------------------------------------------------------------


@EITHER_WAY
@pytest.mark.parametrize(("function", "target", "error"), ENDS)
def test_a_last_word_that_nobody_takes_is_kept_and_written_once(
    runs_engine: Engine,
    spool: Path,
    caplog: pytest.LogCaptureFixture,
    function: Callable[[], None],
    target: str,
    error: str | None,
) -> None:
    """Spooled: a warning, caller and subscribers are told, the row waits; then the very word that was due, once."""
    outage = Outage(runs_engine)

    def last_deed() -> None:
        current_run().progress(7, 9, "nearly")
        outage.begin()
        function()

    nowhere = unreachable(runs_engine.url)
    with RunManager(runs_engine, fallbacks=[nowhere], heartbeat=NEVER, spool=spool) as manager:
        handle = manager.start(last_deed)
        subscription = handle.events()
        said = handle.wait(PATIENCE)
        outage.end()

    assert outage.refused >= 1
    assert (said.target, said.outcome, said.state, said.version, said.via) == (
        *(target, Outcome.SPOOLED, None),
        *(None, "spool"),
    )
    assert said.error is not None
    assert (said.error == error) == (target == "failed")
    assert list(subscription)[-1] == said
    assert caplog.messages == [f"run {handle.id}: {target} is kept in the spool, no connection answered"]
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("running", 2)

    assert recovered(runs_engine, spool) == [applied(handle, target, error)]
    row = stored(runs_engine, handle.id)
    assert (row.status, row.error, row.version, row.attempt, row.active_key) == (target, error, 3, 1, None)
    assert (row.progress_current, row.progress_total, row.progress_step) == (7, 9, "nearly")
    assert row.finished_at is not None

    assert recovered(runs_engine, spool) == []
    assert stored(runs_engine, handle.id).version == 3


def test_the_result_is_kept_as_it_was(runs_engine: Engine, spool: Path) -> None:
    """What the function returned is in the row after the recovery, and the caller had it at once."""
    value = {"text": "é \U0001f512 '\"\n", "list": [1, -(2**63), 1.5, None, True]}
    (handle,) = spooled(runs_engine, spool, lambda: value)

    assert handle.result(0) == value
    recovered(runs_engine, spool)
    assert stored(runs_engine, handle.id).result == value


@EITHER_WAY
def test_a_word_that_had_landed_is_written_once(runs_engine: Engine, spool: Path) -> None:
    """COMMIT's acknowledgement is lost, and with it every connection: kept; recognised by its token afterwards."""
    lost, outage = LostCommit(runs_engine, landed=True), Outage(runs_engine)
    lost.then = outage.begin
    with RunManager(runs_engine, heartbeat=NEVER, spool=spool) as manager:
        handle = manager.start(lost.arm)
        said = handle.wait(PATIENCE)
        outage.end()

    assert (lost.strikes, said.outcome) == (1, Outcome.SPOOLED)
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("completed", 3)
    assert recovered(runs_engine, spool) == [applied(handle, "completed")]
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).version) == ("completed", 3)


def test_a_run_that_never_began_is_cancelled_later(runs_engine: Engine, spool: Path) -> None:
    """Dropped by its executor while nothing answers: its row, which no worker holds, is cancelled by the recovery."""
    outage, executor = Outage(runs_engine), Holding()
    with RunManager(runs_engine, heartbeat=NEVER, executor=executor, spool=spool) as manager:
        handle = manager.start(nothing, key="k")
        outage.begin()
        executor.drop()
        said = handle.wait(PATIENCE)
        outage.end()

        assert (said.target, said.outcome) == ("cancelled", Outcome.SPOOLED)
        with pytest.raises(RunCancelled):
            handle.result()
        (told,) = manager.recover()

    assert (told.state, told.version, told.outcome) == ("cancelled", 2, Outcome.APPLIED)
    assert (stored(runs_engine, handle.id).status, stored(runs_engine, handle.id).active_key) == ("cancelled", None)


def test_what_is_being_written_can_be_kept_at_once(runs_engine: Engine, database_url: URL, spool: Path) -> None:
    """Somebody holds the row, and who must end keeps the word; it is written all the same, and recognised later."""
    holder = create_engine(database_url)
    connection = holder.connect()

    def last_deed() -> None:
        if holder.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(update(Run).values(name="held"))

    with RunManager(runs_engine, heartbeat=NEVER, spool=spool) as manager:
        assert manager.keep_pending() == []
        handle = manager.start(last_deed)
        assert eventually(lambda: manager.keep_pending() == [handle.id])
        assert [word.run_id for word in Spool(spool).entries()] == [handle.id]
        connection.rollback()
        assert handle.wait(PATIENCE) == applied(handle, "completed")
        assert manager.keep_pending() == []
        assert manager.recover() == [applied(handle, "completed")]
    connection.close()
    holder.dispose()

    assert stored(runs_engine, handle.id).version == 3


def test_late_subscribers_are_told_at_once(runs_engine: Engine, spool: Path) -> None:
    """That the word is kept, while it is; and what the row says, once it is written."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, heartbeat=NEVER, spool=spool) as manager:
        handle = manager.start(outage.begin)
        said = handle.wait(PATIENCE)

        assert said.outcome is Outcome.SPOOLED
        assert list(manager.subscribe(handle.id)) == list(handle.events()) == [said]
        outage.end()
        assert manager.recover() == [applied(handle, "completed")]
        assert list(manager.subscribe(handle.id)) == [applied(handle, "completed")]


def test_a_spool_that_does_not_take_it(
    runs_engine: Engine, spool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its folder is gone: unsaved, as without a spool; the log says why, and nothing escapes the thread."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    outage = Outage(runs_engine)

    def last_deed() -> None:
        outage.begin()
        shutil.rmtree(folder)

    with RunManager(runs_engine, heartbeat=NEVER, spool=folder / "spool.db") as manager:
        said = manager.start(last_deed).wait(PATIENCE)
        outage.end()
        with pytest.raises(SpoolError, match="no such folder"):
            manager.recover()

    assert (said.outcome, said.via) == (Outcome.UNSAVED, None)
    first, second = caplog.records
    assert (first.message, first.exc_info is not None) == (f"run {said.run_id}: its last word could not be kept", True)
    assert second.message == f"run {said.run_id}: completed could not be saved, no connection answered"


def test_nothing_is_kept_of_what_a_connection_took(runs_engine: Engine, fallback: Engine, spool: Path) -> None:
    """Applied over the fallback, or refused: the spool stays empty, and has nothing to recover."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[fallback], heartbeat=NEVER, spool=spool) as manager:
        assert manager.start(outage.begin).wait(PATIENCE).via == "fallback 1"
        outage.end()
        handle = manager.start(lambda: manager.cancel(current_run().id, force=True))
        assert handle.wait(PATIENCE).outcome in {Outcome.NO_OP, Outcome.APPLIED}

        assert (Spool(spool).entries(), manager.recover()) == ([], [])


@EITHER_WAY
@pytest.mark.parametrize(("function", "target", "error"), ENDS)
def test_a_fallback_without_the_run_settles_nothing(
    runs_engine: Engine,
    elsewhere: Engine,
    spool: Path,
    caplog: pytest.LogCaptureFixture,
    function: Callable[[], None],
    target: str,
    error: str | None,
) -> None:
    """The primary is away, and the fallback has no such row: kept, and written when the primary is back."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[elsewhere], heartbeat=NEVER, spool=spool) as manager:
        handle = manager.start(lambda: (outage.begin(), function()))
        said = handle.wait(PATIENCE)
        outage.end()

        assert outage.refused >= 1
        assert (said.target, said.outcome, said.state, said.via) == (target, Outcome.SPOOLED, None, "spool")
        why = "the primary did not answer, a fallback has no such run"
        assert caplog.messages == [f"run {handle.id}: {target} is kept in the spool, {why}"]
        assert manager.recover() == [applied(handle, target, error)]


def test_a_fallback_without_the_run_and_no_spool(
    runs_engine: Engine, elsewhere: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The same without a spool: unsaved, with a warning and the reason; not taken for a run that has ended."""
    outage = Outage(runs_engine)
    with RunManager(runs_engine, fallbacks=[elsewhere], heartbeat=NEVER) as manager:
        said = manager.start(outage.begin).wait(PATIENCE)
        outage.end()

    assert (outage.refused >= 1, said.outcome, said.via) == (True, Outcome.UNSAVED, None)
    assert "no such row" in (said.error or "")
    assert caplog.messages == [
        f"run {said.run_id}: completed could not be saved, the primary did not answer, a fallback has no such run"
    ]


# -- out of the spool ------------------------------------------------------------------------------------------------


@EITHER_WAY
@pytest.mark.parametrize(("function", "target", "error"), ENDS)
def test_a_run_that_was_cancelled_meanwhile_stays_cancelled(
    runs_engine: Engine,
    spool: Path,
    caplog: pytest.LogCaptureFixture,
    function: Callable[[], None],
    target: str,
    error: str | None,
) -> None:
    """The database says no: an info line, `NO_OP` with what it holds, and the word is kept no longer."""
    (handle,) = spooled(runs_engine, spool, function)
    with RunManager(runs_engine) as other:
        other.cancel(handle.id, force=True)
    before = stored(runs_engine, handle.id)
    caplog.clear()
    caplog.set_level(logging.INFO, "statelatch.runs")
    (told,) = recovered(runs_engine, spool)

    assert told == Finalized(
        run_id=handle.id,
        target=target,
        outcome=Outcome.NO_OP,
        state="cancelled",
        version=3,
        via="primary",
        error=error,
    )
    assert [
        (record.levelno, f"run {handle.id}: {target} not written" in record.message) for record in caplog.records
    ] == [(logging.INFO, True)]
    assert columns(stored(runs_engine, handle.id)) == columns(before)
    assert Spool(spool).entries() == []


def columns(run: Run) -> dict[str, Any]:
    """All that a row holds."""
    return {name: getattr(run, name) for name in Run.__table__.columns.keys()}  # noqa: SIM118  no mapping


def test_a_run_that_another_worker_holds_is_left_to_it(runs_engine: Engine, spool: Path) -> None:
    """It was given up and taken over: the word of the worker that had it is refused by the lease."""
    (handle,) = spooled(runs_engine, spool)
    with runs_engine.begin() as connection:
        connection.execute(update(Run).values(lease_owner="another", attempt=2, version=4))
    (told,) = recovered(runs_engine, spool)

    assert (told.outcome, told.state, told.version) == (Outcome.NO_OP, "running", 4)
    assert (stored(runs_engine, handle.id).status, Spool(spool).entries()) == ("running", [])


@EITHER_WAY
def test_the_oldest_comes_first(runs_engine: Engine, spool: Path) -> None:
    """They are written in the order in which they were kept, and so they are told."""
    handles = spooled(runs_engine, spool, number=5)

    assert recovered(runs_engine, spool) == [applied(handle, "completed") for handle in handles]
    with runs_engine.connect() as connection:
        in_order = connection.scalars(select(Run.id).order_by(Run.finished_at, Run.id)).all()
    assert list(in_order) == [handle.id for handle in handles]


def test_while_nothing_answers_all_stay(runs_engine: Engine, spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Told as spooled, with the reason; after the first nobody is asked for the others; later all are written."""
    handles = spooled(runs_engine, spool, number=3)
    outage = Outage(runs_engine)
    outage.begin()
    caplog.clear()
    with RunManager(runs_engine, heartbeat=NEVER, spool=spool) as manager:
        told = manager.recover()
        refused = outage.refused
        one = manager.recover()[:1]
        outage.end()

        assert [(said.run_id, said.outcome, said.state, said.via) for said in told] == [
            (handle.id, Outcome.SPOOLED, None, "spool") for handle in handles
        ]
        assert all(said.error for said in told)
        assert caplog.messages[0] == "no connection answered: 3 last words stay in the spool"
        assert (one, outage.refused) == (told[:1], 2 * refused)
        assert manager.recover() == [applied(handle, "completed") for handle in handles]


def test_a_fallback_may_take_them(runs_engine: Engine, fallback: Engine, spool: Path) -> None:
    """The primary is still away: they are written over the connection that is there."""
    (handle,) = spooled(runs_engine, spool)
    outage = Outage(runs_engine)
    outage.begin()
    told = recovered(runs_engine, spool, fallback)
    outage.end()

    assert told == [applied(handle, "completed", via="fallback 1")]


def test_a_run_that_is_not_there_stays(runs_engine: Engine, spool: Path) -> None:
    """It may be another database's: kept, with the reason; the others are written; it is when it is found."""
    first, second = spooled(runs_engine, spool, number=2)
    row = columns(stored(runs_engine, first.id))
    del row["active_key"]
    with runs_engine.begin() as connection:
        connection.execute(Run.__table__.delete().where(Run.id == first.id))  # pyright: ignore
    missing, written = recovered(runs_engine, spool)

    assert (missing.run_id, missing.outcome, missing.via) == (first.id, Outcome.SPOOLED, "spool")
    assert "no such row" in (missing.error or "")
    assert written == applied(second, "completed")
    with runs_engine.begin() as connection:
        connection.execute(insert(Run).values(row))
    assert recovered(runs_engine, spool) == [applied(first, "completed")]


def test_what_only_one_of_them_cannot_does_not_stop_the_others(runs_engine: Engine, spool: Path) -> None:
    """Its row is in a state that nobody knows: kept, with the reason; the next is written."""
    first, second = spooled(runs_engine, spool, number=2)
    with runs_engine.begin() as connection:
        connection.execute(update(Run).where(Run.id == first.id).values(status="elsewhere"))
    broken, written = recovered(runs_engine, spool)

    assert (broken.outcome, "'elsewhere'" in (broken.error or "")) == (Outcome.SPOOLED, True)
    assert written == applied(second, "completed")
    assert [word.run_id for word in Spool(spool).entries()] == [first.id]


@on("postgresql", "mariadb")
@EITHER_WAY
def test_a_row_that_somebody_holds_does_not_stop_the_others(runs_engine: Engine, spool: Path) -> None:
    """The first of them is locked: kept, with that reason; the others are written, and it is when it is free."""
    first, *others = spooled(runs_engine, spool, number=3)
    with runs_engine.connect() as holder:
        holder.execute(update(Run).where(Run.id == first.id).values(name="held"))
        with RunManager(runs_engine.url, heartbeat=NEVER, spool=spool, time_limit=1.0) as manager:
            held, *written = manager.recover()
        holder.rollback()

    assert (held.run_id, held.outcome, "did not answer" in (held.error or "")) == (first.id, Outcome.SPOOLED, True)
    assert written == [applied(handle, "completed") for handle in others]
    assert recovered(runs_engine, spool) == [applied(first, "completed")]


FOREIGN: list[dict[str, Any]] = [
    {"event": "finish"},
    {"params": {"event": "fail"}},
    {"event": "cancel", "params": {"progress_current": {}}},
]


@EITHER_WAY
@pytest.mark.parametrize("changes", FOREIGN, ids=repr)
def test_an_entry_that_cannot_be_sent_does_not_stop_the_others(
    runs_engine: Engine, spool: Path, changes: dict[str, Any]
) -> None:
    """No such event, or parameters that it cannot take: kept, with the reason; the next is written."""
    first, second = spooled(runs_engine, spool, number=2)
    kept = Spool(spool)
    words = kept.entries()
    for word in words:
        kept.remove(word)
    for word in (replace(words[0], **changes), words[1]):
        kept.append(word)
    foreign, written = recovered(runs_engine, spool)

    assert (foreign.run_id, foreign.outcome, foreign.error is not None) == (first.id, Outcome.SPOOLED, True)
    assert written == applied(second, "completed")
    assert [word.run_id for word in kept.entries()] == [first.id]


def test_a_spool_that_is_set_aside_is_reported(
    runs_engine: Engine, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged while nothing answered: nothing of it is written, a warning names the file that it is in now."""
    (handle,) = spooled(runs_engine, spool)
    spool.write_bytes(spool.read_bytes()[:5000])
    caplog.clear()

    assert recovered(runs_engine, spool) == []
    assert caplog.messages[0].endswith(f"set aside, unread, as {spool}.aside-1")
    assert stored(runs_engine, handle.id).status == "running"


def test_without_a_spool_there_is_nothing_to_recover(runs_engine: Engine) -> None:
    """No statement is sent for it."""
    traffic = Traffic(runs_engine)
    with RunManager(runs_engine, heartbeat=NEVER) as manager:
        assert manager.recover() == []

    assert (traffic.used, everything(runs_engine)) == (0, [])


# -- what no spool can be --------------------------------------------------------------------------------------------


def test_a_spool_that_cannot_be_made(runs_engine: Engine, tmp_path: Path) -> None:
    """No such folder: said with the path when the manager is made, before any run."""
    with pytest.raises(ConfigurationError, match=f"spool {tmp_path}/nowhere/spool.db: .*no such folder"):
        RunManager(runs_engine, spool=tmp_path / "nowhere" / "spool.db")


@pytest.mark.parametrize("place", ["primary", "fallback"])
def test_the_database_of_the_runs_is_no_spool(tmp_path: Path, place: str) -> None:
    """It would be set aside, so it is refused, by whatever name it is called; the file is as it was."""
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    files = [tmp_path / "primary.db", tmp_path / "fallback.db"]
    for file in files:
        file.write_bytes(b"")
    primary, other = (URL.create("sqlite", database=str(file)) for file in files)
    with pytest.raises(ConfigurationError, match="found the database of the runs"):
        RunManager(primary, fallbacks=[other], spool=tmp_path / "link" / f"{place}.db")

    assert [file.read_bytes() for file in files] == [b"", b""]
