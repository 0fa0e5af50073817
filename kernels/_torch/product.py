"""Fast products of a tile of items with all queries, and how far they may lie from the scores.

The tile is a plain matrix product in bfloat16 (or float32), whose rounding depends on the BLAS,
the shape and the machine. It only says which items may be among the best: every caller compares
it through `slack`, a bound on |tile before its last rounding - score|, and scores what is left
in the fixed order. The bound is derived in docs/decisions/0002-exact-topk-cpu.md.
int8 is multiplied as it is, into int32, where the CPU does that right: such products are exact.
"""

from __future__ import annotations

import math
import platform
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    "EXACT_WIDTH",
    "MAX_NORM",
    "Tiles",
    "fast_dtype",
    "group_maxima",
    "int8_is_exact",
    "multiplies_int8",
    "product_dtype",
    "step_in_group",
]

HALF_ULP = 2.0**-8  # relative rounding of a number to bfloat16
SIDE_BY_SIDE = 64  # products of which maxima are taken at once, of neighbouring rows if need be
MAX_NORM = 2.0**60  # norms up to here neither overflow a product nor a square
EXACT_WIDTH = 1024  # sums of so many products of int8 are integers up to 2^24: exact in float32
CACHED = 1 << 23  # numbers that a cache may hold: MKL's other product is quicker there, by half
IN_BFLOAT16 = (torch.bfloat16, torch.int8, torch.float8_e4m3fn)  # held without rounding


@lru_cache(maxsize=1)
def fast_dtype() -> torch.dtype:
    """bfloat16 where this CPU has instructions for its products and torch uses them, else float32.

    Only the speed depends on the answer, never the result.
    """
    if not torch.backends.mkldnn.is_available():  # torch's own loops
        return torch.float32
    if (
        _is_x86()
    ):  # every CPU with AMX has these instructions, too; without them oneDNN emulates bfloat16
        quick = torch.cpu._is_avx512_bf16_supported()
    else:
        quick = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.bfloat16 if quick else torch.float32


@lru_cache(maxsize=1)
def multiplies_int8() -> bool:
    """Whether this CPU's int8 products are right, and quicker than `fast_dtype`'s.

    oneDNN multiplies them on an x86, where the sums are right with VNNI or AMX only. Elsewhere torch may have plain
    loops, which take a hundred times as long: int8 is then multiplied in `fast_dtype`, which holds it exactly.
    """
    return _is_x86() and torch.backends.mkldnn.is_available() and int8_is_exact()


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


@lru_cache(maxsize=1)
def int8_is_exact() -> bool:
    """Whether the sums are right at their largest, which overflow where a CPU adds pairs in int16."""
    if not hasattr(torch, "_int_mm"):
        return False
    values = torch.tensor([-128, 127, -127, 1, -1, 0], dtype=torch.int8)
    for width, batch in ((64, 1), (64, 32), (EXACT_WIDTH, 17)):
        items = values[:, None].repeat(50, width)
        items[1::2, ::3] = 127
        columns = values.repeat(width * batch)[: width * batch].view(width, batch)
        columns[:, 0] = -128
        try:
            made = torch._int_mm(items, columns)
        except RuntimeError:  # not for this CPU
            return False
        if not torch.equal(made.double(), items.double() @ columns.double()):
            return False
    return True


def product_dtype(fast: torch.dtype) -> torch.dtype:
    """What a tile holds that is multiplied in `fast`."""
    return torch.int32 if fast == torch.int8 else fast


