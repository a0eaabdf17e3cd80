"""PURE: what the processes were told, against what the database holds.

- Acknowledged is written: the row is in the state, and at the version, that was told.
- A reported failure is not written: there is no row.
- A spooled last word is written once the spool has been replayed.
- No version has a gap: it is what the row's path takes, from pending at 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Account", "Row", "account"]


@dataclass(frozen=True, slots=True)
class Row:
    """A run's row.

    Attributes:
        is_started: whether its function was ever begun.
    """

    state: str
    version: int
    is_started: bool


@dataclass
class Account:
    """How many of what, and what is wrong.

    Attributes:
        figures: how often each thing was told, or found in the database.
        wrong: a sentence for each contradiction.
    """

    figures: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])


def account(told: Iterable[Mapping[str, Any]], rows: Mapping[str, Row]) -> Account:
    """Compare.

    Args:
        told: what each run's process was told: `key`, `told`, and of an end `target`, `state`, `version` and `via`.
        rows: what the database holds, by key, after the spools have been replayed.
    """
    found = Account()
    keys: set[str] = set()
    for said in told:
        keys.add(said["key"])
        found.figures[said["told"]] += 1
        if said.get("via") not in {None, "primary", "spool"}:
            found.figures["over another connection"] += 1
        if not _is_true(said, rows.get(said["key"])):
            found.wrong.append(f"told {said}, found {rows.get(said['key'])}")
    for key, row in rows.items():
        found.figures[f"rows {row.state}" if key in keys else "rows nobody was told of"] += 1
        if row.version != _version(row):
            found.wrong.append(f"run {key}: expected version {_version(row)}, found {row}")
    return found


def _is_true(said: Mapping[str, Any], row: Row | None) -> bool:
    match said["told"]:
        case "start failed":
            return row is None
        case "start unknown":
            return row is None or row.state in {"pending", "cancelled"}
        case "applied":
            return row is not None and (row.state, row.version) == (said["target"], said["version"])
        case "no-op":
            return row is not None and (row.state, row.version) == (said["state"], said["version"])
        case "spooled":
            return row is not None and row.state == said["target"]
        case _:
            return False


def _version(row: Row) -> int:
    """How many transitions the row has behind it, from its creation at 1."""
    return {"pending": 1, "running": 2}.get(row.state, 3 if row.is_started else 2)
