"""Checkpoints in other forms, damaged, pickled or elsewhere: the same vectors, or an error that names the fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import engine

pytest.importorskip("transformers")  # at import: a GPU machine collects this file without it

import huggingface_hub
from transformers import AutoProcessor, CLIPModel

from engine.checkpoints import open_checkpoint
from engine.checkpoints.convert import convert
from engine.checkpoints.files import checksum
from tests.engine.checkpoints.inputs import SENTENCES, command, encoder, images

# ---------------------------------------------------------------- pickles, by request only


def pickled(directory: Path, tmp_path: Path, wrap: str) -> tuple[Path, Path]:
    """The weights of a checkpoint as a pickle, and a copy of its directory without them."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(directory, copy)
    (weights,) = copy.glob("*.safetensors")
    tensors = load_file(weights)
    weights.unlink()
    kept: Any = {"": tensors, "state_dict": {"epoch": 3, "state_dict": tensors}}.get(wrap)
    if wrap == "module":
        kept = {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}
    torch.save(kept, tmp_path / "weights.pt")
    return tmp_path / "weights.pt", copy


@pytest.mark.parametrize(
    ("name", "wrap"), [("clip", ""), ("siglip2", "state_dict"), ("open_clip", "module")]
)
def test_converted_weights_give_the_same_vectors(
    small: Any, tmp_path: Path, name: str, wrap: str
) -> None:
    file, copy = pickled(small(name), tmp_path, wrap)
    with pytest.raises(
        engine.CheckpointError, match=r"expected .*, got no (open_clip_)?model.safetensors"
    ):
        open_checkpoint(copy)
    written = command("convert", file, copy)["weights"]
    assert Path(written).parent == copy
    before, after = (encoder(open_checkpoint(place)) for place in (small(name), copy))
    assert torch.equal(before.encode_texts(SENTENCES).fine, after.encode_texts(SENTENCES).fine)


def test_a_pickle_in_a_directory_is_never_opened_by_itself(small: Any, tmp_path: Path) -> None:
    """It is named with the command that converts it."""
    file, copy = pickled(small("clip"), tmp_path, "")
    file.rename(copy / "pytorch_model.bin")
    with pytest.raises(
        engine.CheckpointError,
        match=f"python -m engine convert {copy / 'pytorch_model.bin'} {copy}$",
    ):
        open_checkpoint(copy)


def test_a_pickle_of_another_model(small: Any, tmp_path: Path) -> None:
    file, copy = pickled(small("clip"), tmp_path, "")
    tensors = torch.load(file, weights_only=True)
    tensors["extra"] = tensors.pop("text_projection.weight")
    tensors["visual_projection.weight"] = torch.zeros(3, 4)
    torch.save(tensors, file)
    with pytest.raises(engine.CheckpointError) as refused:
        convert(file, copy)
    message = str(refused.value)
    for part in (
        "weights.pt",
        "missing keys: ['text_projection.weight']",
        "unexpected keys: ['extra']",
        "('visual_projection.weight', [3, 4], [20, 32])",
    ):
        assert part in message
    assert not list(copy.glob("*safetensors*"))


class Runs:
    """What a pickle may do to whoever opens it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_pickle_that_would_run_something(small: Any, tmp_path: Path) -> None:
    file, copy = pickled(small("clip"), tmp_path, "")
    torch.save({"weight": torch.zeros(1), "evil": Runs(tmp_path / "ran")}, file)
    for content in (file.read_bytes(), b"", b"\x80\x02no pickle"):
        file.write_bytes(content)
        with pytest.raises(
            engine.CheckpointError, match="expected a pickle of tensors alone, got "
        ):
            convert(file, copy)
    torch.save({"weight": torch.zeros(1), "step": 7}, file)
    with pytest.raises(engine.CheckpointError, match=r"tensors by name.* got also step"):
        convert(file, copy)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_there_are_not_replaced(small: Any, tmp_path: Path) -> None:
    file, copy = pickled(small("clip"), tmp_path, "")
    convert(file, copy)
    before = (copy / "model.safetensors").read_bytes()
    with pytest.raises(engine.CheckpointError, match="Move it away"):
        convert(file, copy)
    assert (copy / "model.safetensors").read_bytes() == before


# ---------------------------------------------------------------- other forms of the same, and damage


@pytest.fixture
def copied(small: Any, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a small checkpoint, entries of its configuration changed; `text_config.x` goes one level down."""

    def copy(name: str, remove: str = "", **changes: Any) -> Path:
        place = tmp_path / "checkpoint"
        shutil.copytree(small(name), place)
        if remove:
            (place / remove).unlink()
        for file in (place / "config.json", place / "open_clip_config.json"):
            if changes and file.is_file():
                config = json.loads(file.read_text())
                for path, value in changes.items():
                    *above, key = path.split("__")
                    inner = config
                    for part in above:
                        inner = inner[part]
                    inner[key] = value
                file.write_text(json.dumps(config))
        return place

    return copy


