"""Building an index from pictures or vectors.

build.py      one build from beginning to end
sources.py    what a path stands for: records, as `engine.reading` reads them, with ids and metadata
blocks.py     records that stand together, with their vectors
kinds.py      metadata, of one kind a column
naming.py     ids that tell sources apart
encoding.py   pictures decoded in parallel, encoded in order
state.py      how far an unfinished build has come
"""

from engine.building.build import build_index, index_folder
from engine.building.built import Built

__all__ = ["Built", "build_index", "index_folder"]
