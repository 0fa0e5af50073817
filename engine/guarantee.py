"""Which guarantee each answer carries: see `engine.result.SearchResult.guarantee`."""

from engine.certificate import bounds_of, certified
from engine.embeddings import Embeddings
from engine.result import Guarantee
from engine.snapshot import Snapshot
from kernels import TopK


def guarantees(
    snapshot: Snapshot,
    queries: Embeddings,
    candidates: TopK | None,
    best: TopK,
    *,
    certify: bool,
    filtered: bool,
) -> tuple[Guarantee | None, ...]:
    """Of each query of one search.

    Args:
        candidates: `[B, C]`; None where every item was scored with the fine vectors.
        best: `[B, k]`, what was found.
        filtered: not all items might be found; a calibration says nothing of such searches.
    """
    if candidates is None:
        return tuple("exact" for _ in range(len(best.rows)))
    calibration = snapshot.index.header.calibration
    kept: Guarantee | None = None
    if (
        calibration is not None
        and not filtered
        and best.rows.shape[1] == calibration.k
        and candidates.rows.shape[1] >= calibration.candidates
        and calibration.items == len(snapshot.index)
    ):
        kept = "calibrated"
    if candidates.rows.shape[1] >= len(snapshot.index):
        every = [True] * len(best.rows)
    elif filtered:
        # A candidate that is none: there were no more items that could be found, so all were scored.
        every = [row < 0 for row in candidates.rows[:, -1].tolist()]
    else:
        every = [False] * len(best.rows)
    bounds = bounds_of(snapshot) if certify else None
    if bounds is None:
        return tuple("exact" if whole else kept for whole in every)
    proven = certified(bounds, queries, candidates, best).tolist()
    return tuple(
        "exact" if whole else "certified" if proof else kept
        for whole, proof in zip(every, proven, strict=True)
    )
