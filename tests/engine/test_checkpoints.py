"""Checkpoints of every kind: their vectors are transformers' own, and what is damaged is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoProcessor, CLIPModel
from typer.testing import CliRunner

import engine
from engine.checkpoints import Checkpoint, open_checkpoint, open_processor
from engine.checkpoints.convert import convert
from engine.checkpoints.files import checksum
from engine.cli import app
from engine.encoders.torch_encoder import torch_encoder
from engine.reduction import learn_reduction
from tests.conftest import PICTURES
from tests.engine.open_clip_model import OpenClip
from tests.engine.small_models import SMALL

# Upper case, a punctuation mark, letters never seen, one word, and more than fits.
SENTENCES = ["A red Car!", "zebra 🦓 née", "dog", "the quick brown fox jumps " * 30]
TRANSFORMERS = [name for name in SMALL if not name.startswith("open_clip")]
OPEN_CLIP = [name for name in SMALL if name.startswith("open_clip")]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Directories of `SMALL` by name, each made once."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = SMALL[name](tmp_path_factory.mktemp("small") / name)
        return made[name]

    return of


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


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=2e-6, rtol=0)
    assert (found @ found.T).triu(1).max() < 0.9999  # the inputs make a difference


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_vectors_are_those_of_transformers(small: Any, name: str) -> None:
    """AutoModel and AutoProcessor, fed as the model cards say, know nothing of this package."""
    from transformers import AutoModel

    directory = small(name)
    model = AutoModel.from_pretrained(directory).eval()
    processor = AutoProcessor.from_pretrained(directory)
    length = model.config.text_config.max_position_embeddings
    padding = "longest" if name.startswith("clip") else "max_length"
    ids = processor.tokenizer(
        SENTENCES, padding=padding, truncation=True, max_length=length, return_tensors="pt"
    )
    pixels = processor.image_processor(images(), return_tensors="pt")
    with torch.inference_mode():
        texts = model.get_text_features(**ids).pooler_output
        pictures = model.get_image_features(**pixels).pooler_output
    ours = encoder(open_checkpoint(directory))
    assert_close(ours.encode_texts(SENTENCES).fine, texts)
    assert_close(ours.encode_images(images()).fine, pictures)
    assert ours.encode_texts(SENTENCES).coarse is None
    assert (ours.coarse_dim, ours.fine_dim) == (None, texts.shape[1])


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_vectors_are_those_of_open_clip(small: Any, name: str) -> None:
    checkpoint = open_checkpoint(small(name))
    config = json.loads((checkpoint.directory / "open_clip_config.json").read_text())
    oracle = OpenClip(config["model_cfg"]).eval()
    oracle.load_state_dict(load_file(checkpoint.directory / "open_clip_model.safetensors"))
    with torch.inference_mode():
        ids = checkpoint.processor.tokens(SENTENCES)["input_ids"]
        texts = oracle.encode_text(ids)
        pixels = checkpoint.processor.pixels(images())
        pictures = oracle.encode_image(pixels)
    ours = encoder(checkpoint)
    assert_close(ours.encode_texts(SENTENCES).fine, texts)
    assert_close(ours.encode_images(images()).fine, pictures)
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    assert pixels.shape == (4, 3, size, size)


def test_open_clip_prepares_pictures_as_its_file_says(small: Any) -> None:
    """A grey picture: (0.6 - mean) / std. Squashed or cut, by `resize_mode`."""
    grey = Image.new("RGB", (64, 32), (153, 153, 153))
    grey.paste((0, 0, 0), (0, 0, 8, 32))  # black at the left: cut away, unless squashed
    expected = (0.6 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.25])
    black = -torch.tensor([0.5, 0.4, 0.3]) / torch.tensor([0.2, 0.3, 0.25])
    cut, squashed = (open_processor(small(name)).pixels([grey])[0] for name in OPEN_CLIP)
    torch.testing.assert_close(cut[:, 5, 0], expected)
    torch.testing.assert_close(squashed[:, 5, 0], black)
    torch.testing.assert_close(squashed[:, 5, 20], expected)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_token_ids_are_those_of_transformers(small: Any, name: str) -> None:
    from transformers import AutoTokenizer

    processor = open_processor(small(name))
    theirs = AutoTokenizer.from_pretrained(small(name))(
        SENTENCES, padding="max_length", truncation=True, max_length=processor.max_tokens
    )["input_ids"]
    ours = processor.tokens(SENTENCES)["input_ids"]
    assert ours.tolist() == theirs  # the longest sentence fills its row either way
    one = processor.tokens(SENTENCES[2:3])["input_ids"]
    assert (one.shape[1] == processor.max_tokens) == name.startswith("siglip")


def test_siglip_attends_to_its_padding(small: Any) -> None:
    """Padding to the longest instead, or masking the padding, gives other vectors: the mistake would show."""
    checkpoint = open_checkpoint(small("siglip"))
    tokens = checkpoint.processor.tokens(["dog"])
    right = checkpoint.text(**tokens)[1]
    kept = int((tokens["input_ids"] != checkpoint.processor.tokenizer.pad_token_id).sum()) + 1
    short = checkpoint.text(tokens["input_ids"][:, :kept], tokens["attention_mask"][:, :kept])[1]
    assert float((right * short).sum()) < 0.99
    unmasked = checkpoint.text(tokens["input_ids"], torch.ones_like(tokens["attention_mask"]))[1]
    assert torch.equal(right, unmasked)


def test_padding_of_clip_changes_nothing(small: Any) -> None:
    for name in ("clip", "clip-other", "open_clip"):
        ours = encoder(open_checkpoint(small(name)))
        alone, together = (
            ours.encode_texts(["dog"]),
            ours.encode_texts(["dog", "a red car, asleep"]),
        )
        torch.testing.assert_close(alone.fine, together.fine[:1], atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_a_processor_opens_without_the_weights(small: Any, name: str, tmp_path: Path) -> None:
    """As in an export, which holds copies of the files that it names."""
    whole = open_processor(small(name))
    for file in whole.files:
        (tmp_path / file).write_bytes((small(name) / file).read_bytes())
    copy = open_processor(tmp_path)
    assert torch.equal(copy.pixels(images()), whole.pixels(images()))
    assert torch.equal(copy.tokens(SENTENCES)["input_ids"], whole.tokens(SENTENCES)["input_ids"])
    assert not any(file.endswith(".safetensors") for file in whole.files)


# ---------------------------------------------------------------- retrieval with checkpoints of others


def command(*arguments: object) -> Any:
    """A command's JSON, run in this process: transformers takes seconds to import."""
    outcome = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert outcome.exit_code == 0
    return json.loads(outcome.stdout)


