"""Errors of this package. `engine.errors` re-exports them and draws the whole tree.

EngineError
├── InvalidArgument      (also a ValueError)    an argument breaks the contract; nothing was changed
└── BackendUnavailable   (also a RuntimeError)  the backend asked for cannot run on these inputs
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

__all__ = ["BackendUnavailable", "EngineError", "InvalidArgument"]


class EngineError(Exception):
    """Root of every error this project raises on purpose.

    argument: the argument or the file that is refused. expected, got: what it should be, and what it is.
    remedy: what to do, as a sentence.
    """

    def __init__(self, argument: str, *, expected: str, got: str, remedy: str) -> None:
        self.argument, self.expected, self.got, self.remedy = argument, expected, got, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        got = self.got.strip().removesuffix(".")  # of a library's message
        return f"{self.argument}: expected {self.expected}, got {got}. {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {name: getattr(self, name) for name in ("expected", "got", "remedy")}
        return partial(type(self), self.argument, **parts), (), self.__dict__


class InvalidArgument(EngineError, ValueError):
    """An argument breaks the contract: which one, what was expected, what came, what to do."""


class BackendUnavailable(EngineError, RuntimeError):
    """The backend that was asked for cannot run on these inputs: the inputs and every reason."""

    @classmethod
    def of(cls, backend: str, *, inputs: str, reasons: Sequence[str]) -> BackendUnavailable:
        """Why `backend` cannot run on `inputs`."""
        listed = "; ".join(reasons)
        return cls(
            "backend",
            expected=f"one that can run on {inputs}",
            got=f"{backend!r}, which cannot: {listed}",
            remedy='Use "auto" or "torch".',
        )
