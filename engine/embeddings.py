"""`Embeddings`: the two vectors of a batch of queries or items."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Embeddings:
    """`coarse` `[B, d]` and `fine` `[B, D]`, row i of both belonging together.

    `coarse` is None where only fine vectors are known: the index then derives it by its reduction.
    """

    coarse: Tensor | None
    fine: Tensor

    def __len__(self) -> int:
        return len(self.fine)
