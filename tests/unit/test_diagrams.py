# pyright: reportUnknownMemberType=false
"""Diagrams and tables of any machine: nothing is left out, nothing needs more than it says, guards show their SQL."""

import re
import shutil
from typing import Any

import pytest
from sqlalchemy import ColumnElement, String
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from statemachine import HistoryState, State, StateChart, StateMachine

from statelatch import MachineMapping
from statelatch.columns import TransitionColumns, state_text
from statelatch.diagrams import Format, guards_table, lifecycle_page, render
from statelatch.errors import RequestError
from statelatch.runs import RunLifecycle, run_mapping

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


class Door(StateMachine):
    """A door.

    It has two states.
    """

    shut = State(initial=True)
    ajar = State(final=True)

    push = shut.to(ajar, cond="unlocked") | shut.to(ajar, cond="!locked or status == 'a|b'", unless="jammed")
    knock = shut.to(shut, internal=True, on="answer", cond="unlocked")
    peep = shut.to(shut, internal=True)
    unlocked = locked = jammed = True
    status = ""

    def answer(self) -> None:
        """Say who is there."""


class Trip(StateChart[Any]):
    """A compound with an eventless way out, parallel regions and history."""

    class away(State.Compound):  # noqa: N801  a state's id
        """A compound with history."""

        walking = State(initial=True)
        resting = State()
        last = HistoryState()
        rest = walking.to(resting)

    class busy(State.Parallel):  # noqa: N801
        """Two regions."""

        class left(State.Compound):  # noqa: N801
            """One region."""

            hand = State(initial=True, final=True)

        class right(State.Compound):  # noqa: N801
            """The other."""

            foot = State(initial=True, final=True)

    home = State(final=True)
    work = away.to(busy)
    back = busy.to(away.last)
    away.to(home, cond="late")
    late = False


class Keywords(StateMachine):
    """States whose ids are words of Mermaid and of dot."""

    node = State('The "node"; <b>: #1', initial=True)
    note = State()
    note_ = State()
    default = State(final=True)

    go = node.to(note, cond="mood == 'a:b'") | note.to(note_, cond=lambda: True) | note_.to(default)
    mood = ""


class Base(DeclarativeBase):
    """The declarative base of this file's tables."""


class Parcels(StateMachine):
    """Guards of every kind."""

    packed = State(initial=True)
    sent = State()
    gone = State(final=True)

    send_off = packed.to(sent, cond=["weight < 5", "addressed_to"], unless="label == 'a|b%'")
    lose = sent.to(gone, cond=["reported", lambda: True]) | packed.to(gone)

    def reported(self) -> bool:
        """A guard that only Python knows."""
        return True


class Parcel(TransitionColumns, Base):
    """What the guards of `Parcels` are about."""

    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(16))
    weight: Mapped[int]
    label: Mapped[str] = mapped_column(String(20))
    order: Mapped[str] = mapped_column(String(20))

    @hybrid_method
    def addressed_to(self, town: str, country: str = "Chile") -> bool:
        """Its order names this town."""
        return self.order == town + country

    @addressed_to.inplace.expression
    @classmethod
    def _addressed_to(cls, town: Any, country: Any = "") -> ColumnElement[bool]:
        return cls.order == town + country


class Crate(TransitionColumns, Base):
    """A guard that reads another table."""

    __tablename__ = "crates"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(state_text(16))

    seal: Mapped[bytes]

    @hybrid_property
    def sealed(self) -> bool:
        """Its seal is whole."""
        return self.seal == b"\xff"

    @sealed.inplace.expression
    @classmethod
    def _sealed(cls) -> ColumnElement[bool]:
        return cls.seal == b"\xff"

    @hybrid_property
    def empty(self) -> bool:
        """It holds no parcel."""
        return False

    @empty.inplace.expression
    @classmethod
    def _empty(cls) -> ColumnElement[bool]:
        return ~Parcel.__table__.select().where(Parcel.__table__.c.id == cls.id).exists()


class Crates(StateMachine):
    """One eventless transition, and one guard that reads another table."""

    full = State(initial=True)
    cleared = State()
    burnt = State(final=True)

    clear = full.to(cleared, cond="empty") | full.to(burnt, cond="sealed")
    cleared.to(burnt, cond="empty")


