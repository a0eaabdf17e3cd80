"""PURE: what the arguments of a `RunManager` must be. Whatever cannot work is refused before any statement."""

from __future__ import annotations

import inspect
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from statelatch.errors import RequestError
from statelatch.runs.model import KEY_LENGTH

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["beats", "check_executor", "check_limit", "check_start", "check_text", "check_time_limit", "name_of"]

LONGEST_LEASE = 10 * 366 * 24 * 60 * 60
"""Seconds, ten years: what every database can add to its clock, and every thread can wait."""

MOST_ATTEMPTS = 2**31 - 1
MOST_ROWS = 2**63 - 1


def beats(lease: object, heartbeat: object) -> float:
    """Seconds between two heartbeats.

    Args:
        lease: seconds.
        heartbeat: seconds; None is a third of the lease, at most one second.

    Raises:
        RequestError: no such lease or heartbeat.
    """
    expected = f"expected 0 < heartbeat < lease <= {LONGEST_LEASE} s"
    if not _is_seconds(lease) or not (heartbeat is None or _is_seconds(heartbeat)):
        raise RequestError(f"{expected}, found heartbeat {heartbeat!r} and lease {lease!r}")
    interval = min(lease / 3, 1.0) if heartbeat is None else heartbeat
    if not 0 < interval < lease <= LONGEST_LEASE:
        raise RequestError(f"{expected}, found heartbeat {interval} and lease {lease}")
    return interval


def check_time_limit(seconds: object) -> None:
    """Refuse a time limit that is none.

    Raises:
        RequestError: not above 0, endless, or no number.
    """
    if not (_is_seconds(seconds) and 0 < seconds <= LONGEST_LEASE):
        raise RequestError(f"time_limit: expected 0 < seconds <= {LONGEST_LEASE}, found {seconds!r}")


def check_executor(executor: Executor) -> None:
    """Refuse processes: a run's function needs its manager, its hooks and its database where it runs.

    Raises:
        RequestError: a `ProcessPoolExecutor`.
    """
    from concurrent.futures import ProcessPoolExecutor  # brings in multiprocessing, which few need

    if isinstance(executor, ProcessPoolExecutor):
        raise RequestError(
            "executor: a run is called and written in a thread of this process, and a ProcessPoolExecutor has none; "
            "use threads, and start the process inside the function"
        )


def check_start(function: object, key: object, name: object, max_attempts: object) -> None:
    """Refuse what `RunManager.start` could not carry out.

    Raises:
        RequestError: it says which argument, what was expected and what was found.
    """
    _check_function(function)
    for label, text in (("key", key), ("name", name)):
        if text is not None:
            length = len(check_text(label, text))
            if not 0 < length <= KEY_LENGTH:
                raise RequestError(
                    f"{label}: expected 1 to {KEY_LENGTH} characters, found {length}; nothing was written"
                )
    if not _is_whole(max_attempts) or not 1 <= max_attempts <= MOST_ATTEMPTS:
        raise RequestError(f"max_attempts: expected 1 to {MOST_ATTEMPTS}, found {max_attempts!r}; nothing was written")


def _check_function(function: object) -> None:
    name = name_of(function)
    if not callable(function):
        raise RequestError(f"function: expected something to call, found {function!r}; nothing was written")
    for code in (function, _by_call(function)):
        if inspect.iscoroutinefunction(code):
            raise RequestError(f"{name}: a coroutine function does not run in a thread; pass a function that runs it")
        if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise RequestError(f"{name}: a generator function does not run when it is called; pass one that iterates")


def _by_call(function: object) -> object:
    """What runs when an object is called that is no function."""
    called: object = cast("Any", function).func if isinstance(function, partial) else function
    return getattr(type(called), "__call__", None)  # noqa: B004  not whether it can be called, but its code


def check_text(label: str, text: object) -> str:
    """The text, if every database holds it.

    Raises:
        RequestError: no `str`, or one with a NUL or half a surrogate pair.
    """
    if not isinstance(text, str):
        raise RequestError(f"{label}: expected text, found {text!r}")
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(f"{label}: expected text that every database holds, found {text!r}; nothing was written")
    return text


def check_limit(limit: object) -> None:
    """Refuse a number of rows that no database can return.

    Raises:
        RequestError: below 0, too large, or no integer.
    """
    if limit is not None and not (_is_whole(limit) and 0 <= limit <= MOST_ROWS):
        raise RequestError(f"limit: expected at least 0 rows, found {limit!r}")


def name_of(function: object) -> str:
    """What a function is called, as far as a run's name has room."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))[:KEY_LENGTH]


def _is_whole(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


def _is_seconds(number: object) -> TypeGuard[float]:
    return isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number)
