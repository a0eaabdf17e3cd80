"""Lights of every kind, on which tests lose connections and acknowledgements, and a bystander's view of them.

Two things differ from kind to kind and matter here: what makes a send durable, and how many transactions come before.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from statelatch import MachineMapping, PersistenceAdapter, Transitioned
from tests.databases import pooled
from tests.lights import PATHS, Light, LightLog, light_adapter

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL, Engine

__all__ = ["KINDS", "Kind", "Lights", "commits_with", "mapping_of", "of_kind", "opened", "skipped"]

Kind = tuple[str, str, str]

LOGS: dict[str, Any] = {"no log": None, "log": LightLog}
KINDS: list[Kind] = [
    ("url", "compiled", "no log"),
    ("url", "compiled", "log"),
    ("url", "interpreted", "log"),
    ("engine", "compiled", "log"),
    ("engine", "interpreted", "no log"),
]
"""Each pair of what may differ; and what is a transaction on one database and a single statement on another."""


def of_kind(*words: str) -> pytest.MarkDecorator:
    """Only the kinds that are called so."""
    kinds = [kind for kind in KINDS if set(words) <= set(kind)]
    return pytest.mark.parametrize("kind", kinds, ids="-".join, indirect=True)


@dataclass
class Lights:
    """An adapter whose faults are provoked, and a bystander's view of the same rows."""

    sent_by: PersistenceAdapter
    seen_by: PersistenceAdapter
    hooked: list[Transitioned] = field(default_factory=list[Transitioned])

    @property
    def row(self) -> tuple[str, int]:
        """State and version of light 1."""
        snapshot = self.seen_by.load(1)
        return str(snapshot.state), snapshot.version

    @property
    def entries(self) -> list[tuple[str, int]]:
        """What the log says of it; what it must say, if there is none."""
        if self.seen_by.mapping.log is None:
            return self.path[: self.row[1]]
        return [(entry.target, entry.version) for entry in self.seen_by.history(1)]

    path: list[tuple[str, int]] = field(default_factory=lambda: [("green", 1), ("yellow", 2), ("red", 3)])


def mapping_of(path: str, log: str) -> MachineMapping:
    """Lights whose events are compiled or not, logged or not."""
    return MachineMapping(machine=PATHS[path], entity=Light, log=LOGS[log])


@contextmanager
def opened(url: URL, kind: Kind, bystander: Engine) -> Generator[Lights]:
    """Lights on this URL, of which the first is green; the adapter knows the database's time."""
    way, *rest = kind
    light_adapter(bystander)
    mapping = mapping_of(*rest)
    with pooled(url) as engine, PersistenceAdapter(url if way == "url" else engine, mapping) as adapter:
        lights = Lights(adapter, PersistenceAdapter(bystander, mapping))
        for key in (1, 2):
            lights.seen_by.create(id=key)
        adapter.send(2, "step")
        adapter.after_commit(lights.hooked.append)
        yield lights


def commits_with(lights: Lights) -> str:
    """The statement that makes a send durable: the UPDATE itself in AUTOCOMMIT, unless the log makes a transaction."""
    sending = lights.sent_by.lines.engine
    by_url = sending.dialect.name == "postgresql" or lights.sent_by.mapping.log is None
    return "UPDATE" if by_url and sending is not lights.sent_by.engine else "COMMIT"


def skipped(lights: Lights) -> int:
    """How many COMMITs pass before that of the write: an interpreted event reads in a transaction of its own."""
    reads = not lights.sent_by.explain("step").compiled and lights.sent_by.lines.engine is lights.sent_by.engine
    return int(reads)