PARCELS = MachineMapping(machine=Parcels, entity=Parcel)


# -- render -----------------------------------------------------------------------------------------------


def test_mermaid_of_the_run_lifecycle() -> None:
    """Mermaid shows every transition of the run lifecycle with its guard."""
    expected = {
        "pending --> running : Start [startable]",
        "pending --> failed : Fail [unclaimed]",
        "pending --> cancelled : Cancel [unclaimed]",
        "running --> completed : Complete [holds_lease]",
        "running --> failed : Fail [holds_lease]",
        "running --> failed : Expire [lease_expired and attempts_used_up]",
        "running --> cancelled : Cancel [cancel_requested]",
        "running --> pending : Requeue [lease_expired and not attempts_used_up]",
    }
    actual = {line.strip() for line in render(RunLifecycle, "mermaid").splitlines() if " : " in line}
    assert expected == actual


def test_mermaid_keeps_what_the_package_drops() -> None:
    """Two transitions of one event between the same states, and internal ones, are all drawn."""
    expected = [
        "shut : Knock [unlocked] / answer",
        "shut : Peep",
        "shut --> ajar : Push [unlocked]",
        "shut --> ajar : Push [!locked or status == 'a|b', !jammed]",
    ]
    actual = [line.strip() for line in render(Door, "mermaid").splitlines() if "shut " in line and ":" in line]
    assert expected == actual


def test_mermaid_of_a_chart() -> None:
    """Compound, parallel and history states are drawn, an eventless transition out of a compound too."""
    lines = [line.strip() for line in render(Trip, "mermaid").splitlines()]
    expected = ["away --> busy : Work", "away --> home : [late]", "busy --> last : Back", "walking --> resting : Rest"]
    assert expected == sorted(line for line in lines if re.match(r"\w+ --> .* : ", line))


def test_mermaid_escapes() -> None:
    """A state's id that is a keyword, and text that would end a label, leave the diagram whole."""
    expected = """\
stateDiagram-v2
    direction LR
    state "The #34;node#34;#59; #60;b>#58; #35;1" as node_
    state "Note" as note__
    state "Note" as note_
    state "Default" as default_
    [*] --> node_
    default_ --> [*]
    node_ --> note__ : Go [mood == 'a#58;b']
    note__ --> note_ : Go [#60;lambda>]
    note_ --> default_ : Go
"""
    assert expected == render(Keywords, "mermaid")


def test_table() -> None:
    """The table lists every transition, internal ones included, and survives pipes in guards."""
    expected = r"""
| State | Event            | Guard                                    | Target |
| ----- | ---------------- | ---------------------------------------- | ------ |
| Shut  | Push             | `unlocked`                               | Ajar   |
| Shut  | Push             | `!locked or status == 'a\|b'`, `!jammed` | Ajar   |
| Shut  | Knock (internal) | `unlocked`                               | Shut   |
| Shut  | Peep (internal)  |                                          | Shut   |
"""
    assert expected.lstrip() == render(Door, "table")


def test_dot_is_the_same_in_every_process() -> None:
    """The dot source holds no address of an object."""
    source = render(Trip, "dot")
    assert set(re.findall(r"__(?:initial|atomic)_(\d+)", source)) == {"0", "1", "2", "3"}


def test_dot_keeps_keywords_apart() -> None:
    """A state called `node` is a node, not the defaults of all nodes."""
    assert re.findall(r"^(\w*node\w*) \[label=", render(Keywords, "dot"), re.MULTILINE) == ["node_"]


@needs_graphviz
def test_pictures() -> None:
    """SVG is text, PNG bytes, each what it says it is."""
    assert "<title>Trip</title>" in render(Trip, "svg")
    assert render(Keywords, "png").startswith(b"\x89PNG")
    assert render(Door, Format.SVG) == render(Door, "svg")


def test_the_class_is_left_as_it_was() -> None:
    """Rendering changes nothing of the machine: python-statemachine still names its states and events alike."""
    before = [(state.id, state.name, str(state.transitions)) for state in Keywords.states_map.values()]
    for fmt in (Format.MERMAID, Format.TABLE, Format.DOT):
        render(Keywords, fmt)
    assert before == [(state.id, state.name, str(state.transitions)) for state in Keywords.states_map.values()]


