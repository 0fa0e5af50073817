"""One thread for the kernels' tests, and tiles for the smallest case."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kernels._torch import coarse


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """These tensors are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def nothing_is_little() -> Iterator[None]:
    """Cases here are so small that all would be scored outright: `test_little_is_scored_outright` sees to that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coarse, "LITTLE", -1)
        yield
