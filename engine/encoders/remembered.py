"""The encoder of an index: the one it remembers, or the one the caller names, opened only if it is the right one.

What an index remembers was written by whoever made the index, perhaps a stranger. So it is opened as data only
(safetensors, ONNX graphs): TensorRT engines are native code, and run where the caller names their export. Only a
reference that was recorded as an id on the Hugging Face hub is fetched from there; a path never becomes one.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from engine.checkpoints.files import CONFIG, OPEN_CLIP_CONFIG, checkpoints_in
from engine.encoders.manifest import MANIFEST
from engine.encoders.opening import open_encoder
from engine.errors import CheckpointError
from engine.index import CheckpointReference

if TYPE_CHECKING:
    from engine.encoders.dual_encoder import DualEncoder

HOW = (
    "Name its directory, or one above it: Retriever(…, encoder=DIRECTORY), --checkpoint DIRECTORY."
)


def open_remembered(
    expected: CheckpointReference, index: Path | None, *, device: str = "auto"
) -> "DualEncoder":
    """The encoder that the index in `index` remembers: beside it, where it was, or on the hub if it was there.

    Raises CheckpointError saying where it was looked for, CheckpointMismatch where another checkpoint is there.
    """
    if expected.hub:
        return open_encoder(expected.path, device=device, expected=expected, engines=False)
    refusals = []
    for place in expected.places(index):
        if place.is_dir():
            try:
                return open_encoder(place, device=device, expected=expected, engines=False)
            except CheckpointError as refused:
                refusals.append(refused)
    if refusals:
        raise refusals[0]
    looked = " or ".join(dict.fromkeys(os.path.abspath(p) for p in expected.places(index)))
    raise CheckpointError(
        "encoder",
        expected=f"the checkpoint that made the index (sha256 {expected.sha256}) in {looked}",
        got="nothing there",
        remedy=HOW,
    )


def open_named(
    named: str | Path, expected: CheckpointReference | None, *, device: str = "auto"
) -> "DualEncoder":
    """The encoder that the caller names for an index: a checkpoint, an export, or a folder with the right one."""
    root = Path(named)
    is_one = any((root / name).is_file() for name in (MANIFEST, CONFIG, OPEN_CLIP_CONFIG))
    if expected is None or is_one or not root.is_dir():
        return open_encoder(named, device=device, expected=expected)
    places = list(checkpoints_in(root))
    for place in places:
        try:
            return open_encoder(place, device=device, expected=expected)
        except CheckpointError:
            continue  # another one, or no whole one
    found = ", ".join(str(place.relative_to(root)) for place in places) or "no checkpoint"
    raise CheckpointError(
        str(root),
        expected=f"the checkpoint that made the index (sha256 {expected.sha256}) in it",
        got=found,
        remedy=HOW,
    )
