"""`Gathered`: the parts of one segment, encoded and not added yet."""

from typing import Any

import torch

from engine.building.items import IdKind, Part, Skip
from engine.building.kinds import Kinds
from engine.building.sources import Source
from engine.embeddings import Embeddings
from engine.index import Id


class Gathered:
    """`at`: the source and the offset in it where the parts end.

    ids, sources, places: of each entry, what its source calls it, the source, and where in it the entry is.
    """

    def __init__(self) -> None:
        self.at = (0, 0)
        self.taken = self.held = 0
        self.ids: list[Id] = []
        self.sources: list[Source] = []
        self.places: list[str] = []
        self.metadata: list[Any] = []
        self.skipped: list[Skip] = []
        self._vectors: list[Embeddings] = []

    def take(self, part: Part, source: Source, ids_are: IdKind | None, kinds: Kinds) -> None:
        """Count `part` of `source` in, its ids made of one kind, its metadata of one kind per column."""
        self.taken += part.taken
        self.held += part.held
        self.ids += [str(id) for id in part.ids] if ids_are == "str" else part.ids
        self.sources += [source] * len(part.ids)
        self.places += part.places
        self.metadata += [kinds.settle(values) for values in part.metadata]
        self.skipped += part.skipped
        if part.vectors is not None and part.ids:
            self._vectors.append(part.vectors)

    def vectors(self) -> Embeddings:
        """All of them; coarse ones where every part has them."""
        coarse = [part.coarse for part in self._vectors if part.coarse is not None]
        whole = len(coarse) == len(self._vectors)
        fine = torch.cat([part.fine.float() for part in self._vectors])
        return Embeddings(torch.cat(coarse) if whole else None, fine)
