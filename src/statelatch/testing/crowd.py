"""The clients of a world at work: what one of them is told while something goes wrong, and what became of the row.

Nothing is judged here but hooks, who are called for what is told, and for nothing else.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, cast

from statelatch.errors import BatchInterruptedError
from statelatch.records import Transitioned
from statelatch.testing.calls import Call, Span, Trouble, fail
from statelatch.testing.fault import ProcessDied
from statelatch.testing.mishaps import Change, Mishap, Overtaking, overtaken
from statelatch.testing.verdicts import CALM, check_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from statelatch.adapter import PersistenceAdapter
    from statelatch.mapping import MachineMapping
    from statelatch.testing.clients import Client, Clients
    from statelatch.testing.injected import Injected
    from statelatch.testing.stored import Stored

__all__ = ["Crowd", "Outcome", "answer_of"]


class Outcome(NamedTuple):
    """What became of a call."""

    answer: object
    spans: list[Span]
    trouble: Trouble


class Crowd:
    """Some clients, and another, whom no fault strikes.

    Args:
        mapping: the machine and the entity.
        clients: where they come from.
        count: how many of them.
    """

    def __init__(self, mapping: MachineMapping, clients: Clients, count: int) -> None:
        self._mapping, self._pool, self._table = mapping, clients, clients.table
        self._clients = [clients.take() for _ in range(count)]
        self._another = clients.take()

    @property
    def another(self) -> PersistenceAdapter:
        """The adapter of the client whom no fault strikes."""
        return self._another.adapter

    def adapter(self, client: int) -> PersistenceAdapter:
        """The adapter of this client."""
        return self._clients[client].adapter

    def leave(self) -> None:
        """Let others have the clients."""
        for client in (*self._clients, self._another):
            self._pool.give_back(client)
        self._clients.clear()

    def read(self, key: object) -> Stored:
        """The row with this key, which there must be."""
        stored = self._table.row(key)
        if stored is None:
            fail(f"the row {key!r}", "to be there", "none")
        return stored

    def told(
        self, client: int, mishap: Mishap | None, call: Callable[[PersistenceAdapter], object]
    ) -> tuple[object, Trouble]:
        """A client makes a call while this goes wrong; what it is told, and what went wrong."""
        one = self._clients[client]
        with ExitStack() as stack:
            injected = stack.enter_context(mishap.strike(one.injector)) if mishap else []
            answer = self._heard(one, call)
        self._bury(client, answer)
        return answer, mishap.trouble(injected) if mishap else CALM

    def sent(
        self,
        client: int | None,
        before: Stored,
        call: Call,
        mishap: Mishap | None = None,
        other: Overtaking | Change | None = None,
    ) -> Outcome:
        """A client sends an event to a row while this goes wrong and somebody is faster; None is the other client."""
        one = self._another if client is None else self._clients[client]
        between: list[Stored] = []
        errors: list[BaseException] = []

        def act() -> None:
            assert other is not None, "else nobody would act"  # noqa: S101
            try:
                between.extend(self._overtake(call.key, other))
            except BaseException as error:
                errors.append(error)
                raise

        def send(adapter: PersistenceAdapter) -> Transitioned:
            return adapter.send(
                call.key, call.event, expected_version=call.expected_version, token=call.token, **call.params
            )

        injected: Sequence[Injected] = []
        with ExitStack() as stack:
            if mishap:
                injected = stack.enter_context(mishap.strike(one.injector))
            if other:
                after = list(injected) if mishap and mishap.cuts else None
                stack.enter_context(overtaken(one.injector, act, after=after))
            answer = self._heard(one, send)
        if errors:
            raise errors[0]  # the call may have made something else of it
        rows = [before, *between, self.read(call.key)]
        spans = [Span(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]
        if client is not None:
            self._bury(client, answer)
        return Outcome(answer, spans, mishap.trouble(injected) if mishap else CALM)

    def _overtake(self, key: object, other: Overtaking | Change) -> tuple[Stored, Stored]:
        """Somebody else is faster; the row before and after."""
        before = self.read(key)
        if isinstance(other, Change):
            self._table.change(key, other.values)
            return before, self.read(key)
        compiled = self.another.explain(other.event).compiled
        call = Call(key=key, event=other.event, params=other.params, compiled=compiled)
        answer = self._heard(self._another, lambda adapter: adapter.send(key, other.event, **other.params))
        after = self.read(key)
        check_answer(self._mapping, call, answer, [Span(before, after)])
        return before, after

    def _heard(self, one: Client, call: Callable[[PersistenceAdapter], object]) -> object:
        """What a client is told, and what its hooks are called with: each transition that was applied, once."""
        one.hooked.clear()
        answer = answer_of(lambda: call(one.adapter))
        applied, hooked = (sorted(done.token for done in each) for each in (_applied(answer), one.hooked))
        if hooked != applied and not isinstance(answer, ProcessDied):
            due = f"one call for each transition that was told, {_applied(answer)}"
            fail(f"after_commit, when {answer!r} was told", due, one.hooked)
        return answer

    def _bury(self, client: int, answer: object) -> None:
        """Another process takes the place of one that died."""
        if isinstance(answer, ProcessDied):
            self._pool.dead(self._clients[client])
            self._clients[client] = self._pool.born()


def answer_of(call: Callable[[], object]) -> object:
    """What is returned, or raised."""
    try:
        return call()
    except (Exception, ProcessDied) as error:  # noqa: BLE001  it is the answer
        return error


def _applied(answer: object) -> list[Transitioned]:
    """The transitions of which an answer tells."""
    answers: object = answer.answers if isinstance(answer, BatchInterruptedError) else answer
    several = cast("list[object]", answers) if isinstance(answers, list) else [answers]
    return [each for each in several if isinstance(each, Transitioned)]
