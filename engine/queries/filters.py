"""From what users filter by (a mask, ids, ids per query, a condition) to the mask that the kernels take."""

from collections.abc import Sequence, Set
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checks import Column, check_list
from engine.errors import InvalidArgument
from engine.index import Id, Index
from engine.queries.conditions import parse_condition
from engine.result import Failures, answered


class Expression(Protocol):
    """A condition on metadata: what `pyarrow.compute.field("year") > 2000` is."""

    def is_null(self, nan_is_null: bool = False) -> Any: ...
    def is_valid(self) -> Any: ...
    def isin(self, values: Any) -> Any: ...


# What `Retriever.search` accepts: a mask [N] or [B, N], ids, the ids of each query, or a condition.
IdList: TypeAlias = Tensor | NDArray[Any] | Sequence[Id] | Set[Id]
Filter: TypeAlias = str | Expression | IdList | Sequence[IdList] | Column | None

EXPECTED = "a bool mask [N] or [B, N], ids, a list of ids per query, or a condition on metadata"
PER_QUERY = (list, tuple, range, Set, np.ndarray, Tensor)  # what ids of one query may come in


def as_mask(
    filter: Filter, index: Index, queries: int, failed: Failures | None = None
) -> Tensor | None:
    """bool `[N]` or `[B, N]` on the CPU, True = may be returned; None = everything may.

    queries: how many there are; a mask of each leaves out those that have `failed`.
    """
    if filter is None:
        return None
    mask = _mask(filter, index, queries)
    return mask[answered(queries, failed)] if failed and mask.ndim == 2 else mask


def _mask(filter: Any, index: Index, queries: int) -> Tensor:
    if isinstance(filter, str):
        filter = parse_condition(filter, index.metadata_schema)
    if type(filter).__module__.startswith("pyarrow.") and type(filter).__name__ == "Expression":
        return torch.from_numpy(index.matching(filter))
    if isinstance(filter, Tensor) and filter.dtype == torch.bool:
        return _checked_shape(filter.cpu(), index, queries)
    if not isinstance(filter, Tensor) and getattr(filter, "dtype", None) == np.bool_:
        return _checked_shape(torch.from_numpy(np.array(filter)), index, queries)
    if isinstance(filter, (Tensor, np.ndarray)) and filter.ndim == 2:
        entries = list(filter)
    else:
        entries = check_list("filter", filter, expected=EXPECTED, ordered=False)
    if any(isinstance(entry, PER_QUERY) for entry in entries):
        if len(entries) != queries:
            raise InvalidArgument(
                "filter",
                expected=f"one list of ids per query ({queries})",
                got=f"{len(entries)} lists",
                remedy="Give an empty list to a query that may find nothing.",
            )
        return torch.stack([_mask_of(ids, index) for ids in entries])
    return _mask_of(filter, index)


def _mask_of(ids: Any, index: Index) -> Tensor:
    mask = torch.zeros(index.row_count, dtype=torch.bool)
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
