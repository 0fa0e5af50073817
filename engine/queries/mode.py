"""How to search, and what becomes of a batch with a query that cannot be searched for."""

from typing import Literal, TypeAlias, get_args

Mode: TypeAlias = Literal["two_stage", "exact", "coarse"]
MODES: tuple[Mode, ...] = get_args(Mode)

OnError: TypeAlias = Literal["raise", "report"]
ON_ERROR: tuple[OnError, ...] = get_args(OnError)
