"""Features computed for training: the same for the same pictures, wherever they lie."""

import shutil
from pathlib import Path

import torch

from engine.checkpoints import open_checkpoint
from engine.dataset import read_dataset
from engine.model import HiVLPModel
from engine.training.features import picture_features
from tests.conftest import CHECKPOINT


def test_views_depend_on_the_pictures_and_the_seed_not_on_their_folder(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    model = HiVLPModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    processor = open_checkpoint(CHECKPOINT).processor
    shutil.copytree(tiny_dataset, tmp_path / "elsewhere")
    here, there = read_dataset(tiny_dataset)[:3], read_dataset(tmp_path / "elsewhere")[:3]
    assert [e.captions for e in here] == [e.captions for e in there]
    found = picture_features(model, processor, here, 3, 0)
    assert torch.equal(picture_features(model, processor, there, 3, 0), found)
    other = picture_features(model, processor, here, 3, 1)
    assert torch.equal(other[:, 0], found[:, 0])  # the picture itself
    assert not torch.equal(other[:, 1:], found[:, 1:])
    flat = found.flatten(0, 1)
    assert len(flat.unique(dim=0)) == len(flat)
