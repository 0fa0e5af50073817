"""The checkpoint that an index remembers: where it is looked for, what must be the same, what is never opened."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import engine

pytest.importorskip("transformers")  # at import: a GPU machine collects this file without it

import huggingface_hub

from engine.building import build_index
from engine.checkpoints import loading
from engine.encoders import tensorrt_encoder as trt_module
from engine.index import CheckpointReference
from tests.conftest import PICTURES
from tests.engine.checkpoints.inputs import command
from tests.engine.encoders.fake_tensorrt import Deserialiser, engines, with_engine


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever looks a name up, or asks the hub, fails the test; what was asked of the hub."""
    asked: list[str] = []

    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the network was used")

    def snapshot_download(repository: str, **_: object) -> NoReturn:
        asked.append(repository)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.fixture
def tree(small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`a` with models/clip and an index that was made in it, by a relative path."""
    shutil.copytree(small("clip"), tmp_path / "a" / "models" / "clip")
    monkeypatch.chdir(tmp_path / "a")
    saved("models/clip", Path("idx"))
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    return tmp_path / "a"


def saved(checkpoint: Any, place: Path) -> None:
    with engine.Retriever.from_pretrained(checkpoint) as retriever:
        retriever.add(["a cake", "a red car", "a dog"], ids=["cake", "car", "dog"])
        retriever.save(place)


def stored(index: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((index / "manifest.json").read_text())["checkpoint"]
    return found


def rewrite(index: Path, **entries: Any) -> None:
    """What the manifest says of the checkpoint, with a checksum that fits."""
    body = json.loads((index / "manifest.json").read_text())
    body |= {"checkpoint": entries, "checksum": "0" * 64}
    text = json.dumps(body, indent=1).encode()
    digest = sha256(text).hexdigest().encode()
    (index / "manifest.json").write_bytes(text.replace(b"0" * 64, digest, 1))


def finds(index: Path, encoder: Any = None) -> bool:
    with engine.Retriever(index, encoder) as retriever:
        return retriever.search("a red car", 1, mode="exact").ids == [["car"]]


# ---------------------------------------------------------------- where it is looked for


def test_a_path_is_kept_whole_and_as_seen_from_the_index(tree: Path) -> None:
    found = stored(tree / "idx")
    assert found["path"] == str(tree / "models" / "clip")
    assert found["relative"] == "../models/clip"
    assert found["hub"] is False
    assert finds(tree / "idx")  # from another directory than it was made in


def test_both_moved_together(tree: Path, tmp_path: Path) -> None:
    tree.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert finds(moved / "idx")
    with engine.Retriever(moved / "idx") as retriever:
        retriever.add(["a slice of pizza"], ids=["pizza"])
        retriever.save()
        retriever.save(tmp_path / "elsewhere" / "copy")
    assert stored(moved / "idx")["relative"] == "../models/clip"
    assert stored(tmp_path / "elsewhere" / "copy") == {
        "path": str(moved / "models" / "clip"),
        "sha256": stored(moved / "idx")["sha256"],
        "hub": False,
        "relative": "../../moved/models/clip",
    }
    assert finds(tmp_path / "elsewhere" / "copy")


def test_the_index_alone_moved(tree: Path, tmp_path: Path) -> None:
    """Another checkpoint stands where the relative path leads to now: passed over."""
    (tree / "idx").rename(tmp_path / "b" / "idx")
    other = tmp_path / "b" / "models" / "clip"
    shutil.copytree(tree / "models" / "clip", other)
    (other / "tokenizer_config.json").write_text(
        (other / "tokenizer_config.json").read_text() + "\n"
    )
    assert finds(tmp_path / "b" / "idx")
    shutil.rmtree(tree / "models")
    with pytest.raises(engine.CheckpointMismatch, match="the checkpoint that made the index"):
        finds(tmp_path / "b" / "idx")


def test_a_checkpoint_that_is_gone_is_not_looked_for_on_the_hub(
    tree: Path, no_network: list[str]
) -> None:
    (tree / "models").rename(tree / "renamed")
    with pytest.raises(engine.CheckpointError) as refused:
        finds(tree / "idx")
    message = str(refused.value)
    for part in (str(tree / "models" / "clip"), stored(tree / "idx")["sha256"], "encoder="):
        assert part in message
    assert not no_network


@pytest.mark.parametrize("path", ["models/clip", "someone/some-clip"])
def test_a_relative_path_of_an_older_index_is_no_hub_id(
    path: str, tree: Path, no_network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened where it is a directory, from where one stands, and else is an error that says so."""
    digest = stored(tree / "idx")["sha256"]
    rewrite(tree / "idx", path=path, sha256=digest)
    with pytest.raises(engine.CheckpointError, match=f"{digest}.*{path}, got nothing there"):
        finds(tree / "idx")
    with pytest.raises(engine.CheckpointError, match="got nothing there"):
        build_index([PICTURES / "noto"], tree / "idx")
    monkeypatch.chdir(tree)
    if path == "models/clip":
        assert finds(tree / "idx")
    assert not no_network


def test_only_what_came_from_the_hub_is_fetched_from_there(
    small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def snapshot_download(repository: str, **_: object) -> str:
        asked.append(repository)
        return str(small("clip"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    saved("someone/some-clip", tmp_path / "idx")
    found = stored(tmp_path / "idx")
    assert (found["path"], found["hub"], found["relative"]) == ("someone/some-clip", True, None)
    assert finds(tmp_path / "idx")
    assert asked == ["someone/some-clip"] * 2
    rewrite(tmp_path / "idx", **found | {"sha256": "0" * 64})
    with pytest.raises(engine.CheckpointMismatch):
        finds(tmp_path / "idx")


def test_an_exports_own_source_is_no_hub_id(
    changed: Callable[..., Path], no_network: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no runtime can run the export, the checkpoint it was made from is opened: a directory."""
    place = changed(source=CheckpointReference("someone/some-clip", "0" * 64))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        engine.RuntimeUnavailable,
        match="someone/some-clip: expected the exported checkpoint, got nothing",
    ):
        engine.open_encoder(place)
    assert not no_network


# ---------------------------------------------------------------- by its hash, below a folder


def test_a_renamed_checkpoint_is_found_below_a_folder(
    tree: Path, small: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "all models"
    (root / "old").mkdir(parents=True)
    (tree / "models" / "clip").rename(root / "old" / "renamed")
    shutil.copytree(small("siglip"), root / "another")
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    assert finds(tree / "idx", root)
    found = command("search", tree / "idx", "a red car", "--checkpoint", root, "-k", "1")
    assert [hit["id"] for hit in found["answers"][0]["hits"]] == ["car"]
    shutil.rmtree(root / "old")
    with pytest.raises(engine.CheckpointError, match="got another, broken"):
        finds(tree / "idx", root)


# ---------------------------------------------------------------- nothing is opened before its hash was compared


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Deserialiser:
    """TensorRT, as far as its deserialiser, on a GPU that every engine here was built for."""
    found = Deserialiser()
    monkeypatch.setattr(trt_module, "imported", lambda _: found)
    monkeypatch.setattr(trt_module, "hardware_of", lambda _: "sm89")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    return found


def test_an_index_leads_to_no_native_code(
    changed: Callable[..., Path], tmp_path: Path, library: Deserialiser
) -> None:
    """With the right hash too: a stranger who makes the index makes the export. Its graphs are run."""
    export = changed(with_engine, engines=engines("sm89"))
    saved(engine.open_encoder(export, engines=False), tmp_path / "idx")
    assert stored(tmp_path / "idx")["path"] == str(export)
    assert finds(tmp_path / "idx")
    with engine.Retriever(tmp_path / "idx") as retriever:
        retriever.add(["a cat"], ids=["cat"])
    assert not library.reached
    with pytest.raises(
        engine.CheckpointError, match=r"expected an engine that .* can run, got one that it refuses"
    ):
        finds(tmp_path / "idx", export)  # whoever names it means it
    assert len(library.reached) == 1


def test_an_export_of_another_checkpoint_is_not_deserialised(
    changed: Callable[..., Path], tree: Path, library: Deserialiser
) -> None:
    other = CheckpointReference("elsewhere", "1" * 64)
    export = changed(with_engine, engines=engines("sm89"), source=other)
    for named in (None, export, export.parent):
        digest = stored(tree / "idx")["sha256"]
        rewrite(tree / "idx", path=str(export), sha256=digest)
        with pytest.raises(engine.CheckpointError, match="the checkpoint that made the index"):
            finds(tree / "idx", named)
    assert not library.reached


def test_every_file_is_compared_before_the_first_engine_is_deserialised(
    changed: Callable[..., Path], library: Deserialiser
) -> None:
    second = ("image.engine", "tower.engine")
    made = tuple(
        type(e)(**vars(e) | {"file": file}) for e, file in zip(engines("sm89"), second, strict=True)
    )

    def both(place: Path) -> None:
        with_engine(place)
        shutil.copy(place / "tower.engine", place / "image.engine")

    place = changed(both, engines=made)
    for file in ("tower.engine", "tokenizer.json"):
        content = (place / file).read_bytes()
        (place / file).write_bytes(content + b" ")
        with pytest.raises(engine.CheckpointError, match="sha256"):
            engine.open_encoder(place)
        (place / file).write_bytes(content)
    assert not library.reached


def test_no_weight_is_read_of_another_checkpoint(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    whole = loading.read_safetensors
    monkeypatch.setattr(
        loading,
        "read_safetensors",
        lambda file: (read.append(file), whole(file))[1],  # type: ignore[func-returns-value]
    )
    config = tree / "models" / "clip" / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    for named in (None, tree / "models" / "clip", tree / "models"):
        with pytest.raises(engine.CheckpointError):
            finds(tree / "idx", named)
    assert not read


# ---------------------------------------------------------------- manifests of exports that somebody else made


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("fine_dim", 5),
        ("fine_dim", None),
        ("coarse_dim", "x"),
        ("max_tokens", -1),
        ("source", {"path": 5, "sha256": None}),
        ("parity", []),
        ("coarse_from", "elsewhere"),
        ("profile", {"batch": [-1, -1, -1]}),
        ("profile", {"batch": [0, 0, 0]}),
    ],
)
def test_an_exports_manifest_that_contradicts_itself(
    entry: str, value: Any, changed: Callable[..., Path]
) -> None:
    place = changed()
    body = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(body | {entry: value}))
    with pytest.raises(engine.CheckpointError, match=f"expected a whole manifest, got .*{entry}"):
        engine.open_encoder(place)


def test_a_file_that_an_exports_manifest_does_not_name(changed: Callable[..., Path]) -> None:
    """It would change how sentences are read, and no hash covers it."""
    place = changed()
    (place / "added_tokens.json").write_text('{"cake": 5}')
    with pytest.raises(engine.CheckpointError, match=r"got also added_tokens\.json"):
        engine.open_encoder(place)


@pytest.mark.parametrize("dtype", ["object", "int8", "float32"])
def test_an_exports_inputs_of_another_dtype(dtype: str, changed: Callable[..., Path]) -> None:
    place = changed()
    body = json.loads((place / "manifest.json").read_text())
    body["graphs"]["text"]["inputs"]["input_ids"]["dtype"] = dtype
    (place / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(engine.CheckpointError, match=r"input_ids"):
        engine.open_encoder(place)


@pytest.mark.parametrize("what", ["nested", "pipe", "link"])
def test_an_exports_manifest_that_is_no_plain_file(
    what: str, changed: Callable[..., Path], tmp_path: Path
) -> None:
    place = changed()
    file = place / "manifest.json"
    if what == "nested":
        file.write_text('{"a":' + "[" * 100_000)
    elif what == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.unlink()
        os.mkfifo(file)
    with pytest.raises(engine.CheckpointError):
        engine.open_encoder(place)
