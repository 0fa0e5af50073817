"""What arguments of several modules are refused for."""

from typing import Any

from engine.errors import InvalidArgument


def check_count(name: str, value: Any) -> int:
    """An integer of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise InvalidArgument(
            name,
            expected="an integer of at least 1",
            got=repr(value),
            remedy="Give a positive count.",
        )
    return int(value)


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
