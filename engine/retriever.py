"""`Retriever`: find the best items of a collection for a batch of queries.

The algorithm (the idea of HiVLP, arXiv 2205.12105) is four lines of `Retriever._find`: score every item with the
short coarse vectors, keep the best C as candidates, score those C with the long fine vectors, keep the best k.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from engine.checks import check_count, check_list, check_number, check_one_of, check_path
from engine.coarse.from_embeddings import index_of
from engine.coarse.reduction import COARSE_DIM, Reduction
from engine.coarse.rounding import CoarseDtype
from engine.device import pick_device
from engine.embeddings import Embeddings
from engine.encoders import Encoder, open_encoder, warm
from engine.encoders.remembered import open_named, open_remembered, refuse_other
from engine.errors import CheckpointMismatch, InvalidArgument
from engine.index import Calibration, Id, Index, OnConflict, WriterLock
from engine.index.checks import checked_ids, checked_metadata
from engine.queries.batch import Batch, embed
from engine.queries.blocks import Found, in_blocks
from engine.queries.filters import Filter, as_mask
from engine.recall.calibration import calibrated, ranks_of
from engine.recall.curve import Curve, check_candidates, measured
from engine.recall.guarantee import guarantees
from engine.result import Failures, SearchResult, Timings, answered, check_k, padded, with_failures
from engine.system.forks import forkable_lock
from engine.tiers.collection import Collection
from engine.tiers.duplicates import check_threshold, without_duplicates
from engine.tiers.plan import FineTier, Plan, plan
from engine.tiers.snapshot import Snapshot, check_finite
from engine.tiers.stopwatch import Stopwatch
from kernels import TopK
from kernels.checks import BACKENDS
from kernels.topk import ordinary

Mode: TypeAlias = Literal["two_stage", "exact", "coarse"]
MODES = get_args(Mode)
OnError: TypeAlias = Literal["raise", "report"]

FEWEST_CANDIDATES = 128


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
        self._opening = forkable_lock()  # one at a time may open the encoder
        opened = index if isinstance(index, Index) else Index.open(index)
        self._collection = Collection(opened, self.device, fine_tier)
        self._encoder: Encoder | None = None
        if encoder is not None:
            if not isinstance(encoder, Encoder):
                named = check_path("encoder", encoder)
                encoder = open_named(named, opened.checkpoint, device=device)
            self._encoder = self._matching(encoder)

    @classmethod
    def from_embeddings(
        cls,
        fine: Any,
        coarse: Any = None,
        *,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        coarse_dim: int = COARSE_DIM,
        coarse_dtype: CoarseDtype | None = None,
        reduction: Reduction = "pca",
        normalize: bool = False,
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
        """
        index = index_of(
            fine,
            coarse,
            ids=ids,
            metadata=metadata,
            coarse_dim=check_count("coarse_dim", coarse_dim),
            coarse_dtype=coarse_dtype,
            reduction=reduction,
            normalize=normalize,
        )
        return cls(
            index,
            encoder,
            device=device,
            backend=backend,
            candidates=candidates,
            fine_tier=fine_tier,
        )

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
        if not isinstance(checkpoint, Encoder):
            checkpoint = open_encoder(check_path("checkpoint", checkpoint), device=device)
        reduces = checkpoint.coarse_dim is None
        coarse_dim = checkpoint.coarse_dim or min(COARSE_DIM, checkpoint.fine_dim)
        index = Index.empty(
            coarse_dim,
            checkpoint.fine_dim,
            checkpoint.reference,
            reduces=reduces,
            coarse_dtype=coarse_dtype,
        )
        return cls(index, checkpoint, device=device, backend=backend, candidates=candidates)

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
        shortlist = self._candidates(k, candidates, snapshot)
        kept = min(k, max(1, rows))  # no more can be found
        check_one_of("mode", mode, MODES)
        check_one_of("on_error", on_error, get_args(OnError))
        if min_score is not None:
            min_score = check_number("min_score", min_score, remedy="For example: min_score=0.2.")
        threshold = None if duplicates is None else check_threshold(duplicates)
        on_cpu = self.device.type == "cpu"
        watch = Stopwatch(self.device)
        own = snapshot.reduction is None
        failed: Failures | None = {} if on_error == "report" else None
        vectors = embed(batch, self._open_encoder, encoders_coarse=own, failed=failed)
        count = len(vectors) + len(failed or ())
        check_k(k, rows, count)
        with torch.inference_mode(on_cpu):  # quicker by what autograd writes down of small steps
            queries = snapshot.project(vectors, coarse_too=mode != "exact", check=on_cpu)
            mask = as_mask(filter, snapshot.index, count)
            if failed and mask is not None and mask.ndim == 2:
                mask = mask[answered(count, failed)]
            mask = snapshot.visible(mask)
            watch.mark()

            def found(asked: Embeddings, shown: Tensor | None) -> Found:
                wanted = kept if threshold is None else shortlist
                best, listed = self._find(snapshot, asked, shown, wanted, shortlist, mode, watch)
                if not on_cpu:
                    check_finite(asked)  # a GPU is waited for once only, now
                if threshold is not None:
                    best = without_duplicates(best, snapshot.fine.parts, kept, threshold)
                if threshold is not None or mode == "coarse":
                    return best, (None,) * len(asked)
                return best, guarantees(
                    snapshot, asked, listed, best, certify=certify, filtered=filter is not None
                )

            best, guarantee = in_blocks(found, queries, mask, max(shortlist, kept))
            best = padded(best, k)
            if min_score is not None:
                low = best.scores < min_score
                best = TopK(
                    best.scores.masked_fill(low, -torch.inf), best.rows.masked_fill(low, -1)
                )
        result = SearchResult(
            *ordinary(best), Timings.of(watch.seconds()), guarantee, snapshot.index, (None,) * count
        )
        return with_failures(result, failed) if failed else result

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
        """The two stages: what was found, and the candidates if there were any; marks the end of each stage."""
        captured = snapshot.captured.get((len(queries), candidates, k))
        if captured is not None and mode == "two_stage" and mask is snapshot.live:
            return captured(queries, watch)
        if mode == "exact":
            watch.mark()
            best, listed = snapshot.fine.scan(queries.fine, k, mask, self.backend), None
        else:
            assert queries.coarse is not None  # Snapshot.project sees to it
            keep = k if mode == "coarse" else candidates
            listed = snapshot.find_candidates(queries.coarse, keep, mask, self.backend)
            watch.mark()
            if mode == "coarse":
                best = snapshot.scaled(queries.coarse, listed)
            else:
                best = snapshot.fine.rerank(queries.fine, listed.rows, k, self.backend)
        watch.mark()
        return best, listed

    def _candidates(self, k: int, candidates: int | None, snapshot: Snapshot) -> int:
        """How many the coarse stage keeps: never more than there are rows."""
        rows = max(1, len(snapshot.coarse))
        if candidates is None:
            candidates = self.candidates
        if candidates is None:
            calibration = snapshot.index.header.calibration
            if calibration is not None and k <= calibration.k:
                return min(calibration.candidates, rows)
            return min(max(FEWEST_CANDIDATES, 4 * k), rows)
        if check_count("candidates", candidates) < k:
            raise InvalidArgument(
                "candidates",
                expected=f"at least k ({k})",
                got=str(candidates),
                remedy="Keep more candidates, or ask for fewer results.",
            )
        return min(int(candidates), rows)

    def warmup(
        self, batch_sizes: Sequence[int] = (1, 32), k: int = 10, *, candidates: int | None = None
    ) -> None:
        """Run a search of each batch size, so that the first real one pays for no compilation or allocation.

        The encoder, where the index remembers one or one was given, is opened and encodes a text and a picture.

        On a GPU each becomes a CUDA graph as well, with memory of its own: until the index changes, an unfiltered
        two-stage search of that batch size, k and number of candidates is one launch a stage.
        """
        snapshot = self._collection.snapshot
        head, k = snapshot.index.header, check_k(k, len(snapshot.coarse))
        shortlist = self._candidates(k, candidates, snapshot)
        sizes = check_list(
            "batch_sizes", batch_sizes, expected="a list of batch sizes", ordered=False
        )
        sizes = [check_count("batch_sizes", size) for size in sizes]
        if self._encoder is not None or self.index.checkpoint is not None:
            warm(self._open_encoder())
        kept = min(k, max(1, len(snapshot.coarse)))
        chance = torch.Generator().manual_seed(0)  # zeros would tie with every item
        for size in sizes:
            coarse, fine = (
                torch.randn(size, dim, generator=chance) for dim in (head.coarse_dim, head.fine_dim)
            )
            queries = Embeddings(coarse, fine)
            self.search(queries, kept, candidates=shortlist)
            snapshot.capture(
                snapshot.project(queries, coarse_too=True), kept, shortlist, self.backend
            )

    def calibrate(
        self, queries: Batch, k: int = 10, *, target_recall: float = 0.99, confidence: float = 0.95
    ) -> Calibration:
        """Find the smallest number of candidates that reaches the recall, and keep it with the index.

        Searches that name no number take it from then on, for k and below; `save` writes it. The recall is that of
        the exact k best items in the mean over queries, reached with the confidence whatever queries chance drew:
        see `engine.recall.calibration`. Give queries such as those to come, independent of each other, and none
        that something was tuned on: at least 398 for a recall of 0.99, to be 95 % sure.
        """
        k = check_k(k, len(self._collection.snapshot.coarse))
        snapshot, vectors = self._projected(queries)
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
        k = check_k(k, len(self._collection.snapshot.coarse))
        numbers = check_candidates(candidates, k)
        snapshot, vectors = self._projected(queries)
        ranks = ranks_of(snapshot, vectors, k, self.backend)
        rows = max(1, len(snapshot.coarse))
        kept = min(k, rows)

        def search(count: int | None) -> None:
            mode: Mode = "exact" if count is None else "two_stage"
            watch = Stopwatch(self.device)
            listed = min(count or kept, rows)
            self._find(snapshot, vectors, snapshot.live, kept, listed, mode, watch)
            watch.seconds()  # waits for the device

        return measured(search, ranks, k, len(snapshot.index), numbers)

    def _projected(self, queries: Batch) -> tuple[Snapshot, Embeddings]:
        """The snapshot as it is now, and the vectors of at least one query as it searches with them."""
        snapshot = self._collection.snapshot
        own = snapshot.reduction is None
        vectors = snapshot.project(
            embed(queries, self._open_encoder, encoders_coarse=own), coarse_too=True
        )
        if not len(vectors):
            raise InvalidArgument(
                "queries", expected="at least one query", got="none", remedy="Give some."
            )
        return snapshot, vectors

    # ------------------------------------------------------------------ changing

    def add(
        self,
        items: Sequence[Any] | None = None,
        *,
        embeddings: Embeddings | Any = None,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        on_conflict: OnConflict = "error",
    ) -> None:
        """Add items to encode (images or texts, as in `search`), or their embeddings. All are added, or none.

        `ids` default to the integers after the largest one; an index with str ids needs them given. on_conflict:
        where an id is there already, "error" refuses all, "replace" puts the new item in its place, "skip" keeps
        the old one. An index in a directory holds the change from the next `save`; until `close`, nobody else
        may change it: IndexLocked, or IndexChanged where somebody has since it was opened.
        """
        if (items is None) == (embeddings is None):
            raise InvalidArgument(
                "items",
                expected="either items or embeddings",
                got="both" if items is not None else "neither",
                remedy="Give one of them.",
            )
        if ids is not None:
            ids = checked_ids(ids)  # before the long work
        if metadata is not None:
            metadata = checked_metadata(metadata)
        check_one_of("on_conflict", on_conflict, get_args(OnConflict))
        added = embed(
            embeddings if items is None else items,
            self._open_encoder,
            encoders_coarse=self.index.reduction is None,
        )
        self._collection.add(added, ids, metadata, on_conflict)

    def remove(self, ids: Sequence[Id]) -> None:
        """Remove the items with these ids; the others keep theirs. UnknownId if one is not there."""
        self._collection.remove(ids)

    def compact(self) -> None:
        """Let go of the room of removed items. An index in a directory is saved, with all changes."""
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
        """Let go of vectors, encoder, writer lock and changes not saved; the retriever is empty afterwards."""
        self._collection.close()
        with self._opening:
            self._encoder = None

    @staticmethod
    def plan(
        items: int,
        *,
        fine_dim: int,
        coarse_dim: int = COARSE_DIM,
        fine_dtype: str = "float32",
        coarse_dtype: str = "float32",
        device: str = "auto",
        fine_tier: FineTier = "auto",
    ) -> Plan:
        """What an index of so many items would take, and where; `print` it before building one."""
        return plan(
            items,
            fine_dim=fine_dim,
            coarse_dim=coarse_dim,
            fine_dtype=fine_dtype,
            coarse_dtype=coarse_dtype,
            device=device,
            fine_tier=fine_tier,
        )

    # ------------------------------------------------------------------ itself

    @property
    def index(self) -> Index:
        """The index as it is now."""
        return self._collection.snapshot.index

    def __len__(self) -> int:
        return len(self.index)

    def __enter__(self) -> "Retriever":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled: what opens the same directory again, with the encoder that the index remembers."""
        index = self.index
        if self._encoder is not None and index.checkpoint is None:
            raise InvalidArgument(
                "pickle",
                expected="a retriever whose index remembers its encoder, or has none",
                got=repr(self),
                remedy="Pickle retriever.index, and give Retriever(index, encoder=…) the encoder there.",
            )
        opening = partial(
            Retriever,
            device=str(self.device),
            backend=self.backend,
            candidates=self.candidates,
            fine_tier=self._collection.tier,
        )
        return opening, (index,)

    def __repr__(self) -> str:
        snapshot, head = self._collection.snapshot, self.index.header
        coarse = f"{head.coarse_dim}x{head.coarse_dtype} ({snapshot.coarse.nbytes:,} B)"
        fine = (
            f"{head.fine_dim}x{head.fine_dtype} ({snapshot.fine.nbytes:,} B, {snapshot.fine.tier})"
        )
        return (
            f"Retriever(N={len(self):,}, coarse={coarse}, fine={fine}, "
            f"device={str(self.device)!r}, backend={self.backend!r})"
        )

    def _open_encoder(self) -> Encoder:
        with self._opening:
            if self._encoder is None:
                reference = self.index.checkpoint
                if reference is None:
                    raise InvalidArgument(
                        "encoder",
                        expected="an encoder, to search with text or images",
                        got="None, and the index remembers no checkpoint",
                        remedy="Pass Retriever(…, encoder=CHECKPOINT), or search with embeddings.",
                    )
                self._encoder = self._matching(
                    open_remembered(reference, self.index.path, device=str(self.device))
                )
            return self._encoder

    def _matching(self, encoder: Encoder) -> Encoder:
        """`encoder`, if it can have made this index's vectors."""
        index = self.index
        refuse_other(encoder.reference, index.checkpoint)
        if encoder.fine_dim != index.header.fine_dim:
            raise CheckpointMismatch(
                "encoder",
                expected=f"fine vectors of {index.header.fine_dim} dims, as the index holds",
                got=str(encoder.fine_dim),
                remedy="Use the encoder that made the index, or build the index again.",
            )
        return encoder
