"""What a GPU changes in an export: the towers were there when their coarse vectors were learned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.encoders.manifest import Dtype
from export.run import Settings, export_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_coarse_vectors_learned_on_a_gpu_are_exported(
    small: Callable[[str], Path], settings: Callable[..., Settings], tmp_path: Path, dtype: Dtype
) -> None:
    manifest = export_checkpoint(str(small("clip")), tmp_path / "export", settings(dtype), [], None)
    assert manifest.coarse_from == "rotation"
    assert manifest.parity["passed"]
