"""`manifest.json` of an export directory: what was exported, from what, how to feed it, and every file's hash.

`export` writes it; the encoders of an export read it and nothing else. No graph is parsed and no engine loaded
before its bytes were found to be those that were written: `ExportManifest.content` returns the very bytes that it
hashed.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from engine.checkpoints.files import Padding
from engine.errors import CheckpointError
from engine.index import CheckpointReference

FORMAT = "hivlp-export"
VERSION = 1
MANIFEST = "manifest.json"
LARGEST = 1 << 24  # bytes of a manifest that are read
DTYPES = ("float32", "int32")  # of inputs and outputs
BATCH, TOKENS = "batch", "tokens"  # the names of the axes that vary

Tower = Literal["image", "text"]
Dtype = Literal["fp32", "fp16", "bf16"]
TOWERS: tuple[Tower, ...] = get_args(Tower)


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output: its dtype by NumPy's name; its shape, an axis that varies by its name."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """One tower as ONNX. `weights` is the file beside it that holds them where a graph exceeds 2 GB, else None."""

    file: str
    weights: str | None
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


@dataclass(frozen=True)
class TensorRTEngine:
    """One tower as an engine: for `library` ("tensorrt" or "tensorrt_rtx") of `version` on `hardware` ("sm89")."""

    tower: Tower
    file: str
    library: str
    version: str
    hardware: str
    dtype: Dtype
    seconds: float


@dataclass(frozen=True)
class StoredFile:
    """What a file held when it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportManifest:
    """What an export directory holds.

    source: the checkpoint it was made from, by the hash that indexes remember. kind: that of the checkpoint.
    dtype: that of weights and activations; inputs are float32 and int32, outputs float32, whatever it is.
    coarse_from: "head" where the checkpoint has one, else "rotation": learned from sample data, in the graph.
    padding, max_tokens: how sentences are cut and padded. processor: the files that preprocessing needs.
    profile: smallest, usual and largest length of each axis that varies; engines refuse others, ONNX does not.
    versions: of the packages that made it. gpu: the device of the building machine, None without one.
    seconds: how long each part took. parity: the summary of `parity.json`; {"passed": None} where it was not run.
    """

    source: CheckpointReference
    kind: str
    dtype: Dtype
    coarse_dim: int
    fine_dim: int
    coarse_from: Literal["head", "rotation"]
    padding: Padding
    max_tokens: int
    processor: tuple[str, ...]
    profile: dict[str, tuple[int, int, int]]
    graphs: dict[Tower, Graph]
    engines: tuple[TensorRTEngine, ...]
    versions: dict[str, str]
    gpu: str | None
    seconds: dict[str, float]
    parity: dict[str, Any]
    files: dict[str, StoredFile]

    @classmethod
    def read(cls, directory: Path) -> "ExportManifest":
        """That of an export; CheckpointError where there is none, or one of another form or format version."""
        file = directory / MANIFEST
        try:
            with _plain(file) as stream:
                found = json.loads(stream.read(LARGEST))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                str(file), expected="the manifest of an export", got=str(error), remedy=EXPORT_AGAIN
            ) from None
        signature = (found.get("format"), found.get("version")) if isinstance(found, dict) else ()
        if signature != (FORMAT, VERSION):
            raise CheckpointError(
                str(file),
                expected=f"format {(FORMAT, VERSION)}",
                got=str(signature),
                remedy=EXPORT_AGAIN,
            )
        try:
            return _manifest(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                str(file), expected="a whole manifest", got=repr(error), remedy=EXPORT_AGAIN
            ) from None

    def write(self, directory: Path) -> None:
        """Write it as `manifest.json`, on the disk when this returns."""
        with (directory / MANIFEST).open("w", encoding="utf-8") as stream:
            json.dump({"format": FORMAT, "version": VERSION, **asdict(self)}, stream, indent=1)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())

    def content(self, directory: Path, name: str) -> bytes:
        """The bytes of one of `files`, as they were written; CheckpointError where they are not."""
        with _opened(directory, name, self.files) as stream:
            content = stream.read()
        _compare(directory / name, self.files[name], len(content), sha256(content).hexdigest())
        return content

    def verify(self, directory: Path, names: tuple[str, ...] | None = None) -> None:
        """Read `names` (default: every file) without holding them; CheckpointError names the first that differs."""
        for name in self.files if names is None else names:
            with _opened(directory, name, self.files) as stream:
                found = _stored(stream)
            _compare(directory / name, self.files[name], found.bytes, found.sha256)


def stored_file(file: Path) -> StoredFile:
    """Length and SHA-256 of a file, read a block at a time."""
    with file.open("rb") as stream:
        return _stored(stream)


EXPORT_AGAIN = "Export the checkpoint again: python -m export.to_onnx CHECKPOINT."


