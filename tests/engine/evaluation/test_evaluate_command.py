"""`python -m engine evaluate`, run in this process: every source, pool and file it writes, and what it refuses."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from typer.testing import CliRunner

import engine
from engine.cli.commands import app
from engine.dataset import read_dataset
from tests.conftest import PICTURES


def run(*arguments: object) -> dict[str, Any]:
    """The figures; an error that the command raises is raised here."""
    command = ["evaluate", *map(str, arguments), "--json"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


# ---------------------------------------------------------------- COCO's protocol, by its own judges


def best_first(queries: NDArray[np.float64], items: NDArray[np.float64], keep: int) -> NDArray[Any]:
    """Rows of the `keep` best items of each query, lower rows first among equals; scores are integers, exact."""
    found = []
    for some in np.array_split(queries, 25):
        keys = np.arange(len(items)) - (some @ items.T) * len(items)
        rows = np.argpartition(keys, keep, axis=1)[:, :keep]
        order = np.argsort(np.take_along_axis(keys, rows, axis=1), axis=1)
        found.append(np.take_along_axis(rows, order, axis=1))
    return np.concatenate(found)


def test_coco_5k_and_1k_equal_those_of_eccv_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COCO's 5,000 test pictures and 25,000 captions by their true ids, as Karpathy's file has them, with vectors
    made up; judged by `eccv-caption` (PyPI), which counts hits in lists of ids by COCO's own ground truth."""
    pytest.importorskip("eccv_caption", reason="eccv-caption holds COCO's ground truth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have ujson
        from eccv_caption import Metrics

        judge = Metrics()
    said = judge.coco_gts["i2t"]
    order = dict.fromkeys(judge.coco_gts["t2i"][int(caption)][0] for caption in judge.coco_ids)
    images = np.array(list(order))
    captions = np.array([caption for image in images for caption in said[image]])
    entries = [
        {
            "cocoid": int(image),
            "filepath": "val2014",
            "filename": f"COCO_val2014_{image:012}.jpg",
            "split": "test",
            "sentences": [{"raw": f"caption {n}", "sentid": n} for n in said[image]],
        }
        for image in images
    ]
    other = entries[0] | {"filename": "COCO_train2014_000000000001.jpg", "split": "train"}
    file = tmp_path / "dataset_coco.json"
    file.write_text(json.dumps({"images": [*entries[:7], other, *entries[7:]], "dataset": "coco"}))
    chance = np.random.default_rng(0)
    image_vectors = chance.integers(-9, 10, (5000, 16)).astype(np.float64)
    text_vectors = np.repeat(image_vectors, 5, axis=0) + chance.integers(-9, 10, (25_000, 16))
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    np.save(vectors / "image.npy", np.insert(image_vectors, 7, 1, axis=0).astype(np.float16))
    np.save(vectors / "text.npy", np.insert(text_vectors, [35] * 5, 1, axis=0).astype(np.float64))
    monkeypatch.setattr(
        "engine.evaluation.run.DEPTH", 32
    )  # places beyond the tenth are not asked for
    whole = run(vectors, "--dataset", file)
    folds = run(vectors, "--dataset", file, "--folds", 5)

    # Deep enough that a fifth of them, which is what a fold sees, holds ten.
    text_rows = best_first(image_vectors, text_vectors, 200)
    image_rows = best_first(text_vectors, image_vectors, 200)
    retrieved = {
        "i2t": {int(i): captions[rows].tolist() for i, rows in zip(images, text_rows, strict=True)},
        "t2i": {
            int(c): images[rows].tolist() for c, rows in zip(captions, image_rows, strict=True)
        },
    }
    for facts, count in ((whole, judge.coco_5k_recalls), (folds, judge.coco_1k_recalls)):
        found = facts["recalls"]["fine, all items (16-d)"]
        assert (facts["pictures"], facts["captions"]) == (5000, 25_000)
        for k in (1, 5, 10):
            expected = count(retrieved, "all", K=k)
            assert found["text_to_image"][f"R@{k}"] == pytest.approx(100 * expected["t2i"])
            assert found["image_to_text"][f"R@{k}"] == pytest.approx(100 * expected["i2t"])
    assert 5 < whole["recalls"]["fine, all items (16-d)"]["average"] < 95


# ---------------------------------------------------------------- checkpoints, pools, files


@pytest.fixture
def flickr(tiny_dataset: Path, tmp_path: Path) -> Path:
    """The twelve pictures as Karpathy's Flickr30k file has them: four for test."""
    entries = [
        {
            "filename": example.image.name,
            "split": "test" if row % 3 == 0 else "train",
            "sentences": [{"raw": text} for text in example.captions],
        }
        for row, example in enumerate(read_dataset(tiny_dataset))
        if isinstance(example.image, Path)
    ]
    folder = tmp_path / "flickr30k-images"
    folder.mkdir()
    for row, (entry, example) in enumerate(zip(entries, read_dataset(tiny_dataset), strict=True)):
        entry["filename"] = f"{row}.jpg"
        shutil.copy(str(example.image), folder / f"{row}.jpg")
    file = tmp_path / "dataset_flickr30k.json"
    file.write_text(json.dumps({"images": entries, "dataset": "flickr30k"}))
    return file


def test_the_test_part_and_the_pool_of_all(flickr: Path, untrained: Path, tmp_path: Path) -> None:
    pictures = ("--dataset", flickr, "--images", tmp_path / "flickr30k-images")
    part = run(untrained, *pictures, "--save-vectors", tmp_path / "part.safetensors")
    whole = run(
        untrained, *pictures, "--pool", "all", "--save-vectors", tmp_path / "all.safetensors"
    )
    assert (part["pictures"], part["asking_pictures"], part["pool"]) == (4, 4, "part")
    assert (whole["pictures"], whole["asking_pictures"], whole["pool"]) == (12, 4, "all")
    assert part["captions"] == part["asking_captions"] == whole["asking_captions"]
    assert part["checkpoint_sha256"] == engine.open_encoder(untrained).reference.sha256
    # the vectors that were kept give the same figures, with no pictures and no encoder
    shutil.rmtree(tmp_path / "flickr30k-images")
    again = run(tmp_path / "all.safetensors", "--dataset", flickr, "--pool", "all")
    assert again["recalls"] == whole["recalls"]
    taken = run(tmp_path / "all.safetensors", "--dataset", flickr)
    kept = run(tmp_path / "part.safetensors", "--dataset", flickr)
    assert taken["recalls"] == kept["recalls"] == part["recalls"]
    first = run(tmp_path / "all.safetensors", "--dataset", flickr, "--captions", "first")
    assert (first["captions"], first["asked_with"]) == (4, "first")
    with pytest.raises(engine.InvalidArgument, match=r"each of the 12 pictures.*, got 4 rows"):
        run(tmp_path / "part.safetensors", "--dataset", flickr, "--pool", "all")
    with pytest.raises(engine.InvalidArgument, match="normalize: expected given vectors"):
        run(untrained, *pictures, "--normalize")
    with pytest.raises(engine.InvalidArgument, match="folds: expected one fold"):
        run(untrained, *pictures, "--pool", "all", "--folds", 2)


def test_figures_as_json_markdown_and_plots(flickr: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "v.safetensors"
    chance = np.random.default_rng(0)
    sides = {"image": (12, 6), "text": (captions_of(flickr), 6)}
    save_file({n: chance.standard_normal(s).astype(np.float32) for n, s in sides.items()}, vectors)
    files = [tmp_path / name for name in ("f.json", "f.md", "f.png", "f.svg")]
    outputs = [part for file in files for part in ("-o", file)]
    for grid in ([], ["--dims", "2,4", "--candidates", "1,2,3"]):
        facts = run(vectors, "--dataset", flickr, *grid, *outputs)
        assert json.loads(files[0].read_text()) == facts
        title, _, *table = files[1].read_text(encoding="utf-8").splitlines()
        assert title == f"4 pictures, {facts['captions']} captions"
        assert table[0].startswith("| search | t→i R@1 |")
        assert ("| first 4 dims" in "\n".join(table)) == bool(grid)
        drawn = read_image_size(files[2])
        assert drawn[0] > 1000
        assert b"<svg" in files[3].read_bytes()


def read_image_size(file: Path) -> tuple[int, int]:
    return engine.images.read_image(file).size


def captions_of(dataset: Path) -> int:
    return sum(len(example.captions) for example in read_dataset(dataset, check_images=False))


def test_what_is_left_out_is_listed(tiny_dataset: Path, untrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_dataset, folder)
    examples = read_dataset(folder)
    assert isinstance(examples[0].image, Path)
    assert isinstance(examples[1].image, Path)
    examples[0].image.unlink()
    examples[1].image.write_bytes(b"no picture")
    with pytest.raises(engine.DatasetError, match="expected a picture at"):
        run(untrained, "--dataset", folder)
    facts = run(untrained, "--dataset", folder, "--skip")
    assert facts["pictures"] == 10
    assert len(facts["skipped"]) == 2
    assert "got none" in facts["skipped"][0]
    assert examples[1].image.name in facts["skipped"][1]
    result = CliRunner().invoke(
        app, ["evaluate", str(untrained), "--dataset", str(folder), "--skip"]
    )
    assert result.stdout.startswith("10 pictures, ")
    assert "; 2 left out" in result.stdout
    assert result.stderr.count("left out: ") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "figures.xlsx"], "output: expected a file ending in .json or .md or .png"),
        (["-o", "nowhere/figures.json"], "output: expected a file in a folder that is there"),
        (["--save-vectors", "x.npy"], "save_vectors: expected a file ending in .safetensors"),
        (["--save-vectors", "nowhere/x.safetensors"], "save_vectors: expected a file in a folder"),
        (["--candidates", "8,many"], "candidates: expected integers separated by commas"),
        (["--dims", "8;16"], "dims: expected integers separated by commas"),
    ],
)
def test_what_is_refused_before_anything_is_opened(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(engine.InvalidArgument, match=message):
        run(tmp_path, "--dataset", tmp_path, *arguments)


def test_what_does_not_fit_is_refused_before_encoding(
    tiny_dataset: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("engine.evaluation.command.encode_pool")
    for option, value in (("--dims", 25), ("--candidates", 0), ("--folds", 5)):
        with pytest.raises(engine.InvalidArgument, match=option.removeprefix("--")):
            run(untrained, "--dataset", tiny_dataset, option, value)


def test_matplotlib_is_missed_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(engine.MissingPackage, match=r"pip install 'hivlp-engine\[evaluate\]'"):
        run(tmp_path, "--dataset", tmp_path, "-o", "figures.png")


# ---------------------------------------------------------------- vectors given


def test_normalized_vectors(flickr: Path, tmp_path: Path) -> None:
    """Lengths that would decide every score, and do not once they are all one."""
    chance = np.random.default_rng(2)
    lengths = 10.0 ** np.arange(12)[:, None]
    images = chance.standard_normal((12, 5))
    texts = np.repeat(images, captions_of(flickr) // 12, axis=0)
    save_file({"image": images * lengths, "text": texts}, tmp_path / "v.safetensors")
    loud = run(tmp_path / "v.safetensors", "--dataset", flickr)
    unit = run(tmp_path / "v.safetensors", "--dataset", flickr, "--normalize")
    name = "fine, all items (5-d)"
    assert unit["recalls"][name]["average"] == 100
    assert loud["recalls"][name]["text_to_image"]["R@1"] < 80


def test_heads_among_given_vectors(flickr: Path, tmp_path: Path) -> None:
    texts = captions_of(flickr)
    arrays = {
        "image": np.eye(12, dtype=np.float32),
        "text": np.repeat(np.eye(12, dtype=np.float32), texts // 12, axis=0),
        "image_coarse": np.ones((12, 3), dtype=np.float32),
        "text_coarse": np.ones((texts, 3), dtype=np.float32),
    }
    folder = tmp_path / "vectors"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    facts = run(folder, "--dataset", flickr)
    assert facts["coarse_dim"] == 3
    assert facts["recalls"]["fine, all items (12-d)"]["text_to_image"]["R@1"] == 100
    assert facts["recalls"]["coarse alone (3-d)"]["text_to_image"]["R@1"] == 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "expected vectors called text, got"),
        ({"image_coarse": np.ones((12, 2))}, "expected vectors called text_coarse, got"),
        (
            {"image": np.ones((11, 5))},
            "image: expected a row for each of the 12 pictures .* got 11",
        ),
        ({"text": np.ones((5, 5))}, "texts: expected a row for each of the .* captions, got 5"),
        ({"text": np.ones((24, 6))}, "texts: expected vectors of .* got .None, 6"),
        ({"image": np.full((12, 5), np.nan)}, "image: expected finite values .* in row 0"),
        ({"image": np.ones((12, 5, 1))}, r"image\.npy: expected vectors of shape \[N, D\]"),
        ({"image": np.full((12, 5), "x")}, "image: expected real numbers"),
        (
            {"image": np.full((12, 5), None)},
            r"image\.npy: expected an array of floats in .npy, got ",
        ),
        (
            {"image": b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n"},
            r"image\.npy: expected an array of floats",
        ),
        ({"image": b""}, r"image\.npy: expected an array of floats in .npy, got "),
    ],
)
def test_bad_vectors(change: dict[str, Any], message: str, flickr: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    arrays = {"image": np.ones((12, 5)), "text": np.ones((captions_of(flickr), 5)), **change}
    if change.get("text") is not None and change["text"].shape[0] == 24:
        arrays["text"] = np.ones((captions_of(flickr), 6))
    for name, array in arrays.items():
        if isinstance(array, bytes):
            (folder / f"{name}.npy").write_bytes(array)
        elif array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(engine.EngineError, match=message):
        run(folder, "--dataset", flickr)


def test_a_damaged_safetensors_file(flickr: Path, tmp_path: Path) -> None:
    (tmp_path / "v.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(engine.DatasetError, match="expected vectors in safetensors"):
        run(tmp_path / "v.safetensors", "--dataset", flickr)
    with pytest.raises(engine.InvalidArgument, match=r"source: expected .* got .*none.safetensors"):
        run(tmp_path / "none.safetensors", "--dataset", flickr)


def test_no_part_of_that_name(untrained: Path) -> None:
    with pytest.raises(engine.DatasetError, match="pictures of part 'dev' in split 'style'"):
        run(untrained, "--dataset", PICTURES, "--split", "style", "--part", "dev")
