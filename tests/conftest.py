"""What several test files share: the bundled examples, and a small checkpoint that may be damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.system.threads import wait_passively

wait_passively()  # here and in what tests start: machines that test are busy
import torch  # noqa: E402

os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start: see `pytest_runtest_setup`

# What takes longest of the files, each of which runs on one worker: begun first. Begun last, as pytest-xdist would
# have it (it begins with the files of most tests), one worker would be at one of them and the others have no work.
LONGEST = (
    "docs/test_code_blocks.py",
    "kernels/test_contract_coarse.py",
    "kernels/test_triton_paths.py",
    "kernels/test_contract_rerank.py",
    "examples/test_demo.py",
    "engine/training/test_training_run.py",
    "engine/building/test_building_resume.py",
    "export/test_export.py",
    "engine/index/test_crash.py",
    "kernels/test_triton_mutants.py",
)

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "examples" / "pictures"
CHECKPOINT = ROOT / "examples" / "checkpoint"


def pytest_configure(config: pytest.Config) -> None:
    """`-m gpu` sees the GPU; all other tests are of the CPU, also where there is a GPU.

    With no GPU the Triton kernels are interpreted. Triton reads this when it is first imported, and transformers,
    which some tests import, imports it: so it is set before any test file is read. Workers take the files in the
    order of the tests.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist is there
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test and its fixtures start with one thread, whatever the test before has set.

    Tests run side by side, and more threads would wait for each other's. Sums of floats depend on how many there
    are, and some tests compare what two processes computed.
    """
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they were."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def untrained(image_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of our format with other dims than the example's and random heads and text tower."""
    from safetensors.torch import load_file
    from transformers import set_seed

    from engine.checkpoints import Processor
    from engine.model import HiVLPModel
    from engine.training import Settings
    from engine.training.publish import save_checkpoint
    from engine.training.start import new_image_processor, scratch_config
    from engine.training.tokenizer import train_tokenizer

    set_seed(1)
    settings = Settings(
        coarse_dim=8,
        fine_dim=24,
        heads="shared",
        head_dim=32,
        text_hidden=16,
        text_layers=1,
        vocabulary=60,
    )
    tokenizer = train_tokenizer(["a red car", "a dog and a cat"], 60, settings.max_length)
    place = tmp_path_factory.mktemp("checkpoints") / "untrained"
    model = HiVLPModel(scratch_config(settings, len(tokenizer)))
    model.image_tower.load_state_dict(load_file(image_weights))  # random, it would give zeros
    processor = Processor(
        new_image_processor(), tokenizer, padding="longest", max_tokens=settings.max_length
    )
    save_checkpoint(model, processor, place)
    return place


@pytest.fixture
def damaged(untrained: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of the small checkpoint with a file removed or entries of `config.json` changed."""

    def copy(remove: str | None = None, **changes: object) -> Path:
        place = tmp_path / "checkpoint"
        shutil.copytree(untrained, place)
        if remove is not None:
            (place / remove).unlink()
        if changes:
            config = json.loads((place / "config.json").read_text())
            (place / "config.json").write_text(json.dumps({**config, **changes}))
        return place

    return copy


@pytest.fixture
def some_pictures(tmp_path: Path) -> Path:
    """A user's folder: six pictures in two sub-folders, one of them not a picture by name."""
    folder = tmp_path / "my pictures"
    for source in ("noto", "twemoji"):
        (folder / source).mkdir(parents=True)
        for picture in sorted((PICTURES / source).glob("*.webp"))[:3]:
            shutil.copy(picture, folder / source)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve captioned pictures of six concepts, two styles each, out of the bundled ones."""
    folder = tmp_path_factory.mktemp("tiny")
    lines = (PICTURES / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    concepts = list(dict.fromkeys(record["concept"] for record in records))[:6]
    kept = [r for r in records if r["concept"] in concepts and r["source"] in ("noto", "twemoji")]
    for record in kept:
        (folder / record["image"]).parent.mkdir(exist_ok=True)
        shutil.copy(PICTURES / record["image"], folder / record["image"])
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def image_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example checkpoint's image tower as a file of its own."""
    from safetensors.torch import load_file, save_file

    weights = load_file(CHECKPOINT / "model.safetensors")
    prefix = "image_tower."
    tower = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    file = tmp_path_factory.mktemp("weights") / "efficientnet-lite0.safetensors"
    save_file(tower, file)
    return file


@pytest.fixture(scope="session")
def small_index(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, indexed by the small checkpoint."""
    from engine import open_encoder
    from engine.building import index_folder

    folder, place = tmp_path_factory.mktemp("six"), tmp_path_factory.mktemp("indexes") / "six"
    for picture in sorted((PICTURES / "noto").glob("*.webp"))[:6]:
        shutil.copy(picture, folder)
    index_folder(folder, open_encoder(untrained)).save(place)
    return place
