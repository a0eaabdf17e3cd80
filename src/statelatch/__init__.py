"""State machines that hold: python-statemachine persisted through SQLAlchemy."""

from statelatch.adapter import PersistenceAdapter
from statelatch.errors import (
    ActiveRunExistsError,
    ConfigurationError,
    ConnectionFailureError,
    NotAppliedError,
    OutcomeUnknownError,
    RequestError,
    RowNotFoundError,
    StaleVersionError,
    StatelatchError,
    TransitionRefusedError,
    UnknownStateError,
)
from statelatch.mapping import MachineMapping
from statelatch.records import Explanation, Snapshot, Transitioned

__all__ = [
    "ActiveRunExistsError",
    "ConfigurationError",
    "ConnectionFailureError",
    "Explanation",
    "MachineMapping",
    "NotAppliedError",
    "OutcomeUnknownError",
    "PersistenceAdapter",
    "RequestError",
    "RowNotFoundError",
    "Snapshot",
    "StaleVersionError",
    "StatelatchError",
    "TransitionRefusedError",
    "Transitioned",
    "UnknownStateError",
]
