"""`python -m benchmarks.kernel_audit`: compiles every kernel for five GPUs, with no GPU, and reads the code.

The launchers run on tensors that have a shape and no memory, and what they would launch is
recorded; so the audit compiles what a search launches, and a kernel that no case reaches is an
error. For each: registers, spills, shared memory, tensor instructions, instructions per score in
the inner loop (budget: d / 16; of chunks, theirs) and, for `dot_max` and `dot_max_long`, the time that the code
predicts on an H100 as a multiple of the floor. It predicts; it measures nothing.

Exit code 1: a compile error, a spill (in those: one in their inner loop), no tensor instructions in them, or a
product that may still be reading a buffer while the next items are copied into it.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from kernels.backends import triton_max_d

__all__ = ["ARCHES", "Case", "Launch", "Inspection", "audit", "case_launches", "compile_all", "compile_launch",
           "discover", "launches", "launches_of", "main"]  # fmt: skip

ARCHES = {"sm_80": (8, 0), "sm_89": (8, 9), "sm_90": (9, 0), "sm_100": (10, 0), "sm_120": (12, 0)}
DTYPES = (torch.float16, torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
PRODUCTS = ("dot_max", "dot_max_long")
TENSOR = re.compile(r"\b(HGMMA|HMMA|IMMA|IGMMA|QGMMA|QMMA|UTC\w*MMA)")

# An H100, for the prediction: the ceilings of benchmarks/scaling.py, and its issue rate.
H100_BYTES, H100_HALF_FLOPS = 3.0e12, 798e12
H100_PROCESSORS, H100_CLOCK = 132, 1.755e9
RATE = {1: 2.0, 2: 1.0, 4: 0.5}  # of the half rate; float32 is multiplied as tf32


@dataclass(frozen=True)
class Case:
    """One search: what an audit of `dtype` runs through the launchers."""

    op: str  # "coarse" or "rerank"
    batch: int
    count: int  # items; for "rerank", candidates
    d: int
    k: int
    mask: int = 0
    quick: bool = False
    max_norm: float | None = 1.0  # the caller's promise


CASES = (
    Case("coarse", 1, 10_000_000, 64, 128, quick=True),
    Case("coarse", 1, 10_000_000, 64, 128, max_norm=None),
    Case("coarse", 4, 10_000_000, 64, 128, 1),
    Case("coarse", 2, 10_000_000, 128, 1024, 2),
    Case("coarse", 16, 10_000_000, 64, 128),
    Case("coarse", 48, 1_000_000, 64, 10),
    Case("coarse", 256, 10_000_000, 64, 128, quick=True),
    Case("coarse", 256, 10_000_000, 64, 128, max_norm=None),
    Case("coarse", 256, 10_000_000, 32, 10),
    Case("coarse", 256, 10_000_000, 100, 128, 1, max_norm=None),
    Case("coarse", 256, 1_000_000, 128, 1024, 2),
    Case("coarse", 2048, 1_000_000, 256, 4096),
    Case("coarse", 7, 500, 8, 10),
    Case("coarse", 1, 1_000_000, 768, 10, quick=True),
    Case("coarse", 256, 1_000_000, 768, 10, quick=True),
    Case("coarse", 16, 1_000_000, 768, 10, max_norm=None, quick=True),
    Case("coarse", 48, 1_000_000, 1152, 128, 1),
    Case("coarse", 300, 1_000_000, 4096, 128, 2, max_norm=None),
    Case("coarse", 3, 400, 1024, 10),
    Case("coarse", 256, 20_000, 16, 4096, 2),
    Case("rerank", 1, 128, 768, 10, quick=True),
    Case("rerank", 256, 128, 768, 10, quick=True),
    Case("rerank", 256, 1024, 512, 128),
    Case("rerank", 16, 4096, 2048, 1024),
    Case("rerank", 1024, 4096, 1536, 4096),
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One kernel as a launcher would launch it: what it takes to compile it."""

    module: str
    name: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    tiles: int = field(compare=False)
    case: Case = field(compare=False)
    dtype: str = field(compare=False)


@dataclass
class Inspection:
    """What the compiled code says of one launch on one architecture."""

    arch: str
    kernel: str
    dtype: str
    shape: str
    registers: int = 0
    spills: int = 0
    shared: int = 0
    tensor: int = 0
    per_score: float | None = None
    budget: float | None = None
    over_floor: tuple[float, float] | None = None
    overwritten: str = ""
    error: str = ""

    @property
    def fault(self) -> str:
        """Why this launch fails the audit, or ""."""
        if self.error:
            return self.error
        if self.spills:
            return f"{self.spills} spill instructions"
        if self.kernel in PRODUCTS and not self.tensor:
            return "no tensor instructions"
        return self.overwritten


