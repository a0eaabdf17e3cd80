"""The pytest plugin of statelatch: fixtures for `statelatch.testing`.

pytest loads it wherever statelatch is installed. So it lies outside the package, whose import would bring SQLAlchemy,
and each fixture imports what it needs only when a test asks for it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from sqlalchemy import URL, Engine

    from statelatch import PersistenceAdapter
    from statelatch.testing import Conflict, FaultInjector, History, Proxy, Recorder


@pytest.fixture
def fault_injector() -> Generator[Callable[[Engine | PersistenceAdapter], FaultInjector]]:
    """`fault_injector(adapter)` provokes faults on an adapter's or engine's connections, until the test ends."""
    from statelatch.testing import FaultInjector

    with ExitStack() as stack:
        yield lambda target: stack.enter_context(FaultInjector(target))


@pytest.fixture
def proxy() -> Generator[Callable[[URL | str], Proxy]]:
    """`proxy(url)` stands before a PostgreSQL or MariaDB, until the test ends; its `url` leads through it."""
    from statelatch.testing import Proxy

    with ExitStack() as stack:
        yield lambda url: stack.enter_context(Proxy(url))


@pytest.fixture
def recorded_history() -> Generator[History]:
    """A history for `recorder`. At the end of the test an order must exist that explains every answer in it."""
    from statelatch.testing import History, check_history

    history = History()
    yield history
    check_history(history)


@pytest.fixture
def recorder(recorded_history: History) -> Callable[[PersistenceAdapter], Recorder]:
    """`recorder(adapter)` has the adapter's verbs, and notes each call in `recorded_history`."""
    from statelatch.testing import Recorder

    return lambda adapter: Recorder(adapter, recorded_history)


@pytest.fixture
def conflict() -> Callable[..., AbstractContextManager[Conflict]]:
    """Another writer who is faster than an adapter's next UPDATE: what `simulate_conflict` does."""
    from statelatch.testing import simulate_conflict

    return simulate_conflict
