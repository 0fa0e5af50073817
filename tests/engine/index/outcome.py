"""What opening and using a damaged index comes to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engine
from tests.engine.index.model import COARSE

QUERY = np.array([[3, -1, 4, 1, -5]], dtype=np.float32)


def answer(place: Path) -> Any:
    """Everything that can be asked: scores and ids of both stages, an exact search, metadata, the row of an id."""
    r = engine.Retriever(place)
    asked = engine.Embeddings(torch.from_numpy(QUERY[:, :COARSE]), torch.from_numpy(QUERY))
    found = [r.search(asked, 9, mode=mode) for mode in ("exact", "coarse", "two_stage")]
    metadata = [[hit.metadata for hit in hits] for hits in found[0]]
    rows = r.index.rows_of(["item 1 4", "item 3 2"]).tolist()
    return [(hits.scores.tolist(), hits.ids) for hits in found], metadata, rows, len(r)


def outcome(place: Path, ask: Callable[[Path], Any] = answer) -> Any:
    """The answer, or the typed error's name."""
    try:
        return ask(place)
    except engine.EngineError as error:
        return type(error).__name__
