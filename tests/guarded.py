"""The rows that random guards are tried on, and the Python guards whose SQL twins are tried with them.

The rows' values are nearer to one another than in life: what is equal, nearly equal, NULL, falsy, or differs by
case, accent or a trailing blank is there on purpose. On MariaDB text has a collation that folds letters.
"""

from __future__ import annotations

import enum
import random
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import BigInteger, Double, Enum, Float, String, Text, bindparam, func, insert, or_, select
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import StateMachine

from statelatch.columns import TransitionColumns, UTCDateTime, state_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Engine

__all__ = ["EXTREMES", "TWINS", "VALUES", "Base", "Guarded", "Judging", "insert_rows", "is_small", "read_rows"]

LIMIT = 2


class Kind(enum.Enum):
    """An Enum with a falsy member, which compares with nothing else."""

    PLAIN = "plain"
    ODD = ""

    def __bool__(self) -> bool:
        """Whether it is plain."""
        return bool(self.value)


class Tone(enum.StrEnum):
    """Members that are text; the database keeps their names."""

    LOUD = "a"
    SOFT = "b"
    MUTE = ""


class Rank(enum.IntEnum):
    """Members that are numbers."""

    LOW = 0
    HIGH = 2


FOLDING = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {"charset": "utf8mb4", "collate": "utf8mb4_general_ci"}.items()
}


class Base(DeclarativeBase):
    """Base of the entity here."""


class Guarded(TransitionColumns, Base):
    """A row with columns of each kind that guards may compare, all of them nullable."""

    __tablename__ = "statelatch_guarded"
    __table_args__ = FOLDING

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    entered: Mapped[str | None] = mapped_column(String(8))
    flag: Mapped[bool | None]
    other_flag: Mapped[bool | None]
    count: Mapped[int | None]
    size: Mapped[int | None]
    big: Mapped[int | None] = mapped_column(BigInteger())
    score: Mapped[float | None] = mapped_column(Float(24))  # single precision
    ratio: Mapped[float | None] = mapped_column(Double())
    title: Mapped[str | None] = mapped_column(String(40))
    label: Mapped[str | None] = mapped_column(Text())
    kind: Mapped[Kind | None] = mapped_column(Enum(Kind))
    tone: Mapped[Tone | None] = mapped_column(Enum(Tone))
    rank: Mapped[Rank | None] = mapped_column(Enum(Rank))
    word: Mapped[str | None] = mapped_column(Enum("yes", "no", "", name="word"))
    at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    due: Mapped[datetime | None] = mapped_column(UTCDateTime())
    local: Mapped[datetime | None]
    day: Mapped[date | None]
    holiday: Mapped[date | None]
    reference: Mapped[UUID | None]
    origin: Mapped[UUID | None]
    v: Mapped[bool | None]

    @hybrid_property
    def large(self) -> bool | None:
        """NULL in SQL where it is None in Python."""
        return None if self.count is None else self.count > LIMIT

    @large.inplace.expression
    @classmethod
    def _large(cls) -> ColumnElement[bool]:
        return cls.count > LIMIT

    @hybrid_property
    def busy(self) -> bool | None:
        """A Python half alone, of which SQLAlchemy would keep the last term."""
        return self.flag and self.count is not None and (self.count > 2 or not self.other_flag)

    @hybrid_property
    def idle(self) -> bool:
        """A Python half that asks another."""
        return not self.busy or self.size == self.count

    @hybrid_property
    def balanced(self) -> bool:
        """A Python half that compares a comparison."""
        return (self.count > 1) == self.flag  # pyright: ignore

    @hybrid_method
    def exceeds(self, least: int) -> bool:
        """A Python half with a parameter, which raises where the row has no size."""
        return self.size > least or self.title == "a"  # pyright: ignore

    @hybrid_method
    def at_least(self, least: int, slack: int = 1) -> bool:
        """A guard with a parameter, and one with a default."""
        return self.size is not None and self.size >= least - slack

    @at_least.inplace.expression
    @classmethod
    def _at_least(cls, least: Any, slack: Any = 1) -> ColumnElement[bool]:
        return cls.size >= least - slack

    def is_light(self) -> bool:
        """A method of the entity's."""
        return self.size is None or self.size < 2

    @property
    def first(self) -> str | None:
        """A property of the entity's, which is a value."""
        return self.title if self.label is None else self.label

    def is_settled(self) -> bool:
        """A guard that the machine has, too."""
        return self.at is not None


