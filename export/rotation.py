"""The coarse vectors of a checkpoint that has only fine ones: a rotation, learned from captioned pictures."""

import torch
from torch import Tensor

from engine.checkpoints import Checkpoint
from engine.coarse.reduction import learn_reduction
from engine.encoders import encode_all
from engine.encoders.torch_encoder import torch_encoder
from engine.errors import InvalidArgument
from engine.progress import progress
from export.pairs import Pairs


def learn_rotation(checkpoint: Checkpoint, pairs: Pairs, dim: int) -> Tensor:
    """float32 `[D, dim]` with orthonormal columns: coarse = fine @ rotation.

    Learned from pictures and captions together: their vectors lie apart, and the inner products that it has to keep
    are between the two. Raises InvalidArgument where there are fewer vectors than `dim`, or fewer dims.
    """
    if not 0 < dim <= checkpoint.fine_dim:
        raise InvalidArgument(
            "coarse-dim",
            expected=f"1 to {checkpoint.fine_dim}, the length of the checkpoint's vectors",
            got=str(dim),
            remedy="Choose a length between, 64 by default.",
        )
    if 2 * len(pairs) < dim:
        raise InvalidArgument(
            "coarse-data",
            expected=f"at least {-(-dim // 2)} captioned pictures to learn {dim} dims from",
            got=f"{len(pairs)} in {pairs.folder}",
            remedy="Give a larger folder, or a smaller --coarse-dim.",
        )
    encoder = torch_encoder(checkpoint, device="auto", why="to learn the coarse vectors")
    with progress("learning coarse vectors", 2 * len(pairs)) as advance:
        parts = [encode_all(encoder, items, advance) for items in (pairs.images, pairs.texts)]
    return learn_reduction(torch.cat([part.fine for part in parts]), dim)
