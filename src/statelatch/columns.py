"""Declarative mixins: the columns that a transition writes.

`TransitionColumns` brings the version and the token. The state column is the user's own; `state_text`
gives it a type whose comparisons are exact on MariaDB too.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from statelatch.expressions import UTCDateTime, from_now, now

__all__ = ["TransitionColumns", "UTCDateTime", "from_now", "now", "state_text"]


def state_text(length: int) -> String:
    """A text type for state values, compared to the letter on every database, trailing blanks included.

    On MySQL, which has no such collation for older servers, trailing blanks are ignored.

    Args:
        length: in characters; at least that of the longest state value.
    """
    mysql, mariadb = (String(length, collation=name) for name in ("utf8mb4_bin", "utf8mb4_nopad_bin"))
    return String(length).with_variant(mysql, "mysql").with_variant(mariadb, "mariadb")


class TransitionColumns:
    """Mixin: `version` counts the applied transitions, `transition_token` proves who wrote the last one.

    Only statelatch writes them. Do not make `version` the mapper's `version_id_col`: a flush would count too.
    """

    version: Mapped[int] = mapped_column(default=1)
    transition_token: Mapped[UUID | None] = mapped_column(Uuid(), default=None)
