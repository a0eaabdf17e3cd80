"""PURE: from a guard of python-statemachine to an SQL predicate that agrees with Python on every row.

Rules, each of them Python's own (https://docs.python.org/3/reference/expressions.html):

- NULL is None: false in a condition, equal to itself, and `None < 3` *raises*. So every guard becomes
  two predicates: where it is true (`Truth.holds`), and where evaluating it raises (`Truth.raises`).
  Neither is ever NULL. `and`, `or` and chains stop early, so what they do not reach cannot raise.
- A name is a column, `hybrid_property` or `hybrid_method` of the entity. The arguments of a
  hybrid_method become bound parameters: they are the event's parameters.
- Text is compared by code point, whatever the collation; values of unlike types are not compared in SQL.
- What cannot be translated raises `Untranslatable` with the reason; nothing is guessed.

This file must not know what a transition writes, nor any connection.
"""

from __future__ import annotations

import ast
import inspect as pyinspect
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from sqlalchemy import Column, ColumnElement, and_, bindparam, case, false, func, literal, not_, or_, true, types
from sqlalchemy import inspect as inspect_entity
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import ColumnProperty
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList

from statelatch import framework
from statelatch.expressions import UTCDateTime, exact_float, exact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from statemachine.callbacks import CallbackSpec

__all__ = ["NOT_PARAMETERS", "PARAMETER", "Names", "Truth", "Untranslatable", "all_of", "event_parameter", "translate"]

_ORDERINGS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


PARAMETER = "event_"

NOT_PARAMETERS = framework.ENGINE_ARGUMENTS | {"key", "expected_version", "token", "send_id", "self"}
"""Names that no parameter of an event can have: arguments of the engine's, or of the verb that sends it."""


def event_parameter(name: str) -> str:
    """Name under which an event's parameter is bound: SQLAlchemy keeps the columns' names for itself."""
    return PARAMETER + name


class Untranslatable(Exception):  # noqa: N818  a finding, not a failure: the event is interpreted
    """This guard needs Python; the message says which part of it, and why."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A guard in SQL: where it holds, and where Python would raise instead of answering."""

    holds: ColumnElement[bool]
    raises: ColumnElement[bool] | None = None

    def and_then(self, other: Truth) -> Truth:
        """Python's `and`: the other is evaluated where this one holds."""
        return Truth(and_(self.holds, other.holds), _either(self.raises, _within(self.holds, other.raises)))

    def or_else(self, other: Truth) -> Truth:
        """Python's `or`: the other is evaluated where this one does not hold."""
        return Truth(or_(self.holds, other.holds), _either(self.raises, _within(not_(self.holds), other.raises)))

    def negated(self) -> Truth:
        """Python's `not`: it raises where its operand does."""
        return Truth(not_(self.holds), self.raises)

    def passes(self) -> ColumnElement[bool]:
        """Where Python would answer, and answer true."""
        return self.holds if self.raises is None else and_(not_(self.raises), self.holds)


ALWAYS = Truth(true())


def _either(left: ColumnElement[bool] | None, right: ColumnElement[bool] | None) -> ColumnElement[bool] | None:
    if left is None or right is None:
        return right if left is None else left
    return or_(left, right)


def _within(reached: ColumnElement[bool], raises: ColumnElement[bool] | None) -> ColumnElement[bool] | None:
    return None if raises is None else and_(reached, raises)


def all_of(truths: Iterable[Truth]) -> Truth:
    """All guards of one transition, evaluated in order, as the engine does."""
    result = ALWAYS
    for truth in truths:
        result = truth if result is ALWAYS else result.and_then(truth)
    return result


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
            case ast.Name() | ast.Constant():
                return truth_of(self._value(node))
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
                return self._name(name)
            case ast.Constant(value=value):
                return value
            case _:
                raise Untranslatable(f"{ast.unparse(node)!r} is used as a value")

    def _name(self, name: str) -> ColumnElement[Any]:
        entity = self._names.entity
        if self._names.is_python(name):
            raise Untranslatable(f"guard {name!r} is Python on the machine")
        try:
            return _at_class(entity, name)
        except Untranslatable:
            raise
        except Exception as error:  # a hybrid whose Python half cannot make SQL, and that has no other
            raise Untranslatable(f"guard {name!r} has no SQL expression ({error})") from error


def _at_class(entity: type[Any], name: str) -> ColumnElement[Any]:
    """The entity's attribute as SQL; evaluating a hybrid at its class may raise anything."""
    descriptor = cast("Any", inspect_entity(entity)).all_orm_descriptors.get(name)
    attribute = getattr(entity, name, None)
    if isinstance(descriptor, hybrid_method):
        return _call(name, cast("Callable[..., Any]", attribute), descriptor.func)
    is_column = isinstance(getattr(attribute, "property", None), ColumnProperty)
    if is_column or isinstance(descriptor, hybrid_property):
        return _expression(attribute)
    raise Untranslatable(f"guard {name!r} is not a column, hybrid_property or hybrid_method of {entity.__name__}")


def _expression(attribute: Any) -> ColumnElement[Any]:
    clause = attribute.__clause_element__() if hasattr(attribute, "__clause_element__") else attribute
    if not isinstance(clause, ColumnElement):
        raise Untranslatable(f"{attribute!r} is no SQL expression")
    return cast("ColumnElement[Any]", clause)


