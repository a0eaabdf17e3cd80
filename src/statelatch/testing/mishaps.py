"""What goes wrong during a call of `lifecycle_rules`: faults, deaths, and others who are faster."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from statelatch.testing.calls import Trouble
from statelatch.testing.fault import DEADLY, Fault, InjectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping, Sequence

    from statelatch.testing.injected import Injected
    from statelatch.testing.injector import FaultInjector

__all__ = ["Change", "Mishap", "Overtaking", "mishaps", "overtaken"]

SECONDS = 0.02
"""How long a lock is held, or silence lasts: what is shown is the order of things, not patience."""

ALWAYS = 1_000_000
"""More often than any call connects."""

_ANYTHING = re.compile("")


@dataclass(frozen=True)
class Mishap:
    """A fault of one call.

    Attributes:
        fault: which.
        at: how the statement begins that it strikes.
        dies: the process ends there, too; another takes its place.
        cut_off: no new connection is had for the rest of the call.
    """

    fault: Fault
    at: str = "UPDATE"
    dies: bool = False
    cut_off: bool = False

    def __repr__(self) -> str:
        """As it is written in a program."""
        words = [f"Fault.{self.fault.name}", f"at={self.at!r}"]
        words += [f"{name}=True" for name in ("dies", "cut_off") if getattr(self, name)]
        return f"Mishap({', '.join(words)})"

    def _repr_pretty_(self, printer: Any, _is_cycle: bool) -> None:  # Hypothesis and IPython print by it
        printer.text(repr(self))

    @property
    def cuts(self) -> bool:
        """Whether it cuts the connection, so that the transaction is over and locks no row."""
        return self.fault in DEADLY

    @contextmanager
    def strike(self, injector: FaultInjector) -> Generator[list[Injected]]:
        """Let it happen in a `with`; what has fired is told by the list, which is empty where it cannot happen."""
        with ExitStack() as stack:
            injected: list[Injected] = []
            for statement in (self.at, "COMMIT"):  # of an engine in AUTOCOMMIT only a COMMIT that is sent can be struck
                try:
                    injected.append(stack.enter_context(self._injected(injector, statement)))
                    break
                except InjectionError:
                    if self.fault not in DEADLY:
                        break
            if self.cut_off and injected:  # from then on, when the connection is had that is to be cut
                refusing = injector.inject(Fault.REFUSE, times=ALWAYS, must_fire=False)
                injected.append(refusing)
                refuse = partial(stack.enter_context, refusing)
                stack.enter_context(injector.before(self.at, refuse, must_fire=False))
            yield injected

    def trouble(self, injected: Sequence[Injected]) -> Trouble:
        """What has happened, of that which was to happen."""
        fired = [bool(each.fired) for each in injected]
        return Trouble(any(fired), self.cuts and fired[:1] == [True], self.cut_off and fired[1:] == [True])

    def _injected(self, injector: FaultInjector, statement: str) -> Injected:
        return injector.inject(self.fault, statement=statement, seconds=SECONDS, dies=self.dies, must_fire=False)


@dataclass(frozen=True)
class Overtaking:
    """Somebody else sends an event to the row just before the UPDATE, or after the connection was cut, if it is."""

    event: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Change:
    """Somebody else writes columns of the row then, which is no transition."""

    values: Mapping[str, Any]


def mishaps(faults: Collection[Fault], at: Sequence[str]) -> list[Mishap]:
    """Every mishap of these faults.

    Args:
        faults: which.
        at: how the statements begin that may be struck; the first is that which takes the row's lock: what comes from
            other sessions can strike no later one.
    """
    found: list[Mishap] = []
    for fault in [each for each in Fault if each in faults]:
        if fault is Fault.SERIALIZATION_FAILURE and at[0] == "SELECT":
            continue  # only who writes is broken off on each database
        for statement in at if fault in DEADLY else at[:1]:
            found.append(Mishap(fault, statement))
            if fault in DEADLY:
                found.append(Mishap(fault, statement, dies=True))
        if fault in DEADLY:
            found.append(Mishap(fault, at[0], cut_off=True))
    return found


@contextmanager
def overtaken(
    injector: FaultInjector, action: Callable[[], object], *, after: list[Injected] | None
) -> Generator[None]:
    """Do something in the middle of a call, once.

    Args:
        injector: of the engine over which the call is sent.
        action: what to do.
        after: the faults one of which must have fired; None to do it before the first UPDATE.
    """
    is_done = False

    def act() -> None:
        nonlocal is_done
        if not is_done and (after is None or any(each.fired for each in after)):
            is_done = True
            action()

    statement = "UPDATE" if after is None else _ANYTHING
    with injector.before(statement, act, times=ALWAYS, must_fire=False):
        yield
