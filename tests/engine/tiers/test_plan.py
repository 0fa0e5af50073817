"""Where a GPU's fine vectors go, by the memory that is free there and in the host."""

import os

import pytest
import torch

from engine.tiers import plan as module
from engine.tiers.plan import FineTier, pick_tier

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 bytes free on the GPU, 2,000 in the host."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 9000))
    monkeypatch.setattr(module, "available_memory", lambda: 2000)


@pytest.mark.parametrize(
    ("coarse", "fine", "tier"),
    [
        (0, 0, "device"),
        (100, 700, "device"),
        (100, 701, "host"),
        (800, 1, "host"),
        (5000, 1600, "host"),
        (0, 1601, "disk"),
    ],
)
@pytest.mark.parametrize("saved", [True, False])
def test_four_fifths_of_free_memory_may_be_taken(
    coarse: int, fine: int, tier: str, saved: bool
) -> None:
    assert pick_tier("auto", GPU, coarse, fine, saved=saved) == tier


@pytest.mark.parametrize("tier", ["device", "host", "disk"])
def test_a_tier_that_is_named_is_taken(tier: FineTier) -> None:
    assert pick_tier(tier, GPU, 10**12, 10**12, saved=False) == tier


@pytest.mark.parametrize(
    ("asked", "saved", "tier"),
    [
        ("auto", True, "disk"),
        ("auto", False, "host"),
        ("device", True, "host"),
        ("host", True, "host"),
        ("disk", True, "disk"),
    ],
)
def test_a_cpu_maps_what_is_saved(asked: FineTier, saved: bool, tier: str) -> None:
    assert pick_tier(asked, torch.device("cpu"), 10**12, 10**12, saved=saved) == tier


def test_the_hosts_memory_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert total / 1000 < module.available_memory() <= total
