"""Machines that are built in many threads at a time."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from statemachine import State, StateMachine

from statelatch.machines import build_machine

inside: list[object] = []
most: list[int] = []


class Watched(StateMachine):
    """It looks how many of its kind are being built while it is."""

    new = State(initial=True)
    old = State(final=True)

    age = new.to(old, cond="ready")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """Take a while."""
        inside.append(self)
        most.append(len(inside))
        time.sleep(0.002)
        super().__init__(*arguments, **keywords)  # pyright: ignore[reportUnknownMemberType]
        inside.remove(self)


class Thing:
    """Its model."""

    state, ready = "new", True


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later Pythons parse in many threads")
def test_threads_do_not_parse_at_the_same_time() -> None:
    """Python 3.11 would break one of them off, with a SystemError."""
    with ThreadPoolExecutor(8) as executor:
        built = [executor.submit(build_machine, Watched, Thing(), "state") for _ in range(24)]

    assert ({type(each.result()) for each in built}, max(most)) == ({Watched}, 1)