def test_unknown_format() -> None:
    """A format that there is not is a named error that lists those that there are."""
    with pytest.raises(RequestError) as caught:
        render(Door, "gif")
    assert str(caught.value) == "expected one of the formats mermaid, dot, svg, png, table, found 'gif'"


# -- guards and their SQL ---------------------------------------------------------------------------------


def test_guards_of_the_run_lifecycle() -> None:
    """Each transition of the run lifecycle stands with its guard and the guard's SQL, parameters as `:name`."""
    rows = guards_table(run_mapping()).splitlines()
    assert rows[2].startswith("| `start` | `pending` → `running` | `startable` | `")
    assert "cancel_requested_at IS NULL" in rows[2]
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        f"| `{event}`" for event in ("start", "complete", "fail", "fail", "cancel", "cancel", "expire", "requeue")
    ]
    assert ":worker" in rows[3]


def test_guards_table_on_postgresql() -> None:
    """Literals stand in place, lists and `unless` as the machine spells them, Python guards with their reason."""
    expected = r"""
| event | transition | guard | SQL on PostgreSQL |
| --- | --- | --- | --- |
| `send_off` | `packed` → `sent` | `weight < 5`<br>`addressed_to`<br>`!label == 'a\|b%'` | SQL |
| `lose` | `packed` → `gone` | none |  |
| `lose` | `sent` → `gone` | `reported`<br>`<lambda>` | Python: PYTHON |
"""
    sql = [
        "`weight < 5`",
        r"""`coalesce("order" = (:town \|\| :country), false)`""",
        r"""`(label COLLATE "C") != ('a\|b%' COLLATE "C")`""",
    ]
    python = r"guard 'reported' is Python on the machine<br>Python: guard '\<lambda>' is a Python callable"
    expected = expected.replace("SQL |\n| `lose", f"{'<br>'.join(sql)} |\n| `lose", 1).replace("PYTHON", python)
    assert expected.lstrip() == guards_table(PARCELS)


def test_backticks_of_mariadb() -> None:
    """An identifier that MariaDB quotes by backticks leaves the code span whole."""
    assert "`` coalesce(`order` = " in guards_table(PARCELS, "mariadb")


def test_eventless_transitions_and_subqueries() -> None:
    """An eventless transition has its row; where a guard reads two tables, columns keep their table's name."""
    table = guards_table(MachineMapping(machine=Crates, entity=Crate))
    assert "| none | `cleared` → `burnt` | `empty` | Python: it is taken without an event |" in table
    assert "WHERE parcels.id = crates.id" in table


def test_values_without_a_literal() -> None:
    """A value that SQL has no literal for stays a parameter."""
    table = guards_table(MachineMapping(machine=Crates, entity=Crate))
    assert "`seal = :seal_1`" in table


def test_unknown_dialect() -> None:
    """A dialect that SQLAlchemy lacks is a named error that lists those that statelatch knows."""
    with pytest.raises(RequestError) as caught:
        guards_table(PARCELS, "dbase")
    assert str(caught.value) == "expected one of the dialects postgresql, sqlite, mariadb, found 'dbase'"


def test_lifecycle_page() -> None:
    """The page has the machine's name, its summary, the diagram, the guards and the other databases' spelling."""
    mapping = run_mapping()
    page = lifecycle_page(mapping)
    assert page.startswith("# RunLifecycle\n\nFrom `pending` through `running`")
    assert f"```mermaid\n{render(RunLifecycle, 'mermaid')}```\n" in page
    assert guards_table(mapping) in page
    assert "| guard | SQLite | MariaDB |\n" in page
    assert "strftime(" in page
    assert "| as PostgreSQL |\n" in page
    alike = [line for line in page.splitlines() if "| `unclaimed` |" in line]
    assert len(alike) == 2, "both in the guards' table: each database spells this guard alike"


def test_page_without_a_docstring() -> None:
    """Of a machine without a docstring, or whose guards are Python, the page has what there is."""

    class Plain(StateMachine):
        packed = State(initial=True)
        gone = State(final=True)
        lose = packed.to(gone)

    page = lifecycle_page(MachineMapping(machine=Plain, entity=Parcel))
    assert page.startswith("# Plain\n\n```mermaid\n")
    assert page.endswith("| `lose` | `packed` → `gone` | none |  |\n")
