"""PURE: do a row's log, and the times that are told, say what has become of it, and when?"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from statelatch.log import NAMES
from statelatch.testing.calls import Call, Span, fail
from statelatch.testing.stored import same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from statelatch.records import LogEntry
    from statelatch.testing.stored import Stored

__all__ = ["check_entry", "check_history", "check_log", "check_moment"]

BLUR = timedelta(seconds=1)
"""Databases keep milliseconds, or seconds; and a time that was not told is reckoned."""


def check_log(row: Stored) -> None:
    """A log has one entry for each version, in which the last is the row.

    Raises:
        LifecycleError: a gap, a duplicate, or an entry that says something else than the row.
    """
    if row.log is None:
        return
    what = f"the log of {row.key!r}"
    versions = [entry["version"] for entry in row.log]
    if versions != list(range(1, row.version + 1)):
        fail(what, f"an entry for each version up to {row.version}", versions)
    if len({entry["token"] for entry in row.log}) != len(row.log):
        fail(what, "a token for each entry", [str(entry["token"]) for entry in row.log])
    first, last = row.log[0], row.log[-1]
    if any(first[name] is not None for name in ("event", "source", "actor", "data")):
        fail(what, "no event and no source of its creation", dict(first))
    for earlier, later in zip(row.log, row.log[1:], strict=False):
        if earlier["target"] != later["source"]:
            fail(what, f"{earlier['target']!r} left at version {later['version']}", later["source"])
    if (last["target"], last["token"]) != (row.state, row.token):
        fail(what, f"the row, {(row.state, row.token)}", (last["target"], last["token"]))


def check_entry(call: Call, span: Span) -> None:
    """The last entry of a log is that of the call which has written it.

    Raises:
        LifecycleError: it tells another event, actor, data or time, or the state that was left is another.
    """
    before, after = span
    if not after.log:
        return
    entry = after.log[-1]
    what = f"the log's entry of {call}"
    wanted = {"event": call.event, "source": before.state, "actor": call.params.get("actor")}
    for name, value in {**wanted, "data": _through_json(call.params.get("data"))}.items():
        if not same(entry[name], value):
            fail(what, f"the {name} {value!r}", repr(entry[name]))
    check_moment(what, entry["at"], span)


def check_history(row: Stored, told: Sequence[LogEntry]) -> None:
    """What `history` tells is the log.

    Raises:
        LifecycleError: it is not.
    """
    found: list[Mapping[str, Any]] = [{name: getattr(entry, name) for name in NAMES} for entry in told]
    log = [{name: entry[name] for name in NAMES} for entry in row.log or ()]
    if not same(found, log) or any(entry.key != row.key for entry in told):
        fail(f"the history of {row.key!r}", log, told)


def check_moment(what: str, at: object, span: Span) -> None:
    """It lies within the span.

    Raises:
        LifecycleError: it does not, or says no zone.
    """
    begun, ended = span.before.read_at, span.after.read_at
    if not isinstance(at, datetime) or at.tzinfo is None:
        fail(what, "an aware time", repr(at))
    if begun is not None and ended is not None and not begun - BLUR <= at <= ended + BLUR:
        fail(what, f"a time from {begun} to {ended}", at)


def _through_json(value: object) -> object:
    """As it comes back: tuples have become lists."""
    return json.loads(json.dumps(value))
