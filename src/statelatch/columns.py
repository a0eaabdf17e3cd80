"""Declarative mixins: the columns that a transition writes.

`TransitionColumns` brings the version and the token. The state column is the user's own; `state_text`
gives it a type whose comparisons are exact on MariaDB too. `TransitionLogColumns` brings what a log needs
besides the key.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from statelatch.expressions import UTCDateTime, from_now, now

__all__ = ["TransitionColumns", "TransitionLogColumns", "UTCDateTime", "from_now", "now", "state_text"]


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


class TransitionLogColumns:
    """Mixin of the append-only log: one entry for each version of a row.

    Add `key`, of the type of the logged entity's primary key. Together with `version` it is the log's primary key, in
    this order, so that a row's history is read by its index:

        class OrderLog(TransitionLogColumns, Base):
            __tablename__ = "order_log"
            key: Mapped[int] = mapped_column(primary_key=True)

        MachineMapping(machine=OrderMachine, entity=Order, log=OrderLog)

    If the entity's primary key has several columns, add an attribute of the same name and type for each of them. Where
    states are integers or members of an Enum, declare both `source` and `target` anew, with a `mapped_column` like the
    state's (an annotation alone would not replace the mixin's). With a foreign key on `key`, no history outlives its
    row. Only statelatch writes a log; other columns of yours need a `server_default`, or are NULL.
    """

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event: Mapped[str | None] = mapped_column(state_text(255))
    source: Mapped[Any] = mapped_column(state_text(255), nullable=True)
    target: Mapped[Any] = mapped_column(state_text(255), nullable=False)
    token: Mapped[UUID] = mapped_column(Uuid())
    at: Mapped[datetime] = mapped_column(UTCDateTime())
    actor: Mapped[str | None] = mapped_column(String(255))
    data: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
