"""Checkpoints that somebody else made: no code of theirs runs, no question is asked, no other file is read."""

import builtins
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file

import engine

pytest.importorskip("transformers")  # at import: a GPU machine collects this file without it

from engine.checkpoints import open_checkpoint
from engine.training import Settings
from engine.training.start import from_checkpoint
from tests.conftest import ROOT

CODE = """open({mark!r}, "a").write("ran")
class Evil:
    @classmethod
    def from_pretrained(cls, *args, **kwargs): return cls()
    @classmethod
    def register_for_auto_class(cls, *args): pass
"""
Copied = Callable[[str], Path]


@pytest.fixture
def copied(small: Callable[[str], Path], untrained: Path, tmp_path: Path) -> Copied:
    def copy(kind: str) -> Path:
        place = tmp_path / kind
        shutil.copytree(untrained if kind == "hivlp" else small(kind), place)
        return place

    return copy


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def planted(place: Path, file: str, auto: str, **entries: Any) -> Path:
    """Code beside the checkpoint that a file of it names, and the mark it would leave."""
    mark = place.parent / "mark"
    (place / "evil.py").write_text(CODE.format(mark=str(mark)))
    named: Any = ["evil.Evil", None] if auto == "AutoTokenizer" else "evil.Evil"
    change(place / file, auto_map={auto: named}, **entries)
    return mark


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is a failure; so is a pickle, and so is a name looked up on the network."""

    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a checkpoint got this far")

    monkeypatch.setattr(builtins, "input", never)
    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr("socket.getaddrinfo", never)


# ---------------------------------------------------------------- code

PROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer_config.json"


@pytest.mark.parametrize("kind", ["hivlp", "clip", "siglip"])
def test_code_that_is_needed_is_refused(kind: str, copied: Copied) -> None:
    place = copied(kind)
    mark = planted(place, PROCESSOR, "AutoImageProcessor", image_processor_type="NoSuchProcessor")
    with pytest.raises(engine.CheckpointError, match="Python code of the checkpoint's own"):
        engine.open_encoder(place)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "file", "auto"),
    [
        ("hivlp", "config.json", "AutoConfig"),
        ("clip", "config.json", "AutoModel"),
        ("siglip", "config.json", "AutoModel"),
        ("clip", PROCESSOR, "AutoImageProcessor"),
        ("hivlp", TOKENIZER, "AutoTokenizer"),
        ("open_clip", TOKENIZER, "AutoTokenizer"),
    ],
)
def test_code_beside_a_model_that_we_know_is_left_alone(
    kind: str, file: str, auto: str, copied: Copied
) -> None:
    """The same vectors as without it, and a run that starts from it does not hand it on."""
    place = copied(kind)
    wanted = engine.open_encoder(place).encode_texts(["a red car"]).fine
    mark = planted(place, file, auto)
    assert torch.equal(engine.open_encoder(place).encode_texts(["a red car"]).fine, wanted)
    assert "auto_map" not in from_checkpoint(place, Settings()).model.config.to_json_string()
    assert not mark.exists()


@pytest.mark.parametrize("part", ["text_config", "backbone"])
def test_code_named_within_a_configuration(part: str, copied: Copied) -> None:
    place = copied("hivlp")
    config = json.loads((place / "config.json").read_text())
    within = config["text_config"] if part == "text_config" else {"model_type": "nonesuch"}
    config[part] = within | {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    (place / "config.json").write_text(json.dumps(config))
    mark = planted(place, TOKENIZER, "AutoTokenizer")
    if part == "text_config":
        assert open_checkpoint(place).coarse_dim == 8
    else:
        with pytest.raises(engine.CheckpointError):
            open_checkpoint(place)
    assert not mark.exists()


def test_nobody_at_a_terminal_is_asked(copied: Copied, tmp_path: Path) -> None:
    """A process whose stdin is a terminal at which somebody types y; named by the caller, and by an index alone."""
    place = copied("clip")
    engine.Retriever.from_pretrained(place).save(tmp_path / "index")
    mark = planted(place, TOKENIZER, "AutoTokenizer", tokenizer_class="NoSuchTokenizer")
    (place / "tokenizer.json").unlink()
    (place / "vocab.json").write_text("{}")
    program = (
        "import sys, engine\n"
        "for act in (lambda: engine.open_encoder(sys.argv[1]),\n"
        "            lambda: engine.Retriever(sys.argv[2]).search('a cake')):\n"
        "    try: act()\n"
        "    except engine.CheckpointError: print('refused')\n"
    )
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 10)
    child = subprocess.run(
        [sys.executable, "-c", program, str(place), str(tmp_path / "index")],
        stdin=theirs,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert child.stdout.split() == ["refused", "refused"], child.stderr
    assert not mark.exists()


def test_kernels_of_the_hub_are_not_fetched(copied: Copied) -> None:
    place = copied("clip")
    change(
        place / "config.json", attn_implementation="someone/attention", _attn_implementation="x/y"
    )
    assert open_checkpoint(place).image.tower.tower.config._attn_implementation == "sdpa"  # type: ignore[union-attr]


# ---------------------------------------------------------------- pickles, and files elsewhere


def in_shards(place: Path, name: str) -> Path:
    """The weights in one file called `name`, which an index of weights names."""
    weights = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(weights, name)}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    target = Path(os.path.abspath(place / name))
    if name.endswith(".bin"):
        torch.save(weights, target)
    else:
        save_file(weights, target, metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("kind", ["hivlp", "clip"])
@pytest.mark.parametrize(
    "name", ["evil.bin", "../evil.safetensors", "/ABSOLUTE/evil.safetensors", "sub/x.safetensors"]
)
def test_a_shard_of_another_name(kind: str, name: str, copied: Copied, tmp_path: Path) -> None:
    place = copied(kind)
    (place / "sub").mkdir()
    name = name.replace("/ABSOLUTE", str(tmp_path))
    in_shards(place, name)
    with pytest.raises(
        engine.CheckpointError,
        match=r"index\.json: expected a weight_map to safetensors .*, got .*, another kind",
    ):
        engine.open_encoder(place)


def test_shards_beside_the_index_are_read(copied: Copied) -> None:
    place = copied("clip")
    wanted = engine.open_encoder(place).encode_texts(["a red car"]).fine
    in_shards(place, "model-00001-of-00001.safetensors")
    assert torch.equal(engine.open_encoder(place).encode_texts(["a red car"]).fine, wanted)


@pytest.mark.parametrize(
    "name", ["model-1.safetensors", "model.safetensors", "tokenizer.json", "config.json"]
)
def test_a_link_that_leads_out(name: str, copied: Copied, tmp_path: Path) -> None:
    place = copied("clip")
    file = in_shards(place, name) if name == "model-1.safetensors" else place / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(engine.CheckpointError, match=r"got a link to .*elsewhere"):
        engine.open_encoder(place)


def test_links_of_the_hubs_own_cache_are_followed(
    small: Callable[[str], Path], tmp_path: Path
) -> None:
    blobs, place = tmp_path / "models--x--y" / "blobs", tmp_path / "models--x--y/snapshots/abc"
    blobs.mkdir(parents=True)
    place.mkdir(parents=True)
    for file in small("clip").iterdir():
        shutil.copy(file, blobs / f"blob-{file.name}")
        (place / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    assert (
        open_checkpoint(place).reference.sha256 == open_checkpoint(small("clip")).reference.sha256
    )
    (place / "config.json").unlink()
    (place / "config.json").symlink_to("../../../elsewhere.json")
    shutil.copy(blobs / "blob-config.json", tmp_path / "elsewhere.json")
    with pytest.raises(engine.CheckpointError, match="got a link to"):
        open_checkpoint(place)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", PROCESSOR],
)
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_pipe_or_a_device(name: str, what: str, copied: Copied) -> None:
    """Nothing waits for it."""
    place = copied("clip")
    (place / name).unlink()
    if what == "pipe":
        os.mkfifo(place / name)
    else:
        (place / name).symlink_to("/dev/zero")
    with pytest.raises(engine.CheckpointError, match=f"expected .*, got no {name}"):
        engine.open_encoder(place)


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("config.json", {"transformers_weights": "evil.bin"}, "transformers_weights"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        (
            "config.json",
            {"vision_config": {"quantization_config": {"a": 1}}},
            "quantization_config",
        ),
        (TOKENIZER, {"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]}, "fast_tokenizer_files"),
        (TOKENIZER, {"vocab_file": "/etc/passwd"}, "vocab_file"),
        (TOKENIZER, {"init_inputs": ["/etc/passwd"]}, "init_inputs"),
    ],
)
def test_a_setting_that_names_other_files(
    file: str, entries: dict[str, Any], said: str, copied: Copied
) -> None:
    place = copied("clip")
    change(place / file, **entries)
    with pytest.raises(engine.CheckpointError, match=f"{file}: .*{said}"):
        engine.open_encoder(place)


def test_an_adapter_beside_the_weights(copied: Copied) -> None:
    """transformers would apply it where peft is installed, its pickles too, and nowhere else."""
    place = copied("clip")
    (place / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(engine.CheckpointError, match="Merge it"):
        engine.open_encoder(place)


# ---------------------------------------------------------------- too large, too deep


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", TOKENIZER, PROCESSOR])
def test_json_that_is_nested_without_end(name: str, copied: Copied) -> None:
    place = copied("clip")
    (place / name).write_text('{"a":' + "[" * 100_000)
    with pytest.raises(engine.CheckpointError, match=f"{name}: expected a JSON file, got "):
        engine.open_encoder(place)


def test_json_that_is_larger_than_any(copied: Copied) -> None:
    """A file of holes: it takes no room here."""
    place = copied("clip")
    with (place / "tokenizer.json").open("ab") as stream:
        stream.truncate(1 << 29)
    with pytest.raises(engine.CheckpointError, match="more than 268,435,456 bytes"):
        engine.open_encoder(place)


@pytest.mark.parametrize(
    ("kind", "part", "entries", "said"),
    [
        ("clip", "vision_config", {"num_hidden_layers": 1_000_000}, "num_hidden_layers 1000000"),
        ("siglip", "text_config", {"num_hidden_layers": 1_000_000}, "num_hidden_layers 1000000"),
        ("hivlp", "text_config", {"num_hidden_layers": 1_000_000}, "num_hidden_layers 1000000"),
        ("clip", "text_config", {"vocab_size": 10**9}, "a model of about"),
        ("hivlp", "text_config", {"vocab_size": 10**9}, "a model of about"),
    ],
)
def test_a_model_far_larger_than_its_weights_is_not_built(
    kind: str, part: str, entries: dict[str, int], said: str, copied: Copied
) -> None:
    place = copied(kind)
    config = json.loads((place / "config.json").read_text())
    config[part] |= entries
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(engine.CheckpointError, match=said):
        engine.open_encoder(place)


def test_an_open_clip_of_a_million_layers(copied: Copied) -> None:
    place = copied("open_clip")
    config = json.loads((place / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 1_000_000
    (place / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(engine.CheckpointError, match="num_hidden_layers 1000000"):
        engine.open_encoder(place)
