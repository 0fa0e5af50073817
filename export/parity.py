"""Does the export still find the same pictures? Every step from torch in float32 to TensorRT, against the first.

    torch fp32 -> torch in low precision -> ONNX Runtime -> TensorRT

Vectors are compared by their cosine; search by which rows come out (overlap) and by how often the right one is
among them (recall), captions asking for pictures and pictures for captions, with coarse and with fine vectors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.encoders.manifest import TOWERS, Dtype, Tower
from export.pairs import Pairs
from kernels import coarse_topk

Head = Literal["coarse", "fine"]
HEADS: tuple[Head, ...] = ("coarse", "fine")
OVERLAPS, RECALLS = (1, 10, 100), (1, 5, 10)
GATED = 10  # the overlap that decides

Run: TypeAlias = Callable[..., tuple[Tensor | None, Tensor]]  # a tower: its inputs to coarse, fine
Inputs: TypeAlias = Mapping[
    Tower, Sequence[tuple[Tensor, ...]]
]  # batches, in the order of a tower's arguments
Vectors: TypeAlias = dict[Tower, dict[Head, Tensor]]  # float32 [N, d]


@dataclass(frozen=True)
class Gate:
    """What a step must reach: the least cosine of any row, and the mean overlap@10 of any direction and head."""

    min_cosine: float
    min_overlap: float


GATES: dict[Dtype, Gate] = {
    "fp32": Gate(0.9999, 0.99),
    "fp16": Gate(0.999, 0.95),
    "bf16": Gate(0.98, 0.8),
}


@dataclass(frozen=True)
class Step:
    """One step compared with torch in float32.

    not_run: why it was not run here, or None. note: what to know of how it was run.
    cosine: "image fine" and so on, to min, 1st percentile ("p1") and mean over rows.
    overlap: "text to image, fine" and so on, to k and the share of the first k rows that are the same.
    recall_change: the same keys to k and percentage points of R@k gained (positive) or lost.
    failures: what lies below the gate, in words.
    """

    name: str
    not_run: str | None
    note: str | None
    cosine: dict[str, dict[str, float]]
    overlap: dict[str, dict[int, float]]
    recall_change: dict[str, dict[int, float]]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Parity:
    """All steps on one set of pairs, in their order."""

    pairs: int
    source: str
    gate: Gate
    steps: tuple[Step, ...]

    @property
    def lost_at(self) -> str | None:
        """The first step below the gate."""
        return next((step.name for step in self.steps if step.failures), None)

    @property
    def passed(self) -> bool:
        return self.lost_at is None

    @property
    def largest_loss(self) -> str | None:
        """The step after which the mean cosine is furthest below that of the step before it."""
        ran, means = [step for step in self.steps if step.not_run is None], [1.0]
        means += [fmean(part["mean"] for part in step.cosine.values()) for step in ran]
        losses = [before - after for before, after in pairwise(means)]
        return ran[int(np.argmax(losses))].name if ran else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `parity.json`."""
        return {**self.summary(), "steps": [asdict(step) for step in self.steps]}

    def summary(self) -> dict[str, Any]:
        """What the manifest keeps."""
        ran = [step for step in self.steps if step.not_run is None]
        return {
            "passed": self.passed,
            "lost_at": self.lost_at,
            "largest_loss": self.largest_loss,
            "failures": [failure for step in ran for failure in step.failures],
            "gate": asdict(self.gate),
            "pairs": self.pairs,
            "source": self.source,
            "not_run": {step.name: step.not_run for step in self.steps if step.not_run},
            "worst": {
                step.name: {
                    "cosine": min(part["min"] for part in step.cosine.values()),
                    f"overlap@{GATED}": min(part[GATED] for part in step.overlap.values()),
                }
                for step in ran
            },
        }


