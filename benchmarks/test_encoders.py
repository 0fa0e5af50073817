"""The example's two towers by runtime; `benchmarks.encoders` has more models, in turns."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Timed
from benchmarks.encoders import EXAMPLE, exported, inputs, runtimes
from engine.checkpoints import Checkpoint, open_checkpoint
from engine.encoders.manifest import Tower


@cache
def example() -> tuple[Checkpoint, dict[str, dict[str, Any]]]:
    work = Path("build/encoders")
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(EXAMPLE)
    return checkpoint, runtimes(checkpoint, partial(exported, EXAMPLE, work / "example.export"))


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("runtime", ["torch", "ONNX Runtime", "TensorRT"])
def test_encode(timed: Timed, runtime: str, tower: Tower, batch: int) -> None:
    checkpoint, found = example()
    opened = found.get(runtime, {"not_supported": "it needs a GPU"})
    if "encoder" not in opened:
        pytest.skip(f"{runtime}: {opened}")
    run = partial(getattr(opened["encoder"], tower), *inputs(checkpoint, tower, batch))
    timed(run, op="encode", model="example", runtime=runtime, tower=tower, B=batch)
