"""What `lifecycle_rules` judge: a call, what went wrong meanwhile, and its row before and after; and the error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from statelatch.errors import StatelatchError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from statelatch.testing.stored import Stored

__all__ = ["Call", "LifecycleError", "Span", "Trouble", "fail"]


class LifecycleError(StatelatchError, AssertionError):
    """An answer does not agree with the row, the log or the machine."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of `send`.

    Attributes:
        key: of the row.
        event: name of the event.
        params: its parameters.
        expected_version: as it is sent.
        token: as it is sent; None lets the adapter make one.
        compiled: it is one UPDATE, decided by the row where it is written.
        foretold: what the machine makes of it is known, because the row's columns are.
    """

    key: Any
    event: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expected_version: int | None = None
    token: UUID | None = None
    compiled: bool = True
    foretold: bool = True

    def __str__(self) -> str:
        """The call as a message has it."""
        at = "" if self.expected_version is None else f" at version {self.expected_version}"
        return f"{self.event!r} to {self.key!r}{at}"


class Span(NamedTuple):
    """A row before and after a stretch of time in which nobody but the call wrote it."""

    before: Stored
    after: Stored


class Trouble(NamedTuple):
    """What went wrong during a call.

    Attributes:
        struck: a fault fired.
        cut: it cut the connection, so that nobody knows at first whether a COMMIT has come through.
        cut_off: then a connection was asked for, and none was had.
    """

    struck: bool = False
    cut: bool = False
    cut_off: bool = False


def fail(what: object, expected: object, found: object) -> NoReturn:
    """Raise the error that says so."""
    raise LifecycleError(f"{what}: expected {expected}, found {found}")
