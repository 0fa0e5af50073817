"""The PyTorch versions: the CPU engine, and what runs on a GPU without Triton."""

from kernels._torch.coarse import coarse_topk
from kernels._torch.rerank import rerank_topk

__all__ = ["coarse_topk", "rerank_topk"]
