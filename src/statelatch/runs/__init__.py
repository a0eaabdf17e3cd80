"""The lifecycle of a run and the manager that writes its last word once."""

from statelatch.runs.context import RunCancelled, RunContext, current_run
from statelatch.runs.handle import RunHandle
from statelatch.runs.lifecycle import RunLifecycle
from statelatch.runs.manager import RunManager
from statelatch.runs.model import Run, RunColumns, run_mapping
from statelatch.runs.plans import CancelRequestedError
from statelatch.runs.records import Cancellation, Finalized, LogLine, Outcome, Progress, RunEvent, Started
from statelatch.runs.schema import create_tables
from statelatch.runs.spool import SpoolError
from statelatch.runs.subscriptions import Subscription

__all__ = [
    "CancelRequestedError",
    "Cancellation",
    "Finalized",
    "LogLine",
    "Outcome",
    "Progress",
    "Run",
    "RunCancelled",
    "RunColumns",
    "RunContext",
    "RunEvent",
    "RunHandle",
    "RunLifecycle",
    "RunManager",
    "SpoolError",
    "Started",
    "Subscription",
    "create_tables",
    "current_run",
    "run_mapping",
]
