"""Hierarchical image-text retrieval: coarse vectors over everything, fine vectors over the few.

    import engine
    r = engine.Retriever("my.index")
    hits = r.search(["a red car"], k=5)

Names are loaded when first used: opening an index needs NumPy alone, searching needs torch, and only encoding
text or pictures needs `transformers`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.embeddings import Embeddings
    from engine.encoders import Encoder, open_encoder
    from engine.errors import (
        BackendUnavailable,
        CheckpointError,
        CheckpointMismatch,
        DatasetError,
        EngineError,
        ImageError,
        IndexChanged,
        IndexFormatError,
        IndexLocked,
        InvalidArgument,
        MisfitWarning,
        MissingPackage,
        RuntimeUnavailable,
        StorageError,
        TrainingError,
        UnknownId,
    )
    from engine.index import Index
    from engine.index.manifest import Calibration
    from engine.queries.query import Query
    from engine.result import Hit, SearchResult, Timings
    from engine.retriever import Retriever

__version__ = "0.1.0"

_ROOMS = {
    "Embeddings": "embeddings",
    "Encoder": "encoders",
    "open_encoder": "encoders",
    "Index": "index",
    "Calibration": "index",
    "Query": "queries.query",
    "Hit": "result",
    "SearchResult": "result",
    "Timings": "result",
    "Retriever": "retriever",
    **dict.fromkeys(
        (
            "BackendUnavailable",
            "CheckpointError",
            "CheckpointMismatch",
            "DatasetError",
            "EngineError",
            "IndexChanged",
            "IndexFormatError",
            "IndexLocked",
            "InvalidArgument",
            "MisfitWarning",
            "MissingPackage",
            "RuntimeUnavailable",
            "StorageError",
            "ImageError",
            "TrainingError",
            "UnknownId",
        ),
        "errors",
    ),
}

__all__ = [
    "BackendUnavailable",
    "Calibration",
    "CheckpointError",
    "CheckpointMismatch",
    "DatasetError",
    "Embeddings",
    "Encoder",
    "EngineError",
    "Hit",
    "ImageError",
    "Index",
    "IndexChanged",
    "IndexFormatError",
    "IndexLocked",
    "InvalidArgument",
    "MisfitWarning",
    "MissingPackage",
    "Query",
    "Retriever",
    "RuntimeUnavailable",
    "SearchResult",
    "StorageError",
    "Timings",
    "TrainingError",
    "UnknownId",
    "open_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(f"engine.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
