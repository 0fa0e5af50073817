"""How many candidates are enough: measured against the exact answer, with a bound on what chance could have done.

A query's recall is the share of its exact k best items among the C candidates; what the second stage then keeps
are the exact k best of these, so it is the recall of the whole search too. Recalls of queries drawn from one
distribution are independent numbers in [0, 1], but not 0 or 1: hits of one query stand or fall together, so a
binomial over hits would claim too much. Bentkus (On Hoeffding's inequalities, Annals of Probability 32, 2004)
bounds the tail of a sum of such numbers by e times that of the binomial with the same mean: with losses
l = 1 - recall of n queries, if the mean loss were m, a sum as low as S = sum(l) has a probability of at most

    e * P(Binomial(n, m) <= ceil(S)).

Where that is below 1 - confidence for m = 1 - target, the target is reached with that confidence. Recall never
falls with C, so the smallest C that passes may be picked without paying for having tried many.
"""

import math

import torch
from torch import Tensor

from engine.embeddings import Embeddings
from engine.errors import InvalidArgument
from engine.index.manifest import Calibration
from engine.tiers.snapshot import Snapshot

QUERIES_AT_A_TIME = 64
FIRST_LOOK = 128  # candidates; doubled until every exact hit is among them


def calibrated(
    snapshot: Snapshot,
    queries: Embeddings,
    k: int,
    target_recall: float,
    confidence: float,
    backend: str,
) -> Calibration:
    """The smallest number of candidates, at least k, that reaches the target with the confidence."""
    for name, share in (("target_recall", target_recall), ("confidence", confidence)):
        if not isinstance(share, float) or not 0 < share < 1:
            raise InvalidArgument(
                name,
                expected="a share between 0 and 1",
                got=repr(share),
                remedy="For example 0.99.",
            )
    count, rows = len(queries), len(snapshot.coarse)
    alpha = 1 - confidence
    needed = math.ceil(math.log(alpha / math.e) / math.log(target_recall))
    if count < needed or not len(snapshot.index):
        raise InvalidArgument(
            "queries",
            expected=f"at least {needed} queries, to be {confidence:.0%} sure of a recall of {target_recall}, "
            "of an index with items",
            got=f"{count} queries, {len(snapshot.index)} items",
            remedy="Give more, or ask for less.",
        )
    ranks = ranks_of(snapshot, queries, k, backend)
    low, high = k, max(k, rows)
    while low < high:
        middle = (low + high) // 2
        if chance(losses(ranks, middle), 1 - target_recall) <= alpha:
            high = middle
        else:
            low = middle + 1
    lost = losses(ranks, low)
    return Calibration(
        k=k,
        candidates=low,
        target_recall=target_recall,
        confidence=confidence,
        queries=count,
        recall=1 - float(lost.mean()),
        lower_bound=_lower_bound(lost, alpha),
        items=len(snapshot.index),
    )


def ranks_of(snapshot: Snapshot, queries: Embeddings, k: int, backend: str) -> Tensor:
    """Where the exact k best items of every query stand in the order of the coarse scores: int64 `[B, k]`, from 0.

    -1 where there are fewer than k items; and no more columns than rows. InvalidArgument where there is no query.
    """
    if not len(queries):
        raise InvalidArgument(
            "queries", expected="at least one query", got="none", remedy="Give some."
        )
    rows = max(1, len(snapshot.coarse))
    k = min(k, rows)
    assert queries.coarse is not None  # callers project with the coarse ones
    found = [torch.empty(0, k, dtype=torch.int64)]
    for start in range(0, len(queries), QUERIES_AT_A_TIME):
        block = slice(start, start + QUERIES_AT_A_TIME)
        coarse, fine = queries.coarse[block], queries.fine[block]
        exact = snapshot.fine.scan(fine, k, snapshot.live, backend).rows.cpu()
        look = min(FIRST_LOOK, rows)
        while True:
            listed = snapshot.find_candidates(coarse, look, snapshot.live, backend).rows.cpu()
            places = _places(exact, listed)
            if look >= rows or bool((places >= 0)[exact >= 0].all()):
                break
            look = min(2 * look, rows)
        found.append(places)
    return torch.cat(found)


def _places(exact: Tensor, listed: Tensor) -> Tensor:
    """The place in `listed` `[B, C]` of every row of `exact` `[B, k]`, -1 where it is not there."""
    rows, order = listed.sort(dim=1)
    at = torch.searchsorted(rows, exact).clamp(max=rows.shape[1] - 1)
    there = (rows.gather(1, at) == exact) & (exact >= 0)
    return torch.where(there, order.gather(1, at), -1)


def losses(ranks: Tensor, candidates: int) -> Tensor:
    """1 - recall of every query with so many candidates: float64 `[B]`; 0 where there is nothing to find."""
    there = ranks >= 0
    found = (there & (ranks < candidates)).sum(dim=1)
    total = there.sum(dim=1)
    return torch.where(total > 0, 1 - found / total.clamp(min=1).double(), 0.0)


def chance(lost: Tensor, mean_loss: float) -> float:
    """At most how probable a sum of losses as low as this is, were their mean `mean_loss`."""
    worst = math.ceil(float(lost.sum()) - 1e-9)
    return min(1.0, math.e * binomial_tail(worst, len(lost), mean_loss))


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """P(Binomial(trials, probability) <= successes)."""
    if successes >= trials or probability <= 0:
        return 1.0
    if probability >= 1:
        return 0.0
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(probability)
        + (trials - count) * math.log1p(-probability)
        for count in range(successes + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def _lower_bound(lost: Tensor, alpha: float) -> float:
    """The largest recall that is exceeded with confidence 1 - alpha, to nine digits."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(lost, 1 - middle) <= alpha else (low, middle)
    return low
