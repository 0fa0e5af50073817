"""Sentences, pictures and encoders that several tests of checkpoints use."""

import json
from typing import Any

from PIL import Image
from typer.testing import CliRunner

import engine
from engine.checkpoints import Checkpoint
from engine.cli.commands import app
from engine.encoders.torch_encoder import torch_encoder
from tests.conftest import PICTURES

# Upper case, a punctuation mark, letters never seen, one word, and more than fits.
SENTENCES = ["A red Car!", "zebra 🦓 née", "dog", "the quick brown fox jumps " * 30]


def images() -> list[Image.Image]:
    """A portrait, a landscape, a tiny and a square picture."""
    files = sorted((PICTURES / "noto").glob("*.webp"))[5:400:100]
    sizes = ((50, 90), (131, 64), (7, 9), (64, 64))
    return [
        Image.open(file).convert("RGB").resize(size)
        for file, size in zip(files, sizes, strict=True)
    ]


def encoder(checkpoint: Checkpoint) -> engine.Encoder:
    return torch_encoder(checkpoint, device="cpu", why="a test")


def command(*arguments: object) -> Any:
    """A command's JSON, run in this process: transformers takes seconds to import."""
    outcome = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert outcome.exit_code == 0
    return json.loads(outcome.stdout)