def _call(name: str, method: Callable[..., Any], function: Callable[..., Any]) -> ColumnElement[Any]:
    """Call a hybrid_method at class level, each argument a bound parameter of its name."""
    arguments: dict[str, Any] = {}
    for parameter in list(pyinspect.signature(function).parameters.values())[1:]:
        variadic = parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        if variadic or parameter.name in NOT_PARAMETERS:
            raise Untranslatable(f"guard {name!r} takes {parameter}, which SQL does not have")
        required = parameter.default is parameter.empty
        bound = event_parameter(parameter.name)
        arguments[parameter.name] = bindparam(bound) if required else bindparam(bound, parameter.default)
    return _expression(method(**arguments))


def truth_of(value: ColumnElement[Any] | object) -> Truth:
    """Python's truth value: NULL, zero and empty text are false.

    Raises:
        Untranslatable: the type's truth value in SQL is not Python's.
    """
    if not isinstance(value, ColumnElement):
        return Truth(true() if value else false())
    column = cast("ColumnElement[Any]", value)
    match column.type:
        case types.Boolean():
            return Truth(column if never_null(column) else func.coalesce(column, false()))
        case types.Integer() | types.Numeric() | types.Float():
            return Truth(func.coalesce(column, 0) != 0)
        case types.Enum() as kind:
            members = cast("Iterable[object]", kind.enum_class or kind.enums)
            return Truth(func.coalesce(column.in_([member for member in members if member]), false()))
        case types.String():
            return Truth(func.coalesce(exact_text(column) != exact_text(literal("")), false()))
        case types.DateTime() | types.Date() | types.Time() | types.Uuid() | UTCDateTime():
            return Truth(column.is_not(None))
        case other:
            raise Untranslatable(f"the truth value of the SQL type {other!r} is not Python's")


def never_null(clause: object) -> bool:
    """Whether the expression has a value on every row, so that nothing need stand in for NULL."""
    match clause:
        case Column():
            return not clause.nullable
        case BooleanClauseList():
            return all(never_null(part) for part in clause.clauses)
        case BinaryExpression(operator=operators.is_ | operators.is_not):
            return True
        case BinaryExpression() if operators.is_comparison(clause.operator):
            return never_null(clause.left) and never_null(clause.right)
        case _:
            return False


def _kind(value: ColumnElement[Any] | object) -> str:
    """The class of values that Python compares with one another."""
    if isinstance(value, ColumnElement):
        return _column_kind(cast("ColumnElement[Any]", value).type)
    kinds: dict[type, str] = {bool: "truth", int: "integer", float: "float", str: "text"}
    return "big integer" if _is_big(value) else kinds.get(type(value), type(value).__name__)


def _column_kind(of: types.TypeEngine[Any]) -> str:
    match of:
        case types.Boolean():
            return "truth"
        case types.BigInteger():
            return "big integer"
        case types.Integer():
            return "integer"
        case types.Float():
            return "float"
        case types.Numeric():
            return "decimal"
        case types.Enum():
            return "enum"
        case types.String():
            return "text"
        case UTCDateTime():
            return "instant"
        case types.DateTime() as kind:
            return "zoned time" if kind.timezone else "local time"
        case types.Date():
            return "date"
        case types.Uuid():
            return "uuid"
        case other:
            raise Untranslatable(f"values of the SQL type {other!r} are not compared in SQL")


def compare(left: ColumnElement[Any] | object, comparison: ast.cmpop, right: ColumnElement[Any] | object) -> Truth:
    """One comparison. `==` and `!=` know None; the orderings raise for it, as Python does.

    Raises:
        Untranslatable: values of unlike types, or a constant compared with a constant.
    """
    columns = [cast("ColumnElement[Any]", side) for side in (left, right) if isinstance(side, ColumnElement)]
    if not columns:
        raise Untranslatable("it compares two constants")
    equality = isinstance(comparison, ast.Eq | ast.NotEq)
    if equality and (left is None or right is None):
        same = columns[0].is_(None)
    else:
        left, right = _comparable(left, right, ordered=not equality)
        if not equality:
            raises = or_(false(), *(column.is_(None) for column in columns))
            return Truth(func.coalesce(_ORDERINGS[type(comparison)](left, right), false()), raises)
        same = _equal(left, right, columns)
    return Truth(same if isinstance(comparison, ast.Eq) else not_(same))


_ALIKE = (
    {"integer", "big integer"},
    {"integer", "float"},
    {"integer", "big integer", "decimal"},
)
"""Kinds that compare alike in Python and in SQL. SQL would round a decimal or a big integer to a float."""

_EXACT: dict[str, Callable[[Any], ColumnElement[Any]]] = {"text": exact_text, "float": exact_float}


def _is_big(value: object) -> bool:
    """Whether a number is an integer that a float may not hold."""
    return type(value) is int and abs(value) > 2**53


def _comparable(left: Any, right: Any, *, ordered: bool) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    kinds = {_kind(left), _kind(right)}
    if "enum" in kinds or (len(kinds) > 1 and not any(kinds <= alike for alike in _ALIKE)):
        raise Untranslatable(f"it compares {' with '.join(sorted(kinds))}")
    if ordered and "uuid" in kinds:
        raise Untranslatable("it orders UUIDs, which MariaDB orders otherwise")
    sides: list[ColumnElement[Any]] = [
        side if isinstance(side, ColumnElement) else literal(side) for side in (left, right)
    ]
    exact = next((_EXACT[kind] for kind in kinds if kind in _EXACT), None)
    if exact is not None:
        sides = [exact(side) for side in sides]
    return sides[0], sides[1]


def _equal(
    left: ColumnElement[Any], right: ColumnElement[Any], columns: list[ColumnElement[Any]]
) -> ColumnElement[bool]:
    """Equal, or both None; never NULL."""
    if len(columns) == 1:
        return func.coalesce(left == right, false())
    both_null = and_(columns[0].is_(None), columns[1].is_(None))
    return case((both_null, true()), else_=func.coalesce(left == right, false()))
