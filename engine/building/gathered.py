"""`Gathered`: the blocks of one segment, encoded and not added yet."""

from collections import Counter
from typing import Any

import torch

from engine.building.blocks import Block, IdKind, Skip
from engine.building.kinds import Kinds
from engine.building.sources import Source
from engine.embeddings import Embeddings
from engine.index import Id


class Gathered:
    """`at`: the source and the offset in it where the blocks end.

    ids, sources, places: of each record, what its source calls it, the source, and where in it the record is.
    """

    def __init__(self) -> None:
        self.at = (0, 0)
        self.taken = self.held = 0
        self.ids: list[Id] = []
        self.sources: list[Source] = []
        self.places: list[str] = []
        self.metadata: list[Any] = []
        self.skipped: list[Skip] = []
        self.remarks = Counter[str]()
        self._vectors: list[Embeddings] = []

    def take(self, block: Block, source: Source, ids_are: IdKind | None, kinds: Kinds) -> None:
        """Count `block` of `source` in, its ids made of one kind, its metadata of one kind per column."""
        self.taken += block.taken
        self.held += block.held
        self.ids += [str(id) for id in block.ids] if ids_are == "str" else block.ids
        self.sources += [source] * len(block.ids)
        self.places += block.places
        self.metadata += [kinds.settle(values) for values in block.metadata]
        self.skipped += block.skipped
        self.remarks.update(block.remarks)
        if block.vectors is not None and block.ids:
            self._vectors.append(block.vectors)

    def vectors(self) -> Embeddings:
        """All of them; coarse ones where every block has them."""
        coarse = [block.coarse for block in self._vectors if block.coarse is not None]
        whole = len(coarse) == len(self._vectors)
        fine = torch.cat([block.fine.float() for block in self._vectors])
        return Embeddings(torch.cat(coarse) if whole else None, fine)
