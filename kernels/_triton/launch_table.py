"""Launches of `dot_max` and `dot_max_long` by GPU and shape; `python -m benchmarks.tune` writes its GPU's rows.

(capability, batch class, padded dims, bytes per entry) -> (block_b, block_n, warps, stages, registers). Vectors of
more than 256 dims, which go in chunks, have the rows of 512.

Many queries: three or four small programs on a multiprocessor, so that one takes maxima while another multiplies;
wider rows leave no room for that. In chunks queries are read again for every tile of items: large tiles.
"""

from __future__ import annotations

__all__ = ["TABLE"]

TABLE: dict[tuple[tuple[int, int], str, int, int], tuple[int, int, int, int, int]] = {
    ((9, 0), "small", 32, 1): (16, 128, 4, 4, 240),
    ((9, 0), "small", 32, 2): (16, 128, 4, 4, 240),
    ((9, 0), "small", 32, 4): (16, 128, 4, 4, 240),
    ((9, 0), "small", 64, 1): (16, 128, 4, 4, 240),
    ((9, 0), "small", 64, 2): (16, 128, 4, 4, 240),
    ((9, 0), "small", 64, 4): (16, 128, 4, 4, 240),
    ((9, 0), "small", 128, 1): (16, 128, 4, 4, 240),
    ((9, 0), "small", 128, 2): (16, 128, 4, 4, 240),
    ((9, 0), "small", 128, 4): (16, 128, 4, 3, 240),
    ((9, 0), "small", 256, 1): (16, 128, 4, 4, 240),
    ((9, 0), "small", 256, 2): (16, 128, 4, 3, 240),
    ((9, 0), "small", 256, 4): (16, 64, 4, 2, 240),
    ((9, 0), "small", 512, 1): (16, 128, 4, 3, 240),
    ((9, 0), "small", 512, 2): (16, 128, 4, 3, 240),
    ((9, 0), "small", 512, 4): (16, 128, 4, 3, 240),
    ((9, 0), "middle", 32, 1): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 32, 2): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 32, 4): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 64, 1): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 64, 2): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 64, 4): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 128, 1): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 128, 2): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 128, 4): (64, 128, 4, 2, 240),
    ((9, 0), "middle", 256, 1): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 256, 2): (64, 128, 4, 2, 240),
    ((9, 0), "middle", 256, 4): (64, 64, 4, 2, 240),
    ((9, 0), "middle", 512, 1): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 512, 2): (64, 128, 4, 4, 240),
    ((9, 0), "middle", 512, 4): (64, 128, 4, 4, 240),
    ((9, 0), "large", 32, 1): (128, 64, 4, 4, 168),
    ((9, 0), "large", 32, 2): (128, 64, 4, 4, 168),
    ((9, 0), "large", 32, 4): (64, 64, 4, 4, 168),
    ((9, 0), "large", 64, 1): (128, 64, 4, 4, 168),
    ((9, 0), "large", 64, 2): (128, 64, 4, 4, 168),
    ((9, 0), "large", 64, 4): (64, 64, 4, 3, 168),
    ((9, 0), "large", 128, 1): (128, 64, 4, 4, 168),
    ((9, 0), "large", 128, 2): (128, 64, 8, 3, 128),
    ((9, 0), "large", 128, 4): (64, 64, 4, 3, 240),
    ((9, 0), "large", 256, 1): (128, 64, 8, 3, 128),
    ((9, 0), "large", 256, 2): (128, 64, 8, 3, 128),
    ((9, 0), "large", 256, 4): (64, 64, 4, 2, 240),
    ((9, 0), "large", 512, 1): (128, 128, 8, 4, 240),
    ((9, 0), "large", 512, 2): (128, 128, 8, 4, 240),
    ((9, 0), "large", 512, 4): (128, 128, 8, 4, 240),
}
