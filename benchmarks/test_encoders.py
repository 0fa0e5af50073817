"""The example's two towers by runtime; `benchmarks.encoders` has more models, in turns."""

from functools import cache, partial
from pathlib import Path

import pytest

from benchmarks.conftest import Timed
from benchmarks.encoders import EXAMPLE, _encoders, _exported, _inputs
from engine.checkpoints import Checkpoint, open_checkpoint
from engine.encoders.dual_encoder import DualEncoder
from engine.encoders.manifest import Tower


@cache
def example() -> tuple[Checkpoint, dict[str, DualEncoder]]:
    work = Path("build/encoders")
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(EXAMPLE)
    return checkpoint, _encoders(checkpoint, _exported(EXAMPLE, work / "example.export"))


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("runtime", ["torch", "ONNX Runtime", "TensorRT"])
def test_encode(timed: Timed, runtime: str, tower: Tower, batch: int) -> None:
    checkpoint, encoders = example()
    if runtime not in encoders:
        pytest.skip(f"no {runtime} for this machine")
    run = partial(getattr(encoders[runtime], tower), *_inputs(checkpoint, tower, batch))
    timed(run, op="encode", model="example", runtime=runtime, tower=tower, B=batch)
