"""Conditions on metadata, from text: `year > 2000 and style == 'noto'` becomes a pyarrow expression.

    column == value   = != <> < <= > >=   also chained: 1990 <= year < 2000
    column in ["a", "b"]    not in         with a list or tuple of values
    column is null    is not null          (or None) whether the item has a value there
    column contains 'x'   starts with 'x'  parts of text, letters as they are; also 'x' in column
    and   or   not   ( )                   also && || ! and capitals
    values: text, numbers, true, false; dates as text: taken >= '2024-01-31'

A column is named as it is, blanks, hyphens and dots included, or in `backticks` or "double quotes"; a field of a
struct after a dot. A comparison with a value that an item lacks is neither true nor false: the item is not found,
nor by `not`.
"""

import datetime
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from engine.errors import InvalidArgument, MissingPackage

LONGEST = 1_000_000  # characters
DEEPEST = 50  # parentheses and `not` within each other

_SPACE = re.compile(r"\s*")
_TEXT = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|`([^`]*)`", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
_WORD = re.compile(r"[^\W\d]\w*")
_COMPARISON = re.compile(r"==|!=|<>|<=|>=|=|<|>")
_AND, _OR, _NOT = (
    re.compile(r"and\b|&&?", re.I),
    re.compile(r"or\b|\|\|?", re.I),
    re.compile(r"not\b|!(?!=)", re.I),
)
_IS, _IN = re.compile(r"is(\s+not)?\s+(?:null|none)\b", re.I), re.compile(r"(not\s+)?in\b", re.I)
_PART = re.compile(r"(not\s+)?(contains|starts\s*with|startswith)\b", re.I)
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


class _Operand(NamedTuple):
    """A column with its type, or a value with type None."""

    what: Any
    kind: Any
    text: str


def parse_condition(text: str, schema: Any) -> Any:
    """The `pyarrow.compute.Expression` that `text` says over the columns of `schema`, a `pyarrow.Schema`.

    InvalidArgument shows the part that is not allowed, or the column that is not there.
    """
    if len(text) > LONGEST:
        raise _refused(f"{len(text):,} characters", f"at most {LONGEST:,}")
    return _Parser(text, schema).whole()


class _Parser:
    """Reads from `at` on; each method takes what it names and leaves `at` behind it."""

    def __init__(self, text: str, schema: Any) -> None:
        try:
            import pyarrow
            from pyarrow import compute
        except ImportError:
            raise MissingPackage.of("pyarrow", "metadata", "Conditions on metadata") from None
        self.text, self.schema, self.pa, self.compute = text, schema, pyarrow, compute
        self.at = self.depth = 0
        self.names = sorted(schema.names, key=len, reverse=True)

    def whole(self) -> Any:
        """All of the text."""
        found = self._any()
        if self._ahead():
            raise self._misfit("and, or, or the end")
        return found

    def _any(self) -> Any:
        return self._joined(self._all, _OR, lambda a, b: a | b)

    def _all(self) -> Any:
        return self._joined(self._one, _AND, lambda a, b: a & b)

    def _joined(
        self, part: Callable[[], Any], word: re.Pattern[str], join: Callable[[Any, Any], Any]
    ) -> Any:
        parts = [part()]
        while self._take(word):
            parts.append(part())
        while len(parts) > 1:  # in pairs: an expression of a thousand in a row would be as deep
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [join(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
        return parts[0]

    def _one(self) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._misfit(f"at most {DEEPEST} parentheses within each other")
        if self._column() is None and self._take(_NOT):
            found = ~self._one()
        elif self._take(re.compile(r"\(")):
            found = self._any()
            if not self._take(re.compile(r"\)")):
                raise self._misfit("a closing parenthesis")
        else:
            found = self._comparison()
        self.depth -= 1
        return found

    def _comparison(self) -> Any:
        left = self._operand()
        if match := self._take(_IS):
            column = self._as_column(left)
            return column.is_valid() if match[1] else column.is_null()
        if match := self._take(_PART):
            return self._part(
                left, self._operand(), match[2].lower().startswith("s"), bool(match[1])
            )
        if match := self._take(_IN):
            return self._among(left, bool(match[1]))
        found = None
        while match := self._take(_COMPARISON):
            right = self._operand()
            one = self._compared(left, {"=": "==", "<>": "!="}.get(match[0], match[0]), right)
            found = one if found is None else found & one
            left = right
        if found is not None:
            return found
        if left.kind is not None and self.pa.types.is_boolean(left.kind):
            return left.what
        if left.kind is None and isinstance(left.what, bool):
            return self.compute.scalar(left.what)
        raise _refused(left.text, "a comparison")

    def _compared(self, left: _Operand, sign: str, right: _Operand) -> Any:
        if (left.what is None or right.what is None) and sign in ("==", "!="):
            column = self._as_column(right if left.what is None else left)
            return column.is_null() if sign == "==" else column.is_valid()
        kind = left.kind if left.kind is not None else right.kind
        if kind is None:
            return self._made(
                left.text, lambda: self.compute.scalar(bool(_COMPARE[sign](left.what, right.what)))
            )
        sides = [
            side.what if side.kind is not None else self._value(side, kind)
            for side in (left, right)
        ]
        return _COMPARE[sign](*sides)

    def _among(self, left: _Operand, negated: bool) -> Any:
        if not self._take(re.compile(r"[\[(]")):
            right = self._operand()
            if left.kind is None and right.kind is not None:  # 'x' in column
                return self._part(right, left, False, negated)
            raise _refused(right.text, "a list of values after `in`")
        values: list[_Operand] = []
        while not self._take(re.compile(r"[\])]")):
            if values and not self._take(re.compile(r",")):
                raise self._misfit("a comma or the end of the list")
            if values and self._take(re.compile(r"[\])]")):
                break
            values.append(self._operand())
        if not values:
            raise self._misfit("at least one value after `in`")
        column = self._as_column(left)
        kind = left.kind.value_type if self.pa.types.is_dictionary(left.kind) else left.kind
        if any(isinstance(value.what, float) for value in values) and self.pa.types.is_integer(
            kind
        ):
            kind = self.pa.float64()
            column = column.cast(kind)
        given = [self._value(value, kind).as_py() for value in values if value.what is not None]
        among = column.isin(self.pa.array(given, kind))
        if len(given) < len(values):  # null among them
            return ~among & column.is_valid() if negated else among | column.is_null()
        # isin is false, not unknown, where there is no value
        return ~among & column.is_valid() if negated else among

    def _part(self, column: _Operand, part: _Operand, start: bool, negated: bool) -> Any:
        where = self._as_column(column)
        if not isinstance(part.what, str) or part.kind is not None:
            raise _refused(part.text, "text to look for")
        if self.pa.types.is_dictionary(column.kind):
            where = where.cast(self.pa.string())
        elif not _is_text(self.pa, column.kind):
            raise _refused(f"{column.text} of type {column.kind}", "a column of text")
        match = self.compute.starts_with if start else self.compute.match_substring
        found = match(where, part.what)
        return ~found if negated else found

    def _operand(self) -> _Operand:
        start = self.at
        self._ahead()
        begin = self.at
        if (name := self._column()) is not None:
            return self._field(name, begin)
        if match := self._take(_TEXT):
            quoted = next(group for group in match.groups() if group is not None)
            plain = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            if match[1] is None and plain in self.schema.names:
                return self._field(plain, begin)
            if match[3] is not None:
                raise self._unknown(plain)
            return _Operand(plain, None, match[0])
        if match := self._take(_NUMBER):
            whole = re.fullmatch(r"[-+]?\d+", match[0])
            return _Operand(int(match[0]) if whole else float(match[0]), None, match[0])
        if match := self._take(_WORD):
            if match[0].lower() in _CONSTANTS:
                return _Operand(_CONSTANTS[match[0].lower()], None, match[0])
            raise self._unknown(match[0])
        self.at = start
        raise self._misfit("a column, text, a number, true or false")

    def _column(self) -> str | None:
        """The longest name of a column that the text goes on with; nothing is taken."""
        self._ahead()
        for name in self.names:
            if name and self.text.startswith(name, self.at):
                end = self.at + len(name)
                inside = end < len(self.text) and (
                    self.text[end].isalnum() or self.text[end] == "_"
                )
                if not (inside and (name[-1].isalnum() or name[-1] == "_")):
                    return str(name)
        return None

    def _field(self, name: str, begin: int) -> _Operand:
        if self.at == begin:  # not quoted
            self.at += len(name)
        path, kind = [name], self.schema.field(name).type
        while self.pa.types.is_struct(kind) and (
            match := re.compile(r"\.([^\W\d]\w*)").match(self.text, self.at)
        ):
            names = [field.name for field in kind]
            if match[1] not in names:
                raise _refused(f"{'.'.join(path)}.{match[1]}", f"one of the fields {names}")
            self.at = match.end()
            path.append(match[1])
            kind = kind.field(match[1]).type
        return _Operand(self.compute.field(*path), kind, self.text[begin : self.at])

    def _as_column(self, operand: _Operand) -> Any:
        if operand.kind is None:
            raise _refused(operand.text, "the name of a column")
        return operand.what

    def _value(self, value: _Operand, kind: Any) -> Any:
        """A pyarrow scalar to compare with a column of that type."""
        types, given = self.pa.types, value.what
        if value.kind is not None:
            raise _refused(value.text, "a value")
        if types.is_dictionary(kind):
            kind = kind.value_type
        if given is None:
            raise _refused(value.text, "a value; for items without one: `is null`")
        if types.is_temporal(kind):
            if not isinstance(given, str):
                raise _refused(value.text, f"a date as text, for a column of type {kind}")
            return self._made(value.text, lambda: self.pa.scalar(_moment(given, kind, types), kind))
        fits = (
            isinstance(given, bool)
            if types.is_boolean(kind)
            else isinstance(given, int | float) and not isinstance(given, bool)
            if _is_number(types, kind)
            else isinstance(given, str)
            if _is_text(self.pa, kind)
            else True
        )
        if not fits:
            raise _refused(value.text, f"a value for a column of type {kind}")
        if types.is_decimal(kind):
            return self._made(value.text, lambda: self.pa.scalar(float(given)))
        return self._made(value.text, lambda: self.pa.scalar(given))

    def _made(self, text: str, make: Callable[[], Any]) -> Any:
        """What pyarrow makes of a value, or why it cannot: a number beyond 64 bits, no date."""
        try:
            return make()
        except (OverflowError, TypeError, ValueError):  # pyarrow's own are among them
            raise _refused(
                text, "values of one kind, integers in 64 bits, dates as 2024-01-31"
            ) from None

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self._ahead()
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return match

    def _ahead(self) -> str:
        """The rest, less the blanks before it."""
        space = _SPACE.match(self.text, self.at)
        assert space is not None  # it matches nothing, too
        self.at = space.end()
        return self.text[self.at : self.at + 1]

    def _unknown(self, name: str) -> InvalidArgument:
        names: Sequence[str] = self.schema.names
        close = get_close_matches(name, names, 1) or [n for n in names if n.lower() == name.lower()]
        expected = f"one of the columns {list(names)}"
        if close:
            return _refused(repr(name), expected, f"Did you mean {close[0]!r}?")
        return _refused(repr(name), expected)

    def _misfit(self, expected: str) -> InvalidArgument:
        rest = self.text[self.at : self.at + 40]
        return _refused(f"{rest!r}" if rest else f"the end of {self.text[-60:]!r}", expected)


def _moment(text: str, kind: Any, types: Any) -> Any:
    """What ISO 8601 text says, for a column of dates, times or moments; the start of a year or a month, too."""
    if types.is_time(kind):
        return datetime.time.fromisoformat(text)
    if re.fullmatch(r"\d{4}(-\d{2})?", text):
        text = f"{text}-01-01"[:10] if len(text) == 4 else f"{text}-01"
    if types.is_date(kind):
        return datetime.date.fromisoformat(text)
    found = datetime.datetime.fromisoformat(text)
    zone = getattr(kind, "tz", None)
    if zone is None and found.tzinfo is not None:
        return found.astimezone(datetime.UTC).replace(tzinfo=None)
    return found.replace(tzinfo=found.tzinfo or datetime.UTC) if zone is not None else found


def _is_number(types: Any, kind: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_text(pa: Any, kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


EXAMPLE = "For example: \"year > 2000 and style == 'noto'\"."


def _refused(got: str, expected: str, remedy: str = EXAMPLE) -> InvalidArgument:
    return InvalidArgument(
        "filter",
        expected=expected,
        got=f"{got:.300}",
        remedy=remedy,
    )
