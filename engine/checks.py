"""What arguments of several modules are refused for."""

import math
import operator
import re
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from engine.errors import InvalidArgument

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class ArrowColumn(Protocol):
    """A column of pyarrow."""

    def __len__(self) -> int: ...
    def to_pylist(self) -> list[Any]: ...


class Series(Protocol):
    """A column of polars or pandas."""

    def __len__(self) -> int: ...
    def to_list(self) -> list[Any]: ...


Column: TypeAlias = ArrowColumn | Series


def check_count(name: str, value: Any) -> int:
    """An integer of at least 1."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError):  # an array of several
        number = 0
    if number < 1:
        raise InvalidArgument(
            name,
            expected="an integer of at least 1",
            got=repr(value),
            remedy="Give a positive count.",
        )
    return number


def check_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """One of the words in `known`."""
    if value not in known:
        *others, last = (f'"{word}"' for word in known)
        raise InvalidArgument(
            name,
            expected=f"{', '.join(others)} or {last}",
            got=repr(value),
            remedy="Use one of these.",
        )


def check_flag(name: str, value: Any) -> bool:
    """True or False, NumPy's too; what is merely true, such as 1 or "yes", is refused."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise InvalidArgument(
            name, expected="True or False", got=repr(value), remedy="Pass one of these."
        )
    return bool(value)


def check_list(name: str, value: Any, *, expected: str, ordered: bool = True) -> list[Any]:
    """The entries of what a caller gave as a list: a list, tuple, array, tensor or column `[N]`.

    One thing where a list is wanted is refused, as text would be taken apart into letters; so are a mapping, and
    what can be read only once. A set too, where entries belong to those of another list.
    """
    one = isinstance(value, str | bytes | bytearray | memoryview)
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist") and not one:
        return list(value.tolist())  # NumPy, torch, pandas
    for convert in ("to_pylist", "to_list"):  # pyarrow, polars
        if hasattr(value, convert) and hasattr(value, "__len__"):
            return list(getattr(value, convert)())
    listed = isinstance(value, Sequence) or (isinstance(value, Set) and not ordered)
    if listed and not one and not hasattr(value, "ndim"):
        return list(value)
    raise InvalidArgument(
        name,
        expected=expected,
        got=described(value),
        remedy="Put a single one in a list; make a list of anything else.",
    )


def check_counts(name: str, value: Any, *, expected: str) -> list[int]:
    """The entries of a list or set of integers of at least 1."""
    entries = check_list(name, value, expected=expected, ordered=False)
    return [check_count(name, entry) for entry in entries]


def check_either(**given: Any) -> Any:
    """The one of two arguments that is not None."""
    there = [value for value in given.values() if value is not None]
    if len(there) != 1:
        raise InvalidArgument(
            next(iter(given)),
            expected=f"either {' or '.join(given)}",
            got="both" if there else "neither",
            remedy="Give one of them.",
        )
    return there[0]


def unpicklable(value: object, *, expected: str, remedy: str) -> InvalidArgument:
    """The error of what cannot be pickled as it is now."""
    return InvalidArgument("pickle", expected=expected, got=repr(value), remedy=remedy)


def described(value: Any) -> str:
    """A value as errors show it: itself where it is short, else what it is."""
    kind = type(value).__name__
    if isinstance(value, str | bytes | int | float | None):
        return f"{kind} {value!r:.80}"
    shape = getattr(value, "shape", None)
    return kind if shape is None else f"{kind} of shape {list(shape)}"


def check_number(name: str, value: Any, *, expected: str = "one number", remedy: str) -> float:
    """One real number that is no NaN; of an array or tensor too, where it holds no more than that."""
    try:
        number = math.nan if isinstance(value, str | bytes | bytearray) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if math.isnan(number):
        raise InvalidArgument(name, expected=expected, got=described(value), remedy=remedy)
    return number


def check_path(name: str, value: Any) -> Path:
    """A path, given as text or as one; "~" at its beginning is the user's home."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InvalidArgument(
            name,
            expected="a path (str or pathlib.Path)",
            got=described(value),
            remedy="Name a file or folder.",
        )
    path = Path(value)
    if path.parts[:1] != ("~",):
        return path
    try:
        return path.expanduser()
    except RuntimeError:
        raise InvalidArgument(
            name,
            expected="a path whose ~ is known",
            got=repr(str(path)),
            remedy="Set HOME, or write the path out.",
        ) from None


def may_be_hub_id(checkpoint: str | Path) -> bool:
    """Whether "owner/name" may be a repository on the Hugging Face hub: nothing is there on this machine."""
    return not Path(checkpoint).exists() and bool(_HUB_ID.fullmatch(str(checkpoint)))
