"""Checkpoints of every kind: their vectors are transformers' own, and what is damaged is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import engine
from engine.coarse.reduction import learn_reduction

pytest.importorskip("transformers")  # at import: a GPU machine collects this file without it

from engine.checkpoints import open_checkpoint, open_processor
from tests.engine.checkpoints.inputs import SENTENCES, command, encoder, images
from tests.engine.checkpoints.open_clip_model import OpenClip
from tests.engine.small_models import SMALL

TRANSFORMERS = [name for name in SMALL if not name.startswith("open_clip")]
OPEN_CLIP = [name for name in SMALL if name.startswith("open_clip")]


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=2e-6, rtol=0)
    assert (found @ found.T).triu(1).max() < 0.9999  # the inputs make a difference


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_vectors_are_those_of_transformers(small: Any, name: str) -> None:
    """AutoModel and AutoProcessor, fed as the model cards say, know nothing of this package."""
    from transformers import AutoModel, AutoProcessor

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_growing_index_learns_its_coarse_vectors_until_it_is_large(
    small: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item first, then many: the reduction, and int8's scale, are learned from all, and then kept."""
    from engine.coarse import relearning

    monkeypatch.setattr(relearning, "SETTLED", 150)
    r = engine.Retriever.from_pretrained(
        encoder(open_checkpoint(small("clip-other"))), coarse_dtype=dtype
    )
    chance = torch.Generator().manual_seed(3)
    fine = F.normalize(torch.randn(300, 70, generator=chance), dim=1)
    reductions = []
    for start, end in ((0, 1), (1, 100), (100, 200), (200, 300)):
        r.add(embeddings=fine[start:end])
        assert r.index.reduction is not None
        reductions.append(torch.from_numpy(r.index.reduction))
        coarse = F.normalize(
            fine[:end].double() @ reductions[-1].double(), dim=1
        )  # as long as fine
        stored, within = r._collection.snapshot.coarse.double(), 1e-6
        if dtype == "bfloat16":
            within = 2.0**-9
        elif dtype == "int8":
            quantization = r.index.header.quantization
            assert quantization is not None
            learned = coarse[: min(end, 200)].abs().max()
            assert 0.9 * learned < quantization.scale * 127 <= learned * (1 + 1e-6)
            stored, within = stored * quantization.scale, quantization.scale / 2 + 1e-6
            coarse = coarse.clamp(-quantization.scale * 127, quantization.scale * 127)
        torch.testing.assert_close(stored, coarse, atol=within, rtol=0)
    assert torch.equal(reductions[2], learn_reduction(fine[:200], 64))
    assert torch.equal(reductions[3], reductions[2])
    torch.testing.assert_close(reductions[2].T @ reductions[2], torch.eye(64), atol=1e-5, rtol=0)


def test_items_added_one_at_a_time_are_learned_from_each_time_there_are_twice_as_many(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.coarse import relearning

    learned: list[int] = []

    def noted(fine: torch.Tensor, dim: int, queries: None) -> torch.Tensor:
        assert queries is None
        learned.append(len(fine))
        return learn_reduction(fine, dim)

    monkeypatch.setattr(relearning, "learn_reduction", noted)
    r = engine.Retriever.from_pretrained(encoder(open_checkpoint(small("clip"))))
    for row in range(20):
        r.add(embeddings=torch.eye(20)[row : row + 1])
    assert learned == [1, 2, 4, 8, 16]


def test_a_refused_item_changes_no_reduction(small: Any) -> None:
    r = engine.Retriever.from_pretrained(encoder(open_checkpoint(small("clip"))))
    r.add(embeddings=torch.eye(20))
    before = r.index
    with pytest.raises(engine.InvalidArgument, match="NaN or inf in row 1"):
        r.add(embeddings=torch.tensor([[1.0] * 20, [torch.nan] * 20]))
    with pytest.raises(engine.InvalidArgument, match="ids that the index does not hold yet"):
        r.add(embeddings=torch.ones(1, 20), ids=[0])
    assert r.index is before


def test_an_encoders_coarse_vectors_are_no_coordinates_of_a_learned_reduction(
    untrained: Path,
) -> None:
    """Vectors of before, a reduction learned from them, and an encoder whose head has as many dims."""
    ours = engine.open_encoder(untrained)
    items = ours.encode_texts(
        [f"a {word} dog" for word in ("red", "small", "sleeping", "brown", "happy")]
    ).fine
    r = engine.Retriever.from_embeddings(items, coarse_dim=8, encoder=ours)
    query = ours.encode_texts(["a red dog"])
    assert query.coarse is not None
    assert query.coarse.shape == (1, 8)
    found = r.search("a red dog", k=5, mode="coarse")
    by_vector = r.search(query.fine, k=5, mode="coarse")
    assert torch.equal(found.scores, by_vector.scores)
    r.add(["a red dog"], ids=[77])
    assert r.index.reduction is not None
    expected = query.fine @ torch.from_numpy(r.index.reduction)
    torch.testing.assert_close(torch.from_numpy(r.index.coarse[-1:]), expected)


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (7, 1501), (40, 3000), (3001, 50)])
def test_a_thin_picture_has_the_pixels_of_the_whole(
    shape: tuple[int, int], small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut off before resizing, the crop around the centre would have left out."""
    processor = open_processor(small("clip"))
    values = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(values).resize(shape)
    found = processor.pixels([picture])
    monkeypatch.setattr("engine.checkpoints.processor.LONGEST_SIDE", 1 << 30)
    whole = processor.pixels([picture])
    # Sizes are rounded to whole pixels: the two may lie apart by half of one.
    torch.testing.assert_close(found, whole, atol=0.05, rtol=0)
    if 1 in shape:
        assert torch.equal(found, whole)


@pytest.mark.parametrize("name", SMALL)
def test_the_thinnest_picture_costs_little(name: str, small: Any) -> None:
    """1 x 1,000,000 would be resized to 32 x 32,000,000: 3 GB."""
    processor = open_processor(small(name))
    resized: list[int] = []
    own = Image.Image.resize

    def watching(image: Image.Image, size: Any, *arguments: Any, **options: Any) -> Any:
        resized.append(size[0] * size[1])
        return own(image, size, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watching)
        for shape in ((1, 1_000_000), (1_000_000, 1)):
            found = processor.pixels([Image.new("RGB", shape, "red")])
            assert found.shape[-1] == found.shape[-2] < 64
    assert resized
    assert max(resized) <= 32 * 64 * 64


def test_half_a_surrogate_pair_is_no_character(small: Any) -> None:
    processor = open_processor(small("clip"))
    tokens = processor.tokens(["a car \ud83d", "a car ?"])["input_ids"]
    assert torch.equal(tokens[0], tokens[1])
