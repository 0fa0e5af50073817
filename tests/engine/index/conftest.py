"""Where the harnesses work."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a kill does not empty the page cache, so nothing else differs."""
    shared = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="index-", dir=shared if shared.is_dir() else tmp_path))
    yield place
    shutil.rmtree(place)