def step_in_group(batch: int) -> int:
    """How many rows lie between two of a group, in a tile for B queries.

    Groups are of rows near each other: whichever core multiplied them holds them, while another
    would have to ask it for every one, which takes longer than the product. A step above 1 makes
    what is reduced at once as long as vector instructions want it, where B alone does not.
    """
    return max(1, SIDE_BY_SIDE // batch)


def group_maxima(tile: Tensor, group: int) -> Tensor:
    """[n / group, B] maxima of a tile [n, B]: group number a * step + b has the rows
    a * group * step + b + (0, step, 2 step, ...)."""
    batch = tile.shape[1]
    return tile.view(-1, group, step_in_group(batch) * batch).amax(1).view(-1, batch)


def _multiply(items: Tensor, columns: Tensor, out: Tensor) -> None:
    """out [n, B] = items [n, d] @ columns [d, B], all contiguous."""
    if items.dtype == torch.int8:
        torch._int_mm(items, columns, out=out)
    elif items.dtype == torch.float32 and columns.shape[1] == 1 and not items.is_cuda:
        _multiply_by_one(items, columns, out)
    else:
        torch.mm(items, columns, out=out)


def _multiply_by_one(items: Tensor, column: Tensor, out: Tensor) -> None:
    """As many products as there are threads, side by side: one product with a column takes one thread in MKL."""
    parts, width = torch.get_num_threads(), items.shape[1]
    count = items.shape[0] // parts * parts
    if count:
        split, row = items[:count].view(parts, -1, width), column.view(1, width)
        if items.numel() <= CACHED:
            made = out[:count].view(parts, 1, -1)
            torch.bmm(row.expand(parts, 1, width), split.transpose(1, 2), out=made)
        else:
            # A row's strides, transposed: with those of a column it takes four times as long.
            columns = row.as_strided((parts, width, 1), (0, 1, width))
            torch.bmm(split, columns, out=out[:count].view(parts, -1, 1))
    if count < items.shape[0]:
        torch.mm(items[count:], column, out=out[count:])


def _rounds(dtype: torch.dtype, fast: torch.dtype) -> bool:
    """Whether vectors of this dtype lose bits on their way into the product."""
    if fast == torch.bfloat16:
        return dtype not in IN_BFLOAT16
    reduced = torch.get_float32_matmul_precision() != "highest" or (
        torch._C._get_fp32_precision_getter("mkldnn", "matmul") not in ("none", "ieee")
    )  # the user allows bfloat16 or TF32 inside float32 products
    return reduced and dtype not in IN_BFLOAT16


class Tiles:
    """Products of one block of queries [B, d] with chunks of at most `rows` items.

    fast: float32, bfloat16, or int8 for vectors of int8 with d <= EXACT_WIDTH.
    slack [B]: how far a product of any tile so far may lie from its score. It grows in a new
    tensor, so that who has kept the old one can see that it has.
    """

    def __init__(
        self,
        queries: Tensor,
        rows: int,
        group: int,
        fast: torch.dtype,
        max_norm: float | None = None,
    ) -> None:
        batch, width = queries.shape
        self._whole = group * step_in_group(batch)  # rows
        self._rounds = _rounds(queries.dtype, fast)
        low = queries.to(torch.float32).to(fast)
        # Copied into the usual strides: an int8 product reads a stride that does not matter, too.
        self._columns = low.new_empty(width, batch).copy_(low.t())  # [d, B]
        self._rows, self._fast = rows, fast
        self._items: Tensor | None = None  # [rows, d], where items must be copied
        padded = -(-rows // self._whole) * self._whole
        made = product_dtype(fast)
        self._tile = torch.empty(padded * batch, dtype=made, device=queries.device)
        self._least = -torch.inf if made.is_floating_point else torch.iinfo(made).min
        exact, low = queries.to(torch.float32), low.to(torch.float32)
        norm = torch.linalg.vector_norm(exact, dim=1) * 1.001
        self._reach = norm * ((width + 16) * 2.0**-23)  # [B], times an item's norm: the slack
        if queries.dtype == torch.int8 and width <= EXACT_WIDTH:
            self._reach = torch.zeros_like(norm)  # sums of integers below 2^24 are exact
        if self._rounds:
            lost = torch.linalg.vector_norm(low - exact, dim=1) if fast != torch.float32 else 0
            both = HALF_ULP if fast != torch.float32 else 3 * HALF_ULP
            self._reach = self._reach + (norm * (both * 1.01) + lost) * 1.001
        self._norm_so_far = -1.0
        self.slack = torch.zeros_like(norm)
        self._promised = max_norm is not None and max_norm <= MAX_NORM / 8
        if max_norm is not None and self._promised:
            self._cover(max_norm * 1.02)
        if fast == torch.int8:  # whatever their norms, its products are exact
            self._promised = True

    def of(self, chunk: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The tile [n padded to whole groups, B] and the loud rows; `slack` covers it afterwards.

        hidden: bool [n, B], the products that must not count: the least that a tile can hold, as
        are those of loud rows.
        Loud rows (of chunk) hold NaN, inf or a norm above MAX_NORM: there is no bound for them,
        so they must be scored by themselves.
        """
        count, batch = chunk.shape[0], self._columns.shape[1]
        low = chunk
        if chunk.dtype != self._fast or chunk.stride() != (chunk.shape[1], 1):
            if self._items is None:
                self._items = self._columns.new_empty(self._rows, chunk.shape[1])
            low = self._items[:count]
            slowly = chunk.dtype == torch.float16 and low.dtype == torch.bfloat16
            low.copy_(chunk.to(torch.float32) if slowly else chunk)
        loud = None
        if not self._promised:
            low, loud = self._silence(low)
        padded = -(-count // self._whole) * self._whole
        tile = self._tile[: padded * batch].view(padded, batch)
        _multiply(low, self._columns, tile[:count])
        tile[count:] = self._least
        if hidden is not None:
            tile[:count].masked_fill_(hidden, self._least)
        if loud is not None:
            tile[loud] = self._least
        return tile, loud

    def _silence(self, low: Tensor) -> tuple[Tensor, Tensor | None]:
        """The items with zeros for loud ones, which are named; the slack grows to cover the rest."""
        norm, loud = self._norm(low), None
        if not norm <= MAX_NORM:
            each = torch.linalg.vector_norm(low, dim=1, dtype=torch.float32)
            quiet = each <= MAX_NORM / 8
            loud = (~quiet).nonzero()[:, 0]
            low = low.masked_fill(~quiet[:, None], 0)
            norm = float(each[quiet].max()) * 1.02 if bool(quiet.any()) else 0.0
        self._cover(norm)
        return low, loud

    def _cover(self, norm: float) -> None:
        if norm > self._norm_so_far:
            self._norm_so_far = norm
            self.slack = self._reach * (norm + 2.0**-50) + 2.0**-100  # what underflowed

    def _norm(self, low: Tensor) -> float:
        """At least the norm of every row (NaN if there is one); tight where the slack needs it."""
        if self._rounds:
            return float(torch.linalg.vector_norm(low, dim=1).max()) * 1.02
        least, most = torch.aminmax(low)  # half the time of a norm
        return float(torch.maximum(-least, most)) * 1.02 * math.sqrt(low.shape[1])
