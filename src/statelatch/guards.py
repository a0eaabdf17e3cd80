"""PURE: from a guard of python-statemachine to an SQL predicate that agrees with Python on every row.

Rules:

- A name is a column, `hybrid_property` or `hybrid_method` of the entity. The arguments of a hybrid_method become
  bound parameters: they are the event's parameters.
- A hybrid with an SQL half of its own (`.expression`) is taken at its word. Of one without, the Python half is
  translated like a guard if it is a single `return` of conditions over `self`: to evaluate it at the class, as
  SQLAlchemy does, would lose every `and`, `or` and `is None` in it.
- What a condition means, NULL included, stands in `statelatch.comparisons` and `statelatch.truth`.
- What cannot be translated raises `Untranslatable` with the reason; nothing is guessed.

This file must not know what a transition writes, nor any connection.
"""

from __future__ import annotations

import ast
import inspect as pyinspect
import textwrap
from typing import TYPE_CHECKING, Any, Protocol, cast

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, true
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import ColumnProperty

from statelatch import framework
from statelatch.comparisons import compare, truth_of
from statelatch.truth import Truth, Untranslatable, all_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from statemachine.callbacks import CallbackSpec

__all__ = ["NOT_PARAMETERS", "PARAMETER", "Names", "event_parameter", "translate"]

PARAMETER = "event_"

NOT_PARAMETERS = framework.ENGINE_ARGUMENTS | {"key", "expected_version", "token", "send_id", "self"}
"""Names that no parameter of an event can have: arguments of the engine's, or of the verb that sends it."""


def event_parameter(name: str) -> str:
    """Name under which an event's parameter is bound: SQLAlchemy keeps the columns' names for itself."""
    return PARAMETER + name


class Names(Protocol):
    """What a guard may refer to: everything that this file needs to know of a mapping."""

    @property
    def entity(self) -> type[Any]:
        """The declarative class."""
        ...

    def is_python(self, name: str) -> bool:
        """Whether the machine has an attribute of this name: the engine would evaluate it in Python, too."""
        ...

    def in_state_id(self, state_id: str) -> ColumnElement[bool]:
        """Where the machine is in the state with this id."""
        ...


def translate(spec: CallbackSpec, names: Names) -> Truth:
    """Translate one guard.

    Args:
        spec: an item of `transition.cond`; its `expected_value` is False for `unless`.
        names: what its names refer to.

    Raises:
        Untranslatable: it needs Python.
    """
    if not framework.is_name(spec):
        raise Untranslatable(f"guard {spec.attr_name!r} is a Python callable")
    tree = ast.parse(framework.guard_expression(spec), mode="eval")
    truth = _Translation(names).predicate(tree.body)
    return truth.negated() if framework.is_unless(spec) else truth


class _Translation:
    """One guard's expression, node by node, as python-statemachine's own parser walks it."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def predicate(self, node: ast.expr) -> Truth:
        match node:
            case ast.BoolOp(op=ast.And(), values=[first, *rest]):
                return self._fold(first, rest, Truth.and_then)
            case ast.BoolOp(values=[first, *rest]):
                return self._fold(first, rest, Truth.or_else)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.predicate(operand).negated()
            case ast.Compare():
                return self._comparison(node)
            case ast.Call(func=ast.Name(id=name), args=arguments) if name.lower() == "in":
                return self._in_states(arguments)
            case ast.Name(id=name):
                return self._truth_of(self._own(name))
            case ast.Constant():
                return truth_of(node.value)
            case _:
                raise Untranslatable(f"{ast.unparse(node)!r} is not a guard expression")

    def _fold(self, first: ast.expr, rest: list[ast.expr], join: Callable[[Truth, Truth], Truth]) -> Truth:
        result = self.predicate(first)
        for node in rest:
            result = join(result, self.predicate(node))
        return result

    def _comparison(self, node: ast.Compare) -> Truth:
        operands = [self._value(operand) for operand in (node.left, *node.comparators)]
        links = [
            compare(left, comparison, right)
            for left, comparison, right in zip(operands, node.ops, operands[1:], strict=False)
        ]
        return all_of(links)

    def _in_states(self, arguments: list[ast.expr]) -> Truth:
        ids = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
        return Truth(and_(true(), *(self._names.in_state_id(str(state_id)) for state_id in ids)))

    def _value(self, node: ast.expr) -> ColumnElement[Any] | object:
        match node:
            case ast.Name(id=name):
                return self._attribute(self._own(name))
            case ast.Constant(value=value):
                return value
            case _:
                raise Untranslatable(f"{ast.unparse(node)!r} is used as a value")

    def _own(self, name: str) -> str:
        """A name that is not the machine's."""
        if self._names.is_python(name):
            raise Untranslatable(f"guard {name!r} is Python on the machine")
        return name

    def _truth_of(self, name: str) -> Truth:
        """The entity's attribute as a condition."""
        half = _python_half(self._names.entity, name)
        return truth_of(self._attribute(name)) if half is None else _Half(self._names, half).truth

    def _attribute(self, name: str) -> ColumnElement[Any] | object:
        """The entity's attribute as a value."""
        half = _python_half(self._names.entity, name)
        if half is not None:
            return _Half(self._names, half).value
        try:
            return _at_class(self._names.entity, name)
        except Untranslatable:
            raise
        except Exception as error:  # evaluating a hybrid at its class may raise anything
            raise Untranslatable(f"guard {name!r} has no SQL expression ({error})") from error


