"""What only a GPU can show: `pytest -m gpu`. The contract itself runs there too, on CUDA tensors.

Sizes past 2^31 entries, capture in a CUDA graph, other streams, threads, pinned host memory.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import kernels
from kernels import coarse_topk, rerank_topk
from kernels.topk import TopK
from tests.kernels import oracle
from tests.kernels import test_contract_coarse as coarse_contract
from tests.kernels import test_contract_rerank as rerank_contract

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def contracts() -> list[object]:
    """The contract's tests, to be run with backend="triton" on CUDA tensors, by dtype where they
    have one. Not those that draw hundreds of cases: nearly each would compile its own kernels;
    `test_a_drawn_case` takes their place."""
    found = []
    for module in (coarse_contract, rerank_contract):
        for name, test in vars(module).items():
            if not name.startswith("test_") or test in (
                coarse_contract.test_any_case_has_the_oracles_rows_and_bits,
                coarse_contract.test_scores_are_those_of_float64,
                rerank_contract.test_any_case_has_the_oracles_rows_and_bits,
            ):
                continue
            taken = test.__code__.co_varnames[1 : test.__code__.co_argcount]
            label = f"{module.__name__.rsplit('_', 1)[1]}-{name}"
            if taken == ():
                found.append(pytest.param(test, (), id=label))
            elif taken == ("dtype",):
                found += [
                    pytest.param(test, (dtype,), id=f"{label}-{dtype}")
                    for dtype in sorted(oracle.DTYPES)
                ]
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(("test", "taken"), contracts())
def test_the_contract(test: Callable[..., None], taken: tuple[str, ...]) -> None:
    test("triton", *taken)


@pytest.mark.parametrize("seed", range(40))
def test_a_drawn_case(seed: int) -> None:
    """As the contract's drawn cases, larger, from few widths and k."""
    draw = random.Random(seed)
    case = oracle.Case(
        dtype=sorted(oracle.DTYPES)[seed % 5],
        batch=draw.choice([1, 7, 16, 17, 100, 129, 300]),
        items=draw.choice([1, 129, 1000, 4099, 20_011]),
        width=draw.choice([8, 33, 64, 100, 256, 300, 768]),
        k=draw.choice([1, 10, 128, 1000]),
        values=draw.choice(["integers", "floats", "spread"]),
        ties=draw.choice([0.0, 0.3, 0.9]),
        mask=draw.choice(["none", "none", "row", "query", "few", "nothing"]),
        strides=draw.choice(["plain", "plain", "columns", "steps", "shifted"]),
        candidates=draw.choice([1, 129, 1000]),
        seed=seed,
    )
    queries, items, mask = case.tensors()
    for op in ("coarse", "rerank"):
        found, expected = (
            coarse_topk(queries, items, case.k, mask=mask, backend=backend)
            if op == "coarse"
            else rerank_topk(queries, items, case.rows(), case.k, backend=backend)
            for backend in ("triton", "torch")
        )
        assert same(found, expected), (op, case)


def units(count: int, d: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    made = torch.empty(count, d, dtype=dtype, device="cuda")
    for start in range(0, count, 1 << 22):
        part = made[start : start + (1 << 22)]
        part.copy_(torch.randn(part.shape, generator=generator, device="cuda"))
    return made


def same(left: TopK, right: TopK) -> bool:
    return torch.equal(left.rows, right.rows) and torch.equal(left.scores, right.scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int8])
@pytest.mark.parametrize(("batch", "k"), [(1, 128), (16, 10), (300, 1000), (20, 4096)])
def test_a_large_corpus_agrees_with_pytorch(dtype: torch.dtype, batch: int, k: int) -> None:
    items = (units(400_000, 48, torch.float32, 1) * 20).clamp(-120, 120).to(dtype)
    queries = items[:batch] * (1 if dtype == torch.int8 else 2)
    mask = torch.rand(400_000, device="cuda") < 0.5
    for shown in (None, mask):
        expected = coarse_topk(queries, items, k, mask=shown, backend="torch")
        found = coarse_topk(queries, items, k, mask=shown, backend="triton")
        assert same(found, expected)


