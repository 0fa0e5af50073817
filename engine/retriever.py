"""`Retriever`: find the best items of a collection for a batch of queries.

The algorithm (the idea of HiVLP, arXiv 2205.12105) is four lines of `Retriever._find`: score every item with the
short coarse vectors, keep the best C as candidates, score those C with the long fine vectors, keep the best k.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.checks import (
    check_count,
    check_counts,
    check_either,
    check_flag,
    check_one_of,
    unpicklable,
)
from engine.coarse.from_embeddings import empty_index, index_of
from engine.coarse.reduction import COARSE_DIM, Reduction
from engine.coarse.rounding import CoarseDtype
from engine.device import pick_device
from engine.embeddings import Embeddings
from engine.encoders import Encoder
from engine.encoders.on_demand import EncoderOnDemand, opened_encoder
from engine.index import Calibration, Id, Index, OnConflict, WriterLock
from engine.index.checks import checked_ids, checked_metadata
from engine.queries.batch import Batch, embed
from engine.queries.blocks import Found, in_blocks
from engine.queries.filters import Filter, as_mask
from engine.queries.mode import MODES, ON_ERROR, Mode, OnError
from engine.recall.calibration import calibrated
from engine.recall.candidates import candidates_for, check_candidates
from engine.recall.curve import Curve, measured
from engine.recall.guarantee import guarantees
from engine.result import Failures, SearchResult, check_k, check_min_score, padded
from engine.tiers.collection import Collection
from engine.tiers.duplicates import check_threshold, without_duplicates
from engine.tiers.plan import FineTier, Plan
from engine.tiers.projection import check_finite
from engine.tiers.snapshot import Snapshot
from engine.tiers.stopwatch import Stopwatch
from kernels import TopK
from kernels.backends import BACKENDS


class Retriever:
    """Search an index with text, images or vectors.

    Args:
        index: an `engine.Index`, or the directory of one.
        encoder: what encodes text and images: an `engine.Encoder`, a checkpoint or export directory, or one above
            it, in which the right one is found by its hash; or None for the one that the index remembers, opened
            when first needed, without the TensorRT engines that an export of it may hold (docs/guides/trust.md).
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", …
        backend: "auto", "torch" or "triton", as in `kernels.coarse_topk`.
        candidates: how many items the coarse stage keeps; None = what `calibrate` found for as large a k, else
            max(128, 4 * k).
        fine_tier: where the fine vectors lie: "device", "host" (memory), "disk" (mapped), or "auto": on a GPU the
            first of these that has the memory, on a CPU mapped as they are.

    `search` may be called from many threads, also while another adds or removes.
    """

    def __init__(
        self,
        index: Index | str | Path,
        encoder: Encoder | str | Path | None = None,
        *,
        device: str = "auto",
        backend: str = "auto",
        candidates: int | None = None,
        fine_tier: FineTier = "auto",
    ) -> None:
        self.device = pick_device(device)
        check_one_of("backend", backend, BACKENDS)
        self.backend = backend
        self.candidates = None if candidates is None else check_count("candidates", candidates)
        opened = index if isinstance(index, Index) else Index.open(index)
        self._collection = Collection(opened, self.device, fine_tier)
        self._encoder = EncoderOnDemand(encoder, opened, device)

    # ------------------------------------------------------------------ searching

    def search(
        self,
        batch: Batch,
        k: int = 10,
        *,
        candidates: int | None = None,
        mode: Mode = "two_stage",
        filter: Filter = None,
        min_score: float | None = None,
        duplicates: float | None = None,
        certify: bool = False,
        on_error: OnError = "raise",
    ) -> SearchResult:
        """The best k items of every query.

        Args:
            batch: text (`str`), an image (`PIL.Image`, `Path`, encoded bytes), both (`engine.Query`), a list
                of these, fine embeddings `[B, D]` (tensor or array), or `engine.Embeddings(coarse, fine)`.
                One query is a batch of one.
                A string that names a picture is refused; in `engine.Query(image=…)` it is a path.
            k: how many, at least 1; more than there are is allowed.
            candidates: how many the coarse stage keeps, for this search.
            mode: "two_stage"; "exact" scores every item with the fine vectors; "coarse" with the coarse ones only.
            filter: which items may be found: bool `[N]` or `[B, N]`, a list of ids, one list per query, or a
                condition on metadata: a pyarrow expression, or text such as `"year > 2000 and style == 'noto'"`.
            min_score: leave out what scores lower.
            duplicates: leave out hits whose fine vectors have a higher cosine than that with a better hit's; see
                `engine.tiers.duplicates`. Looked for among the candidates, so there may be fewer than k hits.
            certify: see whether a bound proves two-stage answers exact (`SearchResult.guarantee`), where coarse
                vectors are a projection of the fine ones. Reads every fine vector once after each change.
            on_error: what becomes of a batch with a query that cannot be searched for, such as a damaged picture.
                "raise": nothing is searched for. "report": that query has no hits, the result's `errors` say why,
                and all others are answered.

        Scores are inner products of the stored vectors, accumulated in float32, higher is better; equal scores:
        the lower row first. Raises InvalidArgument (or another EngineError) naming what is wrong.
        """
        snapshot = self._collection.snapshot  # read once: a concurrent `add` replaces it
        rows = len(snapshot.coarse)
        k = check_k(k, rows)
        kept = min(k, max(1, rows))  # no more can be found
        shortlist = candidates_for(k, (candidates, self.candidates), snapshot.index)
        check_one_of("mode", mode, MODES)
        check_one_of("on_error", on_error, ON_ERROR)
        lowest, threshold = check_min_score(min_score), check_threshold(duplicates)
        on_cpu = self.device.type == "cpu"
        watch = Stopwatch(self.device)
        failed: Failures | None = {} if on_error == "report" else None
        vectors = self._embedded(batch, snapshot, failed)
        count = len(vectors) + len(failed or ())
        check_k(k, rows, count)

        def found(asked: Embeddings, shown: Tensor | None) -> Found:
            wanted = kept if threshold is None else shortlist
            best, listed = self._find(snapshot, asked, shown, wanted, shortlist, mode, watch)
            if not on_cpu:
                check_finite(asked)  # a GPU is waited for once only, now
            if threshold is not None:
                best = without_duplicates(best, snapshot.fine.parts, kept, threshold)
            if threshold is not None or mode == "coarse":
                return best, (None,) * len(asked)
            narrowed = filter is not None
            return best, guarantees(
                snapshot, asked, listed, best, certify=certify, filtered=narrowed
            )

        with torch.inference_mode(on_cpu):  # quicker by what autograd writes down of small steps
            queries = snapshot.projection.queries(vectors, coarse_too=mode != "exact", check=on_cpu)
            mask = snapshot.visible(as_mask(filter, snapshot.index, count, failed))
            watch.mark()
            best, guarantee = in_blocks(found, queries, mask, max(shortlist, kept))
            best = padded(best, k, lowest)
        return SearchResult.of(best, guarantee, watch.seconds(), snapshot.index, failed or {})

    def _find(
        self,
        snapshot: Snapshot,
        queries: Embeddings,
        mask: Tensor | None,
        k: int,
        candidates: int,
        mode: Mode,
        watch: Stopwatch,
    ) -> tuple[TopK, TopK | None]:
        """The best k, and the candidates where there are any; marks the end of each stage."""
        coarse, fine, backend = queries.coarse, queries.fine, self.backend
        captured = snapshot.captured.get((len(queries), candidates, k))
        if captured is not None and mode == "two_stage" and mask is snapshot.live:
            return captured(queries, watch)
        if mode == "exact":
            watch.mark()
            best, listed = snapshot.fine.scan(fine, k, mask, backend), None
        elif mode == "coarse":
            listed = snapshot.find_candidates(coarse, k, mask, backend)
            watch.mark()
            best = snapshot.scaled(coarse, listed)
        else:
            listed = snapshot.find_candidates(coarse, candidates, mask, backend)
            watch.mark()
            best = snapshot.fine.rerank(fine, listed.rows, k, backend)
        watch.mark()
        return best, listed

    def _embedded(
        self, batch: Batch, snapshot: Snapshot, failed: Failures | None = None
    ) -> Embeddings:
        """The vectors of a batch, before the projection."""
        own = snapshot.index.reduction is None
        opening = partial(self._encoder.open, snapshot.index)
        return embed(batch, opening, encoders_coarse=own, failed=failed)

    def warmup(
        self, batch_sizes: Sequence[int] = (1, 32), k: int = 10, *, candidates: int | None = None
    ) -> None:
        """Run a search of each batch size, so that the first real one pays for no compilation or allocation.

        The encoder, where the index remembers one or one was given, is opened and encodes a text and a picture.

        On a GPU each becomes a CUDA graph as well, with memory of its own: until the index changes, an unfiltered
        two-stage search of that batch size, k and number of candidates is one launch a stage.
        """
        snapshot = self._collection.snapshot
        k = check_k(k, len(snapshot.coarse))
        shortlist = candidates_for(k, (candidates, self.candidates), snapshot.index)
        sizes = check_counts("batch_sizes", batch_sizes, expected="a list of batch sizes")
        self._encoder.warm(snapshot.index)
        kept = min(k, max(1, len(snapshot.coarse)))
        for size in sizes:
            queries = snapshot.projection.samples(size)
            self.search(queries, kept, candidates=shortlist)
            snapshot.capture(snapshot.projection.queries(queries), kept, shortlist, self.backend)

    def calibrate(
        self, queries: Batch, k: int = 10, *, target_recall: float = 0.99, confidence: float = 0.95
    ) -> Calibration:
        """Find the smallest number of candidates that reaches the recall, and keep it with the index.

        Searches that name no number take it from then on, for k and below; `save` writes it. The recall is that of
        the exact k best items in the mean over queries, reached with the confidence whatever queries chance drew:
        see `engine.recall.calibration`. Give queries such as those to come, independent of each other, and none
        that something was tuned on: at least 398 for a recall of 0.99, to be 95 % sure.
        """
        snapshot = self._collection.snapshot
        k = check_k(k, len(snapshot.coarse))
        vectors = snapshot.projection.queries(self._embedded(queries, snapshot))
        found = calibrated(snapshot, vectors, k, target_recall, confidence, self.backend)
        self._collection.calibrate(found)
        return found

    def evaluate(
        self,
        queries: Batch,
        k: int = 10,
        *,
        candidates: Sequence[int] = (16, 32, 64, 128, 256, 512, 1024),
    ) -> Curve:
        """Recall of the exact k best items, and time, by number of candidates: a table, and a plot."""
        snapshot = self._collection.snapshot
        k = check_k(k, len(snapshot.coarse))
        numbers = check_candidates(candidates, k)
        vectors = snapshot.projection.queries(self._embedded(queries, snapshot))
        find = partial(self._find, snapshot, vectors, snapshot.live)
        return measured(find, snapshot, vectors, k, numbers, self.backend)

    # ------------------------------------------------------------------ made of vectors, or of nothing yet

    @classmethod
    def from_embeddings(
        cls,
        fine: Tensor | NDArray[Any],
        coarse: Tensor | NDArray[Any] | None = None,
        *,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        coarse_dim: int = COARSE_DIM,
        coarse_dtype: CoarseDtype | None = None,
        reduction: Reduction = "pca",
        normalize: bool = False,
        queries: Tensor | NDArray[Any] | None = None,
        encoder: Encoder | str | Path | None = None,
        device: str = "auto",
        backend: str = "auto",
        candidates: int | None = None,
        fine_tier: FineTier = "auto",
    ) -> "Retriever":
        """A retriever over vectors you have: no model needed.

        Args:
            fine: `[N, D]`, tensor or array. float16 and float32 are stored as they are, the rest as float32.
            coarse: `[N, d]`, or None to learn a reduction of `fine` to min(coarse_dim, D) dims. Fewer are
                read sooner, which one query waits for; more need fewer candidates, which a large batch waits for.
            ids: N different str or int64; default 0…N-1.
            metadata: N mappings, returned with each hit; values of one key are of one type that Parquet can hold.
            coarse_dtype: "float32", "float16", "bfloat16" or "int8"; None = that of the coarse vectors.
                `index.header.quantization` says what int8 costs.
            reduction: "pca" (learned rotation) or "prefix" (vectors trained that way, "Matryoshka").
            normalize: scale items and queries to unit length, so that the score is the cosine.
            queries: `[B, D]`, a sample of the queries to come, where they are of another kind than the items, as
                sentences for pictures: the reduction then keeps what tells items apart for these.
        """
        index = index_of(
            fine, coarse, ids, metadata, coarse_dim, coarse_dtype, reduction, normalize, queries
        )
        opening = partial(cls, device=device, backend=backend, candidates=candidates)
        return opening(index, encoder, fine_tier=fine_tier)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path | Encoder,
        *,
        coarse_dtype: CoarseDtype = "float32",
        device: str = "auto",
        backend: str = "auto",
        candidates: int | None = None,
    ) -> "Retriever":
        """An empty retriever over the encoder of a checkpoint or export; fill it with `add`.

        Where the encoder gives fine vectors only (CLIP, SigLIP), the index learns their reduction to
        min(64, D) dims from its first items: add many at once. So is the scale of int8.
        """
        check_one_of("coarse_dtype", coarse_dtype, get_args(CoarseDtype))
        encoder = opened_encoder("checkpoint", checkpoint, device=device)
        index = empty_index(encoder, coarse_dtype)
        return cls(index, encoder, device=device, backend=backend, candidates=candidates)

    plan = staticmethod(Plan.of)

    # ------------------------------------------------------------------ changing

    def add(
        self,
        items: Batch | None = None,
        *,
        embeddings: Embeddings | Tensor | NDArray[Any] | None = None,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        on_conflict: OnConflict = "error",
    ) -> int:
        """Add items to encode (images or texts, as in `search`), or their embeddings. All are added, or none.

        Returns how many: those skipped do not count.

        `ids` default to the integers after the largest one; an index with str ids needs them given. on_conflict:
        where an id is there already, "error" refuses all, "replace" puts the new item in its place, "skip" keeps
        the old one. An index in a directory holds the change from the next `save`; until `close`, nobody else
        may change it: IndexLocked, or IndexChanged where somebody has since it was opened.
        """
        snapshot = self._collection.snapshot
        given = check_either(items=items, embeddings=embeddings)
        # Before the long work:
        ids = None if ids is None else checked_ids(ids)
        metadata = None if metadata is None else checked_metadata(metadata)
        check_one_of("on_conflict", on_conflict, get_args(OnConflict))
        return self._collection.add(self._embedded(given, snapshot), ids, metadata, on_conflict)

    def remove(self, ids: Sequence[Id]) -> int:
        """Remove the items with these ids, and return how many; UnknownId, and no change, if one is not there."""
        return self._collection.remove(ids)

    def relearn(self, queries: Batch | None = None) -> None:
        """Learn the reduction and int8's scale anew, from the fine vectors: nothing is encoded again.

        For an index that has grown into other items than it began with (`engine.MisfitWarning`). `queries` as
        `from_embeddings` has them, or texts. The calibration is let go of. `save` writes it.
        """
        snapshot = self._collection.snapshot
        sample = None if queries is None else self._embedded(queries, snapshot)
        if sample is not None:
            sample = snapshot.projection.queries(sample, coarse_too=False)
        self._collection.relearn(sample)

    def compact(self, *, relearn: bool = False) -> None:
        """Let go of the room of removed items. An index in a directory is saved, with all changes.

        relearn: see `relearn`.
        """
        if check_flag("relearn", relearn):
            self._collection.relearn(None)
        self._collection.compact()

    def save(self, path: str | Path | None = None, *, overwrite: bool = False) -> None:
        """Write what is new to a directory, from which `Retriever(path)` opens it; None: where it was opened.

        Durable when it returns. The first directory given to an index without one becomes its own; another gets
        a copy. A directory that holds another index is refused (InvalidArgument) unless `overwrite` is given;
        the old index is then there until the new one is durable.
        """
        self._collection.save(path, overwrite)

    def write_under(self, lock: WriterLock) -> None:
        """Change the index under a writer lock that the caller took already; `close` lets go of it."""
        self._collection.write_under(lock)

    def refresh(self) -> bool:
        """Move on to what the directory holds now; whether another has published something since."""
        return self._collection.refresh()

    def close(self) -> None:
        """Let go of vectors, encoder, writer lock and changes not saved; whatever is asked for then is refused."""
        self._collection.close()
        self._encoder.close()

    # ------------------------------------------------------------------ itself

    @property
    def index(self) -> Index:
        """The index as it is now."""
        return self._collection.snapshot.index

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, id: object) -> bool:
        """Whether there is an item with this id."""
        return bool(self.index.find([cast(Id, id)])[0] >= 0)  # which no id of another kind is

    def get(self, id: Id) -> dict[str, Any] | None:
        """The metadata of one item, None where it has none; UnknownId if there is no such item."""
        index = self.index
        return index.metadata_at(int(index.rows_of([id])[0]))

    def __enter__(self) -> "Retriever":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled: what opens the same directory again, with the encoder that the index remembers."""
        index = self.index
        if self._encoder.is_open and index.checkpoint is None:
            raise unpicklable(
                self,
                expected="a retriever whose index remembers its encoder, or has none",
                remedy="Pickle retriever.index, and give Retriever(index, encoder=…) the encoder there.",
            )
        tier = self._collection.tier
        opening = partial(
            Retriever, device=str(self.device), backend=self.backend, candidates=self.candidates
        )
        return partial(opening, fine_tier=tier), (index,)

    def __repr__(self) -> str:
        where = f"device={str(self.device)!r}, backend={self.backend!r}"
        if self._collection.is_closed:
            return f"Retriever(closed, {where})"
        return f"Retriever({self._collection.snapshot}, {where})"
