"""Conditions on metadata, from text: `year > 2000 and style == 'noto'` becomes a pyarrow expression.

Python's syntax, of which only this is allowed; nothing is ever run:

    column == value   != < <= > >=    also chained: 1990 <= year < 2000
    column in ["a", "b"]    not in    with a list or tuple of values
    column is None    is not None     the item has no value there
    and   or   not   ( )
    values: text, numbers, True, False

A comparison with a value that an item lacks is neither true nor false: the item is not found, nor by `not`.
"""

import ast
from collections.abc import Callable
from typing import Any

from engine.errors import InvalidArgument, MissingPackage

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: lambda left, right: left == right,
    ast.NotEq: lambda left, right: left != right,
    ast.Lt: lambda left, right: left < right,
    ast.LtE: lambda left, right: left <= right,
    ast.Gt: lambda left, right: left > right,
    ast.GtE: lambda left, right: left >= right,
}
LONGEST = 10_000  # characters; Python's parser takes stack for what is nested


def parse_condition(text: str) -> Any:
    """The `pyarrow.compute.Expression` that `text` says; InvalidArgument shows the part that is not allowed."""
    if len(text) > LONGEST:
        raise _refused(f"{len(text):,} characters", f"at most {LONGEST:,}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _Parser(text.strip()).condition(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise _refused(f"{text!r:.200}: {error}", "a condition") from None


class _Parser:
    """From Python's syntax tree to an expression."""

    def __init__(self, text: str) -> None:
        try:
            from pyarrow import compute
        except ImportError:
            raise MissingPackage.of("pyarrow", "metadata", "Conditions on metadata") from None
        self.text, self.compute = text, compute

    def condition(self, node: ast.expr) -> Any:
        """What is true or false of an item."""
        if isinstance(node, ast.BoolOp):
            first, *rest = map(self.condition, node.values)
            for other in rest:
                first = first & other if isinstance(node.op, ast.And) else first | other
            return first
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.condition(node.operand)
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            parts = [
                self._comparison(left, operator, right)
                for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
            ]
            first, *rest = parts
            for other in rest:
                first = first & other
            return first
        if isinstance(node, ast.Name):  # a column of truth values
            return self._column(node)
        raise self._misfit(node, "a comparison")

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(operator, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._misfit(right, "None after `is`")
            empty = self._column(left).is_null()
            return empty if isinstance(operator, ast.Is) else ~empty
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple):
                raise self._misfit(right, "a list of values after `in`")
            column = self._column(left)
            values = [self._constant(entry) for entry in right.elts]
            if not values:
                raise self._misfit(right, "at least one value after `in`")
            among = self._made(right, lambda: column.isin(values))
            # isin is false, not unknown, where there is no value
            return among if isinstance(operator, ast.In) else ~among & column.is_valid()
        return _COMPARISONS[type(operator)](self._side(left), self._side(right))

    def _side(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self._column(node)
        value = self._constant(node)
        return self._made(node, lambda: self.compute.scalar(value))

    def _made(self, node: ast.expr, make: Callable[[], Any]) -> Any:
        """What pyarrow makes of values, or why it cannot: numbers beyond 64 bits, values of several kinds."""
        try:
            return make()
        except (OverflowError, TypeError, ValueError):  # pyarrow's own are among them
            raise self._misfit(node, "values of one kind, integers in 64 bits") from None

    def _column(self, node: ast.expr) -> Any:
        if not isinstance(node, ast.Name):
            raise self._misfit(node, "the name of a column")
        return self.compute.field(node.id)

    def _constant(self, node: ast.expr) -> Any:
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        inner = node.operand if negative and isinstance(node, ast.UnaryOp) else node
        if isinstance(inner, ast.Constant) and type(inner.value) in (str, int, float, bool):
            value = inner.value
            if negative and type(value) in (int, float):
                return -value  # type: ignore[operator]
            if not negative:
                return value
        raise self._misfit(node, "a column, text, a number, True or False")

    def _misfit(self, node: ast.expr, expected: str) -> InvalidArgument:
        return _refused(repr(ast.get_source_segment(self.text, node)), expected)


def _refused(got: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        "filter",
        expected=expected,
        got=got,
        remedy="For example: \"year > 2000 and style == 'noto'\".",
    )