class _Half(_Translation):
    """The Python half of a hybrid that has no other: conditions over the attributes of `self`."""

    def __init__(self, names: Names, function: Callable[..., Any]) -> None:
        super().__init__(names)
        self._name = function.__name__
        self._self, *arguments = pyinspect.signature(function).parameters.values()
        self._arguments = _event_parameters(self._name, arguments)
        self._returned = _returned(function)

    @property
    def truth(self) -> Truth:
        """What it returns, as a condition."""
        return self.predicate(self._returned)

    @property
    def value(self) -> ColumnElement[Any] | object:
        """What it returns, as a value."""
        return self._value(self._returned)

    def predicate(self, node: ast.expr) -> Truth:
        match node:
            case ast.Attribute(value=ast.Name(id=self._self.name), attr=name):
                return self._truth_of(name)
            case ast.Compare(ops=[ast.Is() | ast.IsNot()], comparators=[ast.Constant(value=None)], left=left):
                return compare(self._value(left), _EQUALITY[type(node.ops[0])], None)
            case ast.Compare(ops=ops) if all(isinstance(each, _COMPARED) for each in ops):
                return super().predicate(node)
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return super().predicate(node)
            case ast.Constant():
                return truth_of(node.value)
            case _:
                raise self._needs_python(node)

    def _value(self, node: ast.expr) -> ColumnElement[Any] | object:
        match node:
            case ast.Attribute(value=ast.Name(id=self._self.name), attr=name):
                return self._attribute(name)
            case ast.Name(id=name) if name in self._arguments:
                return self._arguments[name]
            case ast.Constant(value=value):
                return value
            case _:
                raise self._needs_python(node)

    def _needs_python(self, node: ast.expr) -> Untranslatable:
        return Untranslatable(
            f"hybrid {self._name!r} needs Python for {ast.unparse(node)!r}; give it an SQL half with .expression"
        )


_COMPARED = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_EQUALITY: dict[type[ast.cmpop], ast.cmpop] = {ast.Is: ast.Eq(), ast.IsNot: ast.NotEq()}


def _python_half(entity: type[Any], name: str) -> Callable[..., Any] | None:
    """The Python half of a hybrid that has no SQL half of its own; None of anything else."""
    descriptor: Any = cast("Any", inspect_entity(entity)).all_orm_descriptors.get(name)
    of_method, of_property = isinstance(descriptor, hybrid_method), isinstance(descriptor, hybrid_property)
    hybrid: Any = descriptor  # narrowed, it would be of unknown type
    if of_method:
        return hybrid.func if hybrid.expr is hybrid.func else None
    if of_property and hybrid.expr is None and hybrid.custom_comparator is None:
        return hybrid.fget
    return None


def _returned(function: Callable[..., Any]) -> ast.expr:
    """The expression that a function of one statement returns."""
    name = function.__name__
    try:
        tree = ast.parse(textwrap.dedent(pyinspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as error:
        raise Untranslatable(f"hybrid {name!r} has no SQL half, and its source is not at hand") from error
    match tree.body:
        case [ast.FunctionDef(body=[*documented, ast.Return(value=ast.expr() as returned)])]:
            if all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in documented):
                return returned
        case _:
            pass
    raise Untranslatable(f"hybrid {name!r} is more than one return; give it an SQL half with .expression")


def _at_class(entity: type[Any], name: str) -> ColumnElement[Any]:
    """The entity's attribute as SQL."""
    descriptor = cast("Any", inspect_entity(entity)).all_orm_descriptors.get(name)
    attribute = getattr(entity, name, None)
    if isinstance(descriptor, hybrid_method):
        arguments = list(pyinspect.signature(descriptor.func).parameters.values())[1:]
        method = cast("Callable[..., Any]", attribute)
        return _expression(method(**_event_parameters(name, arguments)))
    is_column = isinstance(getattr(attribute, "property", None), ColumnProperty)
    if is_column or isinstance(descriptor, hybrid_property):
        return _expression(attribute)
    raise Untranslatable(f"guard {name!r} is not a column, hybrid_property or hybrid_method of {entity.__name__}")


def _expression(attribute: Any) -> ColumnElement[Any]:
    clause = attribute.__clause_element__() if hasattr(attribute, "__clause_element__") else attribute
    if not isinstance(clause, ColumnElement):
        raise Untranslatable(f"{attribute!r} is no SQL expression")
    return cast("ColumnElement[Any]", clause)


def _event_parameters(name: str, arguments: Iterable[pyinspect.Parameter]) -> dict[str, BindParameter[Any]]:
    """The arguments of a hybrid_method, each a bound parameter of its name."""
    bound: dict[str, BindParameter[Any]] = {}
    for argument in arguments:
        variadic = argument.kind in {argument.VAR_POSITIONAL, argument.VAR_KEYWORD}
        if variadic or argument.name in NOT_PARAMETERS:
            raise Untranslatable(f"guard {name!r} takes {argument}, which SQL does not have")
        key, required = event_parameter(argument.name), argument.default is argument.empty
        bound[argument.name] = bindparam(key) if required else bindparam(key, argument.default)
    return bound
