"""PURE: from a guard of python-statemachine to an SQL predicate that agrees with Python on every row.

Rules:

- A name is a column, `hybrid_property` or `hybrid_method` of the entity. The arguments of a hybrid_method become
  bound parameters: they are the event's parameters.
- What is Python (of the machine, of the entity, or a callable) has the SQL twin that the mapping registers for it,
  or none. A twin is taken at its word: it never raises, and stands for all that Python finds under the name.
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

from sqlalchemy import BindParameter, Column, ColumnElement, and_, bindparam, true, types
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import ColumnProperty

from statelatch import framework
from statelatch.comparisons import compare, truth_of
from statelatch.expressions import has_cte
from statelatch.kinds import unlike
from statelatch.truth import Truth, Untranslatable, all_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from statemachine.callbacks import CallbackSpec

    from statelatch.comparisons import Side

__all__ = [
    "NOT_PARAMETERS",
    "PARAMETER",
    "Names",
    "event_parameter",
    "has_sql",
    "translate",
    "unlike_constants",
]

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

    def twin(self, name: str) -> ColumnElement[Any] | None:
        """The SQL that the mapping registers for a guard that is Python."""
        ...

    def in_state_id(self, state_id: object) -> ColumnElement[bool]:
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
    truth = _Translation(names).predicate(_parsed(spec)) if framework.is_name(spec) else _of_callable(spec, names)
    return truth.negated() if framework.is_unless(spec) else truth


def _parsed(spec: CallbackSpec) -> ast.expr:
    return ast.parse(framework.guard_expression(spec), mode="eval").body


def _of_callable(spec: CallbackSpec, names: Names) -> Truth:
    twin = names.twin(spec.attr_name)
    if twin is None:
        raise Untranslatable(f"guard {spec.attr_name!r} is a Python callable")
    return truth_of(twin)


def has_sql(name: str, names: Names) -> bool:
    """Whether this attribute of the entity is a condition in SQL by itself."""
    try:
        _Translation(names).truth_of_attribute(name)
    except Untranslatable:
        return False
    return True


def unlike_constants(spec: CallbackSpec, names: Names) -> Iterator[tuple[Column[Any], object]]:
    """Each column that a guard compares with a constant with which Python cannot compare any of its values."""
    nodes = ast.walk(_parsed(spec)) if framework.is_name(spec) else ()
    for node in (node for node in nodes if isinstance(node, ast.Compare)):
        operands = (node.left, *node.comparators)
        for left, comparison, right in zip(operands, node.ops, operands[1:], strict=False):
            match left, right:
                case (ast.Name(id=name), ast.Constant(value=constant)) | (
                    ast.Constant(value=constant),
                    ast.Name(id=name),
                ):
                    column = _own_column(name, names)
                    if column is not None and unlike(column.type, comparison, constant):
                        yield column, constant
                case _:
                    pass


def _own_column(name: str, names: Names) -> Column[Any] | None:
    """The column that this name is in Python, too; None of anything else."""
    attribute: Any = getattr(names.entity, name, None)
    prop: Any = getattr(attribute, "property", None)
    if names.is_python(name) or names.twin(name) is not None or not isinstance(prop, ColumnProperty):
        return None
    if isinstance(_descriptor(names.entity, name), hybrid_property | hybrid_method):
        return None
    column = cast("Any", prop).columns[0]
    return cast("Column[Any]", column) if isinstance(column, Column) else None


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
                twin = self._names.twin(name)
                return self.truth_of_attribute(self._own(name)) if twin is None else truth_of(twin)
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
        operands = [self._operand(operand) for operand in (node.left, *node.comparators)]
        links = zip(operands, node.ops, operands[1:], strict=False)
        return all_of(
            compare(left, comparison, right).after(right_raises).after(left_raises)
            for (left, left_raises), comparison, (right, right_raises) in links
        )

    def _operand(self, node: ast.expr) -> tuple[Side, ColumnElement[bool] | None]:
        """A value to compare, and where Python raises before it has it. A condition is a value, too."""
        if not _is_condition(node):
            return self._value(node), None
        truth = self.predicate(node)
        return truth.as_value(), truth.raises

    def _in_states(self, arguments: list[ast.expr]) -> Truth:
        ids = [argument.value for argument in arguments if isinstance(argument, ast.Constant)]
        return Truth(and_(true(), *(self._names.in_state_id(state_id) for state_id in ids)))

    def _value(self, node: ast.expr) -> Side:
        match node:
            case ast.Name(id=name):
                twin = self._names.twin(name)
                return self._attribute(self._own(name)) if twin is None else twin
            case ast.Constant(value=value):
                return value
            case _:
                raise Untranslatable(f"{ast.unparse(node)!r} is used as a value")

    def _own(self, name: str) -> str:
        """A name that is not the machine's."""
        if self._names.is_python(name):
            raise Untranslatable(f"guard {name!r} is Python on the machine")
        return name

    def truth_of_attribute(self, name: str) -> Truth:
        """The entity's attribute as a condition."""
        half = _python_half(self._names.entity, name)
        return truth_of(self._attribute(name)) if half is None else _Half(self._names, half).truth

    def _attribute(self, name: str) -> Side:
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


def _is_condition(node: ast.expr) -> bool:
    """Whether its value is True or False: `a and b` is one of the two, whatever they are."""
    match node:
        case ast.Compare() | ast.UnaryOp(op=ast.Not()) | ast.Call():
            return True
        case ast.BoolOp(values=values):
            return all(map(_is_condition, values))
        case _:
            return False


class _Half(_Translation):
    """The Python half of a hybrid that has no other: conditions over the attributes of `self`."""

    def __init__(self, names: Names, function: Callable[..., Any]) -> None:
        super().__init__(names)
        self._name = function.__name__
        self._self, *arguments = pyinspect.signature(function).parameters.values()
        self._arguments: dict[str, BindParameter[Any]] = {
            argument: bindparam(bound.key, bound.value, type_=types.NullType(), required=bound.required)
            for argument, bound in _event_parameters(self._name, arguments).items()
        }  # what each is compared with says what it may be, whatever its default is
        self._returned = _returned(function)

    @property
    def truth(self) -> Truth:
        """What it returns, as a condition."""
        return self.predicate(self._returned)

    @property
    def value(self) -> Side:
        """What it returns, as a value."""
        return self._value(self._returned)

    def predicate(self, node: ast.expr) -> Truth:
        match node:
            case ast.Attribute(value=ast.Name(id=self._self.name), attr=name):
                return self.truth_of_attribute(name)
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

    def _value(self, node: ast.expr) -> Side:
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
    descriptor = _descriptor(entity, name)
    of_method, of_property = isinstance(descriptor, hybrid_method), isinstance(descriptor, hybrid_property)
    hybrid: Any = descriptor  # narrowed, it would be of unknown type
    if of_method:
        return hybrid.func if hybrid.expr is hybrid.func else None
    if of_property and hybrid.expr is None and hybrid.custom_comparator is None:
        return hybrid.fget
    return None


def _descriptor(entity: type[Any], name: str) -> Any:
    return cast("Any", inspect_entity(entity)).all_orm_descriptors.get(name)


def _returned(function: Callable[..., Any]) -> ast.expr:
    """The expression that a function of one statement returns."""
    name = function.__name__
    if hasattr(function, "__wrapped__"):
        raise Untranslatable(f"hybrid {name!r} is decorated; give it an SQL half with .expression")
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
    descriptor = _descriptor(entity, name)
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
    if has_cte(cast("ColumnElement[Any]", clause)):
        raise Untranslatable(f"{attribute!r} has a CTE, which an UPDATE does not have on every database")
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
