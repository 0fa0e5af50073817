"""What an index learned from its items, as it grows: measured, and learned anew (decision 0012)."""

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from engine.coarse.reduction import SAMPLE_ROWS, SETTLED, learn_reduction, lost_share, reduced
from engine.coarse.rounding import beyond, restored, round_coarse, stored, widened
from engine.embeddings import as_array, as_tensor
from engine.errors import InvalidArgument, MisfitWarning
from engine.index import Index
from engine.index.manifest import Learned

OUTGROWN = 1 << 17  # items: of more, an index is learned anew only when it is told to


def learns_from(index: Index, fine: Tensor) -> bool:
    """Whether new items `[B, D]` change the reduction: the index made it, is small, and passes a power of two; or
    is not large, more items came than it was learned from, and it does not fit these.

    So what it was learned from is more than half of the items, and pictures that come one at a time, of which
    each would make it anew, are quickly added. Opening the index changes nothing. A reduction that was chosen for
    queries stays: nobody has them any more.
    """
    head, learned, held = index.header, index.header.learned, len(index)
    if index.reduction is None or (learned is None and head.checkpoint is None):
        return False
    if learned is not None and learned.queries:
        return False
    grown = held + len(fine)
    if held < SETTLED:
        return grown.bit_length() > held.bit_length()
    if learned is None or grown > OUTGROWN or grown < 2 * learned.items:
        return False
    return learned.followed_by(len(fine), lost_share(fine, as_tensor(index.reduction))).misfits


def relearned(index: Index, fine: Tensor | None = None, queries: Tensor | None = None) -> Index:
    """`index`, its reduction and int8's scale learned from its items, and from `fine` `[B, D]`, which may follow.

    queries: as `learn_reduction` has them. The calibration is let go of, as it was that of other axes.
    """
    head = index.header
    follow = torch.empty(0, head.fine_dim) if fine is None else fine.cpu().float()
    known = torch.cat([_sample(index), follow])
    matrix = learn_reduction(known, head.coarse_dim, queries=queries)
    parts = [reduced(as_tensor(segment.fine), matrix) for segment in index.segments]
    quantization = head.quantization
    if quantization is None:
        parts = [part.to(getattr(torch, head.coarse_dtype)) for part in parts]
    else:
        if index.row_count:  # else those that follow decide
            _, quantization = round_coarse(torch.cat([*parts, reduced(follow, matrix)]), "int8")
            assert quantization is not None
        parts = [stored(part, quantization) for part in parts]
    asked = 0 if queries is None else len(queries)
    learned = Learned(len(index) + len(follow), lost_share(known, matrix), queries=asked)
    made = index.reduced(matrix.numpy(), [as_array(part) for part in parts], quantization)
    return replace(made, header=replace(made.header, learned=learned, calibration=None))


def _sample(index: Index) -> Tensor:
    """Fine vectors float32 of items, evenly spaced, at most about `SAMPLE_ROWS`."""
    step = -(-max(index.row_count, 1) // SAMPLE_ROWS)
    rows = [as_tensor(s.fine[np.flatnonzero(s.live())[::step]]).float() for s in index.segments]
    return torch.cat([torch.empty(0, index.header.fine_dim), *rows])


def relearned_whole(index: Index, queries: Tensor | None) -> Index:
    """`relearned`, or for an index whose coarse vectors were given, what says why not."""
    if index.reduction is None:
        raise InvalidArgument(
            "relearn",
            expected="an index that learned its reduction",
            got="one whose coarse vectors were given",
            remedy="Build it again with new coarse vectors.",
        )
    return relearned(index, queries=queries)


def fitted(index: Index, coarse: Tensor) -> tuple[Index, Tensor]:
    """Float coarse vectors `[B, d]` of new items in the dtype of `index`, and `index`, whose scale of int8 is
    wider where it would clip them."""
    quantization = index.header.quantization
    if quantization is None:
        return index, coarse
    if not len(coarse):
        return index, stored(coarse, quantization)
    if not index.row_count:  # the first items decide the scale
        rounded, first = round_coarse(coarse, "int8")
        return replace(index, header=replace(index.header, quantization=first)), rounded
    if beyond(coarse, quantization):
        wider = widened(coarse, quantization)
        if wider.scale == quantization.scale:
            index = replace(index, header=replace(index.header, quantization=wider))
            return index, stored(coarse, wider)
        held = [restored(as_tensor(segment.coarse), quantization) for segment in index.segments]
        parts = [as_array(stored(part, wider)) for part in held]
        index, quantization = index.reduced(index.reduction, parts, wider), wider
    return index, stored(coarse, quantization)


def measured(index: Index, fine: Tensor | None, changed: int) -> Index:
    """`index` after `changed` items were added or removed: with what its reduction loses of `fine` `[B, D]`, new
    items whose coarse vectors it made. Warns of what fits no longer and did before."""
    before = index.header
    after = before
    if before.calibration is not None and changed:
        calibration = replace(before.calibration, changed=before.calibration.changed + changed)
        after = replace(after, calibration=calibration)
    if (
        before.learned is not None
        and fine is not None
        and index.reduction is not None
        and len(fine)
    ):
        lost = lost_share(fine, as_tensor(index.reduction))
        after = replace(after, learned=before.learned.followed_by(len(fine), lost))
    index = index if after is before else replace(index, header=after)
    for about, said in after.misfits.items():
        if about not in before.misfits:
            warnings.warn(f"{about}: {said}", MisfitWarning, stacklevel=4)
    return index
