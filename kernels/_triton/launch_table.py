"""Tuned launches. Written by `python -m benchmarks.tune`; empty where no tuning has run.

(capability, batch class, padded dims, bytes per entry) -> (block_b, block_n, warps, stages, registers)
"""

from __future__ import annotations

__all__ = ["TABLE"]

TABLE: dict[tuple[tuple[int, int], str, int, int], tuple[int, int, int, int, int]] = {}