class Judging(StateMachine):
    """A machine without states, for its guards."""

    def is_heavy(self, model: Guarded) -> bool:
        """A method of the machine's."""
        return model.count is not None and model.count > 2

    def is_over(self, model: Guarded, least: int) -> bool:
        """A guard that takes a parameter of the event's."""
        return model.size is not None and model.size > least

    def is_settled(self, model: Guarded) -> bool:
        """A guard that the entity has, too: both must hold."""
        return model.day is not None

    @property
    def amount(self) -> int | None:
        """A property of the machine's, which is a value."""
        return cast("Guarded", self.model).count  # pyright: ignore[reportUnknownMemberType]


def is_small(model: Guarded) -> bool:
    """A guard that is no name at all, but a function."""
    return model.size in {0, 1}


TWINS: dict[str, ColumnElement[Any]] = {
    "is_heavy": Guarded.count > 2,
    "is_over": Guarded.size > bindparam("least"),
    "is_settled": Guarded.day.is_not(None) & Guarded.at.is_not(None),
    "amount": Guarded.count.__clause_element__(),
    "is_light": or_(Guarded.size.is_(None), Guarded.size < 2),
    "first": func.coalesce(Guarded.label, Guarded.title),
    "is_small": Guarded.size.in_([0, 1]),
}
"""The same conditions and values, written in SQL by hand; they may be NULL where Python says False or None."""

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXTS = ["", " ", "a", "A", "a ", "á", "ab", "ss", "ß", "Z", "z", "100%", "a_b", "\\", "'", "\U0001f600", "\uffff", "v"]
NUMBERS = [-1, 0, 1, 2, 3, 2**31 - 1]
FLOATS = [-1.0, -0.0, 0.0, 0.1, 1 / 3, 1.0, 2.0, 2.5, 16777217.0]
MOMENTS = [NOON, NOON + timedelta(microseconds=1), NOON + timedelta(hours=1)]
DAYS = [date(2026, 3, 1), date(2026, 3, 2)]
IDS = [UUID(int=1), UUID(int=1 << 127), UUID("00000000-0000-7000-8000-000000000001")]

VALUES: dict[str, list[Any]] = {
    "flag": [True, False],
    "other_flag": [True, False],
    "count": NUMBERS,
    "size": NUMBERS,
    "big": [0, 1, 2**53, 2**53 + 1, -(2**63)],
    "score": FLOATS,
    "ratio": FLOATS,
    "title": TEXTS,
    "label": TEXTS,
    "kind": list(Kind),
    "tone": list(Tone),
    "rank": list(Rank),
    "word": ["yes", "no", ""],
    "at": MOMENTS,
    "due": MOMENTS,
    "local": [NOON.replace(tzinfo=None)],
    "day": DAYS,
    "holiday": DAYS,
    "reference": IDS,
    "origin": IDS,
    "v": [True, False],
}

_INFINITE, _NAN = [float("inf"), float("-inf")], [float("nan")]
EXTREMES: dict[str, dict[str, list[Any]]] = {
    "sqlite": {"title": ["\x00", "\x00a"], "score": _INFINITE, "ratio": _INFINITE},
    "postgresql": {"score": [*_NAN, *_INFINITE], "ratio": [*_NAN, *_INFINITE]},
    "mariadb": {},
}
"""Further values by column, which not every database has."""


def insert_rows(engine: Engine, count: int) -> None:
    """Create the table and fill it; each value occurs, and NULL, and the first three states."""
    draw = random.Random(20260301)
    extremes = EXTREMES["mariadb" if engine.dialect.name == "mysql" else engine.dialect.name]
    options = {name: [None, *values, *extremes.get(name, [])] for name, values in VALUES.items()}
    options["state"] = ["a", "a", "a", "b", "c"]
    rows: list[dict[str, Any]] = []
    for number in range(count):
        first = number < max(map(len, options.values()))
        row = {name: each[number % len(each)] if first else draw.choice(each) for name, each in options.items()}
        rows.append({"id": number + 1, **row})
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Guarded), rows)


def read_rows(engine: Engine) -> list[Mapping[str, Any]]:
    """The rows as Python reads them, by key."""
    columns = [column.label(name) for name, column in Guarded.__mapper__.columns.items()]
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(*columns).order_by(Guarded.id)).mappings()]