def assert_same_vectors(one: Path, other: Path) -> None:
    before, after = (encoder(open_checkpoint(place)) for place in (one, other))
    assert torch.equal(before.encode_texts(SENTENCES).fine, after.encode_texts(SENTENCES).fine)
    assert torch.equal(before.encode_images(images()).fine, after.encode_images(images()).fine)


def test_weights_in_shards(small: Any, copied: Callable[..., Path]) -> None:
    place = copied("clip", remove="model.safetensors")
    CLIPModel.from_pretrained(small("clip")).save_pretrained(place, max_shard_size="20KB")
    assert len(list(place.glob("model-*.safetensors"))) > 1
    assert_same_vectors(small("clip"), place)
    before = checksum(place)
    shard = sorted(place.glob("model-*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert checksum(place) != before
    shard.unlink()
    with pytest.raises(engine.CheckpointError, match=f"got {shard.name!r}, which is not there"):
        open_checkpoint(place)


def test_a_processor_saved_as_one_file(small: Any, copied: Callable[..., Path]) -> None:
    """As transformers 5 does: processor_config.json instead of preprocessor_config.json."""
    place = copied("siglip", remove="preprocessor_config.json")
    AutoProcessor.from_pretrained(small("siglip")).save_pretrained(place)
    assert not (place / "preprocessor_config.json").exists()
    assert_same_vectors(small("siglip"), place)


def test_a_clip_tokenizer_of_before_tokenizer_json(small: Any, copied: Callable[..., Path]) -> None:
    place = copied("clip", remove="tokenizer.json")
    model = json.loads((small("clip") / "tokenizer.json").read_text())["model"]
    (place / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(merge) for merge in model["merges"])
    (place / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    assert_same_vectors(small("clip"), place)


@pytest.mark.parametrize(
    "said",
    [
        {"tokenizer_class": "Siglip2Tokenizer"},
        {"tokenizer_class": "GemmaTokenizer"},
        {"tokenizer_class": "GemmaTokenizerFast", "do_lower_case": True},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True},
    ],
)
def test_siglip_2_is_lower_case_where_its_tokenizer_file_forgot(
    small: Any, copied: Callable[..., Path], said: dict[str, Any]
) -> None:
    """Its published directories name Gemma's tokenizer, which lowers nothing."""
    place = copied("siglip2")
    about = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(about | said))
    file = place / "tokenizer.json"
    settings = json.loads(file.read_text())
    assert settings["normalizer"]["normalizers"].pop(0) == {"type": "Lowercase"}
    file.write_text(json.dumps(settings))
    assert_same_vectors(small("siglip2"), place)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("clip", "config.json"),
        ("clip", "model.safetensors"),
        ("clip", "preprocessor_config.json"),
        ("siglip2", "tokenizer.json"),
        ("siglip", "tokenizer_config.json"),
        ("open_clip", "open_clip_config.json"),
        ("open_clip", "open_clip_model.safetensors"),
        ("open_clip", "tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(copied: Callable[..., Path], name: str, file: str) -> None:
    with pytest.raises(engine.CheckpointError, match=f"expected .*, got no .*{file}"):
        open_checkpoint(copied(name, remove=file))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "clip",
            {"model_type": "blip"},
            "expected model_type 'hivlp', 'clip' or 'siglip', got 'blip'",
        ),
        (
            "siglip2",
            {"model_type": "siglip2"},
            "expected SigLIP 2 of a fixed resolution, got its NaFlex",
        ),
        ("clip", {"projection_dim": 21}, r"mismatched keys: .*text_projection.* and|mismatched"),
        ("clip", {"vision_config__num_hidden_layers": 3}, r"missing keys: \[.*layers.2.* more"),
        ("siglip", {"text_config__num_hidden_layers": 0}, "unexpected keys"),
        ("clip", {"text_config__num_attention_heads": 5}, "expected a readable checkpoint, got "),
        ("clip", {"text_config__hidden_size": "many"}, "hidden_size"),
        ("open_clip", {"model_cfg__embed_dim": 21}, r"\('text_projection.weight', .*\[21, 24\]"),
        ("open_clip", {"model_cfg__vision_cfg__layers": [3, 4, 6, 3]}, "vision transformers"),
        ("open_clip", {"model_cfg__text_cfg__hf_model_name": "x"}, "which changes the network"),
        ("open_clip", {"model_cfg__vision_cfg__timm_model_name": "x"}, "which changes the network"),
        ("open_clip", {"model_cfg": [1]}, "expected a JSON object model_cfg, got "),
        ("open_clip", {"preprocess_cfg__resize_mode": "longest"}, "resize_mode"),
        ("open_clip", {"preprocess_cfg__interpolation": "random"}, "interpolation"),
    ],
)
def test_a_configuration_that_does_not_fit(
    copied: Callable[..., Path], name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(engine.CheckpointError, match=message):
        open_checkpoint(copied(name, **changes))


def test_a_file_of_another_form(copied: Callable[..., Path]) -> None:
    place = copied("open_clip")
    for file, content in (
        ("open_clip_model.safetensors", b"\x08" * 40),
        ("tokenizer.json", b'{"model": 3}'),
        ("tokenizer_config.json", b"[]"),
        ("open_clip_config.json", b"\xff"),
    ):
        whole = (place / file).read_bytes()
        (place / file).write_bytes(content)
        with pytest.raises(engine.CheckpointError, match=file.partition(".")[0]):
            open_checkpoint(place)
        (place / file).write_bytes(whole)
    settings = json.loads((place / "tokenizer_config.json").read_text())
    settings["pad_token"] = None
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(engine.CheckpointError, match="expected a pad_token, got none"):
        open_checkpoint(place)


# ---------------------------------------------------------------- the hub, as far as there is no network


def test_a_hub_id_is_fetched_without_pickles(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(small("clip"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    checkpoint = open_checkpoint("someone/some-clip")
    assert asked == [("someone/some-clip", ["*.json", "*.safetensors", "*.txt", "*.model"])]
    assert checkpoint.reference.path == "someone/some-clip"
    assert checkpoint.reference.sha256 == checksum(small("clip"))


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(engine.CheckpointError, match=r"someone/some-clip: .* no such directory"):
        engine.open_encoder("someone/some-clip")
    for place in ("nothing", "a/b/c", "./someone/some-clip/", "~/some clip"):
        with pytest.raises(
            engine.CheckpointError, match=r"expected a checkpoint directory, got nothing"
        ):
            engine.open_encoder(place)


# ---------------------------------------------------------------- pictures of another size


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip", {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}),
        ("clip", {"size": {"height": 32, "width": 48}, "do_center_crop": False}),
        ("clip", {"do_resize": False, "do_center_crop": False}),
        ("siglip", {"size": {"height": 48, "width": 48}}),
    ],
)
def test_a_preprocessor_of_another_model(
    copied: Callable[..., Path], name: str, settings: dict[str, Any]
) -> None:
    place = copied(name)
    file = place / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(
        engine.CheckpointError,
        match=r"expected pictures of 32 x 32, as config\.json says, got .* by preprocessor_config\.json",
    ):
        open_checkpoint(place)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."]
)
def test_weights_of_a_wrapped_model_are_converted(small: Any, tmp_path: Path, prefix: str) -> None:
    """What torch.compile, data parallelism and trainers put before every key."""
    _, copy = pickled(small("clip"), tmp_path, "")
    tensors = load_file(small("clip") / "model.safetensors")
    torch.save({prefix + key: tensor for key, tensor in tensors.items()}, tmp_path / "weights.pt")
    convert(tmp_path / "weights.pt", copy)
    found = load_file(copy / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_a_checkpoint_in_a_folder_is_named(small: Any, tmp_path: Path) -> None:
    """sentence-transformers keeps it in one."""
    shutil.copytree(small("clip"), tmp_path / "0_CLIPModel")
    with pytest.raises(engine.CheckpointError, match=r"Give the one inside: .*0_CLIPModel$"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 1_000)])
def test_one_thin_picture_costs_no_gigabytes(small: Any, size: tuple[int, int]) -> None:
    """Its middle is resized alone, to what the middle of all of it would be; 1 x 20,000 whole takes 60 MB here."""
    processor = open_checkpoint(small("clip")).processor
    chance = np.random.default_rng(0)
    rows = chance.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    picture = Image.fromarray(rows)
    wanted = processor.image_processor([picture], return_tensors="pt")["pixel_values"]
    resized: list[int] = []
    original = processor.image_processor.resize

    def watched(image: Any, *arguments: Any, **named: Any) -> Any:
        result = original(image, *arguments, **named)
        resized.append(max(result.shape))
        return result

    processor.image_processor.resize = watched
    found = processor.pixels([picture])
    assert max(resized) <= 32 * 32
    torch.testing.assert_close(found, wanted, atol=0.1, rtol=0)
