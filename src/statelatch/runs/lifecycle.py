"""The lifecycle of a run: its states, events and guards, and nothing else.

The guards are names; what they mean stands once, as hybrids, in `statelatch.runs.model`.
"""

from __future__ import annotations

from statemachine import State, StateMachine

__all__ = ["RunLifecycle"]


class RunLifecycle(StateMachine):
    """From `pending` through `running` to exactly one of `completed`, `failed`, `cancelled`."""

    pending = State(initial=True)
    running = State()
    completed = State(final=True)
    failed = State(final=True)
    cancelled = State(final=True)

    start = pending.to(running, cond="startable")
    complete = running.to(completed, cond="holds_lease")
    fail = running.to(failed, cond="holds_lease") | pending.to(failed, cond="unclaimed")
    cancel = pending.to(cancelled, cond="unclaimed") | running.to(cancelled, cond="cancel_requested")
    expire = running.to(failed, cond="lease_expired and attempts_used_up")
    requeue = running.to(pending, cond="lease_expired and not attempts_used_up")
