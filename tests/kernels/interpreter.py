"""Triton's interpreter in less than half of its time. What it computes stays the same.

At every call of a device function it looks through all of `triton.language` for what it must replace, for every
operation it makes a table of dtypes, and it takes a sum by xor, of which a sort has many, number by number.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """These three from memory, or by NumPy. Where Triton has renamed one of them: an AttributeError."""
    import triton.language as tl
    from triton.runtime import interpreter

    made, reduced = interpreter._get_np_dtype, interpreter.ReduceOps.generic_reduce
    known: dict[str, np.dtype[Any]] = {}

    @cache
    def builtins(package: Any) -> list[str]:
        return [name for name, it in inspect.getmembers(package) if tl.core.is_builtin(it)]

    def patch(package: Any, *rest: Any) -> None:
        for name in builtins(package):
            it = getattr(package, name)
            if tl.core.is_builtin(it):  # not yet replaced
                interpreter._patch_attr(package, name, it, *rest)

    def dtype_of(dtype: Any) -> np.dtype[Any]:
        scalar = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
        if isinstance(scalar, tl.pointer_type):
            return np.dtype(np.uint64)
        if scalar.name not in known:
            known[scalar.name] = made(scalar)
        return known[scalar.name]

    def reduce(self: Any, parts: Any) -> Any:
        if self.combine_fn is not tl.standard._xor_combine or self.axis is None:
            return reduced(self, parts)
        (part,) = parts
        found = np.bitwise_xor.reduce(part.handle.data, axis=self.axis, keepdims=self.keep_dims)
        return (self.to_tensor(found, part.dtype),)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(interpreter, "_patch_builtin", patch)
        monkeypatch.setattr(interpreter, "_get_np_dtype", dtype_of)
        monkeypatch.setattr(interpreter.ReduceOps, "generic_reduce", reduce)
        yield
