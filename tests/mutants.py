"""The product with one mistake in it, and the soak that must find it.

    python -m tests.mutants                      # all of them, and the product as it is
    python -m tests.mutants "two bumps" --db mariadb

A mutant is a text of the product and what stands there instead. It is applied to a copy of `src`; the soak runs in a
process of its own, which imports the copy. A text that is not there exactly once is an error: the product has changed,
and the mutant must change with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MUTANTS", "SOURCE", "Edit", "Mutant", "MutantError", "applied", "main", "soaked"]

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
BUDGET = 60.0
"""Seconds in which a mutant must be found."""
GRACE = 120.0
"""Seconds that a soak may take beyond its time."""
SEED = 7
FOUND = 3
"""The exit status of a soak that found something: 1 is that of one that broke down."""


class MutantError(Exception):
    """A mutant cannot be made, or its soak broke down; the message says why."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A text of the product, which is there once, and what stands there instead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake.

    Attributes:
        name: of it, in a few words.
        soak: arguments of `python -m tests.soak` that find it.
        edits: what makes it.
        only: the dialect on which it is a mistake; None: on each.
        by_hand: it is not in the suite, which would take too long: a broken adapter in
            `tests/integration/test_lifecycle_rules_adapters.py`, or a test of `check_history`, shows much the same.
    """

    name: str
    soak: tuple[str, ...]
    edits: tuple[Edit, ...]
    only: str | None = None
    by_hand: bool = False


HISTORY = ("history",)
SPOOL = ("spool",)


def _rules(machine: str) -> tuple[str, ...]:
    return ("rules", "--quick", "--machine", machine)


ONE_TRANSACTION = """
from contextlib import contextmanager  # noqa: E402
from threading import local  # noqa: E402

_open = local()


@contextmanager
def _kept(command, lines, limit):
    kept = vars(_open)
    if command.fresh:
        with lines.line_for(command, limit=limit) as line:
            yield line, False
        return
    begun = lines in kept
    line = kept[lines] if begun else lines.line_for(command, limit=limit).__enter__()
    kept[lines] = line
    try:
        yield line, begun
    except BaseException as error:
        del kept[lines]
        line.__exit__(type(error), error, None)
        raise


def _let_go(lines):
    if line := vars(_open).pop(lines, None):
        line.__exit__(KeyError, KeyError("over"), None)


