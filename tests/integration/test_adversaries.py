"""What a careless reader of the rules would get wrong: each of these once gave a wrong answer."""

import enum
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from sqlalchemy import Engine, Enum, String, create_engine, event, text
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateChart, StateMachine

from statelatch import (
    ConnectionFailureError,
    MachineMapping,
    PersistenceAdapter,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.columns import TransitionColumns, state_text
from statelatch.errors import Phase
from statelatch.faults import Contention
from tests.databases import on


class Base(DeclarativeBase):
    """Base of the entities here."""


class Task(TransitionColumns, Base):
    """A row with guards of each kind."""

    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))
    approved: Mapped[bool] = mapped_column(default=False)
    amount: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(state_text(20))

    @hybrid_property
    def worthwhile(self) -> bool:
        """A Python half of which SQLAlchemy alone would lose the first term."""
        return self.approved and self.amount is not None and self.amount > 3

    @hybrid_method
    def noted_by(self, who: str | None) -> bool:
        """True of nobody's note and nobody, which SQL alone would not say."""
        return self.note == who


def adapter_of(engine: Engine, machine: type[StateChart[Any]], **mapping: Any) -> PersistenceAdapter:
    """An adapter for tasks of this machine, its table made."""
    Base.metadata.create_all(engine, tables=[Task.__table__])  # pyright: ignore[reportArgumentType]
    return PersistenceAdapter(engine, MachineMapping(machine=machine, entity=Task, **mapping))


class Judged(StateMachine):
    """Guards that are hybrids."""

    a = State(initial=True)
    b = State(final=True)

    go = a.to(b, cond="worthwhile")
    stay = a.to(a, unless="worthwhile")
    sign = a.to(b, cond="noted_by")


class Watched(Judged):
    """The same, interpreted."""

    def on_transition(self) -> None:
        """Python, so that no event is compiled."""


@pytest.mark.parametrize("machine", [Judged, Watched])
@pytest.mark.parametrize(
    ("approved", "amount", "moves"),
    [(True, 10, True), (False, 10, False), (True, 1, False), (True, None, False), (False, None, False)],
)
def test_a_hybrid_means_what_its_python_means(
    engine: Engine, machine: type[StateMachine], approved: bool, amount: int | None, moves: bool
) -> None:
    """Compiled or interpreted, a hybrid without an SQL half keeps every term of its Python half."""
    adapter = adapter_of(engine, machine)
    assert adapter.explain("go").compiled is (machine is Judged)
    key = adapter.create(approved=approved, amount=amount).key

    allowed, refused = ("go", "stay") if moves else ("stay", "go")
    with pytest.raises(TransitionRefusedError):
        adapter.send(key, refused)
    assert adapter.send(key, allowed).version == 2


@pytest.mark.parametrize("machine", [Judged, Watched])
@pytest.mark.parametrize(("note", "who", "moves"), [(None, None, True), ("x", None, False), ("x", "x", True)])
def test_a_parameter_may_be_none(
    engine: Engine, machine: type[StateMachine], note: str | None, who: str | None, moves: bool
) -> None:
    """None equals None, as a parameter, too."""
    adapter = adapter_of(engine, machine)
    key = adapter.create(note=note).key
    if moves:
        assert adapter.send(key, "sign", who=who).target == "b"
    else:
        with pytest.raises(TransitionRefusedError):
            adapter.send(key, "sign", who=who)


class Sliding(StateChart[Any]):
    """An event that is taken from the state into which an eventless transition leads."""

    between: ClassVar[list[Callable[[], None]]] = []

    a = State(initial=True)
    b = State()
    c = State(final=True)

    a.to(b, cond="amount")
    go = b.to(c, cond="approved")

    def prepare_event(self) -> dict[str, Any]:
        """What happens between reading and writing, once."""
        return {}

    def after_go(self) -> None:
        """Another writer comes."""
        while self.between:
            self.between.pop()()


def test_a_later_steps_guard_is_checked_at_the_write_too(engine: Engine) -> None:
    """The event's own guard flips, without a version bump, after an eventless step came first: refused."""
    adapter = adapter_of(engine, Sliding)
    key = adapter.create(approved=True, amount=None).key
    with engine.begin() as connection:
        connection.execute(text("UPDATE tasks SET amount = 1"))

    def withdraw() -> None:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE tasks SET approved = 'f'"
                    if engine.name == "postgresql"
                    else "UPDATE tasks SET approved = 0"
                )
            )

    Sliding.between.append(withdraw)
    with pytest.raises(TransitionRefusedError):
        adapter.send(key, "go")
    assert (Sliding.between, adapter.load(key).version) == ([], 1)