def test_a_clip_directory_from_pictures_to_answers(
    small: Any, some_pictures: Path, tmp_path: Path
) -> None:
    """`index`, then `search`, which opens the checkpoint that the index remembers."""
    place = tmp_path / "index"
    facts = command("index", some_pictures, "-o", place, "--checkpoint", small("clip-other"))
    assert facts["items"] == 6
    assert (facts["coarse"], facts["fine"]) == ("64 x float32", "70 x float32")
    file = sorted(some_pictures.glob("*/*"))[2]
    found = command("search", place, "a red car", "--image", file, "-k", "3")
    itself = found["answers"][1]["hits"][0]
    assert itself["id"] == file.relative_to(some_pictures).as_posix()
    assert itself["score"] == pytest.approx(1, abs=1e-5)
    exact = engine.Retriever(place).search(["a red car", file], k=3, mode="exact")
    assert [answer["hits"] for answer in found["answers"]] == exact.to_list()


def test_a_siglip_checkpoint_is_evaluated(small: Any, tiny_dataset: Path) -> None:
    facts = command("evaluate", small("siglip"), "--dataset", tiny_dataset)
    assert facts["coarse_dim"] == facts["fine_dim"] == 24
    assert len(facts["recalls"]) == 3


def test_a_growing_index_learns_its_coarse_vectors_until_it_is_large(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item first, then many: the reduction is learned from all, and then kept."""
    from engine import snapshot

    monkeypatch.setattr(snapshot, "SETTLED", 150)
    r = engine.Retriever.from_pretrained(encoder(open_checkpoint(small("clip-other"))))
    chance = torch.Generator().manual_seed(3)
    fine = F.normalize(torch.randn(300, 70, generator=chance), dim=1)
    reductions = []
    for start, end in ((0, 1), (1, 100), (100, 200), (200, 300)):
        r.add(embeddings=fine[start:end])
        assert r.index.reduction is not None
        reductions.append(torch.from_numpy(r.index.reduction))
        torch.testing.assert_close(torch.from_numpy(r.index.coarse), fine[:end] @ reductions[-1])
    assert torch.equal(reductions[2], learn_reduction(fine[:200], 64))
    assert torch.equal(reductions[3], reductions[2])
    torch.testing.assert_close(reductions[2].T @ reductions[2], torch.eye(64), atol=1e-5, rtol=0)


def test_a_refused_item_changes_no_reduction(small: Any) -> None:
    r = engine.Retriever.from_pretrained(encoder(open_checkpoint(small("clip"))))
    r.add(embeddings=torch.eye(20))
    before = r.index
    with pytest.raises(engine.InvalidArgument, match="NaN or inf in row 1"):
        r.add(embeddings=torch.tensor([[1.0] * 20, [torch.nan] * 20]))
    with pytest.raises(engine.InvalidArgument, match="ids that the index does not hold yet"):
        r.add(embeddings=torch.ones(1, 20), ids=[0])
    assert r.index is before


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
    with pytest.raises(engine.CheckpointError, match=r"missing .*model.safetensors"):
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
        with pytest.raises(engine.CheckpointError, match="a pickle of tensors alone expected"):
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
    with pytest.raises(engine.CheckpointError, match=f"No such file .*{shard.name}"):
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


def test_siglip_2_is_lower_case_where_its_tokenizer_file_forgot(
    small: Any, copied: Callable[..., Path]
) -> None:
    place = copied("siglip2")
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
    with pytest.raises(engine.CheckpointError, match=f"missing .*{file}"):
        open_checkpoint(copied(name, remove=file))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("clip", {"model_type": "blip"}, "'hivlp', 'clip' or 'siglip' expected, got 'blip'"),
        ("siglip2", {"model_type": "siglip2"}, "fixed resolution expected, got its NaFlex"),
        ("clip", {"projection_dim": 21}, r"mismatched keys: .*text_projection.* and|mismatched"),
        ("clip", {"vision_config__num_hidden_layers": 3}, r"missing keys: \[.*layers.2.* more"),
        ("siglip", {"text_config__num_hidden_layers": 0}, "unexpected keys"),
        ("clip", {"text_config__num_attention_heads": 5}, "readable checkpoint expected"),
        ("clip", {"text_config__hidden_size": "many"}, "hidden_size"),
        ("open_clip", {"model_cfg__embed_dim": 21}, r"\('text_projection.weight', .*\[21, 24\]"),
        ("open_clip", {"model_cfg__vision_cfg__layers": [3, 4, 6, 3]}, "vision transformers"),
        ("open_clip", {"model_cfg__text_cfg__hf_model_name": "x"}, "which changes the network"),
        ("open_clip", {"model_cfg__vision_cfg__timm_model_name": "x"}, "which changes the network"),
        ("open_clip", {"model_cfg": [1]}, "an object model_cfg expected"),
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
    with pytest.raises(engine.CheckpointError, match="a pad_token expected"):
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
        with pytest.raises(engine.CheckpointError, match=r"directory expected, got nothing"):
            engine.open_encoder(place)