def test_more_than_2_to_the_31_entries() -> None:
    """2^31 / 32 + 5,000,000 rows of 32: the best rows are planted before and past the border."""
    count = 2**26 + 5_000_000
    items = units(count, 32, torch.float16, 2) * 0.1
    query = torch.nn.functional.normalize(torch.randn(1, 32, device="cuda"), dim=1).half()
    planted = torch.tensor([7, 2**26 - 1, 2**26, 2**26 + 1, count - 1], device="cuda")
    items[planted] = query * 40
    for batch in (1, 20, 200):
        found = coarse_topk(query.expand(batch, -1), items, 5, backend="triton")
        assert found.rows.tolist() == [planted.tolist()] * batch
    candidates = torch.cat([planted, torch.arange(100, device="cuda")])[None]
    assert (
        rerank_topk(query, items, candidates, 5, backend="triton").rows[0].tolist()
        == planted.tolist()
    )


@pytest.mark.parametrize("batch", [1, 64, 300])
def test_capture_and_replay(batch: int) -> None:
    """A graph captured once answers new queries, reads nothing that it has not written, and leaves no sync."""
    items = units(200_000, 64, torch.float16, 3)
    queries = items[:batch].clone()
    coarse_topk(queries, items, 50, backend="triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = coarse_topk(queries, items, 50, backend="triton")
    for start in (1000, 5000):
        queries.copy_(items[start : start + batch])
        graph.replay()
        assert same(found, coarse_topk(queries, items, 50, backend="torch"))


def test_capture_of_a_rerank() -> None:
    items = units(10_000, 768, torch.float16, 4)
    queries = items[:8].clone()
    candidates = torch.randint(-1, 10_000, (8, 128), device="cuda")
    rerank_topk(queries, items, candidates, 10, backend="triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = rerank_topk(queries, items, candidates, 10, backend="triton")
    candidates.copy_(torch.randint(-1, 10_000, (8, 128), device="cuda"))
    graph.replay()
    assert same(found, rerank_topk(queries, items, candidates, 10, backend="torch"))


def test_another_stream() -> None:
    """The op waits for what its stream waits for, and for nothing else."""
    items = units(500_000, 64, torch.float16, 5)
    queries = torch.zeros(4, 64, dtype=torch.float16, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        queries.copy_(items[10:14])  # written late on this stream
        found = coarse_topk(queries, items, 5, backend="triton")
    stream.synchronize()
    assert same(found, coarse_topk(items[10:14], items, 5, backend="torch"))


def test_eight_threads() -> None:
    items = units(300_000, 64, torch.float16, 6)
    expected = [coarse_topk(items[i : i + 3], items, 20, backend="torch") for i in range(8)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            found = coarse_topk(items[i : i + 3], items, 20, backend="triton")
            if not same(found, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_fine_vectors_in_pinned_host_memory() -> None:
    items = torch.randn(5000, 512).half().pin_memory()
    queries = torch.randn(6, 512, device="cuda").half()
    candidates = torch.randint(-1, 5000, (6, 100), device="cuda")
    expected = rerank_topk(queries, items.cuda(), candidates, 10, backend="torch")
    assert same(rerank_topk(queries, items, candidates, 10, backend="triton"), expected)


def test_massive_ties_and_outliers() -> None:
    """What overflows the lists is still exact: equal items, a zero query, one huge row."""
    items = units(200_000, 32, torch.float16, 7)
    items[::3] = items[0]
    items[77] = 60000.0
    queries = torch.stack([items[0], items[0] * 0, items[77] / 1000])
    expected = coarse_topk(queries, items, 100, backend="torch")
    assert same(coarse_topk(queries, items, 100, backend="triton"), expected)


def test_available() -> None:
    assert kernels.available_backends() == {"torch": "ok", "triton": "ok"}
