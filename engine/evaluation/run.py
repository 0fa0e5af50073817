"""Every way of searching, measured on one pool in both directions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.checks import check_list
from engine.coarse.reduction import COARSE_DIM, learn_reduction, reduced
from engine.device import pick_device
from engine.embeddings import Embeddings
from engine.errors import InvalidArgument
from engine.evaluation.pool import Pool
from engine.evaluation.ranks import full_ranks, staged_ranks
from engine.evaluation.recall import DIRECTIONS, Direction, Recalls, recalls_of
from engine.evaluation.report import Report, Source, Way
from engine.progress import progress

DEPTH = 512  # places looked at, at least


def evaluate(
    pool: Pool,
    *,
    candidates: Sequence[int] = (32,),
    dims: Sequence[int] = (),
    folds: int = 1,
) -> Report:
    """Search the pool by the fine vectors alone, by coarse ones alone, and in two stages.

    Args:
        candidates: how many the coarse stage keeps, each tried.
        dims: lengths of the baselines' coarse vectors, made from the fine ones: by PCA, learned from the items of
            each direction as `Retriever.from_embeddings` learns it, and by their first coordinates. The pool's own
            coarse vectors are always measured; where it has none, PCA to min(64, D) dims stands in for them.
        folds: the mean over so many equal parts of the pool, each searched by itself.

    Raises InvalidArgument naming what does not fit. Figures are percentages of all queries; see `recall`.
    """
    fine_dim = pool.images.fine.shape[1]
    check_request(fine_dim, len(pool.images), candidates, dims, folds)
    counts, baselines = sorted(set(candidates)), sorted(set(dims))
    most = max(len(pool.images), len(pool.texts))
    depth = max([DEPTH, *(min(count, most) for count in counts)])
    sources = _sources(pool, baselines)
    parts = pool.folds(folds)
    places: dict[Direction, dict[Way, list[Tensor]]] = {name: {} for name in DIRECTIONS}
    with progress("searching", len(parts) * len(DIRECTIONS)) as advance:
        for part in parts:
            for direction in DIRECTIONS:
                for way, found in _ranked(part, direction, sources, counts, depth).items():
                    places[direction].setdefault(way, []).append(found)
                advance(1)
    text_to_image, image_to_text = (places[direction] for direction in DIRECTIONS)
    recalls: dict[Way, Recalls] = {
        way: recalls_of(torch.cat(found), torch.cat(image_to_text[way]), depth)
        for way, found in text_to_image.items()
    }
    return Report(
        pictures=len(pool.images),
        captions=len(pool.texts),
        asking_pictures=int(pool.asking.sum()),
        asking_captions=int(pool.asking[pool.owners].sum()),
        folds=folds,
        coarse_dim=sources[0][1],
        fine_dim=fine_dim,
        candidates=counts,
        dims=baselines,
        depth=depth,
        recalls=recalls,
    )


def _sources(pool: Pool, baselines: Sequence[int]) -> list[tuple[Source, int]]:
    """The coarse vectors to try: the pool's own first, then those made from the fine ones."""
    fine_dim, coarse = pool.images.fine.shape[1], pool.images.coarse
    own: tuple[Source, int] = (
        ("pca", min(COARSE_DIM, fine_dim)) if coarse is None else ("head", coarse.shape[1])
    )
    kinds: tuple[Source, Source] = ("pca", "prefix")
    made = [(kind, dim) for kind in kinds for dim in baselines]
    return [own, *(source for source in made if source != own)]


def _ranked(
    pool: Pool,
    direction: Direction,
    sources: Sequence[tuple[Source, int]],
    candidates: Sequence[int],
    depth: int,
) -> dict[Way, Tensor]:
    """Places of every query of one direction, each way of searching."""
    device = pick_device("auto")
    image_concepts, text_concepts = pool.concepts, pool.concepts[pool.owners]
    if direction == "text_to_image":
        asking = pool.asking[pool.owners]
        queries, wanted, items, shown = pool.texts, text_concepts, pool.images, image_concepts
    else:
        asking = pool.asking
        queries, wanted, items, shown = pool.images, image_concepts, pool.texts, text_concepts
    wanted, shown = wanted[asking].to(device), shown.to(device)
    item_fine = items.fine.to(device)
    query_fine = queries.fine[asking].to(device, item_fine.dtype)
    full = full_ranks(query_fine, wanted, item_fine, shown, depth)
    found = {Way("fine", None, item_fine.shape[1], None): full}
    for source, dim in sources:
        if source == "head":
            assert queries.coarse is not None
            assert items.coarse is not None
            query_coarse, item_coarse = queries.coarse[asking].to(device), items.coarse.to(device)
        else:
            matrix = learn_reduction(item_fine, dim, source).to(device)
            query_coarse, item_coarse = query_fine.float() @ matrix, reduced(item_fine, matrix)
        asked, searched = Embeddings(query_coarse, query_fine), Embeddings(item_coarse, item_fine)
        kept = {count: min(count, len(item_fine)) for count in candidates}
        ranked = staged_ranks(asked, wanted, searched, shown, sorted(set(kept.values())), depth)
        for count in candidates:
            found[Way("two_stage", source, dim, count)] = ranked[kept[count]]
        found[Way("coarse", source, dim, None)] = ranked[0]
    return found


def check_request(
    fine_dim: int, pictures: int, candidates: Sequence[int], dims: Sequence[int], folds: int
) -> None:
    """Raise InvalidArgument, naming it, for what cannot be measured on so many pictures and dims."""
    for name, values, at_most in (("candidates", candidates, None), ("dims", dims, fine_dim)):
        for value in check_list(name, values, expected="a list of integers", ordered=False):
            if not isinstance(value, int) or value < 1 or (at_most is not None and value > at_most):
                limit = "" if at_most is None else f" and at most {at_most}, the fine vectors' own"
                raise InvalidArgument(
                    name,
                    expected=f"integers of at least 1{limit}",
                    got=str(value),
                    remedy="Leave it out.",
                )
    if folds < 1 or pictures % folds:
        raise InvalidArgument(
            "folds",
            expected=f"a number that divides the {pictures} pictures",
            got=str(folds),
            remedy="COCO's 1K figures are the mean over 5 folds of the 5,000 test pictures.",
        )
