"""From vectors somebody has to an index of them: what `Retriever.from_embeddings` does."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch.nn import functional as F

from engine.checks import check_flag
from engine.coarse.reduction import Reduction, learn_reduction, reduced
from engine.coarse.rounding import CoarseDtype, round_coarse
from engine.errors import InvalidArgument
from engine.index import Id, Index, check_vectors
from engine.queries.batch import as_vectors
from engine.tiers.resident import as_array


def index_of(
    fine: Any,
    coarse: Any,
    *,
    ids: Sequence[Id] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
    coarse_dim: int,
    coarse_dtype: CoarseDtype | None,
    reduction: Reduction,
    normalize: bool,
) -> Index:
    """The index; arguments as `Retriever.from_embeddings` describes them."""
    normalize = check_flag("normalize", normalize)
    fine = as_vectors("fine", fine)
    if coarse is not None:
        coarse = as_vectors("coarse", coarse)
    if normalize:
        fine = F.normalize(fine, dim=1)
        coarse = None if coarse is None else F.normalize(coarse, dim=1)
    fine = fine.cpu()
    matrix = None
    if coarse is None:
        if reduction not in get_args(Reduction):
            raise InvalidArgument(
                "reduction",
                expected='"pca" or "prefix"',
                got=repr(reduction),
                remedy='Use "pca" unless the vectors were trained by prefixes.',
            )
        # Before learning: one NaN in `fine` would spoil every coarse vector.
        check_vectors("fine", fine.numpy())
        matrix = learn_reduction(fine, min(coarse_dim, fine.shape[1]), reduction)
        coarse = reduced(fine, matrix).to(fine.dtype)
    coarse, quantization = coarse.cpu(), None
    if coarse_dtype is not None:
        check_vectors("coarse", coarse.numpy())  # int8 would hide a NaN
        coarse, quantization = round_coarse(coarse, coarse_dtype)
    return Index.build(
        as_array(coarse),
        fine.numpy(),
        ids=ids,
        metadata=metadata,
        reduction=None if matrix is None else matrix.numpy(),
        normalize=normalize,
        quantization=quantization,
    )
