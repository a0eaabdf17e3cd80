"""A machine by its name: `module:Machine`, as entry points are spelled.

Modules in the current folder are found first, as with `python -m`. What does not lead to a machine is a named
error that says what was found instead. Nothing is built of the machine, only its class is returned.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from statemachine import StateChart

from statelatch.errors import ConfigurationError, RequestError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import ModuleType

__all__ = ["load_machine"]


def load_machine(reference: str) -> type[StateChart[Any]]:
    """Import a machine. Modules in the current folder are found first, as with `python -m`.

    Args:
        reference: `module:Machine`; `module:Outer.Machine` for a nested one.

    Raises:
        RequestError: it is malformed, or names no module, attribute or machine that there is; the message says
            what was found instead.
        ConfigurationError: the module cannot be imported; mend what the message names.
    """
    module_name, names = _parsed(reference)
    with _current_folder_first():
        module = _imported(reference, module_name)
        found: object = module
        for name in names:
            found = _attribute(reference, module, found, name)
    return _checked(reference, found)


def _parsed(reference: str) -> tuple[str, list[str]]:
    module_name, _, path = reference.partition(":")
    names = [*module_name.split("."), *path.split(".")]
    if not all(name.isidentifier() for name in names) or module_name.endswith(".py"):
        raise RequestError(
            f"expected module:Machine, for instance statelatch.runs:RunLifecycle, found {reference!r}; "
            "write the module's dotted name, a colon and the name of the class"
        )
    return module_name, path.split(".")


@contextmanager
def _current_folder_first() -> Generator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _imported(reference: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise RequestError(
                f"{reference}: there is no module {error.name!r} in the current folder {Path.cwd()} or among the "
                "installed packages; check its spelling, or change to the folder that has it"
            ) from error
        raise ConfigurationError(f"{reference}: {module_name} imports {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:  # a script without a main guard ends the process
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"{reference}: importing {module_name} failed with {reason}") from error


def _attribute(reference: str, module: ModuleType, owner: object, name: str) -> object:
    try:
        return cast("object", getattr(owner, name))
    except AttributeError as error:
        machines = ", ".join(_machines(module, module.__name__)) or "none"
        where = owner.__name__ if isinstance(owner, type) else module.__name__
        raise RequestError(
            f"{reference}: {where} has no attribute {name!r}; machines in {module.__name__}: {machines}"
        ) from error


def _machines(owner: object, module_name: str, prefix: str = "") -> Iterator[str]:
    """The machines that a module has, those in its classes included, as a reference names them."""
    for name, value in vars(owner).items():
        if _is_machine(value) and value.states_map:
            yield prefix + name
        elif isinstance(value, type) and (value.__module__, value.__qualname__) == (module_name, prefix + name):
            yield from _machines(value, module_name, f"{prefix}{name}.")


def _is_machine(value: object) -> TypeGuard[type[StateChart[Any]]]:
    return isinstance(value, type) and issubclass(value, StateChart)


def _checked(reference: str, found: object) -> type[StateChart[Any]]:
    expected = f"{reference}: expected a StateMachine or StateChart class, found"
    if not _is_machine(found):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"an instance of {type(found).__name__}"
        raise RequestError(f"{expected} {kind}; name the machine's class")
    if not found.states_map:
        raise RequestError(f"{expected} {found.__name__}, which is abstract: it has no states; name a subclass")
    return found
