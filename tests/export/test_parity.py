"""Figures of parity beside plain NumPy, the gate, and the step that is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.pairs import Pairs
from export.parity import GATES, Gate, Parity, Vectors, compare, skipped
from export.report import markdown


def _pairs(count: int, concepts: int) -> Pairs:
    names = tuple(str(n) for n in range(count))
    which = np.arange(count) % concepts
    return Pairs(Path("somewhere"), tuple(map(Path, names)), names, which.astype(str))


def _vectors(count: int, seed: int) -> Vectors:
    chance = torch.Generator().manual_seed(seed)

    def unit(dim: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, dim, generator=chance), dim=1)

    shared = {"coarse": unit(6), "fine": unit(24)}  # captions near their pictures
    return {
        tower: {
            head: torch.nn.functional.normalize(x + 0.3 * unit(x.shape[1]), dim=1)  # type: ignore[misc]
            for head, x in shared.items()
        }
        for tower in ("image", "text")
    }


def _noisy(vectors: Vectors, size: float) -> Vectors:
    chance = torch.Generator().manual_seed(99)
    return {
        tower: {
            head: x + size * torch.randn(x.shape, generator=chance) for head, x in heads.items()
        }
        for tower, heads in vectors.items()
    }


def _oracle(found: Any, reference: Any, concepts: Any) -> tuple[dict[int, float], dict[int, float]]:
    """Overlap and change of recall by sorting all scores, in float64."""
    orders = [np.argsort(-(q @ x.T), axis=1, kind="stable") for q, x in (found, reference)]
    overlap, change = {}, {}
    for k in (1, 10, 100):
        same = [len(set(a[:k]) & set(b[:k])) / min(k, len(a)) for a, b in zip(*orders, strict=True)]
        overlap[k] = float(np.mean(same))
    for k in (1, 5, 10):
        hits = [(concepts[o[:, :k]] == concepts[:, None]).any(axis=1).mean() for o in orders]
        change[k] = 100 * float(hits[0] - hits[1])
    return overlap, change


@pytest.mark.parametrize("count", [2, 7, 63, 129])
def test_figures_are_numpys(count: int) -> None:
    pairs, reference = _pairs(count, max(count // 2, 1)), _vectors(count, 1)
    found = _noisy(reference, 0.1)
    step = compare("step", found, reference, pairs, Gate(0, 0))
    wide = [
        {t: {h: x.double().numpy() for h, x in heads.items()} for t, heads in vectors.items()}
        for vectors in (found, reference)
    ]
    for tower in ("image", "text"):
        for head in ("coarse", "fine"):
            a, b = (vectors[tower][head] for vectors in wide)
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            expected = {"min": cosine.min(), "p1": np.quantile(cosine, 0.01), "mean": cosine.mean()}
            assert step.cosine[f"{tower} {head}"] == pytest.approx(expected, abs=1e-9)
    for asking, asked in (("text", "image"), ("image", "text")):
        for head in ("coarse", "fine"):
            sides = [(vectors[asking][head], vectors[asked][head]) for vectors in wide]  # type: ignore[index]
            overlap, change = _oracle(*sides, pairs.concepts)  # type: ignore[call-arg]
            way = f"{asking} to {asked}, {head}"
            assert step.overlap[way] == pytest.approx(overlap)
            assert step.recall_change[way] == pytest.approx(change)
    if count > 10:
        assert 0 < step.overlap["text to image, coarse"][10] < 1  # the noise shows


def test_the_same_vectors_lose_nothing() -> None:
    vectors = _vectors(40, 2)
    step = compare("step", vectors, vectors, _pairs(40, 40), Gate(0.9999999, 1.0))
    assert step.failures == ()


@pytest.mark.parametrize(
    ("head", "tower", "cosine_only"), [("coarse", "image", False), ("fine", "text", True)]
)
def test_the_gate_names_what_lies_below_it(head: Any, tower: Any, cosine_only: bool) -> None:
    """One row turned around in one head of one tower."""
    reference, pairs = _vectors(40, 3), _pairs(40, 40)
    found = {t: {h: x.clone() for h, x in heads.items()} for t, heads in reference.items()}
    found[tower][head][7] *= -1
    gate = Gate(0.9, 0 if cosine_only else 0.9999)
    step = compare("step", found, reference, pairs, gate)
    assert step.failures[0] == f"{tower} {head}: cosine -1.000000, at least 0.9 expected"
    assert (len(step.failures) == 1) == cosine_only
    assert all(head in failure for failure in step.failures)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_no_vector_fails(value: float) -> None:
    reference = _vectors(40, 4)
    found = {t: {h: x.clone() for h, x in heads.items()} for t, heads in reference.items()}
    found["image"]["fine"][3, 0] = value
    step = compare("step", found, reference, _pairs(40, 40), Gate(0.9, 0.5))
    assert step.cosine["image fine"]["min"] == -1
    assert len(step.failures) == 1
    assert step.overlap["text to image, fine"][1] < 1  # the picture is found by nobody


def _parity(*sizes: float | None) -> Parity:
    reference, pairs, gate = _vectors(40, 5), _pairs(40, 40), Gate(0.99, 0.8)
    names = ("torch fp16", "ONNX Runtime", "TensorRT")
    steps = [
        skipped(name, "no GPU here")
        if size is None
        else compare(name, _noisy(reference, size), reference, pairs, gate)
        for name, size in zip(names, sizes, strict=False)
    ]
    return Parity(40, "somewhere", gate, tuple(steps))


def test_the_first_step_below_the_gate_lost_it() -> None:
    parity = _parity(1e-4, 0.3, 0.3)
    assert (parity.passed, parity.lost_at, parity.largest_loss) == (False, *("ONNX Runtime",) * 2)
    assert "**Failed.** Accuracy was lost at: ONNX Runtime (image coarse: cosine" in markdown(
        parity
    )


def test_a_pass_names_the_largest_loss_all_the_same() -> None:
    parity = _parity(1e-3, 1e-3, 1e-2)
    assert (parity.passed, parity.lost_at, parity.largest_loss) == (True, None, "TensorRT")
    assert "**Passed.** The largest loss of cosine is at: TensorRT." in markdown(parity)


def test_a_step_that_was_not_run_says_so_and_passes_nothing_off() -> None:
    parity = _parity(1e-4, 1e-4, None)
    assert parity.passed
    assert parity.summary()["not_run"] == {"TensorRT": "no GPU here"}
    assert "TensorRT" not in parity.summary()["worst"]
    text = markdown(parity)
    assert "- TensorRT: not run here: no GPU here" in text
    assert "| TensorRT |" not in text


def test_reports_hold_every_figure() -> None:
    parity = _parity(1e-3, 1e-2)
    text, plain = markdown(parity), parity.to_dict()
    for step in parity.steps:
        for part, figures in step.cosine.items():
            row = " | ".join(f"{figures[name]:.6f}" for name in ("min", "p1", "mean"))
            assert f"| {step.name} | {part} | {row} |" in text
        for way, shares in step.overlap.items():
            assert f"| {step.name} | {way} | {shares[1]:.4f} | {shares[10]:.4f} |" in text
    assert [step["name"] for step in plain["steps"]] == ["torch fp16", "ONNX Runtime"]
    assert plain["gate"] == {"min_cosine": 0.99, "min_overlap": 0.8}


def test_gates_are_stricter_the_more_digits_there_are() -> None:
    ordered = [GATES[dtype] for dtype in ("bf16", "fp16", "fp32")]
    assert ordered == sorted(ordered, key=lambda gate: (gate.min_cosine, gate.min_overlap))
    assert replace(GATES["fp32"], min_overlap=1.0).min_cosine < 1  # sums in another order