def encode(towers: Mapping[Tower, Run], inputs: Inputs, advance: Callable[[int], None]) -> Vectors:
    """The vectors of all batches; `advance` hears of each batch's rows."""
    vectors: Vectors = {}
    for tower in TOWERS:
        coarse, fine = [], []
        for batch in inputs[tower]:
            short, long = towers[tower](*batch)
            assert short is not None
            coarse.append(short)
            fine.append(long)
            advance(len(long))
        vectors[tower] = {"coarse": torch.cat(coarse), "fine": torch.cat(fine)}
    return vectors


def compare(
    name: str, found: Vectors, reference: Vectors, pairs: Pairs, gate: Gate, note: str | None = None
) -> Step:
    """One step's vectors beside those of torch in float32."""
    cosine = {
        f"{tower} {head}": _cosines(found[tower][head], reference[tower][head])
        for tower in TOWERS
        for head in HEADS
    }
    overlap, recall_change = {}, {}
    directions: tuple[tuple[Tower, Tower], ...] = (("text", "image"), ("image", "text"))
    for asking, asked in directions:
        for head in HEADS:
            way = f"{asking} to {asked}, {head}"
            ours, theirs = (
                _ranked(vectors[asking][head], vectors[asked][head])
                for vectors in (found, reference)
            )
            overlap[way] = _overlaps(ours, theirs)
            recalls = [_recalls(rows, pairs.concepts) for rows in (ours, theirs)]
            recall_change[way] = {k: recalls[0][k] - recalls[1][k] for k in RECALLS}
    return Step(name, None, note, cosine, overlap, recall_change, _failures(cosine, overlap, gate))


def skipped(name: str, reason: str) -> Step:
    """A step that was not run, and says so."""
    return Step(name, reason, None, {}, {}, {}, ())


def _failures(
    cosine: dict[str, dict[str, float]], overlap: dict[str, dict[int, float]], gate: Gate
) -> tuple[str, ...]:
    # "not >=", so that NaN fails too.
    low = [
        f"{part}: cosine {figures['min']:.6f}, at least {gate.min_cosine} expected"
        for part, figures in cosine.items()
        if not figures["min"] >= gate.min_cosine
    ]
    low += [
        f"{way}: overlap@{GATED} {figures[GATED]:.4f}, at least {gate.min_overlap} expected"
        for way, figures in overlap.items()
        if not figures[GATED] >= gate.min_overlap
    ]
    return tuple(low)


def _cosines(found: Tensor, reference: Tensor) -> dict[str, float]:
    """Over rows; a row with NaN or infinity in it counts as -1, a vector that leads anywhere."""
    cosine = torch.cosine_similarity(found.double(), reference.double(), dim=1).nan_to_num(-1.0)
    return {
        "min": cosine.min().item(),
        "p1": cosine.quantile(0.01).item(),
        "mean": cosine.mean().item(),
    }


def _ranked(queries: Tensor, items: Tensor) -> NDArray[np.int64]:
    """The best 100 rows of each query, best first; a row that is not finite is never found."""
    finite = items.isfinite().all(dim=1)
    hits = coarse_topk(
        queries.nan_to_num(0, 0, 0), items.nan_to_num(0, 0, 0), max(OVERLAPS), mask=finite
    )
    return hits.rows.numpy()


def _overlaps(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> dict[int, float]:
    """The mean share of the first k that both have; -1 stands for no row."""
    shares = {}
    for k in OVERLAPS:
        same = [
            len(set(a[a >= 0]) & set(b[b >= 0])) / max(int((b >= 0).sum()), 1)
            for a, b in zip(ours[:, :k], theirs[:, :k], strict=True)
        ]
        shares[k] = fmean(same)
    return shares


def _recalls(rows: NDArray[np.int64], concepts: NDArray[np.str_]) -> dict[int, float]:
    """R@k in percent: query i wants concept i."""
    right = (concepts[rows] == concepts[:, None]) & (rows >= 0)
    return {k: 100 * float(right[:, :k].any(axis=1).mean()) for k in RECALLS}
