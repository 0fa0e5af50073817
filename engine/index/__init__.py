"""The index: vectors, ids and metadata of all items as a value, and as a directory that lasts. NumPy only.

`index.py` is the value, `changes.py` and `saving.py` what becomes of it, `directory.py` and `manifest.py` the
format (docs/index-format.md), `lock.py` the one writer.
"""

from engine.index.changes import OnConflict
from engine.index.checks import Id, check_vectors
from engine.index.index import Index
from engine.index.lock import WriterLock
from engine.index.manifest import Calibration, CheckpointReference, Quantization

__all__ = [
    "Calibration",
    "CheckpointReference",
    "Id",
    "Index",
    "OnConflict",
    "Quantization",
    "WriterLock",
    "check_vectors",
]
