"""How much memory an index takes, and where: `Retriever.plan`, and the choice behind `fine_tier="auto"`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch

from engine.checks import check_one_of
from engine.coarse.reduction import COARSE_DIM
from engine.device import pick_device
from engine.errors import InvalidArgument
from engine.index.manifest import COARSE_DTYPES, FINE_DTYPES, NUMPY_DTYPES, Header
from engine.tiers.fine import Tier

FineTier: TypeAlias = Literal["device", "host", "disk", "auto"]

SHARE = 0.8  # of the memory that is free may be taken


@dataclass(frozen=True)
class Plan:
    """Bytes of an index of `items` items, and where each tier lies; printed, a table."""

    items: int
    header: Header
    device: str
    fine_tier: Tier
    coarse_bytes: int
    fine_bytes: int
    id_bytes: int

    @classmethod
    def of(
        cls,
        items: int,
        *,
        fine_dim: int,
        coarse_dim: int = COARSE_DIM,
        fine_dtype: str = "float32",
        coarse_dtype: str = "float32",
        device: str = "auto",
        fine_tier: FineTier = "auto",
    ) -> "Plan":
        """What an index of so many items would take, and where; `print` it before building one."""
        for name, value, least in (
            ("items", items, 0),
            ("fine_dim", fine_dim, 1),
            ("coarse_dim", coarse_dim, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidArgument(
                    name,
                    expected=f"an integer of at least {least}",
                    got=repr(value),
                    remedy="Give a count.",
                )
        check_one_of("fine_dtype", fine_dtype, FINE_DTYPES)
        check_one_of("coarse_dtype", coarse_dtype, COARSE_DTYPES)
        header = Header(coarse_dim, coarse_dtype, fine_dim, fine_dtype)
        picked = pick_device(device)
        coarse_bytes, fine_bytes = vector_bytes(header, items)
        tier = pick_tier(fine_tier, picked, coarse_bytes, fine_bytes, saved=True)
        return cls(items, header, str(picked), tier, coarse_bytes, fine_bytes, 8 * items)

    @property
    def disk_bytes(self) -> int:
        """All files together; metadata and string ids come on top."""
        return self.coarse_bytes + self.fine_bytes + self.id_bytes

    def __str__(self) -> str:
        head = self.header
        places = {
            "device": self.device,
            "host": "host memory",
            "disk": "mapped from disk",
        }
        rows = (
            ("coarse", f"{head.coarse_dim} x {head.coarse_dtype}", self.coarse_bytes, self.device),
            (
                "fine",
                f"{head.fine_dim} x {head.fine_dtype}",
                self.fine_bytes,
                places[self.fine_tier],
            ),
            ("on disk", "coarse, fine, int64 ids", self.disk_bytes, "the index directory"),
        )
        lines = [f"{name:8} {what:24} {count:>22,} B  {place}" for name, what, count, place in rows]
        return "\n".join([f"{self.items:,} items", *lines])


def vector_bytes(header: Header, rows: int) -> tuple[int, int]:
    """Bytes of the coarse and of the fine vectors of so many rows."""
    return (
        rows * header.coarse_dim * NUMPY_DTYPES[header.coarse_dtype].itemsize,
        rows * header.fine_dim * NUMPY_DTYPES[header.fine_dtype].itemsize,
    )


def pick_tier(
    tier: FineTier, device: torch.device, coarse_bytes: int, fine_bytes: int, *, saved: bool
) -> Tier:
    """Where the fine vectors go. "auto" is, on a GPU, the first of device, host and disk whose memory they fit.

    On a CPU "auto" leaves them where they are: mapped from the files of a saved index, whose pages the system keeps
    in memory as long as there is some; and "device" is host memory.
    """
    check_one_of("fine_tier", tier, get_args(FineTier))
    if device.type == "cpu":
        if tier == "auto":
            return "disk" if saved else "host"
        return "host" if tier == "device" else tier
    if tier != "auto":
        return tier
    free, _ = torch.cuda.mem_get_info(device)
    if coarse_bytes + fine_bytes <= SHARE * free:
        return "device"
    return "host" if fine_bytes <= SHARE * available_memory() else "disk"


def available_memory() -> int:
    """Bytes of host memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
