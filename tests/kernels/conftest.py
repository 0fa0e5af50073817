"""One thread for the kernels' tests, tiles for the smallest case, and memory that shows what was not written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels._torch import coarse
from tests.kernels.interpreter import quick_interpreter


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shipped: with `LITTLE` as it is shipped")


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    """Most of these tests' time is the interpreter's."""
    runs = kernels.available_backends()["triton"] == "ok" and not torch.cuda.is_available()
    with quick_interpreter() if runs else nullcontext():
        yield


@pytest.fixture(autouse=True)
def nothing_is_little(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most cases are so small that all would be scored outright. The mark `shipped` leaves that as it is."""
    if request.node.get_closest_marker("shipped") is None:
        monkeypatch.setattr(coarse, "LITTLE", -1)


@pytest.fixture(autouse=True)
def unwritten_memory_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` gives NaN, and integers that are no row: what a kernel does not write is not the oracle's."""
    empty = torch.empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        made = empty(*args, **options)
        return made.fill_(torch.nan if made.is_floating_point() else torch.iinfo(made.dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned)
