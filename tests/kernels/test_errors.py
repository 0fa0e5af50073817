"""Bad input: a typed error that names the argument, what was expected, what came, what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import kernels
from kernels import BackendUnavailable, EngineError, InvalidArgument, coarse_topk, rerank_topk

Q, X = torch.ones(2, 8), torch.ones(5, 8)
ROWS = torch.zeros(2, 3, dtype=torch.int64)
META = torch.ones(5, 8, device="meta")


def nan_in_row_1() -> Tensor:
    queries = Q.clone()
    queries[1, 3] = torch.nan
    return queries


def called_with(**changes: object) -> Callable[[], object]:
    """coarse_topk on good arguments but for the changes; rerank_topk where they are its own."""
    if "candidates" in changes or changes.pop("rerank", False):
        arguments = {"queries": Q, "items": X, "candidates": ROWS, "k": 3} | changes
        return lambda: rerank_topk(**arguments)  # type: ignore[arg-type]
    arguments = {"queries": Q, "items": X, "k": 3} | changes
    return lambda: coarse_topk(**arguments)  # type: ignore[arg-type]


BAD = [
    # the argument, what the message must hold, the call
    ("queries", ["tensor [B, d]", "ndarray"], called_with(queries=np.ones((2, 8)))),
    ("items", ["tensor [N, d]", "list"], called_with(items=[[1.0]])),
    ("queries", ["two axes", "float32[8]", "vector[None, :]"], called_with(queries=Q[0])),
    ("items", ["two axes", "float32[1, 5, 8]"], called_with(items=X[None])),
    ("items", ["dense", "sparse"], called_with(items=X.to_sparse())),
    ("queries", ["float64", "float8_e4m3fn"], called_with(queries=Q.double(), items=X.double())),
    ("queries", ["d >= 1", "[5, 8]", "[2, 7]"], called_with(queries=Q[:, :7])),
    ("queries", ["d >= 1"], called_with(queries=Q[:, :0], items=X[:, :0])),
    ("queries", ["dtype of items", "float16", "float32"], called_with(items=X.half())),
    ("queries", ["device of items", "meta", "cpu"], called_with(items=META)),
    ("queries", ["device of items", "pin_memory"], called_with(items=META, rerank=True)),
    ("queries", ["finite", "row 1"], called_with(queries=nan_in_row_1())),
    ("queries", ["finite", "row 0"], called_with(queries=Q * torch.inf)),
    ("queries", ["finite", "row 1"], called_with(queries=nan_in_row_1(), rerank=True)),
    ("k", ["int >= 1", "0"], called_with(k=0)),
    ("k", ["int >= 1", "-3"], called_with(k=-3, rerank=True)),
    ("k", ["int >= 1", "2.0"], called_with(k=2.0)),
    ("k", ["int >= 1", "True"], called_with(k=True)),
    ("k", ["int >= 1", "None"], called_with(k=None)),
    ("max_norm", ["finite number", "nan"], called_with(max_norm=float("nan"))),
    ("max_norm", ["finite number", "-1.0"], called_with(max_norm=-1.0)),
    ("max_norm", ["finite number", "'1'"], called_with(max_norm="1")),
    ("mask", ["bool tensor", "list"], called_with(mask=[True] * 5)),
    ("mask", ["dtype bool", "uint8[5]"], called_with(mask=torch.ones(5, dtype=torch.uint8))),
    ("mask", ["[N] = [5]", "[2, 5]", "bool[4]"], called_with(mask=torch.ones(4).bool())),
    ("mask", ["[N] = [5]", "bool[5, 2]"], called_with(mask=torch.ones(5, 2).bool())),
    ("mask", ["[N] = [5]", "bool[1, 5]"], called_with(mask=torch.ones(1, 5).bool())),
    ("mask", ["device of items"], called_with(mask=META[:, 0].bool())),
    ("candidates", ["[B, C]", "int64[3]"], called_with(candidates=ROWS[0])),
    ("candidates", ["B = 2", "int64[1, 3]"], called_with(candidates=ROWS[:1])),
    ("candidates", ["int64", "int32[2, 3]"], called_with(candidates=ROWS.int())),
    ("candidates", ["int64", "list"], called_with(candidates=[[0]])),
    ("candidates", ["N - 1 = 4", "row 5"], called_with(candidates=ROWS + 5)),
    ("candidates", ["-1 (none)", "row -2"], called_with(candidates=ROWS - 2)),
    ("candidates", ["N - 1 = -1", "row 0"], called_with(candidates=ROWS, items=X[:0])),
    ("candidates", ["device of queries"], called_with(candidates=ROWS.to("meta"))),
    ("backend", ["auto", "'cuda'"], called_with(backend="cuda")),
    ("backend", ["auto", "None"], called_with(backend=None, rerank=True)),
]


@pytest.mark.parametrize(
    ("name", "words", "call"), BAD, ids=[f"{name}-{words[-1]}" for name, words, _ in BAD]
)
def test_the_error_names_argument_expected_got_and_remedy(
    name: str, words: list[str], call: Callable[[], object]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        call()
    message = str(caught.value)
    assert caught.value.argument == name
    assert message.startswith(f"{name}: expected ")
    assert ", got " in message
    assert message.endswith(".")
    assert message.count(". ") >= 1  # the remedy
    for word in words:
        assert word in message


def test_numpy_integers_are_fine_for_k() -> None:
    assert coarse_topk(Q, X, np.int64(3)).rows.tolist() == [[0, 1, 2]] * 2  # type: ignore[arg-type]


def test_the_tree() -> None:
    assert issubclass(InvalidArgument, EngineError)
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(BackendUnavailable, EngineError)
    assert issubclass(BackendUnavailable, RuntimeError)


def test_public_names() -> None:
    assert sorted(kernels.__all__) == [
        "BackendUnavailable",
        "EngineError",
        "InvalidArgument",
        "TopK",
        "available_backends",
        "coarse_topk",
        "rerank_topk",
    ]
    assert all(hasattr(kernels, name) for name in kernels.__all__)


CHILD = """
import sys, torch, kernels
assert "triton" not in sys.modules
q, x, rows = torch.ones(2, 8), torch.ones(5, 8), torch.zeros(2, 3, dtype=torch.int64)
backends = kernels.available_backends()
assert backends["torch"] == "ok" and "CUDA" in backends["triton"], backends
for call in (lambda: kernels.coarse_topk(q, x, 4097, backend="triton"),
             lambda: kernels.rerank_topk(q, x, rows, 4097, backend="triton"),
             lambda: kernels.coarse_topk(torch.ones(2, 4097), torch.ones(5, 4097), 1, backend="triton")):
    try:
        call()
    except kernels.BackendUnavailable as error:
        print(error)
    else:
        raise SystemExit("ran")
assert kernels.coarse_topk(q, x, 1, backend="auto").rows.tolist() == [[0], [0]]
assert kernels.rerank_topk(q, x, rows, 1, backend="auto").rows.tolist() == [[0], [0]]
assert "triton" not in sys.modules
"""


def test_triton_where_it_cannot_run_lists_the_inputs_and_every_reason() -> None:
    """In a child with no TRITON_INTERPRET and no GPU: never a fallback, never an import."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("float32[2, 8] on cpu, float32[5, 8] on cpu") == 2
    assert "int64[2, 3] on cpu" in done.stdout
    reasons = [line.partition("which cannot: ")[2].split("; ") for line in done.stdout.splitlines()]
    assert len(reasons) == 3  # a line for each call
    assert all(len(each) >= 2 for each in reasons)  # no CUDA, and a number that is too large
    assert done.stdout.count("4097") >= 2
    assert "k is 4097: at most 4096" in done.stdout
    assert "vectors have 4097 entries: at most 4096" in done.stdout
