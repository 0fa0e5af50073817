"""From what users filter by (a mask, ids, ids per query, a condition) to the mask that the kernels take."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from engine.errors import InvalidArgument
from engine.expressions import parse_condition
from engine.index import Index

Filter: TypeAlias = Any  # bool [N] or [B, N], a sequence of ids, one per query, or a condition


def as_mask(filter: Filter, index: Index, queries: int) -> Tensor | None:
    """bool `[N]` or `[B, N]` on the CPU, True = may be returned; None = everything may."""
    if filter is None:
        return None
    if isinstance(filter, str):
        filter = parse_condition(filter)
    if type(filter).__module__.startswith("pyarrow.") and type(filter).__name__ == "Expression":
        return torch.from_numpy(index.matching(filter))
    if isinstance(filter, Tensor) and filter.dtype == torch.bool:
        return _checked_shape(filter.cpu(), index, queries)
    if isinstance(filter, np.ndarray) and filter.dtype == np.bool_:
        return _checked_shape(torch.from_numpy(filter.copy()), index, queries)
    if isinstance(filter, (Tensor, np.ndarray)):
        filter = filter.tolist()
    if not isinstance(filter, (Sequence, set, frozenset)) or isinstance(filter, bytes):
        raise InvalidArgument(
            "filter",
            expected="a bool mask [N] or [B, N], ids, a list of ids per query, or a condition on metadata",
            got=type(filter).__name__,
            remedy="Put a single id in a list.",
        )
    entries = list(filter)
    if any(isinstance(entry, (list, tuple, set, frozenset, np.ndarray)) for entry in entries):
        if len(entries) != queries:
            raise InvalidArgument(
                "filter",
                expected=f"one list of ids per query ({queries})",
                got=f"{len(entries)} lists",
                remedy="Give an empty list to a query that may find nothing.",
            )
        return torch.stack([_mask_of(ids, index) for ids in entries])
    return _mask_of(entries, index)


def _mask_of(ids: Any, index: Index) -> Tensor:
    mask = torch.zeros(index.row_count, dtype=torch.bool)
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    mask[torch.from_numpy(index.rows_of(ids, argument="filter"))] = True
    return mask


def _checked_shape(mask: Tensor, index: Index, queries: int) -> Tensor:
    rows = index.row_count
    if mask.shape not in ((rows,), (queries, rows)):
        raise InvalidArgument(
            "filter",
            expected=f"a bool mask of shape [{rows}] or [{queries}, {rows}]",
            got=f"shape {list(mask.shape)}",
            remedy="Give one entry per row of the index, those of deleted items included.",
        )
    return mask
