"""Run the examples of README and docs, each file in a folder of its own: a code block that fails is a failed test.

A block needs those before it in its file. Where they were not run, because it was chosen alone or pytest-xdist gave
them to another process, they are run first.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from typing import Any
from unittest import SkipTest

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def _enter(namespace: dict[str, Any]) -> None:
    namespace["_home"], namespace["_folder"] = os.getcwd(), tempfile.TemporaryDirectory()  # noqa: PTH109
    namespace["_run"] = set()
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=_enter,
    teardown=_leave,
).pytest()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Run the blocks before this one, in this folder, unless they were."""
    if not isinstance(item, SybilItem):
        return
    this, run = item.example, item.example.namespace["_run"]
    for example in this.document.examples():
        if example.start < this.start and example.start not in run:
            run.add(example.start)
            with suppress(SkipTest):
                example.evaluate()
    run.add(this.start)
