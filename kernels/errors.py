"""Errors of this package. `engine.errors` re-exports them and draws the whole tree.

EngineError
├── InvalidArgument      (also a ValueError)    an argument breaks the contract; nothing was changed
└── BackendUnavailable   (also a RuntimeError)  the backend asked for cannot run on these inputs
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BackendUnavailable", "EngineError", "InvalidArgument"]


class EngineError(Exception):
    """Root of every error this project raises on purpose."""


class InvalidArgument(EngineError, ValueError):
    """An argument breaks the contract: which one, what was expected, what came, what to do."""

    def __init__(self, name: str, *, expected: str, got: str, remedy: str) -> None:
        self.name = name
        super().__init__(f"{name}: expected {expected}, got {got}. {remedy}")


class BackendUnavailable(EngineError, RuntimeError):
    """The backend that was asked for cannot run on these inputs: the inputs and every reason."""

    def __init__(self, backend: str, *, inputs: str, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        listed = "".join(f"\n  - {reason}" for reason in self.reasons)
        super().__init__(
            f'backend={backend!r} cannot run on {inputs}:{listed}\nUse backend="auto" or "torch".'
        )
