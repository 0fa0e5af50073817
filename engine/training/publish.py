"""A trained model as a checkpoint directory that is known to load."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from torch import nn

from engine.checkpoints import Processor, open_checkpoint
from engine.checkpoints.files import processor_files
from engine.dataset import Example
from engine.encoders.torch_encoder import torch_encoder
from engine.errors import TrainingError
from engine.images import read_image
from engine.model import HiVLPModel
from engine.training.start import Start

FACTS = "training.json"


def publish(start: Start, output: Path, pair: Example, facts: Mapping[str, Any]) -> None:
    """Write the checkpoint and what was done beside its place, open it, encode a pair, and only then move it there.

    Raises TrainingError, with nothing published, where its vectors are not finite.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.parent / f".{output.name}-{token_hex(4)}"
    draft.mkdir()  # with the rights that the umask leaves
    try:
        save_checkpoint(start.model, start.processor, draft, start.dtype, start.source)
        (draft / FACTS).write_text(json.dumps(dict(facts), indent=1) + "\n", encoding="utf-8")
        _try_out(draft, pair)
        draft.replace(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def save_checkpoint(
    model: HiVLPModel,
    processor: Processor,
    place: Path,
    dtype: torch.dtype = torch.float16,
    source: Path | None = None,
) -> None:
    """Write model and processor into `place`; the processor's files are copied from `source`, if there is one."""
    nn.Module.to(model, "cpu", dtype)
    model.save_pretrained(place)
    if source is None:
        processor.image_processor.save_pretrained(place)
        processor.tokenizer.save_pretrained(place)
        return
    for name in set(processor_files(source)) - {"config.json", "open_clip_config.json"}:
        shutil.copyfile(source / name, place / name)
    if not any(
        (place / n).is_file() for n in ("preprocessor_config.json", "processor_config.json")
    ):
        processor.image_processor.save_pretrained(place)  # open_clip has its own way of saying


def _try_out(draft: Path, pair: Example) -> None:
    encoder = torch_encoder(open_checkpoint(draft), device="cpu", why="to try it out")
    found = (
        encoder.encode_images([read_image(pair.image)]),
        encoder.encode_texts(pair.captions[:1]),
    )
    vectors = [part for both in found for part in (both.coarse, both.fine) if part is not None]
    if not all(bool(part.isfinite().all()) for part in vectors):
        raise TrainingError(
            "vectors",
            expected="finite numbers from the trained model",
            got="NaN or infinity",
            remedy="Nothing was published. Train with a lower --learning-rate.",
        )
