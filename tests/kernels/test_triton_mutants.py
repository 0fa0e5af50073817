"""Deliberate mistakes in the kernels, each caught; and the rounding that selection must survive."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kernels
from kernels.coarse import coarse_topk_reference
from kernels.rerank import rerank_topk_reference
from kernels.topk import TopK
from tests.kernels.mutants import Mutant

REASON = kernels.available_backends()["triton"]
pytestmark = [
    pytest.mark.skipif(REASON != "ok", reason=f"triton: {REASON}"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the mutants are for the interpreter"),
]

MISTAKES = {
    "the mask is dropped in the maxima": (
        "maxima.py",
        "tl.where(ok, scores, lowest)",
        "tl.where(live_n[:, None], scores, lowest)",
    ),
    "the mask is dropped in the rescoring": (
        "selection.py",
        "live = live & (tl.load(mask + at, mask=live, other=0) != 0)",
        "live = live & (tl.load(mask + at, mask=live, other=0) >= 0)",
    ),
    "ties go to the higher row": ("scoring.py", "(0xFFFFFFFF - row.to(tl.int64))", "row.to(tl.int64)"),
    "the last tile is skipped": ("maxima.py", "tl.range(done, TILES,", "tl.range(done, TILES - 1,"),
    "the last chunk is skipped": ("maxima.py", "tl.cdiv(d, CHUNK), num_stages", "d // CHUNK, num_stages"),
    "the last tile of long vectors is skipped": ("maxima.py", "tl.range(0, tiles):", "tl.range(0, tiles - 1):"),
    "the last bundle is skipped": (
        "selection.py",
        "every = n_spans * BUNDLES",
        "every = n_spans * BUNDLES - BUNDLES",
    ),
    "the last group of a bundle is skipped": (
        "selection.py",
        "keep = (i < count)",
        "keep = (i < count) & ((WIDTH == 1) | (i % WIDTH != WIDTH - 1))",
    ),
    "groups that tie with the k-th are left out": ("selection.py", "upper >= low", "upper > low"),
    "rows that tie with the k-th are left out": (
        "selection.py",
        "live & (score >= low)",
        "live & (score > low)",
    ),
    "the overflowed lists are not scanned": (
        "selection.py",
        "(tl.load(hit_count + b) <= HIT_CAP) & (tl.load(group_count + b) <= CAP)",
        "tl.load(hit_count + b) >= 0",
    ),
    "a sum in another order": ("scoring.py", "((c0 + c4) + (c2 + c6))", "((c0 + c2) + (c4 + c6))"),
    "the tail of d is read": ("scoring.py", "& (j < d)[None, :]", "& (j < d + 1)[None, :]"),
    "the threshold is that of fewer groups": ("selection.py", "need = k +", "need = k // 2 +"),
    "groups of the wrong bundle": ("selection.py", "place = block * WIDTH", "place = (block ^ 1) * WIDTH"),
}  # fmt: skip


def searches(module: object) -> list[tuple[TopK, TopK]]:
    """(found, expected) of a few searches that reach every kernel."""
    from kernels._triton.launch import CoarseLaunch

    generator = torch.Generator().manual_seed(0)
    launches = [CoarseLaunch(False, 16, 16, 2, 4, 1, bundle, 64) for bundle in (1, 4)]
    pairs = []
    wide = torch.randint(-3, 4, (331, 21), generator=generator).float()
    wide[:, 20] = torch.nan  # what lies beyond d must not count
    wide[300:] *= 2  # the last span holds hits
    floats = torch.randn(331, 200, generator=generator)
    floats[40:, :] = floats[:1, :]  # more equal items than a list holds
    small = torch.randint(-1, 2, (331, 20), generator=generator, dtype=torch.int8)
    mask = torch.rand(331, generator=generator) < 0.3
    long = torch.randn(331, 270, generator=generator)
    long[:, :256] *= 0.1  # the last chunk decides
    queries = wide[[3, 320], :20]
    for items, shown, asked, k in (
        (wide[:, :20], None, queries, 4),
        (wide[:, :20], mask, queries, 4),
        (floats, None, floats[:2], 2),
        (long, None, long[[3, 320]], 4),
        (small, None, small[:1], 9),  # int8 leaves no room for rounding: ties decide
    ):
        expected = coarse_topk_reference(asked, items, k, mask=shown)
        for launch in launches:
            found = module.coarse_topk(asked, items, k, shown, launch=launch)  # type: ignore[attr-defined]
            pairs.append((found, expected))
    return pairs


def same(pairs: list[tuple[TopK, TopK]]) -> bool:
    return all(
        torch.equal(found.rows, expected.rows) and torch.equal(found.scores, expected.scores)
        for found, expected in pairs
    )


def test_the_kernels_themselves_pass() -> None:
    from kernels._triton import coarse

    assert same(searches(coarse))


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_caught(mistake: str, tmp_path: Path) -> None:
    name = "mutant_" + "_".join(mistake.split()).replace("-", "_")
    assert not same(searches(Mutant(tmp_path, name, [MISTAKES[mistake]]).coarse))


def test_repeats_returned_twice_are_caught(tmp_path: Path) -> None:
    mutant = Mutant(tmp_path, "mutant_repeats", [("candidates.py", "& (best != before)", "")])
    items, candidates = torch.eye(8), torch.tensor([[1, 1, 2, 3]])
    expected = rerank_topk_reference(items[:1], items, candidates, 4)
    found = mutant.rerank.rerank_topk(items[:1], items, candidates, 4)
    assert not torch.equal(found.rows, expected.rows)


TF32 = (
    "maxima.py",
    "tl.dot(x, q,",
    "tl.dot((x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True), "
    "(q.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True),",
)  # as the hardware does: the low 13 bits are cut off


@pytest.mark.parametrize("d", [32, 320])
def test_selection_survives_tf32_and_would_not_without_its_bound(d: int, tmp_path: Path) -> None:
    """The interpreter multiplies exactly, so the tensor cores' rounding is put in by hand."""
    from kernels._triton.launch import CoarseLaunch

    generator = torch.Generator().manual_seed(4)
    centre = torch.randn(1, d, generator=generator)
    items = centre + 2e-4 * torch.randn(700, d, generator=generator)  # scores that nearly tie
    launch = CoarseLaunch(False, 16, 16, 2, 4, 1, 1, 64)
    expected = coarse_topk_reference(centre, items, 20)
    longest = float(torch.linalg.vector_norm(items, dim=1).max())

    def found(name: str, promise: float | None, *changes: tuple[str, str, str]) -> TopK:
        mutant = Mutant(tmp_path, f"mutant_{name}_{d}", [TF32, *changes]).coarse
        best: TopK = mutant.coarse_topk(centre, items, 20, None, max_norm=promise, launch=launch)
        return best

    for promise in (None, longest):
        rounded = found(f"tf32_{promise is None}", promise)
        assert torch.equal(rounded.rows, expected.rows)
        assert torch.equal(rounded.scores, expected.scores)
    unpromised = found("unpromised", longest, ("selection.py", "reach *= 1.01", "reach *= 0.0"))
    assert not torch.equal(unpromised.rows, expected.rows)
    unbounded = found("unbounded", None, ("coarse.py", "2.05e-3 if", "0.0 if"))
    assert not torch.equal(unbounded.rows, expected.rows)
    peakless = found("peakless", None, ("maxima.py", "tl.maximum(peak, ", "tl.minimum(peak, "))
    assert not torch.equal(peakless.rows, expected.rows)
