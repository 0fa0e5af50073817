"""`Captured`: the stages of a search of fixed shapes as CUDA graphs, each one launch for the host, not many."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from engine.embeddings import Embeddings
from engine.tiers.stopwatch import Stopwatch
from kernels import TopK


class Captured:
    """A two-stage search for as many queries as `queries`, which are any; the stages may wait for nothing.

    Called from any thread and on any stream: calls take turns. What the stages read beside their arguments is read
    where it was when captured. The graphs keep their own memory.

    Args:
        find: the candidates of coarse vectors `[B, d]`.
        rerank: the best of fine vectors `[B, D]` and the rows of the candidates `[B, C]`.
    """

    def __init__(
        self,
        find: Callable[[Tensor], TopK],
        rerank: Callable[[Tensor, Tensor], TopK],
        queries: Embeddings,
    ) -> None:
        assert queries.coarse is not None
        self._coarse, self._fine = queries.coarse.clone(), queries.fine.clone()
        self._device = queries.fine.device
        self._turn = threading.Lock()
        with torch.cuda.device(self._device):
            self._done = torch.cuda.Event()
            self._finding, self._reranking = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Compiles, and looks at what may not be looked at while capturing.
            rerank(self._fine, find(self._coarse).rows)
            torch.cuda.synchronize()
            # Other threads may go on allocating meanwhile.
            with torch.cuda.graph(self._finding, capture_error_mode="thread_local"):
                self._listed = find(self._coarse)
            with torch.cuda.graph(self._reranking, capture_error_mode="thread_local"):
                self._best = rerank(self._fine, self._listed.rows)

    def __call__(self, queries: Embeddings, watch: Stopwatch) -> tuple[TopK, TopK]:
        """What was found, and the candidates; marks the end of each stage."""
        assert queries.coarse is not None
        with self._turn, torch.cuda.device(self._device):
            self._done.wait()  # on this stream, for the call before on another
            self._coarse.copy_(queries.coarse)
            self._finding.replay()
            watch.mark()
            self._fine.copy_(queries.fine)
            self._reranking.replay()
            best, listed = (
                TopK(found.scores.clone(), found.rows.clone())
                for found in (self._best, self._listed)
            )
            watch.mark()
            self._done.record()
        return best, listed