def test_a_resent_event_names_the_state_that_was_left(engine: Engine) -> None:
    """Also where an eventless transition came first, the token tells which state was left."""
    adapter, token = adapter_of(engine, Sliding), uuid4()
    key = adapter.create(approved=True, amount=None).key
    with engine.begin() as connection:
        connection.execute(text("UPDATE tasks SET amount = 1"))

    first = adapter.send(key, "go", token=token)
    again = adapter.send(key, "go", token=token)

    assert (first.source, again.source, again.version) == ("a", "a", 2)


class Astray(StateMachine):
    """A callback that writes the state itself."""

    a = State(initial=True)
    b = State()
    d = State(final=True)

    go = a.to(b)
    end = b.to(d)

    def after_go(self, model: Task) -> None:
        """Go where no transition leads."""
        model.state = "d"


def test_a_callback_may_not_write_the_state(engine: Engine) -> None:
    """A state that no transition of the event leads to is not written, though the machine knows it."""
    adapter = adapter_of(engine, Astray)
    key = adapter.create().key
    with pytest.raises(RequestError, match="changed state"):
        adapter.send(key, "go")
    assert (adapter.load(key).state, adapter.load(key).version) == ("a", 1)


class Counter(StateMachine):
    """An event that every writer may send at any time."""

    a = State(initial=True)
    b = State(final=True)

    touch = a.to(a)
    end = a.to(b)


@on("postgresql", "mariadb")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_lost_race_is_stale_at_every_isolation_level(engine: Engine, level: str) -> None:
    """Who loses three times is told that the row moved, not that the database did not answer."""
    strict = create_engine(engine.url, isolation_level=level, pool_size=8)  # pyright: ignore[reportArgumentType]
    adapter = adapter_of(strict, Counter)
    key = adapter.create().key

    def touch(_: int) -> str:
        try:
            return str(adapter.send(key, "touch").version)
        except StaleVersionError:
            return "stale"

    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(touch, range(120)))
    versions = [answer for answer in said if answer != "stale"]

    assert (len(set(versions)), adapter.load(key).version) == (len(versions), 1 + len(versions))
    strict.dispose()


class Calling(StateMachine):
    """A callback whose own database is busy."""

    mails: ClassVar[list[str]] = []

    a = State(initial=True)
    b = State(final=True)

    go = a.to(b)

    def on_go(self) -> None:
        """Send a mail, then meet another database's contention."""
        self.mails.append("sent")
        raise Contention(phase=Phase.EXECUTE, database="another", detail="database is locked")


def test_a_callbacks_own_contention_runs_it_once(engine: Engine) -> None:
    """What a callback's database did is told, and is no reason to run the callbacks again."""
    Calling.mails.clear()
    adapter = adapter_of(engine, Calling)
    key = adapter.create().key
    with pytest.raises(ConnectionFailureError, match="another"):
        adapter.send(key, "go")
    assert (Calling.mails, adapter.load(key).version) == (["sent"], 1)


class Stage(enum.Enum):
    """States as an Enum."""

    A = "a"
    B = "b"


class Staged(TransitionColumns, Base):
    """A row whose state is an Enum, kept as text."""

    __tablename__ = "staged"

    id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[Stage] = mapped_column(Enum(Stage, native_enum=False, length=8, create_constraint=False))


class StagedFlow(StateMachine):
    """Over the members."""

    a = State(initial=True, value=Stage.A)
    b = State(final=True, value=Stage.B)

    go = a.to(b)


def test_an_enum_that_does_not_know_the_stored_state(engine: Engine) -> None:
    """A stored text that the Enum lacks is an unknown state, to `load` and to `send`; others are its members."""
    Base.metadata.create_all(engine, tables=[Staged.__table__])  # pyright: ignore[reportArgumentType]
    adapter = PersistenceAdapter(engine, MachineMapping(machine=StagedFlow, entity=Staged, state="stage"))
    good, bad = adapter.create().key, adapter.create().key
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE staged SET stage = 'bogus' WHERE id = {bad}"))

    assert (adapter.load(good).state, adapter.send(good, "go").target) == (Stage.A, Stage.B)
    for verb in (lambda: adapter.load(bad), lambda: adapter.send(bad, "go")):
        with pytest.raises(UnknownStateError, match="bogus"):
            verb()


