"""What a table of requests does to values that `send` binds one by one, found in review: nothing."""

from collections.abc import Generator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, LargeBinary, Numeric, Text, bindparam, text
from sqlalchemy.ext.hybrid import hybrid_method
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import State, StateMachine

from statelatch import (
    MachineMapping,
    PersistenceAdapter,
    Request,
    RequestError,
    StaleVersionError,
    Transitioned,
    TransitionRefusedError,
)
from statelatch.columns import TransitionColumns, state_text
from tests.databases import on


class Base(DeclarativeBase):
    """Base of the entities here."""


class Parcel(TransitionColumns, Base):
    """Columns that hold less than their types let through."""

    __tablename__ = "heavy_parcels"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(state_text(8))
    exact: Mapped[Decimal | None] = mapped_column(Numeric(40, 10))
    label: Mapped[str | None] = mapped_column(Text())
    scan: Mapped[bytes | None] = mapped_column(LargeBinary())

    @hybrid_method
    def is_one_of(self, states: Any) -> bool:
        """A parameter that stands for a list."""
        return self.label in states

    @is_one_of.inplace.expression
    @classmethod
    def _is_one_of(cls, states: Any) -> Any:
        return cls.label.in_(states)


class Flow(StateMachine):
    """There and back."""

    a = State(initial=True)
    b = State()
    go = a.to(b)
    back = b.to(a)
    swap = a.to(b) | b.to(a)
    choose = a.to(b, cond="is_one_of")


MAPPING = MachineMapping(
    machine=Flow,
    entity=Parcel,
    assigns={
        "go": {name: bindparam(name, None, type_=getattr(Parcel, name).type) for name in ("exact", "label", "scan")}
    },
)


@pytest.fixture
def adapter(engine: Engine) -> Generator[PersistenceAdapter]:
    """Nine parcels, over an engine of the adapter's own."""
    Base.metadata.create_all(engine)
    with PersistenceAdapter(engine.url, MAPPING) as adapter:
        for key in range(1, 10):
            adapter.create(id=key)
        adapter.send(9, "go")  # now the adapter knows the database's time
        yield adapter


@on("postgresql", "mariadb")
def test_numbers_of_several_types(adapter: PersistenceAdapter) -> None:
    """A float beside it takes no digit from a Decimal."""
    values: list[Any] = [Decimal("12345678901234567890.1234567891"), 1.5, 7]

    adapter.send_batch([Request(key, "go", params={"exact": value}) for key, value in enumerate(values, start=1)])

    assert [adapter.load(key).values["exact"] for key in (1, 2, 3)] == [values[0], Decimal("1.5"), Decimal(7)]


@on("mariadb")
def test_text_that_does_not_fit(adapter: PersistenceAdapter) -> None:
    """It is that request's error, as it is for `send`; MariaDB would else keep what fits, and say nothing."""
    long, short = adapter.send_batch(
        [Request(1, "go", params={"label": "x" * 65537}), Request(2, "go", params={"label": "y"})]
    )

    assert (isinstance(long, Transitioned), isinstance(short, Transitioned)) == (False, True)
    assert (adapter.load(1).version, adapter.load(2).values["label"]) == (1, "y")


@on("mariadb")
def test_bytes_that_may_not_fit(adapter: PersistenceAdapter) -> None:
    """They are not sent in a batch, which cannot tell."""
    with pytest.raises(RequestError, match=r"request 1.*256 bytes"):
        adapter.send_batch([Request(1, "go"), Request(2, "go", params={"scan": b"x" * 256})])

    assert adapter.load(1).version == 1
    assert adapter.send(2, "go", scan=b"x" * 256).version == 2


def test_a_token_that_another_row_carries(adapter: PersistenceAdapter) -> None:
    """What another row's transition left there is no answer to this request."""
    token = uuid4()
    adapter.send(1, "go", token=token)

    requests = [Request(1, "go", token=uuid4()), Request(2, "go", 66, token=token), Request(3, "go", token=uuid4())]
    answers = adapter.send_batch(requests)

    assert [type(answer) for answer in answers] == [TransitionRefusedError, StaleVersionError, Transitioned]


def test_tokens_that_are_near(adapter: PersistenceAdapter) -> None:
    """A token, and the variant of it that another event has left in another row: each request has its own answer."""
    token = uuid4()

    answers = adapter.send_batch(
        [
            Request(1, "go", token=UUID(int=token.int ^ 1)),
            Request(2, "go"),
            Request(1, "swap", 77, token=uuid4()),
            Request(2, "swap", 88, token=token),
            Request(3, "go"),
            Request(3, "swap", token=uuid4()),
        ]
    )

    stale, moved = StaleVersionError, Transitioned
    assert [type(answer) for answer in answers] == [moved, moved, stale, stale, moved, moved]


@on("mariadb")
def test_a_trigger_that_hides_the_time(adapter: PersistenceAdapter) -> None:
    """The time is the database's all the same."""
    with adapter.engine.begin() as connection:
        connection.execute(
            text("CREATE TRIGGER look BEFORE UPDATE ON heavy_parcels FOR EACH ROW SET NEW.label = 'seen'")
        )

    first = adapter.send_batch([Request(key, "go") for key in (1, 2)])
    second = adapter.send_batch([Request(key, "back") for key in (1, 2)])

    times = [answer.at for answer in (*first, *second) if isinstance(answer, Transitioned)]
    assert len(times) == 4
    assert all(abs((at - datetime.now(UTC)).total_seconds()) < 60 for at in times)


def test_a_parameter_that_stands_for_a_list(adapter: PersistenceAdapter) -> None:
    """It is no column: the batch is refused, and `send` takes it."""
    with pytest.raises(RequestError, match="list"):
        adapter.send_batch([Request(1, "choose", params={"states": ["x"]})])

    with pytest.raises(TransitionRefusedError):
        adapter.send(1, "choose", states=["x"])


class There(StateMachine):
    """There and back, without a guard."""

    a = State(initial=True)
    b = State()
    go = a.to(b)
    back = b.to(a)


class WithBytes(DeclarativeBase):
    """Base of what MariaDB has no key for."""


class Blob(TransitionColumns, WithBytes):
    """A key of bytes."""

    __tablename__ = "blobs"

    id: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    state: Mapped[str] = mapped_column(state_text(8))


@on("postgresql", "sqlite")
def test_a_key_of_bytes_twice(engine: Engine) -> None:
    """Requests for one row are applied in their order, although the driver's objects for its key are not equal."""
    WithBytes.metadata.create_all(engine)
    adapter = PersistenceAdapter(engine, MachineMapping(machine=There, entity=Blob))
    adapter.create(id=b"k")

    early, go, late = adapter.send_batch([Request(b"k", event) for event in ("back", "go", "back")])

    assert isinstance(early, TransitionRefusedError)
    assert [each.version for each in (go, late) if isinstance(each, Transitioned)] == [2, 3]
