"""`Retriever`: find the best items of a collection for a batch of queries.

The algorithm (the idea of HiVLP, arXiv 2205.12105) is four lines of `Retriever._find`: score every item with the
short coarse vectors, keep the best C as candidates, score those C with the long fine vectors, keep the best k.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.device import pick_device
from engine.embeddings import Embeddings
from engine.encoders import Encoder, open_encoder
from engine.errors import CheckpointMismatch, InvalidArgument
from engine.filters import Filter, as_mask
from engine.index import Id, Index, check_vectors
from engine.queries import Batch, as_vectors, embed
from engine.reduction import COARSE_DIM, Reduction, learn_reduction
from engine.result import SearchResult, Timings
from engine.snapshot import Snapshot
from kernels import TopK, coarse_topk, rerank_topk

Mode: TypeAlias = Literal["two_stage", "exact", "coarse"]

FEWEST_CANDIDATES = 128


class Retriever:
    """Search an index with text, images or vectors.

    Args:
        index: an `engine.Index`, or the directory of one.
        encoder: what encodes text and images: an `engine.Encoder`, a checkpoint or export directory, or None for
            the one that the index remembers, opened when first needed.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", …
        backend: "auto", "torch" or "triton", as in `kernels.coarse_topk`.
        candidates: how many items the coarse stage keeps; None = max(128, 4 * k).

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
    ) -> None:
        self.device = pick_device(device)
        self.backend = backend
        self.candidates = None if candidates is None else check_count("candidates", candidates)
        self._lock = threading.Lock()  # one at a time may swap the snapshot or open the encoder
        self._snapshot = Snapshot.of(
            Index.open(index) if isinstance(index, str | Path) else index, self.device
        )
        self._encoder: Encoder | None = None
        if encoder is not None:
            if isinstance(encoder, str | Path):
                encoder = open_encoder(encoder, device=device)
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
        reduction: Reduction = "pca",
        normalize: bool = False,
        encoder: Encoder | str | Path | None = None,
        device: str = "auto",
        backend: str = "auto",
        candidates: int | None = None,
    ) -> "Retriever":
        """A retriever over vectors you have: no model needed.

        Args:
            fine: `[N, D]`, tensor or array. float16 and float32 are stored as they are, the rest as float32.
            coarse: `[N, d]`, or None to learn a reduction of `fine` to min(coarse_dim, D) dims.
            ids: N different str or int64; default 0…N-1.
            metadata: N mappings that JSON can hold, returned with each hit.
            reduction: "pca" (learned rotation) or "prefix" (vectors trained that way, "Matryoshka").
            normalize: scale items and queries to unit length, so that the score is the cosine.
        """
        fine = as_vectors("fine", fine)
        if coarse is not None:
            coarse = as_vectors("coarse", coarse)
        if normalize:
            fine = F.normalize(fine, dim=1)
            coarse = None if coarse is None else F.normalize(coarse, dim=1)
        matrix = None
        if coarse is None:
            if reduction not in get_args(Reduction):
                raise InvalidArgument(
                    "reduction",
                    expected='"pca" or "prefix"',
                    got=repr(reduction),
                    remedy='Use "pca" unless the vectors were trained by prefixes.',
                )
            width = min(check_count("coarse_dim", coarse_dim), fine.shape[1])
            # Before learning: one NaN in `fine` would spoil every coarse vector.
            check_vectors("fine", fine.cpu().numpy())
            matrix = learn_reduction(fine, width, reduction)
            coarse = (fine.cpu().float() @ matrix).to(fine.dtype)
        index = Index.build(
            coarse.cpu().numpy(),
            fine.cpu().numpy(),
            ids=ids,
            metadata=metadata,
            reduction=None if matrix is None else matrix.numpy(),
            normalize=normalize,
        )
        return cls(index, encoder, device=device, backend=backend, candidates=candidates)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path | Encoder,
        *,
        device: str = "auto",
        backend: str = "auto",
        candidates: int | None = None,
    ) -> "Retriever":
        """An empty retriever over the encoder of a checkpoint or export; fill it with `add`.

        Where the encoder gives fine vectors only (CLIP, SigLIP), the index learns their reduction to
        min(64, D) dims from its first items: add many at once.
        """
        if isinstance(checkpoint, str | Path):
            checkpoint = open_encoder(checkpoint, device=device)
        reduces = checkpoint.coarse_dim is None
        coarse_dim = checkpoint.coarse_dim or min(COARSE_DIM, checkpoint.fine_dim)
        index = Index.empty(coarse_dim, checkpoint.fine_dim, checkpoint.reference, reduces=reduces)
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
    ) -> SearchResult:
        """The best k items of every query.

        Args:
            batch: text (`str`), an image (`PIL.Image`, `Path`, encoded bytes), a list of these, fine embeddings
                `[B, D]` (tensor or array), or `engine.Embeddings(coarse, fine)`. One query is a batch of one.
            k: how many, at least 1; more than there are is allowed.
            candidates: how many the coarse stage keeps, for this search.
            mode: "two_stage"; "exact" scores every item with the fine vectors; "coarse" with the coarse ones only.
            filter: which items may be found: bool `[N]` or `[B, N]`, a list of ids, or one list per query.
            min_score: leave out what scores lower.

        Scores are inner products of the stored vectors, accumulated in float32, higher is better; equal scores:
        the lower row first. Raises InvalidArgument (or another EngineError) naming what is wrong.
        """
        snapshot = self._snapshot  # read once: a concurrent `add` replaces it
        k = check_count("k", k)
        shortlist = self._candidates(k, candidates)
        if mode not in get_args(Mode):
            raise InvalidArgument(
                "mode",
                expected='"two_stage", "exact" or "coarse"',
                got=repr(mode),
                remedy="Use one of these.",
            )
        started = time.perf_counter()
        own = snapshot.reduction is None
        vectors = embed(batch, self._open_encoder, encoders_coarse=own)
        queries = snapshot.project(vectors, coarse_too=mode != "exact")
        mask = as_mask(filter, snapshot.index, len(queries))
        mask = snapshot.visible(mask)
        encode_s = self._clock() - started
        best, coarse_s, rerank_s = self._find(snapshot, queries, mask, k, shortlist, mode)
        if min_score is not None:
            low = best.scores < min_score
            best = TopK(best.scores.masked_fill(low, -torch.inf), best.rows.masked_fill(low, -1))
        return SearchResult(
            best.scores, best.rows, Timings(encode_s, coarse_s, rerank_s), snapshot.index
        )

    def _find(
        self,
        snapshot: Snapshot,
        queries: Embeddings,
        mask: Tensor | None,
        k: int,
        candidates: int,
        mode: Mode,
    ) -> tuple[TopK, float, float]:
        """The two stages, and the seconds that each took."""
        started = self._clock()
        if mode == "exact":
            best = coarse_topk(queries.fine, snapshot.fine, k, mask=mask, backend=self.backend)
            return best, 0.0, self._clock() - started
        assert queries.coarse is not None  # Snapshot.project sees to it
        keep = k if mode == "coarse" else candidates
        best = coarse_topk(
            queries.coarse,
            snapshot.coarse,
            keep,
            mask=mask,
            max_norm=snapshot.coarse_norm,
            backend=self.backend,
        )
        coarse_done = self._clock()
        if mode == "two_stage":
            best = rerank_topk(queries.fine, snapshot.fine, best.rows, k, backend=self.backend)
        return best, coarse_done - started, self._clock() - coarse_done

    def _candidates(self, k: int, candidates: int | None) -> int:
        if candidates is None:
            candidates = self.candidates
        if candidates is None:
            return max(FEWEST_CANDIDATES, 4 * k)
        if check_count("candidates", candidates) < k:
            raise InvalidArgument(
                "candidates",
                expected=f"at least k ({k})",
                got=str(candidates),
                remedy="Keep more candidates, or ask for fewer results.",
            )
        return candidates

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def warmup(self, batch_sizes: Sequence[int] = (1, 32), k: int = 10) -> None:
        """Run a search of each batch size, so that the first real one pays for no compilation or allocation."""
        fine_dim, coarse_dim = self._snapshot.fine.shape[1], self._snapshot.coarse.shape[1]
        for size in batch_sizes:
            size = check_count("batch_sizes", size)
            self.search(Embeddings(torch.zeros(size, coarse_dim), torch.zeros(size, fine_dim)), k)

    # ------------------------------------------------------------------ changing

    def add(
        self,
        items: Sequence[Any] | None = None,
        *,
        embeddings: Embeddings | Any = None,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Add items to encode (images or texts, as in `search`), or their embeddings. All are added, or none.

        `ids` default to the integers after the largest one; an index with str ids needs them given.
        """
        if (items is None) == (embeddings is None):
            raise InvalidArgument(
                "items",
                expected="either items or embeddings",
                got="both" if items is not None else "neither",
                remedy="Give one of them.",
            )
        added = embed(
            embeddings if items is None else items,
            self._open_encoder,
            encoders_coarse=self._snapshot.reduction is None,
        )
        with self._lock:
            snapshot = self._snapshot
            if snapshot.learns and added.coarse is None:
                # Checked first: one NaN would spoil every coarse vector.
                snapshot.project(added, coarse_too=False)
                snapshot = snapshot.learned_with(added.fine)
            vectors = snapshot.project(added, coarse_too=True)
            assert vectors.coarse is not None
            new = Index.build(
                vectors.coarse.cpu().numpy(),
                vectors.fine.cpu().numpy(),
                ids=snapshot.index.next_ids(len(added)) if ids is None else ids,
                metadata=metadata,
            )
            self._snapshot = Snapshot.of(snapshot.index.append(new), self.device)

    def remove(self, ids: Sequence[Id]) -> None:
        """Remove the items with these ids; the others keep theirs. UnknownId if one is not there."""
        with self._lock:
            self._snapshot = Snapshot.of(self._snapshot.index.without(ids), self.device)

    def save(self, path: str | Path) -> None:
        """Write the index to a directory, from which `Retriever(path)` opens it."""
        self._snapshot.index.save(path)

    def close(self) -> None:
        """Let go of vectors and encoder; the retriever is empty afterwards."""
        with self._lock:
            self._snapshot = Snapshot.of(self._snapshot.index.emptied(), self.device)
            self._encoder = None

    # ------------------------------------------------------------------ itself

    @property
    def index(self) -> Index:
        """The index as it is now."""
        return self._snapshot.index

    def __len__(self) -> int:
        return len(self._snapshot.index)

    def __enter__(self) -> "Retriever":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        coarse, fine = self._snapshot.coarse, self._snapshot.fine
        tiers = ", ".join(
            f"{name}={tensor.shape[1]}x{str(tensor.dtype).removeprefix('torch.')} ({tensor.nbytes:,} B)"
            for name, tensor in (("coarse", coarse), ("fine", fine))
        )
        return f"Retriever(N={len(self):,}, {tiers}, device={str(self.device)!r}, backend={self.backend!r})"

    def _open_encoder(self) -> Encoder:
        with self._lock:
            if self._encoder is None:
                reference = self._snapshot.index.checkpoint
                if reference is None:
                    raise InvalidArgument(
                        "encoder",
                        expected="an encoder, to search with text or images",
                        got="None, and the index remembers no checkpoint",
                        remedy="Pass Retriever(…, encoder=CHECKPOINT), or search with embeddings.",
                    )
                self._encoder = self._matching(
                    open_encoder(reference.path, device=str(self.device))
                )
            return self._encoder

    def _matching(self, encoder: Encoder) -> Encoder:
        """`encoder`, if it can have made this index's vectors."""
        index = self._snapshot.index
        if index.checkpoint is not None and index.checkpoint.sha256 != encoder.reference.sha256:
            raise CheckpointMismatch(
                f"encoder: the checkpoint that made the index expected ({index.checkpoint.path}, sha256 "
                f"{index.checkpoint.sha256[:12]}…), got {encoder.reference.path} "
                f"({encoder.reference.sha256[:12]}…). Use that one, or build the index again."
            )
        if encoder.fine_dim != index.header.fine_dim:
            raise CheckpointMismatch(
                f"encoder: fine vectors of {index.header.fine_dim} dims expected by the index, got "
                f"{encoder.fine_dim}. Use the encoder that made the index, or build it again."
            )
        return encoder


def check_count(name: str, value: Any) -> int:
    """An integer of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise InvalidArgument(
            name,
            expected="an integer of at least 1",
            got=repr(value),
            remedy="Give a positive count.",
        )
    return int(value)
