"""A test kit for state machines in databases: faults, histories, paths, and rules for machines of your own."""

from statelatch.testing.calls import LifecycleError
from statelatch.testing.conflicts import Conflict, simulate_conflict
from statelatch.testing.fault import Fault, FaultNotFiredError, InjectionError, ProcessDied
from statelatch.testing.history import HistoryError, check_history
from statelatch.testing.injected import Injected
from statelatch.testing.injector import FaultInjector
from statelatch.testing.operations import History, Operation, Verb
from statelatch.testing.paths import Path, Step, paths
from statelatch.testing.proxy import Proxy
from statelatch.testing.recorder import Recorder
from statelatch.testing.rules import lifecycle_rules

__all__ = [
    "Conflict",
    "Fault",
    "FaultInjector",
    "FaultNotFiredError",
    "History",
    "HistoryError",
    "Injected",
    "InjectionError",
    "LifecycleError",
    "Operation",
    "Path",
    "ProcessDied",
    "Proxy",
    "Recorder",
    "Step",
    "Verb",
    "check_history",
    "lifecycle_rules",
    "paths",
    "simulate_conflict",
]
