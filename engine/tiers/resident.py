"""`Resident`: vectors in one tensor on a device, with room for more, so that growing copies only what is new."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.embeddings import as_tensor
from engine.index.manifest import NUMPY_DTYPES, Array


@dataclass
class _Room:
    """A buffer that snapshots share: each sees its first rows; rows below `used` are never written again."""

    buffer: Tensor
    used: int


@dataclass(frozen=True, eq=False)
class Resident:
    """`tensor` `[N, dim]`: the first rows of a buffer, of which the first `grown_from` are those of another one."""

    tensor: Tensor
    room: _Room
    grown_from: int = 0

    @classmethod
    def of(
        cls,
        arrays: Sequence[Array],
        dim: int,
        dtype: str,
        device: torch.device,
        *,
        before: "Resident | None" = None,
        same_rows: int = 0,
        pinned: bool = False,
    ) -> "Resident":
        """All rows of `arrays` `[n, dim]`, one after the other.

        before, same_rows: the first `same_rows` rows are those of `before`. Where all of its rows are the same (the
            rest is compared), they are not copied again.
        pinned: in host memory that a GPU reads; `device` is then the CPU.
        """
        if before is not None and before._begins(arrays, same_rows):
            return before._grown(_after(arrays, len(before.tensor)), pinned)
        tensors = [as_tensor(array) for array in arrays]
        if len(tensors) == 1:  # on a CPU: no copy
            whole = tensors[0].pin_memory() if pinned else tensors[0].to(device)
            return cls(whole, _Room(whole, len(whole)))
        count = sum(map(len, tensors))
        empty = as_tensor(np.empty((0, dim), NUMPY_DTYPES[dtype]))
        buffer = torch.empty(count, dim, dtype=empty.dtype, device=device, pin_memory=pinned)
        _fill(buffer, 0, tensors)
        return cls(buffer, _Room(buffer, count))

    def begins_with(self, other: "Resident") -> bool:
        """Whether all rows of `other` were taken over as the first ones here."""
        return self is other or self.grown_from == len(other.tensor)

    def _begins(self, arrays: Sequence[Array], same_rows: int) -> bool:
        """Whether `arrays` begin with these rows; the first `same_rows` are not looked at."""
        for array in _after(arrays, same_rows):
            here = self.tensor[same_rows : same_rows + len(array)]
            if not torch.equal(here, as_tensor(array[: len(here)]).to(here.device)):
                return False
            same_rows += len(here)
        return same_rows == len(self.tensor)

    def _grown(self, arrays: Sequence[Array], pinned: bool) -> "Resident":
        """These rows and then those of `arrays`."""
        if not arrays:
            return self
        first = len(self.tensor)
        count = first + sum(map(len, arrays))
        room = self.room
        if (
            room.used != first or len(room.buffer) < count
        ):  # another snapshot has the room, or there is none
            shape = (count + count // 4, self.tensor.shape[1])
            buffer = torch.empty(
                shape, dtype=self.tensor.dtype, device=self.tensor.device, pin_memory=pinned
            )
            buffer[:first] = self.tensor
            room = _Room(buffer, first)
        room.used = count
        _fill(room.buffer, first, [as_tensor(array) for array in arrays])
        return Resident(room.buffer[:count], room, first)


def _after(arrays: Sequence[Array], rows: int) -> list[Array]:
    """What is left of arrays, in sequence, after so many rows."""
    left = []
    for array in arrays:
        if len(array) > rows:
            left.append(array[rows:])
        rows = max(0, rows - len(array))
    return left


def _fill(buffer: Tensor, first: int, tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        buffer[first : first + len(tensor)].copy_(tensor)
        first += len(tensor)
