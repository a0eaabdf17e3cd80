"""PURE: tokens, the proof of who wrote a transition.

A token is a UUID made by the client. An event that may leave several states writes a variant per source:
the token with the source's number XORed into its last byte. So the row tells, after the fact and after a
lost acknowledgement too, which state was left; one statement need not read before it writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import uuid_utils.compat

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["mint", "source_number", "variants"]


def mint() -> UUID:
    """A fresh token: UUID version 7 (RFC 9562), ordered by time."""
    return uuid_utils.compat.uuid7()


def variants(token: UUID, sources: int) -> Sequence[UUID]:
    """The token as each source state writes it; the first is the token itself."""
    return [token, *(UUID(int=token.int ^ number) for number in range(1, sources))]


def source_number(token: UUID, stored: UUID | None, sources: int) -> int | None:
    """Which of the event's source states the stored token says was left; None if it is not this token."""
    if stored is None:
        return None
    number = token.int ^ stored.int
    return number if number < sources else None
