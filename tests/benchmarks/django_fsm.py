"""django-fsm-2 in a process of its own, which measures its blocks itself and takes its turn in the race all the same.

    python -m tests.benchmarks.django_fsm

reads lines of JSON: first the database's URL and the table's name, then one list of moves for each block; it answers
each with the nanoseconds that it took. The end of its input is its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, make_url

from tests.benchmarks.place import SYNCHRONOUS
from tests.benchmarks.race import Block, Move, timed
from tests.benchmarks.ring import EVENTS, STATES

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import Table

    from tests.benchmarks.place import Place

__all__ = ["contestant"]

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.benchmarks.django_fsm")


@contextmanager
def contestant(place: Place, table: Table) -> Generator[Block]:
    """The child as a contestant."""
    with subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # Ctrl-C at the terminal is for the parent, which ends it
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        requests, answers = child.stdin, child.stdout

        def ask(request: object) -> int:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            answer = answers.readline()
            if not answer:
                raise RuntimeError("the process of django-fsm-2 has ended; what it wrote to stderr says why")
            return int(answer)

        def block(moves: Sequence[Move]) -> int:
            return ask([(each.key, each.event) for each in moves])

        ask([place.url.render_as_string(hide_password=False), table.name])
        yield block


def settings_of(url: URL) -> dict[str, Any]:
    """The database as Django's settings spell it."""
    place = {
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or "",
        "PORT": url.port or "",
    }
    match url.get_backend_name():
        case "sqlite":
            options = {"timeout": 30, "init_command": SYNCHRONOUS}
            return {"ENGINE": "django.db.backends.sqlite3", "NAME": url.database, "OPTIONS": options}
        case "postgresql":
            return place | {"ENGINE": "django.db.backends.postgresql", "OPTIONS": dict(url.query)}
        case _:
            import_module("pymysql").install_as_MySQLdb()
            options = {**url.query, **({"ssl_disabled": True} if "ssl_disabled" in url.query else {})}
            return place | {"ENGINE": "django.db.backends.mysql", "OPTIONS": options}


def model_of(url: URL, table: str) -> Any:
    """A model with the ring's state on this table, which Django does not manage."""
    import_module("django.conf").settings.configure(DATABASES={"default": settings_of(url)}, USE_TZ=True)
    import_module("django").setup()
    models, fsm = import_module("django.db.models"), import_module("django_fsm")
    a, b = STATES

    class Row(fsm.ConcurrentTransitionMixin, fsm.FSMModelMixin, models.Model):
        id = models.IntegerField(primary_key=True)
        state = fsm.FSMField(default=a)
        version = models.IntegerField()

        class Meta:
            app_label = "benchmarks"
            db_table = table
            managed = False

        @fsm.transition(field=state, source=a, target=b)
        def there(self) -> None:
            self.version += 1

        @fsm.transition(field=state, source=b, target=a)
        def back(self) -> None:
            self.version += 1

    return Row


def block_of(model: Any) -> Block:
    """Each move as the documentation of the mixin asks for it: `save` in a transaction."""
    atomic = import_module("django.db.transaction").atomic
    assert set(EVENTS.values()) == {"there", "back"}

    def move(each: Move) -> None:
        row = model.objects.get(pk=each.key)
        getattr(row, each.event)()
        with atomic():
            row.save()

    return timed(move)


def main() -> None:
    """Answer the parent's lines until there are no more."""
    url, table = json.loads(sys.stdin.readline())
    block = block_of(model_of(make_url(url), table))
    sys.stdout.write("0\n")
    sys.stdout.flush()
    for line in sys.stdin:
        moves = [Move(key, event, "", "", 0) for key, event in json.loads(line)]
        sys.stdout.write(f"{block(moves)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
