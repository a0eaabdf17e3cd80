"""Creating rows, on each database: where they begin, what they contain, and an INSERT whose answer is lost."""

import threading
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Computed, Engine, String, Text, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import MachineMapping, OutcomeUnknownError, PersistenceAdapter, RequestError
from statelatch.columns import TransitionColumns, UTCDateTime, from_now, now
from statelatch.errors import Phase
from tests.databases import pooled
from tests.outages import LostCommit, Outage


class Base(DeclarativeBase):
    """Base of the entities here."""


class Ticket(TransitionColumns, Base):
    """An entity with values from the client, from SQL and from the database."""

    __tablename__ = "ticket"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    state: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(String(40), default="100% new")
    rank: Mapped[int] = mapped_column(server_default="7")
    made_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=now())
    due_at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    loud: Mapped[str | None] = mapped_column(String(40), Computed("upper(title)", persisted=True))
    note: Mapped[str | None] = mapped_column(Text())


class Counted(TransitionColumns, Base):
    """An entity whose key the database makes."""

    __tablename__ = "counted"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(20))
    title: Mapped[str | None] = mapped_column(Text())
    note: Mapped[str | None] = mapped_column(Text())


class Flow(StateMachine):
    """It begins with `fresh`."""

    fresh = State(initial=True)
    done = State(final=True)
    end = fresh.to(done)


class Greeting(StateMachine):
    """Entering its initial state runs Python."""

    fresh = State(initial=True)
    done = State(final=True)
    end = fresh.to(done)

    def on_enter_fresh(self, model: Any) -> None:
        """Write a column."""
        model.note = f"hello {model.title}"


def adapter_of(engine: Engine, entity: Any = Ticket, machine: type[StateMachine] = Flow) -> PersistenceAdapter:
    """An adapter for this entity; its table is made."""
    Base.metadata.create_all(engine)
    assigns = {"fresh": {"due_at": from_now(60)}} if entity is Ticket else {}
    return PersistenceAdapter(engine, MachineMapping(machine=machine, entity=entity, assigns=assigns))


def rows(engine: Engine) -> int:
    """How many tickets there are."""
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM ticket")).scalar_one()


def test_a_new_row_is_in_the_initial_state(engine: Engine) -> None:
    """State, version 1 and a token are written; the client's, SQL's and the database's defaults are told at once."""
    adapter = adapter_of(engine)

    created = adapter.create(title="a % b")

    values = created.values
    assert (created.state, created.version, created.key) == ("fresh", 1, values["id"])
    assert (values["title"], values["loud"], values["rank"], values["note"]) == ("a % b", "A % B", 7, None)
    assert isinstance(values["transition_token"], UUID)
    assert values["due_at"] - values["made_at"] == timedelta(minutes=1)
    assert created == adapter.load(created.key)


def test_given_values_win_over_what_the_state_assigns(engine: Engine) -> None:
    """A column that is given is not assigned."""
    assert adapter_of(engine).create(due_at=None).values["due_at"] is None


@pytest.mark.parametrize("machine", [Flow, Greeting])
def test_a_key_of_the_databases(engine: Engine, machine: type[StateMachine]) -> None:
    """A key that the database makes is told."""
    adapter = adapter_of(engine, Counted, machine)

    created = [adapter.create() for _ in range(2)]

    assert [each.key for each in created] == [each.values["id"] for each in created]
    assert created[0].key < created[1].key
    assert adapter.send(created[1].key, "end").key == created[1].key


def test_entering_the_initial_state_may_run_python(engine: Engine) -> None:
    """What its callbacks change is part of the INSERT."""
    adapter = adapter_of(engine, Counted, Greeting)

    assert adapter.create(title="world").values["note"] == "hello world"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"colour": "red"}, "no column 'colour'; it has id, state"),
        ({"state": "done"}, "'state' is written by statelatch"),
        ({"version": 3}, "'version' is written by statelatch"),
        ({"transition_token": None}, "'transition_token' is written by statelatch"),
        ({"loud": "X"}, "'loud' is a generated column"),
    ],
)
def test_what_is_not_for_the_caller_is_refused(engine: Engine, columns: dict[str, Any], message: str) -> None:
    """Unknown columns, statelatch's own and generated ones are named, and nothing is inserted."""
    adapter = adapter_of(engine)

    with pytest.raises(RequestError, match=f"{message}.*nothing was written"):
        adapter.create(**columns)
    assert rows(engine) == 0


def test_a_violated_constraint_is_the_drivers_own(engine: Engine) -> None:
    """A key that exists already is SQLAlchemy's IntegrityError, not a refusal of statelatch's."""
    adapter = adapter_of(engine)
    key = adapter.create().key

    with pytest.raises(IntegrityError):
        adapter.create(id=key)
    assert rows(engine) == 1


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_a_lost_insert_is_found_or_done_again(engine: Engine, landed: bool, given: bool) -> None:
    """The key is the client's: a lost INSERT is found by key and token, and done again if it did not land."""
    adapter = adapter_of(engine)
    fault = LostCommit(engine, landed=landed)
    fault.arm()
    key = uuid4()

    created = adapter.create(**({"id": key} if given else {}))

    assert (fault.strikes, rows(engine), created.version) == (1, 1, 1)
    assert created.key == key or not given
    assert adapter.load(created.key) == created


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_insert_of_a_database_that_is_away(engine: Engine, landed: bool) -> None:
    """An INSERT that nobody can be asked for is told with key and token; a later check is exact."""
    adapter = adapter_of(engine)
    fault, outage = LostCommit(engine, landed=landed), Outage(engine)
    fault.arm()

    with pytest.raises(OutcomeUnknownError) as caught:
        outage.after(fault, adapter.create)

    outage.end()
    error = caught.value
    assert (error.phase, fault.strikes, rows(engine)) == (Phase.COMMIT, 1, int(landed))
    assert isinstance(error.token, UUID)
    assert adapter.verify(error.token, error.key) is landed
    assert outage.refused > 0


def test_a_lost_insert_whose_key_another_has(engine: Engine) -> None:
    """It did not land, and meanwhile somebody has inserted a row of that key: the constraint is told, not their row."""
    adapter, key = adapter_of(engine), uuid4()
    with pooled(engine.url) as other:
        fault = LostCommit(engine, landed=False)
        fault.then = lambda: adapter_of(other).create(id=key)
        fault.arm()

        with pytest.raises(IntegrityError):
            adapter.create(id=key)

    assert (fault.strikes, rows(engine)) == (1, 1)


def test_many_rows_at_once(engine: Engine) -> None:
    """Sixteen threads insert at once; each gets its own row."""
    adapter = adapter_of(engine)
    created: list[Any] = []
    threads = [threading.Thread(target=lambda: created.append(adapter.create().key)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(created)) == rows(engine) == 16
