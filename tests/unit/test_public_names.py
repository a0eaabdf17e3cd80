"""The one way in: what `statelatch` exports, and that its `__init__` does nothing else."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import statelatch

DOCUMENTED = {
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
}

CORE = sorted(
    f"statelatch.{module.name}"
    for module in pkgutil.iter_modules(statelatch.__path__)
    if not module.ispkg and not module.name.startswith("_")
)


def test_all_is_what_is_documented() -> None:
    """Nothing is public by accident, and nothing that is documented is missing."""
    assert set(statelatch.__all__) == DOCUMENTED


def test_every_public_name_is_there() -> None:
    """Each name in `__all__` can be imported, has a docstring and says of which module it is."""
    for name in statelatch.__all__:
        value = getattr(statelatch, name)
        assert value.__doc__
        assert value.__module__.startswith("statelatch.")


def test_init_only_re_exports() -> None:
    """`__init__` is a docstring, imports and `__all__`: importing the package decides nothing."""
    source = Path(statelatch.__file__).read_text(encoding="utf-8")
    docstring, *imports, names = ast.parse(source).body

    assert isinstance(docstring, ast.Expr)
    assert {ast.ImportFrom} == {type(node) for node in imports}
    assert isinstance(names, ast.Assign)
    assert sorted(statelatch.__all__) == list(statelatch.__all__)


@pytest.mark.parametrize("name", CORE)
def test_every_module_says_what_it_is_and_what_it_gives(name: str) -> None:
    """Each module begins with its rules, and what its `__all__` names exists."""
    module = importlib.import_module(name)

    assert module.__doc__
    assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []


def test_the_package_is_typed() -> None:
    """`py.typed` is there, so that a user's type checker reads our annotations (PEP 561)."""
    assert (Path(statelatch.__file__).parent / "py.typed").is_file()
