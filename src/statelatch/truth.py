"""PURE: a guard in SQL, as two predicates: where it holds, and where Python would raise instead of answering.

Neither predicate is ever NULL. They are joined as Python joins conditions: `and`, `or` and a list of guards stop
early, and what is not reached cannot raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, case, false, not_, or_, true

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Truth", "Untranslatable", "all_of"]


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

    def after(self, raises: ColumnElement[bool] | None) -> Truth:
        """This one, if what Python evaluates for it first does not raise."""
        return Truth(self.holds, _either(raises, self.raises))

    def negated(self) -> Truth:
        """Python's `not`: it raises where its operand does."""
        return Truth(not_(self.holds), self.raises)

    def as_value(self) -> ColumnElement[bool]:
        """Python's True or False, as something to compare; where it raises, either."""
        return case((self.holds, true()), else_=false())

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