def discover() -> dict[str, Any]:
    """Every kernel in kernels/_triton by name: the `@triton.jit` functions that ask which
    program they are. What only they call is compiled as part of them."""
    import kernels._triton as package

    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, value in vars(module).items():
            jitted = hasattr(value, "arg_names") and hasattr(value, "fn")
            own = jitted and value.fn.__module__ == module.__name__
            if own and "tl.program_id" in inspect.getsource(value.fn):
                found[name] = value
    return found


@contextmanager
def _recorded() -> Iterator[list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Kernel launches are noted, not run."""
    from triton.runtime.jit import JITFunction

    noted: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def note(self: Any, *args: Any, **options: Any) -> None:
        options = {key: value for key, value in options.items() if key not in ("grid", "warmup")}
        noted.append((self, args, options))

    original = JITFunction.run
    JITFunction.run = note
    try:
        yield noted
    finally:
        JITFunction.run = original


def _run_case(case: Case, capability: tuple[int, int], dtype: torch.dtype) -> None:
    """The launcher of one case, on tensors without memory."""
    from kernels._triton import coarse, rerank
    from kernels._triton.launch import coarse_launch, rerank_launch

    def empty(*shape: int, kind: torch.dtype) -> torch.Tensor:
        return torch.empty(*shape, dtype=kind, device="meta")

    queries = empty(case.batch, case.d, kind=dtype)
    if case.op == "rerank":
        candidates = empty(case.batch, case.count, kind=torch.int64)
        launch = rerank_launch(capability, case.batch, case.count, case.d, dtype)
        rows = empty(1_000_000, case.d, kind=dtype)
        rerank.rerank_topk(queries, rows, candidates, case.k, launch=launch)
        return
    shape = {0: None, 1: (case.count,), 2: (case.batch, case.count)}[case.mask]
    mask = None if shape is None else empty(*shape, kind=torch.bool)
    chosen = coarse_launch(
        capability, case.batch, case.count, case.d, case.k, dtype, masked=case.mask > 0
    )
    rows = empty(case.count, case.d, kind=dtype)
    coarse.coarse_topk(queries, rows, case.k, mask, max_norm=case.max_norm, launch=chosen)


def _bind(
    fn: Any, args: tuple[Any, ...], options: dict[str, Any], case: Case, dtype: str
) -> Launch:
    """A recorded call as Triton's own binder would specialise it."""
    from triton.runtime.jit import mangle_type

    signature, constants, divisible = [], [], []
    named = dict(zip(fn.arg_names, args, strict=False))
    for place, parameter in enumerate(fn.params):
        name = parameter.name
        value = named[name] if name in named else options.pop(name)
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or one:
            signature.append((name, "constexpr"))
            constants.append((name, value))
            continue
        signature.append((name, mangle_type(value)))
        aligned = isinstance(value, torch.Tensor) or value % 16 == 0
        if aligned and not parameter.do_not_specialize:
            divisible.append(place)
    return Launch(
        fn.fn.__module__, fn.fn.__name__, tuple(signature), tuple(constants), tuple(divisible),
        tuple(sorted(options.items())), named.get("TILES", 1), case, dtype,
    )  # fmt: skip


def launches_of(run: Callable[[], object], case: Case, dtype: torch.dtype) -> list[Launch]:
    """What `run` launches, in order; nothing is launched."""
    with _recorded() as noted:
        run()
    name = str(dtype).removeprefix("torch.")
    return [_bind(fn, args, dict(options), case, name) for fn, args, options in noted]


def case_launches(case: Case, capability: tuple[int, int], dtype: torch.dtype) -> list[Launch]:
    """What one search launches on such a GPU."""
    return launches_of(lambda: _run_case(case, capability, dtype), case, dtype)


def compile_all(launches: Iterable[Launch], capability: tuple[int, int], workers: int) -> list[str]:
    """Compiles them side by side into Triton's cache, where a search finds them; what failed, by its message."""
    jobs = [(launch, capability) for launch in dict.fromkeys(launches)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # CUDA survives no fork
        return [message for message in pool.map(_compiled, jobs, chunksize=2) if message]


def _compiled(job: tuple[Launch, tuple[int, int]]) -> str:
    from triton.errors import TritonError

    try:
        compile_launch(*job)
    except (TritonError, RuntimeError) as error:
        return f"{job[0].name}: {type(error).__name__}: {error}"
    return ""


def launches(
    capability: tuple[int, int], quick: bool = False, dtypes: tuple[torch.dtype, ...] = DTYPES
) -> list[Launch]:
    """Every distinct launch of the cases on such a GPU."""
    found: dict[Launch, None] = {}
    for case, dtype in itertools.product(CASES, dtypes):
        lacking = dtype == torch.float8_e4m3fn and capability < (8, 9)
        lacking |= case.op == "coarse" and case.d > triton_max_d(dtype, coarse=True)
        if not lacking and (case.quick or not quick):
            found.update(dict.fromkeys(case_launches(case, capability, dtype)))
    return list(found)


def compile_launch(launch: Launch, capability: tuple[int, int]) -> Any:
    """Triton's compiled kernel, with its IR and its machine code in `.asm`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fn = getattr(importlib.import_module(launch.module), launch.name)
    source = ASTSource(
        fn, dict(launch.signature), dict(launch.constants),
        {(place,): [["tt.divisibility", 16]] for place in launch.divisible},
    )  # fmt: skip
    target = GPUTarget("cuda", capability[0] * 10 + capability[1], 32)
    return triton.compile(source, target=target, options=dict(launch.options))


def _tool(name: str, cubin: Path, *options: str) -> str:
    """Output of one of the CUDA tools that come inside Triton."""
    from triton import knobs

    program = getattr(knobs.nvidia, name).path
    return subprocess.run(
        [program, *options, str(cubin)], check=True, capture_output=True, text=True
    ).stdout


def _code(sass: str) -> list[tuple[int, str]]:
    """(address, instruction) in order."""
    return [
        (int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,6})\*/\s+([^;]+);", sass)
    ]


def overwritten(ttgir: str) -> str:
    """Where a product that may still run reads a buffer that is already being written again, or "".

    Hopper's products run on while the loop goes on: with P of them pending, and copies STAGES - 1 rounds ahead,
    a ring needs STAGES - 1 + P buffers. Triton 3.6 makes one too few for what is read by anything else too.
    """
    for loop in re.findall(r"scf\.for(?:(?!scf\.for).)*?tt\.num_stages = \d+", ttgir, re.DOTALL):
        stages = int(loop.rsplit(" ", 1)[1])
        pending = max(map(int, re.findall(r"pendings = (\d+)", loop)), default=0)
        read = re.findall(r"(%\S+) = ttg\.memdesc_index (%[^\[\s]+)\[", loop)
        copied = {
            ring
            for name, ring in read
            if re.search(rf"async_copy_global_to_local .*?{name}\b", loop)
        }
        for ring in sorted(copied if pending else ()):
            made = re.search(rf"{ring} = ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x", ttgir)
            if made and int(made[1]) < stages - 1 + pending:
                return (
                    f"{made[1]} buffers where {stages - 1} are filled and {pending} is read: a race"
                )
    return ""


def _inner_loop(code: list[tuple[int, str]]) -> list[str]:
    """The smallest loop that holds a tensor instruction."""
    loops = []
    for at, text in code:
        jump = re.search(r"\bBRA(?:\.\w+)*\s+.*?(?:0x|`\(\.?L?_?x_?)([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < at:
            body = [line for place, line in code if int(jump[1], 16) <= place <= at]
            if any(TENSOR.search(line) for line in body):
                loops.append(body)
    return min(loops, key=len, default=[])


def _predict(
    launch: Launch, constants: dict[str, Any], loop: list[str], itemsize: int
) -> tuple[float, float]:
    """(best, worst) time over the floor on an H100 for the step that reads all items.

    Best: multiplying, issuing and loading overlap completely. Worst: not at all. The floor is the
    larger of the bytes of the items and the products of the dims asked for.
    """
    case, warps = launch.case, dict(launch.options)["num_warps"]
    products = 2.0 * case.batch * case.count * case.d
    rate = H100_HALF_FLOPS * RATE[itemsize]
    memory = case.count * case.d * itemsize / H100_BYTES
    block_b, block_n = constants["BLOCK_B"], constants["BLOCK_N"]
    padded = -(-case.batch // block_b) * block_b * case.count
    chunk = constants.get("CHUNK", case.d)
    issued = padded / (block_b * block_n) * -(-case.d // chunk) * len(loop) * warps
    issue = issued / (4 * H100_PROCESSORS * H100_CLOCK)
    maxima = 4.0 * case.batch * case.count / launch.tiles / H100_BYTES
    width = -(-case.d // chunk) * chunk if "CHUNK" in constants else constants["PAD"]
    multiply = 2.0 * padded * width / rate
    floor = max(memory, products / rate)
    best = max(memory + maxima, multiply, issue)
    return best / floor, (memory + maxima + multiply + issue) / floor


def examine(launch: Launch, arch: str) -> Inspection:
    """Compiles one launch for one architecture and reads its machine code."""
    case, constants = launch.case, dict(launch.constants)
    shape = f"B{case.batch} {'C' if case.op == 'rerank' else 'N'}{case.count} d{case.d} k{case.k}"
    shape += f" mask{case.mask}" if case.mask else ""
    report = Inspection(arch, launch.name, launch.dtype, shape)
    try:
        compiled = compile_launch(launch, ARCHES[arch])
    except Exception as error:  # noqa: BLE001 - whatever the compiler raises is the finding
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        report.error = f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1:]}"
        return report
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", Path(file.name), "-res-usage")
        code = _code(_tool("cuobjdump", Path(file.name), "-sass"))
    report.registers = max(int(n) for n in re.findall(r"REG:(\d+)", usage))
    report.shared = compiled.metadata.shared
    report.overwritten = overwritten(compiled.asm["ttgir"])
    hot = [text for _, text in code]
    report.tensor = sum(bool(TENSOR.search(text)) for _, text in code)
    if launch.name in PRODUCTS:
        hot = loop = _inner_loop(code)  # registers kept aside before and after it cost nothing
        threads = 32 * dict(launch.options)["num_warps"]
        scores = constants["BLOCK_B"] * constants["BLOCK_N"] / threads
        report.per_score = round(len(loop) / scores, 2)
        report.budget = constants.get("CHUNK", case.d) / 16
        if arch == "sm_90":
            itemsize = getattr(torch, launch.dtype).itemsize
            best, worst = _predict(launch, constants, loop, itemsize)
            report.over_floor = (round(best, 2), round(worst, 2))
    report.spills = sum(bool(re.search(r"\b(STL|LDL)\b", text)) for text in hot)
    return report


def _examine(job: tuple[Launch, str]) -> Inspection:
    return examine(*job)


def audit(arches: list[str], quick: bool = False, workers: int = 2) -> list[Inspection]:
    """Every launch on every architecture, in order."""
    jobs = [
        (launch, arch)
        for arch in arches
        for launch in launches(ARCHES[arch], quick)
        if not quick or launch.dtype == "float16" or launch.name in PRODUCTS
    ]
    missed = set(discover()) - {launch.name for launch, _ in jobs}
    if missed:
        raise SystemExit(f"no case of the audit launches {sorted(missed)}: add one to CASES")
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(_examine, jobs, chunksize=4))


def _table(reports: list[Inspection]) -> str:
    head = ("arch", "kernel", "dtype", "shape", "regs", "spill", "smem", "mma", "ins/score",
            "d/16", "x floor (best-worst)", "fault")  # fmt: skip
    lines = [head]
    for r in reports:
        floor = "" if r.over_floor is None else f"{r.over_floor[0]:.2f}-{r.over_floor[1]:.2f}"
        lines.append(
            (r.arch, r.kernel, r.dtype, r.shape, str(r.registers), str(r.spills), str(r.shared),
             str(r.tensor), "" if r.per_score is None else f"{r.per_score:.2f}",
             "" if r.budget is None else f"{r.budget:g}", floor, r.fault)
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_audit", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true",
        help="only the main searches; `dot_max` in every dtype, the rest in float16",
    )  # fmt: skip
    parser.add_argument("--arch", action="append", choices=sorted(ARCHES), help="only these")
    parser.add_argument("--workers", type=int, default=2, help="compiling processes (default 2)")
    parser.add_argument("--json", type=Path, help="write the reports here too")
    options = parser.parse_args(arguments)
    reports = audit(options.arch or list(ARCHES), options.quick, options.workers)
    print(_table(reports))
    if options.json:
        options.json.write_text(json.dumps([asdict(report) for report in reports], indent=1))
    faults = [report for report in reports if report.fault]
    print(f"{len(reports)} compiled, {len(faults)} at fault", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
