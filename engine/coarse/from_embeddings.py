"""New indexes: of vectors somebody has, or of none yet for those that an encoder will make."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.checks import check_count, check_flag
from engine.coarse.reduction import COARSE_DIM, Reduction, learn_reduction, lost_share, reduced
from engine.coarse.rounding import CoarseDtype, round_coarse
from engine.embeddings import as_array
from engine.encoders import Encoder
from engine.errors import InvalidArgument
from engine.index import Id, Index, check_vectors
from engine.index.manifest import Learned
from engine.queries.batch import as_vectors


def index_of(
    fine: Tensor | NDArray[Any],
    coarse: Tensor | NDArray[Any] | None,
    ids: Sequence[Id] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
    coarse_dim: int,
    coarse_dtype: CoarseDtype | None,
    reduction: Reduction,
    normalize: bool,
    queries: Tensor | NDArray[Any] | None = None,
) -> Index:
    """The index of these; arguments as `Retriever.from_embeddings` describes them."""
    coarse_dim = check_count("coarse_dim", coarse_dim)
    normalize = check_flag("normalize", normalize)
    fine = as_vectors("fine", fine)
    coarse = None if coarse is None else as_vectors("coarse", coarse)
    if normalize:
        fine = F.normalize(fine, dim=1)
        coarse = None if coarse is None else F.normalize(coarse, dim=1)
    fine = fine.cpu()
    matrix, learned, asked = None, None, None
    if queries is not None:
        asked = as_vectors("queries", queries).cpu()
        check_vectors("queries", asked.numpy())
        if asked.shape[1] != fine.shape[1] or coarse is not None or reduction != "pca":
            raise InvalidArgument(
                "queries",
                expected=f"vectors of {fine.shape[1]} dims, where the reduction is learned",
                got=f"{asked.shape[1]} dims, coarse vectors {'given' if coarse is not None else 'not given'}, "
                f"reduction={reduction!r}",
                remedy='Leave out coarse, and take reduction="pca".',
            )
        asked = F.normalize(asked, dim=1) if normalize else asked
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
        matrix = learn_reduction(fine, min(coarse_dim, fine.shape[1]), reduction, asked)
        if reduction == "pca":
            learned = Learned(
                len(fine), lost_share(fine, matrix), queries=0 if asked is None else len(asked)
            )
        coarse = reduced(fine, matrix).to(fine.dtype)
    coarse, quantization = coarse.cpu(), None
    if coarse_dtype is not None:
        check_vectors("coarse", coarse.numpy())  # int8 would hide a NaN
        coarse, quantization = round_coarse(coarse, coarse_dtype)
    made = Index.build(
        as_array(coarse),
        fine.numpy(),
        ids=ids,
        metadata=metadata,
        reduction=None if matrix is None else matrix.numpy(),
        normalize=normalize,
        quantization=quantization,
    )
    return replace(made, header=replace(made.header, learned=learned))


def empty_index(encoder: Encoder, coarse_dtype: CoarseDtype) -> Index:
    """One without items, for the vectors of `encoder`; coarse ones that it does not make are reduced to 64 dims."""
    reduced_to = min(COARSE_DIM, encoder.fine_dim)
    return Index.empty(
        encoder.coarse_dim or reduced_to,
        encoder.fine_dim,
        encoder.reference,
        reduces=encoder.coarse_dim is None,
        coarse_dtype=coarse_dtype,
    )
