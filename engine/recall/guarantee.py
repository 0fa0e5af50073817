"""Which guarantee each answer carries: see `engine.result.SearchResult.guarantee`."""

from engine.embeddings import Embeddings
from engine.recall.certificate import bounds_of, certified
from engine.result import Guarantee
from engine.tiers.snapshot import Snapshot
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
    count = len(best.rows)
    exact: Guarantee = "exact"
    if candidates is None or candidates.rows.shape[1] >= len(snapshot.index):
        return (exact,) * count
    kept = None if filtered else _calibrated(snapshot, candidates, best)
    bounds = bounds_of(snapshot) if certify else None
    if not filtered and bounds is None:
        return (kept,) * count
    # A candidate that is none: there were no more items that could be found, so all were scored.
    every = (candidates.rows[:, -1] < 0).tolist() if filtered else [False] * count
    proven = [False] * count
    if bounds is not None:
        proven = certified(bounds, queries, candidates, best).tolist()
    return tuple(
        exact if whole else "certified" if proof else kept
        for whole, proof in zip(every, proven, strict=True)
    )


def _calibrated(snapshot: Snapshot, candidates: TopK, best: TopK) -> Guarantee | None:
    """What the index's calibration says of a search of all items."""
    calibration = snapshot.index.header.calibration
    holds = (
        calibration is not None
        and best.rows.shape[1] == calibration.k
        and candidates.rows.shape[1] >= calibration.candidates
        and calibration.items == len(snapshot.index)
        and not calibration.changed
    )
    return "calibrated" if holds else None
