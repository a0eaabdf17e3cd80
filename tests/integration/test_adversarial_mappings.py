"""Tables and mappings that make a fast path lie, found in review: triggers, values of other types, defaults, CTEs."""

from collections.abc import Generator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import wraps
from typing import Any

import pytest
from sqlalchemy import (
    URL,
    BigInteger,
    DateTime,
    Enum,
    ForeignKey,
    String,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool
from statemachine import State, StateMachine

from statelatch import ConfigurationError, MachineMapping, PersistenceAdapter, RequestError
from statelatch.columns import TransitionColumns, TransitionLogColumns, UTCDateTime, state_text
from tests.databases import on, pooled


class Base(DeclarativeBase):
    """Base of the entities here."""


class Item(TransitionColumns, Base):
    """Guards over columns of every kind that an event's parameter may be compared with."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    weight: Mapped[int | None] = mapped_column(default=2)
    ratio: Mapped[float | None] = mapped_column(default=2.0)
    title: Mapped[str | None] = mapped_column(String(20), default="5")
    day: Mapped[date | None] = mapped_column(default=date(2026, 1, 1))
    due: Mapped[datetime | None] = mapped_column(UTCDateTime(), default=datetime(2026, 1, 1, tzinfo=UTC))
    zoned: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @hybrid_method
    def at_least(self, x: Any) -> bool:
        """An integer and a parameter."""
        return self.weight >= x  # pyright: ignore

    @hybrid_method
    def exactly(self, x: Any) -> bool:
        """The same."""
        return self.weight == x

    @hybrid_method
    def rated(self, x: Any) -> bool:
        """A float and a parameter."""
        return self.ratio == x

    @hybrid_method
    def titled(self, x: Any) -> bool:
        """Text and a parameter."""
        return self.title == x

    @hybrid_method
    def on_day(self, x: Any) -> bool:
        """A date and a parameter."""
        return self.day == x

    @hybrid_method
    def due_at(self, x: Any) -> bool:
        """An instant and a parameter."""
        return self.due == x

    @hybrid_method
    def zoned_before(self, x: Any) -> bool:
        """A time whose zone SQLite and MariaDB drop."""
        return self.zoned < x  # pyright: ignore

    @hybrid_method
    def by_default(self, x: float = 2.5) -> bool:
        """A default that no integer is."""
        return self.weight >= x  # pyright: ignore


def flow(guard: Any) -> type[StateMachine]:
    """A machine of one guarded event, which comes back to where it began."""

    class Flow(StateMachine):
        a = State(initial=True)
        b = State()
        c = State()
        go = a.to(b, cond=guard) | b.to(c) | c.to(a)

    return Flow


def adapter_of(url: URL, guard: str, **settings: Any) -> PersistenceAdapter:
    """An adapter by URL; its tables are made."""
    with pooled(url) as engine:
        Base.metadata.create_all(engine)
    return PersistenceAdapter(url, MachineMapping(machine=flow(guard), entity=Item, **settings))


# -- values of other kinds ---------------------------------------------------------------------------------


OTHER_KINDS: dict[str, list[Any]] = {
    "at_least": [2.5, True, "1", Decimal("2.4"), 2**63, date(2026, 1, 1)],
    "exactly": [2.0, "2", Decimal(2)],
    "rated": ["2", float("nan"), float("inf"), 2**53 + 1],
    "titled": [5, b"5", "\x00"],
    "on_day": ["2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)],
    "due_at": ["2026-01-01", date(2026, 1, 1)],
}
CASES = [(guard, value) for guard, values in OTHER_KINDS.items() for value in values]


@pytest.mark.parametrize(("guard", "value"), CASES, ids=repr)
def test_a_parameter_of_another_kind(database_url: URL, guard: str, value: object) -> None:
    """What the database would make a value of the column's own kind of, is refused before anything is sent."""
    with adapter_of(database_url, guard) as adapter:
        key = adapter.create(id=1).key
        assert adapter.explain("go").compiled

        with pytest.raises(RequestError, match="'x'"):
            adapter.send(key, "go", x=value)
        with pytest.raises(RequestError, match="'x'"):
            adapter.send_where("go", x=value)

        assert adapter.load(key).version == 1


SAME_KINDS: dict[str, list[tuple[Any, bool]]] = {
    "at_least": [(2, True), (3, False), (-(2**40), True), (2**40, False), (None, False)],
    "rated": [(2.0, True), (2, True), (2.5, False)],
    "titled": [("5", True), ("6", False), (None, False)],
    "on_day": [(date(2026, 1, 1), True)],
    "due_at": [(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(0), True), (datetime(2026, 1, 2, tzinfo=UTC), False)],
}


@pytest.mark.parametrize("guard", SAME_KINDS)
def test_a_parameter_of_the_same_kind(database_url: URL, guard: str) -> None:
    """It is compared as Python does, whatever the width of the column."""
    with adapter_of(database_url, guard) as adapter:
        for key, (value, moves) in enumerate(SAME_KINDS[guard], start=1):
            adapter.create(id=key)
            moved = adapter.send_where("go", Item.id == key, x=value).count
            assert (value, moved) == (value, int(moves))


@on("sqlite")
@pytest.mark.parametrize("guard", ["zoned_before", "by_default"])
def test_what_no_parameter_can_say_needs_python(database_url: URL, guard: str) -> None:
    """A time without a zone of its own, and a default of another kind, are compared in Python."""
    with adapter_of(database_url, guard) as adapter:
        assert not adapter.explain("go").compiled


# -- hybrids and expressions -------------------------------------------------------------------------------


def negated(function: Any) -> Any:
    """The opposite."""

    @wraps(function)
    def opposite(self: Any) -> bool:
        return not function(self)

    return opposite


class Decorated(TransitionColumns, Base):
    """A hybrid that is not what its source says."""

    __tablename__ = "decorated"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    closed: Mapped[bool | None]

    @hybrid_property
    @negated
    def ok(self) -> bool:
        """Decorated."""
        return self.closed is None


@on("sqlite")
def test_a_decorated_hybrid_needs_python(database_url: URL) -> None:
    """Its source is not what it does."""
    with pooled(database_url) as engine:
        Base.metadata.create_all(engine)
        adapter = PersistenceAdapter(engine, MachineMapping(machine=flow("ok"), entity=Decorated))
        key = adapter.create(closed=True).key

        assert adapter.explain("go").reasons == ("hybrid 'ok' is decorated; give it an SQL half with .expression",)
        assert adapter.send(key, "go").target == "b"


def with_cte() -> Any:
    """The ids of a CTE."""
    return select(select(Item.id).cte("some").c.id)


@pytest.mark.parametrize("where", ["guards", "assigns"])
def test_no_cte_in_a_mapping(where: str) -> None:
    """An UPDATE that begins with WITH is not everywhere one transaction, nor counted: the mapping is refused."""
    machine = flow("twin")
    machine.twin = lambda self: True  # pyright: ignore
    settings: dict[str, Any] = {
        "guards": {"guards": {"twin": Item.id.in_(with_cte())}},
        "assigns": {"guards": {"twin": Item.id > 0}, "assigns": {"go": {"weight": with_cte().scalar_subquery()}}},
    }[where]

    with pytest.raises(ConfigurationError, match="CTE"):
        MachineMapping(machine=machine, entity=Item, **settings)


@on("sqlite")
@pytest.mark.parametrize("criterion", [select(Item.id), Item.weight, Item.weight + 1, Item.id.in_(with_cte())], ids=str)
def test_criteria_that_are_no_conditions(database_url: URL, criterion: Any) -> None:
    """Neither a query, nor a number, nor a CTE narrows an UPDATE on every database: refused, nothing is written."""
    with adapter_of(database_url, "weight == 2") as adapter:
        adapter.create(id=1)

        with pytest.raises(RequestError, match="nothing was written"):
            adapter.send_where("go", criterion)

        assert adapter.load(1).version == 1


# -- triggers ------------------------------------------------------------------------------------------------


@on("mariadb")
@pytest.mark.parametrize("path", ["compiled", "expected", "interpreted"])
def test_a_trigger_that_hides_the_outcome(database_url: URL, path: str) -> None:
    """A trigger takes LAST_INSERT_ID away: the outcome is found all the same, and from then on asked for."""
    with adapter_of(database_url, "weight == 2") as adapter:
        if path == "interpreted":

            class Watched(adapter.mapping.machine):  # pyright: ignore
                def after_transition(self) -> None: ...

            adapter = PersistenceAdapter(database_url, MachineMapping(machine=Watched, entity=Item))  # noqa: PLW2901
        adapter.create(id=1)
        adapter.send(1, "go")  # now the adapter knows the database's time
        with adapter.engine.begin() as connection:
            connection.execute(text("CREATE TRIGGER look BEFORE UPDATE ON items FOR EACH ROW SET NEW.title = 'seen'"))
        before = adapter.load(1)

        done = [
            adapter.send(1, "go", expected_version=version if path == "expected" else None) for version in range(2, 5)
        ]

        assert [(each.source, each.target, each.version) for each in done] == [
            ("b", "c", 3),
            ("c", "a", 4),
            ("a", "b", 5),
        ]
        assert before.version == 2
        assert all(abs((each.at - datetime.now(UTC)).total_seconds()) < 60 for each in done)
        assert adapter.load(1).values["transition_token"] == done[-1].token
        adapter.close()


# -- create --------------------------------------------------------------------------------------------------


class Colour(TransitionColumns, Base):
    """A row with a default that its type does not know."""

    __tablename__ = "colours"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    colour: Mapped[str] = mapped_column(Enum("red", name="colour", native_enum=False, length=8), server_default="blue")


def test_what_cannot_be_read_is_not_created(database_url: URL) -> None:
    """The new row is read before COMMIT: an answer that its types refuse leaves no row."""
    with pooled(database_url) as engine:
        Base.metadata.create_all(engine)
        mapping = MachineMapping(machine=flow("In('a')"), entity=Colour)
        with PersistenceAdapter(database_url, mapping) as adapter, pytest.raises(LookupError):
            adapter.create(id=1)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM colours")) == 0


class OnSQLite(DeclarativeBase):
    """Base of what only SQLite can have."""


class Numbered(TransitionColumns, OnSQLite):
    """A key that the server makes, and does not count."""

    __tablename__ = "numbered"

    id: Mapped[int] = mapped_column(BigInteger(), primary_key=True, server_default=text("(abs(random() % 1000000))"))
    state: Mapped[str] = mapped_column(state_text(8))


class NumberedLog(TransitionLogColumns, OnSQLite):
    """Its log."""

    __tablename__ = "numbered_log"

    key: Mapped[int] = mapped_column(BigInteger(), primary_key=True)


@on("sqlite")
def test_a_key_that_the_server_makes(database_url: URL) -> None:
    """The first entry of the log is the new row's, although no counter tells its key."""
    with pooled(database_url) as engine:
        OnSQLite.metadata.create_all(engine)
        mapping = MachineMapping(machine=flow("In('a')"), entity=Numbered, log=NumberedLog)
        with PersistenceAdapter(database_url, mapping) as adapter:
            key = adapter.create().key
            adapter.send(key, "go")

            assert [(entry.version, entry.target) for entry in adapter.history(key)] == [(1, "a"), (2, "b")]


# -- COMMIT ---------------------------------------------------------------------------------------------------


class Child(TransitionColumns, OnSQLite):
    """A row whose reference is checked at COMMIT."""

    __tablename__ = "children"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    item: Mapped[int | None] = mapped_column(ForeignKey("numbered.id", deferrable=True, initially="DEFERRED"))


@pytest.fixture(params=[False, True], ids=["cursor", "core"])
def in_memory(request: pytest.FixtureRequest) -> Generator[PersistenceAdapter]:
    """A database in memory, on the one connection of its pool."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    event.listen(engine, "connect", _check_references)
    OnSQLite.metadata.create_all(engine)
    adapter = PersistenceAdapter(
        engine, MachineMapping(machine=flow("In('a')"), entity=Child, assigns={"b": {"item": 99}})
    )
    adapter.create(id=1)
    if request.param:
        event.listen(engine, "before_cursor_execute", _look_on)
    yield adapter
    engine.dispose()


def _check_references(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")


def _look_on(*_: object) -> None:
    """Listen."""


def test_a_commit_that_is_refused(in_memory: PersistenceAdapter) -> None:
    """It is rolled back on the connection that it came over: with that, a database in memory would be gone."""
    with pytest.raises(IntegrityError):
        in_memory.send(1, "go")

    assert (in_memory.load(1).state, in_memory.load(1).version) == ("a", 1)
