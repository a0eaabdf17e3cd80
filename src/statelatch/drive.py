"""The only loop that touches a connection.

`drive` runs a plan: it carries out each command, sends the reply back, and throws into the plan what went
wrong, judged by `statelatch.faults`. It knows the phase of every statement, because it is the one who is there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from statelatch import faults
from statelatch.commands import Command, Execute, Fire, Pause, Plan, Reply
from statelatch.errors import OutcomeUnknownError, Phase
from statelatch.interrupts import pass_on
from statelatch.limits import Limit
from statelatch.records import Transitioned

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from statelatch.interpreter import Fired, Refused
    from statelatch.lines import Line, Lines

__all__ = ["Hook", "drive"]

logger = logging.getLogger("statelatch")

Hook = Callable[[Transitioned], object]
Result = TypeVar("Result")


def drive(plan: Plan[Result], lines: Lines, hooks: Sequence[Hook] = (), time_limit: float | None = None) -> Result:
    """Run a plan over connections of an engine.

    Args:
        plan: what to do.
        lines: to that engine.
        hooks: called with each transition that the plan has made durable.
        time_limit: seconds for each of its transactions, connecting included; None lets them take what they need.

    Raises:
        ConnectionFailureError: the database did not answer.
        NotAppliedError: it answered, and nothing was written.
    """
    try:
        command = next(plan)
        while True:
            try:
                reply = _perform(command, lines, hooks, time_limit)
            except Exception as error:  # noqa: BLE001  the plan decides
                command = plan.throw(error)
            else:
                command = plan.send(reply)
    except StopIteration as stop:
        return stop.value


def _perform(
    command: Command, lines: Lines, hooks: Sequence[Hook], time_limit: float | None
) -> Reply | Fired | Refused | None:
    if isinstance(command, Execute):
        return _transaction(command, lines, command.seconds if time_limit is None else time_limit)
    if isinstance(command, Fire):
        return command.firing.run()
    if isinstance(command, Pause):
        return time.sleep(command.seconds)
    return _tell(hooks, command.transitions)


def _transaction(command: Execute, lines: Lines, seconds: float | None) -> Reply:
    """One transaction, in which every error is judged with the phase that it happened in."""
    phase = Phase.CONNECT
    limit = None if seconds is None else Limit(seconds)
    line: Line | None = None
    try:
        with lines.line_for(command, limit=limit) as line:
            phase = Phase.EXECUTE
            autocommits = line.begin(several=command.whole or len(command.statements) > 1)
            phase = Phase.COMMIT if autocommits else phase
            reply = _execute(command, line)
            phase = Phase.COMMIT
            if not autocommits:
                line.commit()
    except Exception as error:
        phase = phase if command.writes else min(phase, Phase.EXECUTE, key=list(Phase).index)
        judged = faults.judge(error, phase, lines.engine, command.token, command.key)
        if judged is error:
            raise
        if isinstance(judged, faults.ReadOnly):
            lines.renew()
        if isinstance(judged, OutcomeUnknownError) and line is not None and line.session is not None:
            judged.session = line.session
            lines.renew()  # it will be ended, and may be in the pool
        if limit is not None and limit.is_spent and isinstance(judged, faults.Passing):
            judged = judged.final(error)
        if judged is error:
            raise
        raise judged from error
    return reply


def _execute(command: Execute, line: Line) -> Reply:
    """The statements in turn; none after a first that matched no row."""
    (first, parameters), *others = command.statements
    reply = line.execute(first, parameters)
    for statement, parameters in others if reply.matched else ():
        reply.rows = line.execute(statement, parameters).rows or reply.rows
    return reply


def _tell(hooks: Sequence[Hook], transitions: Iterable[Transitioned]) -> None:
    """Call the hooks. What they raise is logged: the transition is durable, whatever they think of it.

    In the main thread an interrupt, such as Ctrl-C, goes on to the caller after the transition's last hook.
    """
    for transition in transitions if hooks else ():
        raised: list[BaseException] = []
        for hook in hooks:
            try:
                hook(transition)
            except BaseException as error:
                raised.append(error)
                logger.exception(
                    "after_commit hook raised; %s %s is at version %s all the same",
                    transition.event,
                    transition.key,
                    transition.version,
                )
        pass_on(raised)
