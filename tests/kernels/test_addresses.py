"""Every kernel's offsets are 64-bit: by running them on rows far apart, and by reading their IR."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import kernels
from kernels._triton.launch import CoarseLaunch, RerankLaunch
from kernels.coarse import coarse_topk_reference
from kernels.rerank import rerank_topk_reference
from kernels.topk import TopK
from tests.kernels.mutants import Mutant, same

REASON = kernels.available_backends()["triton"]
pytestmark = pytest.mark.skipif(REASON != "ok", reason=f"triton: {REASON}")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="for the interpreter")

FAR_ITEMS = 2**27 + 16  # rows of a view this far apart: 17 of them pass 2^31 entries
FAR_QUERIES = 2**30 + 16  # and 3 of these
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named since Python 3.11; Linux


def spread(values: Tensor, stride: int) -> Tensor:
    """The same rows, `stride` entries apart in memory that is mapped and hardly touched."""
    rows, width = values.shape
    size = (rows * stride + width) * values.element_size()
    space = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    view = torch.frombuffer(space, dtype=values.dtype).as_strided((rows, width), (stride, 1))
    view.copy_(values)
    return view


def far_searches(coarse: ModuleType, rerank: ModuleType) -> Iterator[tuple[TopK, TopK]]:
    """(found, expected) with every input spread past 2^31, by all kernels."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(-9, 10, (70, 16), generator=generator, dtype=torch.int8)
    queries = items[:4].clone()
    mask = torch.rand(4, 70, generator=generator) < 0.7
    candidates = torch.randint(-1, 70, (4, 9), generator=generator)
    far_items, far_queries = spread(items, FAR_ITEMS), spread(queries, FAR_QUERIES)
    far_mask, far_candidates = spread(mask, FAR_QUERIES), spread(candidates, FAR_QUERIES)
    for launch, shown, far_shown in (
        (CoarseLaunch(False, 16, 16, 2, 4, 1, 4, 64), mask, far_mask),
        (CoarseLaunch(False, 16, 16, 2, 4, 1, 1, 64), None, None),
        (CoarseLaunch(True, 1, 16, 1, 4, 1, 1, 64), mask, far_mask),
    ):
        found = coarse.coarse_topk(far_queries, far_items, 3, far_shown, launch=launch)
        yield found, coarse_topk_reference(queries, items, 3, mask=shown)
    split = RerankLaunch(16, 4)
    found = rerank.rerank_topk(far_queries, far_items, far_candidates, 3, launch=split)
    yield found, rerank_topk_reference(queries, items, candidates, 3)


@interpreted
def test_rows_past_2_to_the_31_are_found() -> None:
    from kernels._triton import coarse, rerank

    assert same(far_searches(coarse, rerank))


@interpreted
@pytest.mark.parametrize(
    "change",
    [
        ("scoring.py", "at = rows * stride_xn", "at = rows.to(tl.int32) * stride_xn"),
        ("maxima.py", "step = wide(BLOCK_N) * stride_xn", "step = (wide(BLOCK_N) * stride_xn) & 0x7FFFFFFF"),
    ],
    ids=["scoring", "maxima"],
)  # fmt: skip
def test_an_int32_offset_is_caught(change: tuple[str, str, str], tmp_path: Path) -> None:
    mutant = Mutant(tmp_path, f"mutant_narrow_{change[0][:-3]}", [change])
    with contextlib.suppress(IndexError):  # an address out of the tensor is caught as well
        assert not same(far_searches(mutant.coarse, mutant.rerank))


# ------------------------------------------------------------------ the IR

CARRIES = re.compile(
    r"(arith\.(addi|subi|extsi|extui|muli|index_cast|select|trunci)|tt\.(splat|broadcast|expand_dims|reshape|trans))\b"
)


def narrow_products(ttir: str) -> list[str]:
    """The lines where a 32-bit multiply feeds, through sums and casts, a pointer's offset."""
    tainted: set[str] = set()
    found: list[str] = []
    lines = ttir.splitlines()
    for _ in range(3):  # loops carry values backwards: until nothing new is found
        before = len(tainted)
        for line in lines:
            names = re.findall(r"%[\w#:]+", line)
            if not names:
                continue
            result, operands = names[0], set(names[1:])
            if re.search(r"arith\.muli.*[: x<]i32>?\s*(loc|$)", line) or (
                CARRIES.search(line) and operands & tainted
            ):
                tainted.add(result)
            for inner, outer in re.findall(r"(%\w+) = (%[\w#]+)[,)]", line):  # scf.for's iter_args
                if "iter_args" in line and outer in tainted:
                    tainted.add(inner)
        if len(tainted) == before:
            break
    for line in lines:
        match = re.search(r"tt\.addptr (%[\w#]+), (%[\w#]+)", line)
        if match and match[2] in tainted:
            found.append(line.strip())
    return found


def test_the_scan_sees_a_narrow_product_and_passes_a_wide_one() -> None:
    narrow = """
    %3 = arith.muli %1, %2 : i32 loc(#loc1)
    %4 = tt.splat %3 : i32 -> tensor<16xi32> loc(#loc1)
    %5 = arith.extsi %4 : tensor<16xi32> to tensor<16xi64> loc(#loc1)
    %6 = tt.addptr %p, %5 : tensor<16x!tt.ptr<f32>>, tensor<16xi64> loc(#loc1)
    """
    assert len(narrow_products(narrow)) == 1
    assert (
        narrow_products(narrow.replace("arith.muli %1, %2 : i32", "arith.muli %1, %2 : i64")) == []
    )


SCAN = """
import json, sys
import torch
from benchmarks import kernel_audit as audit
found, seen = {}, {}
for launch in audit.launches((9, 0), True, (torch.float16,)):
    if launch.name not in seen:
        seen[launch.name] = audit.compile_launch(launch, (9, 0)).asm["ttir"]
print(json.dumps({"all": sorted(audit.discover()), "ttir": seen}))
"""


def test_no_kernel_feeds_a_32_bit_product_to_a_pointer() -> None:
    """Of every kernel there is: they are discovered, and one that is not compiled fails."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = Path(kernels.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCAN], cwd=root, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert sorted(report["ttir"]) == report["all"]
    for name, ttir in report["ttir"].items():
        assert "tt.addptr" in ttir
        assert narrow_products(ttir) == [], name
