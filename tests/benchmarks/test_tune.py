"""What the tuner writes is the table that the launches are read from."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.tune import written
from kernels._triton import launch_table
from kernels._triton.launch import TUNED, shape_class


def test_the_table_is_as_it_is_written() -> None:
    source = Path(launch_table.__file__).read_text(encoding="utf-8")
    assert written(launch_table.TABLE) == source
    row = (TUNED, *shape_class(256, 64, torch.float16))
    changed = written(launch_table.TABLE | {row: (32, 32, 4, 2, 96)})
    place: dict[str, object] = {}
    exec(compile(changed, "launch_table.py", "exec"), place)
    assert place["TABLE"] == launch_table.TABLE | {row: (32, 32, 4, 2, 96)}


def test_another_gpu_gets_rows_of_its_own() -> None:
    row = ((8, 9), "small", 64, 2)
    assert '    ((8, 9), "small", 64, 2): (16, 64, 4, 3, 240),\n' in written(
        launch_table.TABLE | {row: (16, 64, 4, 3, 240)}
    )
