"""Building an index from pictures or vectors.

build.py      one build from beginning to end
sources.py    what a path stands for
folders.py    pictures in folders; rows.py: tables; shards.py: WebDataset tars; vectors.py: vectors made elsewhere
encoding.py   pictures decoded in parallel, encoded in order
state.py      how far an unfinished build has come
"""

from engine.building.build import build_index, index_folder
from engine.building.report import Report

__all__ = ["Report", "build_index", "index_folder"]
