"""State machines that hold: python-statemachine persisted through SQLAlchemy."""

from statelatch.adapter import PersistenceAdapter
from statelatch.batcher import Batcher
from statelatch.errors import (
    ActiveRunExistsError,
    BatchInterruptedError,
    ConfigurationError,
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    OvertakenError,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    StatelatchError,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.mapping import MachineMapping
from statelatch.records import BulkResult, Explanation, LogEntry, Request, Snapshot, Transitioned

__all__ = [
    "ActiveRunExistsError",
    "BatchInterruptedError",
    "Batcher",
    "BulkResult",
    "ConfigurationError",
    "ConnectionFailureError",
    "Explanation",
    "LogEntry",
    "MachineMapping",
    "NotAppliedError",
    "OutcomeUnknownError",
    "OvertakenError",
    "PersistenceAdapter",
    "Request",
    "RequestError",
    "RowNotFoundError",
    "Snapshot",
    "StaleVersionError",
    "StatelatchError",
    "TransitionRefusedError",
    "Transitioned",
    "UnknownStateError",
]
