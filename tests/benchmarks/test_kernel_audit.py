"""The audit reads machine code rightly, and forgets no kernel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kernel_audit import ARCHES, Inspection, _code, _inner_loop, _table, overwritten

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

SASS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;       /* 0x00000a0000017a02 */
        /*0010*/                   LDGSTS.E [R1], [R2] ;        /* 0x00000a0000017a02 */
        /*0020*/                   HMMA.16816.F32 R4, R4, R8, R4 ;
        /*0030*/                   FMNMX R4, R4, R5, !PT ;
        /*0040*/              @!P0 BRA 0x20 ;
        /*0050*/                   STG.E [R2], R4 ;
        /*0060*/               @P1 BRA 0x10 ;
        /*0070*/                   BRA 0x70 ;
"""


def test_the_inner_loop_is_the_smallest_with_a_tensor_instruction() -> None:
    code = _code(SASS)
    assert len(code) == 8
    assert [text.split()[0] for text in _inner_loop(code)] == ["HMMA.16816.F32", "FMNMX", "@!P0"]
    assert _inner_loop(_code(SASS.replace("HMMA", "FFMA"))) == []


TTGIR = """
  scf.for %tile = %a to %b {
    %x = ttg.local_alloc : () -> !ttg.memdesc<3x128x32xf32, #shared, #smem, mutable>
    %q = ttg.local_alloc : () -> !ttg.memdesc<4x128x32xf32, #shared, #smem, mutable>
    %s:2 = scf.for %i = %a to %b {
      %1 = ttg.memdesc_index %x[%r] : !ttg.memdesc<3x128x32xf32> -> !ttg.memdesc<128x32xf32>
      %2 = ttg.memdesc_index %q[%r] : !ttg.memdesc<4x128x32xf32> -> !ttg.memdesc<128x32xf32>
      %3 = ttng.warp_group_dot %1, %2, %c {isAsync = true}
      %4:3 = ttng.warp_group_dot_wait %3, %1, %2 {pendings = 1 : i32}
      %5 = ttg.memdesc_index %x[%w] : !ttg.memdesc<3x128x32xf32> -> !ttg.memdesc<128x32xf32>
      %6 = ttg.async_copy_global_to_local %at, %5 mask %m
      %7 = ttg.memdesc_index %q[%v] : !ttg.memdesc<4x128x32xf32> -> !ttg.memdesc<128x32xf32>
      %8 = ttg.async_copy_global_to_local %to, %7 mask %m
    } {tt.num_stages = 4 : i32}
  }
"""


def test_a_race_of_copies_with_a_pending_product_is_seen() -> None:
    """As Triton 3.6 compiled it: it gave wrong results on an H200, in two of forty searches."""
    assert "3 buffers" in overwritten(TTGIR)
    assert overwritten(TTGIR.replace("<3x", "<4x")) == ""
    assert overwritten(TTGIR.replace("pendings = 1", "pendings = 0")) == ""
    assert overwritten(TTGIR.replace("num_stages = 4", "num_stages = 3")) == ""
    assert "3 buffers" in overwritten(TTGIR.replace("<3x", "<4x").replace("<4x", "<3x", 2))


def test_what_fails_the_audit() -> None:
    def report(**found: object) -> Inspection:
        return Inspection("sm_90", "dot_max", "float16", "B1", **found)  # type: ignore[arg-type]

    assert report(tensor=8).fault == ""
    assert report(tensor=0).fault == "no tensor instructions"
    assert report(tensor=8, overwritten="a race").fault == "a race"
    assert report(tensor=8, spills=3).fault == "3 spill instructions"
    assert report(tensor=8, error="CompilationError: x").fault == "CompilationError: x"
    assert Inspection("sm_90", "finish", "float16", "B1").fault == ""
    assert "3 spill instructions" in _table([report(tensor=8, spills=3)])


@needs_triton
def test_every_kernel_is_launched_by_a_case_on_every_architecture() -> None:
    script = """
import torch
from benchmarks import kernel_audit as audit
everything = set(audit.discover())
assert len(everything) >= 6, everything
for capability in audit.ARCHES.values():
    launched = {launch.name for launch in audit.launches(capability, True, (torch.float16,))}
    assert launched == everything, everything - launched
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, check=True)
    assert len(ARCHES) == 5
