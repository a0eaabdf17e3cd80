"""The scenes of the demo: one way each in which a run can end, what came of it, and what should have.

A scene starts a run on real work, follows it to its end, and reads from the database, over a connection that had
no part in it, what is held there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from statelatch.cli.demo.files import Files, hash_files
from statelatch.cli.demo.stage import Stage
from statelatch.errors import ActiveRunExistsError
from statelatch.runs import Finalized, Outcome, RunHandle, current_run

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["SCENES", "Follow", "Scene", "Told", "faults"]

PATIENCE = 10.0
OTHER_PROCESS = "another process"
CANCEL_AFTER = 0.3
"""Seconds of work before the run is cancelled."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a scene came out.

    Attributes:
        state: of the run, as the database holds it.
        version: of the run's row.
        outcome: what became of its last word.
        via: which connection wrote it.
        holder: the run that holds the key, where that is why nothing was written.
    """

    state: str
    version: int | None
    outcome: str
    via: str | None
    holder: UUID | None = field(default=None, compare=False)


Follow = Callable[[RunHandle], Finalized]
"""Shows a run's progress until it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One way in which a run can end.

    Attributes:
        title: what is tried.
        play: tries it.
        expected: how it has to come out.
    """

    title: str
    play: Callable[[Stage, Files, Follow], Told]
    expected: Told


def _success(stage: Stage, files: Files, follow: Follow) -> Told:
    return _told(stage, follow(stage.manager.start(lambda: hash_files(files), name="success")))


def _failure(stage: Stage, files: Files, follow: Follow) -> Told:
    missing = stage.link / "a file that is not there"

    def work() -> bytes:
        hash_files(files)
        return missing.read_bytes()

    return _told(stage, follow(stage.manager.start(work, name="failure")))


def _cancel(stage: Stage, files: Files, follow: Follow) -> Told:
    def work() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            hash_files(files)
            current_run().raise_if_cancelled()

    handle = stage.manager.start(work, name="cancel")
    threading.Timer(CANCEL_AFTER, handle.cancel).start()
    return _told(stage, follow(handle))


def _cancel_wins(stage: Stage, files: Files, follow: Follow) -> Told:
    """The other process cancels by force while the function runs; what the function returns comes too late."""

    def work() -> dict[str, object]:
        result = hash_files(files)
        forced.append(stage.other.cancel(current_run().id, force=True).written)
        return result

    forced: list[bool] = []
    said = follow(stage.manager.start(work, name="cancel wins"))
    return _told(stage, said, via=OTHER_PROCESS if forced == [True] else None)


def _connection_lost(stage: Stage, files: Files, follow: Follow) -> Told:
    """The function's last act cuts the primary off, so that the last word cannot be written over it."""

    def work() -> dict[str, object]:
        result = hash_files(files)
        stage.cut_primary_off()
        return result

    said = follow(stage.manager.start(work, name="connection lost"))
    stage.restore_primary()
    return _told(stage, said)


def _busy_key(stage: Stage, files: Files, follow: Follow) -> Told:
    """A run holds the key until the second start of it has been tried."""

    def work() -> dict[str, object]:
        result = hash_files(files)
        tried.wait(PATIENCE)
        return result

    tried = threading.Event()
    handle = stage.manager.start(work, name="busy key", key="demo")
    refused = _second_start(stage, handle.id)
    tried.set()
    follow(handle)
    return refused


def _second_start(stage: Stage, holder: UUID) -> Told:
    try:
        second = stage.other.start(time.sleep, 0, key="demo", name="second start")
    except ActiveRunExistsError as busy:
        started = len(stage.other.runs(key="demo")) != 1
        outcome = "refused" if busy.run_id == holder and not started else f"refused for {busy.run_id}"
        return Told("not started", None, outcome, None, holder=busy.run_id)
    return _told(stage, second.wait())


def _told(stage: Stage, said: Finalized, *, via: str | None = None) -> Told:
    held = stage.other.get(said.run_id)
    return Told(held.status, held.version, said.outcome.value, via or said.via)


APPLIED, NO_OP = Outcome.APPLIED.value, Outcome.NO_OP.value

SCENES = (
    Scene(title="success", play=_success, expected=Told("completed", 3, APPLIED, "primary")),
    Scene(title="failure", play=_failure, expected=Told("failed", 3, APPLIED, "primary")),
    Scene(title="cancel", play=_cancel, expected=Told("cancelled", 3, APPLIED, "primary")),
    Scene(
        title="cancel beats completion",
        play=_cancel_wins,
        expected=Told("cancelled", 3, NO_OP, OTHER_PROCESS),
    ),
    Scene(
        title="connection lost at the end",
        play=_connection_lost,
        expected=Told("completed", 3, APPLIED, "fallback 1"),
    ),
    Scene(title="second start on a busy key", play=_busy_key, expected=Told("not started", None, "refused", None)),
)


def faults(told: Sequence[Told], count: int, *, counts: bool) -> list[str]:
    """What is wrong, in words; empty if nothing is.

    Args:
        told: how each scene came out.
        count: how many terminal states were overwritten.
        counts: whether the counter that says so works.
    """
    wrong = [
        f"{scene.title}: expected {scene.expected}, found {came}"
        for scene, came in zip(SCENES, told, strict=True)
        if came != scene.expected
    ]
    if count:
        wrong.append(f"{count} terminal states were overwritten")
    if not counts:
        wrong.append("the counter of overwritten states does not count")
    return wrong