class Ends(StateMachine):
    """Two events that end differently."""

    a = State(initial=True)
    b = State()
    c = State(final=True)

    go = a.to(b)
    drop = a.to(c) | b.to(c)


def test_a_token_of_another_event_proves_nothing(engine: Engine) -> None:
    """The token of an applied event does not make another event look applied."""
    adapter, token = adapter_of(engine, Ends), uuid4()
    key = adapter.create().key
    adapter.send(key, "go", token=token)

    with pytest.raises((StaleVersionError, TransitionRefusedError)):
        adapter.send(key, "drop", token=token)
    assert adapter.load(key).state == "b"


def test_a_repeated_call_whose_diagnosis_is_lost(engine: Engine) -> None:
    """It may have been written by the first call: it is asked for anew, not told as "nothing was written"."""
    adapter, token = adapter_of(engine, Ends), uuid4()
    key = adapter.create().key
    adapter.send(key, "go", token=token)
    struck: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def lose(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and not struck:
            struck.append(statement)
            connection.connection.dbapi_connection.close()

    assert (adapter.send(key, "go", token=token).version, len(struck)) == (2, 1)
    assert adapter.load(key).version == 2


class Built(StateMachine):
    """A machine that adds to itself when it is built."""

    a = State(initial=True)
    b = State(final=True)

    go = a.to(b, cond="amount")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Bring an attribute that hides the column."""
        self.amount = 0
        super().__init__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]


def test_a_machine_with_an_init_of_its_own_is_interpreted(engine: Engine) -> None:
    """What its __init__ brings counts, as in memory."""
    adapter = adapter_of(engine, Built)
    key = adapter.create(amount=5).key
    assert "the __init__ of Built may add listeners and attributes" in adapter.explain("go").reasons
    with pytest.raises(TransitionRefusedError):
        adapter.send(key, "go")


class Greeting(StateMachine):
    """An initial state with an entry of its own."""

    a = State(initial=True)
    b = State(final=True)

    go = a.to(b)
    again = a.to(a)

    def on_enter_a(self, model: Task) -> None:
        """Write what the mapping assigns too."""
        model.note, model.amount = "callback", 7


def test_create_and_send_agree_who_wins(engine: Engine) -> None:
    """A callback's change yields to what the mapping assigns, and that to what the caller of `create` gives."""
    adapter = adapter_of(engine, Greeting, assigns={"a": {"note": "assigned"}})
    assert [adapter.create().values[name] for name in ("note", "amount")] == ["assigned", 7]
    assert adapter.create(note="given").values["note"] == "given"


@pytest.mark.parametrize(("version", "token"), [("1", None), (True, None), (None, "abc"), (None, 5)])
def test_proofs_of_a_wrong_type_are_refused(engine: Engine, version: Any, token: Any) -> None:
    """A version that is no integer, or a token that is no UUID, is told before anything is sent."""
    adapter = adapter_of(engine, Ends)
    key = adapter.create().key
    with pytest.raises(RequestError, match="expected"):
        adapter.send(key, "go", expected_version=version, token=token)
    assert adapter.load(key).version == 1


class Named(TransitionColumns, Base):
    """A row whose key is text in the database's own collation."""

    __tablename__ = "named"

    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


@pytest.mark.parametrize("key", ["Z", "z "])
def test_a_text_key_is_taken_to_the_letter(engine: Engine, key: str) -> None:
    """A key that the collation takes for another's is no such row, to `load` and to `send`."""
    Base.metadata.create_all(engine, tables=[Named.__table__])  # pyright: ignore[reportArgumentType]
    adapter = PersistenceAdapter(engine, MachineMapping(machine=Ends, entity=Named))
    adapter.create(id="z")

    for verb in (lambda: adapter.load(key), lambda: adapter.send(key, "go")):
        with pytest.raises(RowNotFoundError):
            verb()
    assert adapter.send("z", "go").version == 2