def _stored(stream: BinaryIO) -> StoredFile:
    digest, length = sha256(), 0
    while block := stream.read(1 << 20):
        digest.update(block)
        length += len(block)
    return StoredFile(length, digest.hexdigest())


def _opened(directory: Path, name: str, files: Mapping[str, StoredFile]) -> BinaryIO:
    """A plain file that lies in `directory` itself: no link leads out of it, no name does."""
    file = directory / name
    if name not in files:
        raise CheckpointError(
            str(file),
            expected="a file that the manifest names",
            got="another",
            remedy=EXPORT_AGAIN,
        )
    return _plain(file)


def _plain(file: Path) -> BinaryIO:
    """A file that is no link, pipe or device, opened without waiting for one."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise CheckpointError(
            str(file), expected="a readable file, not a link", got=str(error), remedy=EXPORT_AGAIN
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(
            str(file),
            expected="a regular file",
            got="a directory, a pipe or a device",
            remedy=EXPORT_AGAIN,
        )
    return os.fdopen(descriptor, "rb")


def _compare(file: Path, expected: StoredFile, length: int, digest: str) -> None:
    if (length, digest) != (expected.bytes, expected.sha256):
        raise CheckpointError(
            str(file),
            expected=f"{expected.bytes:,} bytes with sha256 {expected.sha256}",
            got=f"{length:,} with {digest}",
            remedy=f"The file was changed. {EXPORT_AGAIN}",
        )


def _manifest(found: Mapping[str, Any]) -> ExportManifest:
    """The dataclasses of a JSON object; KeyError, TypeError or ValueError where one lacks something."""
    files = {
        name: StoredFile(int(f["bytes"]), str(f["sha256"])) for name, f in found["files"].items()
    }
    graphs: dict[Tower, Graph] = {tower: _graph(found["graphs"][tower]) for tower in TOWERS}
    engines = tuple(TensorRTEngine(**engine) for engine in found["engines"])
    named = [e.file for e in engines] + [g.file for g in graphs.values()]
    named += [*found["processor"], *(g.weights for g in graphs.values() if g.weights)]
    unsafe = [name for name in files if Path(name).name != name or name in ("", ".", "..")]
    if unsafe or not set(named) <= set(files):
        raise ValueError(f"files {unsafe or sorted(set(named) - set(files))}")
    for name, allowed in (
        ("dtype", get_args(Dtype)),
        ("padding", get_args(Padding)),
        ("coarse_from", ("head", "rotation")),
    ):
        if found[name] not in allowed:
            raise ValueError(f"{name} {found[name]!r}")
    for name in ("coarse_dim", "fine_dim", "max_tokens"):
        if type(found[name]) is not int or found[name] < 1:
            raise ValueError(f"{name} {found[name]!r}")
    source = CheckpointReference(**found["source"])
    if not (isinstance(source.path, str) and isinstance(source.sha256, str)):
        raise TypeError(f"source {source}")
    for name in ("parity", "seconds", "versions"):
        if not isinstance(found[name], dict):
            raise TypeError(f"{name} {found[name]!r:.80}")
    for graph in graphs.values():
        _check_graph(graph, found["coarse_dim"], found["fine_dim"])
    rest = {name: found[name] for name in ExportManifest.__dataclass_fields__}
    return ExportManifest(
        **rest
        | {
            "source": source,
            "processor": tuple(found["processor"]),
            "profile": {axis: _profile(lengths) for axis, lengths in found["profile"].items()},
            "graphs": graphs,
            "engines": engines,
            "files": files,
        }
    )


def _check_graph(graph: Graph, coarse_dim: int, fine_dim: int) -> None:
    """Inputs are float32 and int32, outputs float32 vectors of the manifest's own dims."""
    for name, spec in (*graph.inputs.items(), *graph.outputs.items()):
        if spec.dtype not in DTYPES:
            raise ValueError(f"{name} of {spec.dtype!r}")
    found = {name: (spec.dtype, *spec.shape[1:]) for name, spec in graph.outputs.items()}
    if found != {"coarse": ("float32", coarse_dim), "fine": ("float32", fine_dim)}:
        raise ValueError(f"outputs {found} for coarse_dim {coarse_dim} and fine_dim {fine_dim}")


def _profile(lengths: Any) -> tuple[int, int, int]:
    smallest, usual, largest = map(int, lengths)
    if not 0 < smallest <= usual <= largest:
        raise ValueError(f"profile {lengths}")
    return smallest, usual, largest


def _graph(found: Mapping[str, Any]) -> Graph:
    def specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
        return {name: TensorSpec(t["dtype"], tuple(t["shape"])) for name, t in tensors.items()}

    return Graph(found["file"], found["weights"], specs(found["inputs"]), specs(found["outputs"]))