def _perform("""
"""Statements of one plan share a transaction, until one of them has written."""
IN_ONE_TRANSACTION = (
    Edit("drive.py", "        command = next(plan)\n", "        _let_go(lines)\n        command = next(plan)\n"),
    Edit(
        "drive.py",
        "with lines.line_for(command, limit=limit) as line:",
        "with _kept(command, lines, limit) as (line, begun):",
    ),
    Edit(
        "drive.py",
        "line.begin(several=command.whole or len(command.statements) > 1)",
        "not begun and line.begin(several=True)",
    ),
    Edit(
        "drive.py",
        "            if not autocommits:\n                line.commit()\n",
        "            if command.fresh or (command.writes and reply.matched):\n"
        "                line.commit()\n"
        "                _let_go(lines)\n",
    ),
    Edit("drive.py", "\ndef _perform(", ONE_TRANSACTION),
)

WHENS = "[(and_(self.mapping.is_in(edge.source), truth.passes()), edge) for edge, truth in self._reached()]"
STALE = "    if sending.expected_version not in {None, actual}:\n        raise sending.stale("
NO_ANSWER = """\
    if sending.expected_version not in {None, actual}:
        from statelatch.errors import ConnectionFailureError, Phase

        raise ConnectionFailureError(phase=Phase.EXECUTE, database="?", detail="no row matched")
        raise sending.stale("""
VERIFIED = """\
        return (yield transaction)
    except OutcomeUnknownError as lost:
        return (yield from verified(sending, lost))
"""
UNVERIFIED = """\
        return (yield transaction)
    except OutcomeUnknownError:
        return (yield transaction)
"""
NEVER_VERIFIED = """\
        return (yield transaction)
    except OutcomeUnknownError:
        raise
"""
NOTHING_GIVEN = """\
    given = {name: value for name, value in values.items() if name in mapping.key_attributes}
    initial = mapping.initial
"""

MUTANTS = (
    Mutant(
        "version left out of WHERE",
        HISTORY,
        (
            Edit(
                "event_statements.py",
                "return version == bindparam(EXPECTED, type_=version.type)",
                "return version == version",
            ),
        ),
    ),
    Mutant(
        "guard left out",
        _rules("orders"),
        (
            Edit(
                "event_statements.py", WHENS, "[(self.mapping.is_in(edge.source), edge) for edge, _ in self._reached()]"
            ),
        ),
    ),
    Mutant(
        "terminal left",
        HISTORY,
        (Edit("event_statements.py", WHENS, "[(truth.passes(), edge) for edge, truth in self._reached()]"),),
    ),
    Mutant(
        "retry without token",
        HISTORY,
        (Edit("plans.py", "    proof = token or mint()\n", "    proof = mint()\n"),),
    ),
    Mutant(
        "stale taken for failure",
        _rules("lights"),
        (Edit("sending.py", STALE, NO_ANSWER),),
    ),
    Mutant(
        "failure taken for stale",
        HISTORY,
        (
            Edit(
                "plans.py",
                "            if sending.lost is None:\n                raise\n",
                "            if sending.lost is None:\n"
                "                version = (sending.expected_version or 0) + 1\n"
                "                raise sending.stale(version, sending.statements.sources[0], version - 1) from error\n",
            ),
        ),
    ),
    Mutant(
        "version not bumped",
        _rules("orders"),
        (Edit("writes.py", "version: version + literal(1)", "version: version + literal(0)"),),
    ),
    Mutant(
        "two bumps",
        HISTORY,
        (Edit("writes.py", "version: version + literal(1)", "version: version + literal(2)"),),
    ),
    Mutant(
        "token not written",
        _rules("orders"),
        (Edit("writes.py", "return {token: proof, ", "return {"),),
    ),
    Mutant(
        "ambiguous commit redone without verifying",
        HISTORY,
        (Edit("plans.py", VERIFIED, UNVERIFIED),),
    ),
    Mutant(
        "ambiguous commit taken for a failure",
        HISTORY,
        (
            Edit(
                "faults.py",
                "return Meaning.AMBIGUOUS if phase is Phase.COMMIT else Meaning.FAILURE",
                "return Meaning.FAILURE",
            ),
        ),
    ),
    Mutant(
        "ambiguous commit never verified",
        _rules("orders"),
        (Edit("plans.py", VERIFIED, NEVER_VERIFIED),),
    ),
    Mutant(
        "what callbacks write left out",
        _rules("noted-lights"),
        (
            Edit(
                "interpreter.py", "getattr(model, self.state_field), changes)", "getattr(model, self.state_field), {})"
            ),
        ),
        by_hand=True,
    ),
    Mutant(
        "what a state assigns left out",
        _rules("orders"),
        (
            Edit(
                "writes.py",
                "    if edge.enters:\n        sets |= assigned(",
                "    if edge.enters is None:\n        sets |= assigned(",
            ),
        ),
        by_hand=True,
    ),
    Mutant(
        "columns of a new row left out",
        _rules("lights"),
        (Edit("plans.py", "    given, initial = values, mapping.initial\n", NOTHING_GIVEN),),
        by_hand=True,
    ),
    Mutant(
        "another event in the log",
        _rules("lights"),
        (Edit("log.py", "event=literal(event, columns", "event=literal(self.mapping.events[0], columns"),),
        by_hand=True,
    ),
    Mutant(
        "actor left out of the log",
        _rules("lights"),
        (Edit("log.py", "return {ACTOR: actor, ", "return {ACTOR: None, "),),
        by_hand=True,
    ),
    Mutant(
        "history without its end",
        _rules("lights"),
        (Edit("history.py", "for entry in reply.rows]", "for entry in reply.rows[:1]]"),),
        by_hand=True,
    ),
    Mutant(
        "batch without its tokens",
        _rules("orders"),
        (Edit("batch_requests.py", "    if not any(tokens):\n", "    if tokens:\n"),),
        by_hand=True,
    ),
    Mutant(
        "hooks not called",
        _rules("lights"),
        (Edit("adapter.py", "        self._hooks.append(hook)\n", ""),),
        by_hand=True,
    ),
    Mutant(
        "guards that are none",
        _rules("lights"),
        (Edit("sending.py", "            guards=guards,\n", "            guards=sources,\n"),),
        by_hand=True,
    ),
    Mutant(
        "missing row taken for stale",
        _rules("lights"),
        (
            Edit(
                "sending.py",
                "        return RowNotFoundError(table=self.table, key=self.key, event=self.statements.event)\n",
                "        return self.stale(1, None, None)\n",
            ),
        ),
        by_hand=True,
    ),
    Mutant(
        "diagnosis in the same transaction",
        _rules("watched-lights"),
        IN_ONE_TRANSACTION,
        only="mariadb",
    ),
    Mutant(
        "answers of a batch swapped",
        HISTORY,
        (
            Edit(
                "batch.py",
                "for number, transition in zip(at, made,",
                "for number, transition in zip(reversed(at), made,",
            ),
        ),
    ),
    Mutant(
        "another event told",
        HISTORY,
        (
            Edit(
                "batch.py",
                "        event=event.event,\n        sources=",
                "        event=event.event.upper(),\n        sources=",
            ),
        ),
        by_hand=True,
    ),
    Mutant(
        "another token told",
        HISTORY,
        (
            Edit(
                "batch.py", "        tokens=rows[TOKEN_COLUMN],\n", "        tokens=rows[TOKEN_COLUMN][:1] * len(at),\n"
            ),
        ),
        by_hand=True,
    ),
    Mutant(
        "another version said to be expected",
        HISTORY,
        (Edit("sending.py", "            expected_version=expected,\n", "            expected_version=version,\n"),),
        by_hand=True,
    ),
    Mutant(
        "another event's sources refused",
        HISTORY,
        (Edit("sending.py", "            sources=sources,\n", "            sources=sources[1:],\n"),),
        by_hand=True,
    ),
    Mutant(
        "spool replayed twice",
        SPOOL,
        (
            Edit(
                "runs/finalizer.py",
                "            if not spool.remove(word):\n                return None\n",
                "            pass\n",
            ),
        ),
    ),
)


def applied(mutant: Mutant, folder: Path) -> Path:
    """A copy of `src` in this folder with the mistake in it.

    Raises:
        MutantError: a text is not there exactly once.
    """
    copy = folder / "src"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutant.edits:
        path = copy / "statelatch" / edit.file
        source = path.read_text()
        if source.count(edit.old) != 1:
            raise MutantError(
                f"{mutant.name}: expected this text once in {edit.file}, found it {source.count(edit.old)} times; the "
                f"product has changed, change the mutant with it:\n{edit.old}"
            )
        path.write_text(source.replace(edit.old, edit.new))
    return copy


def soaked(source: Path, soak: Sequence[str], db: str, seconds: float) -> str | None:
    """Soak the product of this folder; what was found wrong, or None.

    Raises:
        MutantError: the soak broke down without finding anything.
    """
    minutes = ["--minutes", str(seconds / 60), "--seed", str(SEED)]
    command = [sys.executable, "-c", CHECKED, str(source), *soak, "--db", db, *minutes]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(source), str(ROOT)])}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=seconds + GRACE
        )
    except subprocess.TimeoutExpired as error:
        raise MutantError(f"the soak has not ended {GRACE} s after its time was over:\n{error.stdout}") from error
    if done.returncode == 0:
        return None
    if done.returncode != FOUND:
        raise MutantError(f"the soak ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


CHECKED = f"""
FOUND = {FOUND}
import sys
import statelatch
source, *arguments = sys.argv[1:]
assert statelatch.__file__.startswith(source), statelatch.__file__
from tests.soak.__main__ import main
sys.exit(FOUND if main(arguments) else 0)
"""
"""Soaks the copy, and no other."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak mutants and print which were found; the exit status is 1 if one was not, or the product is found wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="*", choices=[[], *(each.name for each in MUTANTS)], help="only these")
    parser.add_argument("--db", default=None, help="sqlite, postgresql, mariadb or a URL; by default sqlite")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="in which each must be found")
    options = parser.parse_args(arguments)
    console, survivors = Console(), 0
    for mutant in [each for each in MUTANTS if not options.name or each.name in options.name]:
        begun = time.perf_counter()
        with TemporaryDirectory(prefix="statelatch-mutant-") as folder:
            found = soaked(
                applied(mutant, Path(folder)), mutant.soak, options.db or mutant.only or "sqlite", options.seconds
            )
        survivors += found is None
        said = "SURVIVED" if found is None else "found"
        console.print(f"{mutant.name}: {said} after {time.perf_counter() - begun:.1f} s", highlight=False)
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
