"""`manifest.json`: what an index holds, and the length and checksum of every file of it (docs/index-format.md).

The manifest's own checksum is the SHA-256 of its bytes with the 64 digits of `checksum` written as zeros.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointMismatch, IndexFormatError
from engine.index.remedies import RESTORE

FORMAT, VERSION = "hivlp-index", 3
READS = (2, 3)  # version 2 lacks `learned` and `changed`
MANIFEST = "manifest.json"
# Bytes: those of some 20,000 segments, of which an index that is written here has less than a thousand.
LONGEST = 1 << 25
FILE_NAME = re.compile(r"[a-z_]+-[0-9a-f]{12}\.(bin|parquet)")

MANY = 4096  # items from which on it is worth saying that a reduction does not fit them

Array: TypeAlias = NDArray[Any]

# NumPy has no bfloat16: its bits stand in uint16 arrays, which nothing else here has.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "int64": np.dtype("<i8"),
}
COARSE_DTYPES = ("float32", "float16", "bfloat16", "int8")
FINE_DTYPES = ("float32", "float16")


def dtype_name(array: Array) -> str:
    """The name by which an index calls an array's dtype."""
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name


@dataclass(frozen=True)
class CheckpointReference:
    """Which checkpoint made the vectors: where it was, and the SHA-256 over its files.

    path: a directory, absolute; or, where `hub` is true and only there, an id on the Hugging Face hub.
    relative: the same directory as seen from that of the index, once there is one.
    """

    path: str
    sha256: str
    hub: bool = False
    relative: str | None = None

    def places(self, index: Path | None) -> list[Path]:
        """Where the directory may be, as remembered by the index in `index`: beside it, then where it was."""
        beside = [] if index is None or self.relative is None else [index / self.relative]
        was = [] if self.hub else [Path(self.path)]
        return [Path(os.path.normpath(place)) for place in (*beside, *was)]

    def placed(self, directory: Path, before: Path | None) -> "CheckpointReference":
        """As an index in `directory` remembers it, which was opened from `before`, None for a new one."""
        kept = directory == before and self.relative is not None
        if self.hub or kept or not os.path.isabs(self.path):
            return self
        known = [place for place in reversed(self.places(before)) if place.is_dir()]
        place = known[0] if known else Path(self.path)
        return replace(self, path=str(place), relative=os.path.relpath(place, directory))

    def must_be(self, expected: "CheckpointReference | None") -> None:
        """CheckpointMismatch where an index was made by another checkpoint, `expected`, than this one."""
        if expected is not None and expected.sha256 != self.sha256:
            raise CheckpointMismatch(
                "encoder",
                expected=f"the checkpoint that made the index ({expected.path}, sha256 {expected.sha256[:12]}…)",
                got=f"{self.path} ({self.sha256[:12]}…)",
                remedy="Use that one, or build the index again.",
            )


@dataclass(frozen=True)
class Quantization:
    """How int8 coarse vectors were made: round((value - offset) / scale), clipped to -127…127.

    offset: the mean of the vectors, where it is long; () for zeros. It adds the same to all scores of a query.

    clipped: values beyond that among those the scale was chosen from.
    recall: the share of the best items by unrounded coarse vectors that the rounded ones found, on a sample.
    """

    scale: float
    clipped: int
    recall: float
    offset: tuple[float, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """How many candidates reach a recall of the exact k best items; see `engine.recall.calibration`.

    queries: how many it was measured with; recall: what they had in the mean.
    lower_bound: what it is at least, with the confidence.
    items: how many the index held then.
    changed: how many were added or removed since: with any it is a default, no promise; with many, nothing.
    """

    k: int
    candidates: int
    target_recall: float
    confidence: float
    queries: int
    recall: float
    lower_bound: float
    items: int
    changed: int = 0

    @property
    def is_stale(self) -> bool:
        """Whether more than a tenth of the items have changed since, and more than a few."""
        return self.changed > max(64, self.items // 10)


@dataclass(frozen=True)
class Learned:
    """What a reduction was learned from, and how well it fits what came later.

    items, lost: how many items, and the share of their squared length that the reduction cuts off.
    later, later_lost: the same of the items added since.
    queries: how many queries the axes were chosen with.
    """

    items: int
    lost: float
    later: int = 0
    later_lost: float = 0.0
    queries: int = 0

    def followed_by(self, count: int, lost: float) -> "Learned":
        """With `count` items more, of which the reduction cuts off the share `lost`."""
        later = self.later + count
        mean = (self.later * self.later_lost + count * lost) / later if later else 0.0
        return replace(self, later=later, later_lost=mean)

    @property
    def misfits(self) -> bool:
        """Whether it cuts off clearly more of what came later, and that is a part worth speaking of.

        An index of few items learns anew by itself, and what few items show is much by chance.
        """
        many = self.items + self.later >= MANY and 20 * self.later > self.items
        return many and self.later_lost > self.lost + 0.05


@dataclass(frozen=True)
class Header:
    """What all vectors of an index have in common."""

    coarse_dim: int
    coarse_dtype: str
    fine_dim: int
    fine_dtype: str
    normalize: bool = False
    checkpoint: CheckpointReference | None = None
    quantization: Quantization | None = None
    calibration: Calibration | None = None
    learned: Learned | None = None

    @property
    def misfits(self) -> dict[str, str]:
        """What was learned and fits the items no longer ("reduction", "calibration"), and what to do."""
        found, learned, calibration = {}, self.learned, self.calibration
        if learned is not None and learned.misfits:
            found["reduction"] = (
                f"cuts off {learned.later_lost:.0%} of the {learned.later:,} items added since it was learned, "
                f"{learned.lost:.0%} of the {learned.items:,} it was learned from; relearn() makes another"
            )
        if calibration is not None and calibration.is_stale:
            found["calibration"] = (
                f"was made over {calibration.items:,} items, {calibration.changed:,} were added or removed since, "
                "and searches do not use it; calibrate() makes another"
            )
        return found

    def placed(self, directory: Path, before: Path | None) -> "Header":
        """That of an index saved in `directory`, which was opened from `before`, None for a new one."""
        if self.checkpoint is None:
            return self
        return replace(self, checkpoint=self.checkpoint.placed(directory, before))


@dataclass(frozen=True)
class StoredFile:
    """One file: an array's values alone, little-endian, row by row; or Parquet, as uint8."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredSegment:
    """The files of one segment, by what they hold: `coarse`, `fine`, `ids` …"""

    rows: int
    files: Mapping[str, StoredFile]

    @property
    def live(self) -> int:
        deleted = self.files.get("deleted")
        return self.rows - (deleted.shape[0] if deleted else 0)


@dataclass(frozen=True)
class Manifest:
    """Everything that `manifest.json` says. `reduction`: the file of float32 `[D, d]`, or None."""

    header: Header
    reduction: StoredFile | None
    segments: tuple[StoredSegment, ...]

    @property
    def files(self) -> list[StoredFile]:
        own = [self.reduction] if self.reduction else []
        return own + [file for segment in self.segments for file in segment.files.values()]

    def to_bytes(self) -> tuple[bytes, str]:
        """The text of the file, and its checksum."""
        body = {
            "format": FORMAT,
            "version": VERSION,
            "checksum": "0" * 64,
            "count": sum(segment.live for segment in self.segments),
            **asdict(self.header),
            "reduction": asdict(self.reduction) if self.reduction else None,
            "segments": [asdict(segment) for segment in self.segments],
            "file_count": len(self.files),
        }
        text = json.dumps(body, indent=1).encode()
        digest = sha256(text).hexdigest()
        return text.replace(b"0" * 64, digest.encode(), 1), digest


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """What `manifest.json` says, checked against itself, and its checksum; else IndexFormatError."""
    file = directory / MANIFEST
    try:
        text = _text_of(file)
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFormatError(
            str(directory),
            expected=f"a directory with a {MANIFEST}",
            got="none",
            remedy="Make an index with `python -m engine index FOLDER -o INDEX`.",
        ) from None
    except OSError as error:
        raise IndexFormatError(
            str(file), expected="a readable file", got=str(error), remedy=RESTORE
        ) from None
    return parse_manifest(file, text)


def parse_manifest(file: Path, text: bytes) -> tuple[Manifest, str]:
    """What `text`, the content of `file`, says; its checksum. Checked as `read_manifest` does."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(
            str(file), expected="a JSON object", got=str(error), remedy=RESTORE
        ) from None
    found = (body.get("format"), body.get("version")) if isinstance(body, dict) else ()
    if found not in [(FORMAT, version) for version in READS]:
        raise IndexFormatError(
            str(file),
            expected=f"format {(FORMAT, VERSION)}",
            got=str(found),
            remedy="Open it with the release that wrote it, or build the index again.",
        )
    checksum = str(body.get("checksum"))
    unsigned = text.replace(checksum.encode(errors="replace"), b"0" * 64, 1)
    if sha256(unsigned).hexdigest() != checksum:
        raise IndexFormatError(
            str(file),
            expected=f"checksum {checksum!r}",
            got=sha256(unsigned).hexdigest(),
            remedy=f"The manifest is damaged. {RESTORE}",
        )
    try:
        manifest = _parsed(body)
        _check(manifest, body["count"], body["file_count"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IndexFormatError(
            str(file), expected="a whole manifest", got=repr(error), remedy=RESTORE
        ) from None
    return manifest, checksum


@contextmanager
def opened(file: Path) -> Iterator[tuple[int, int]]:
    """The descriptor and the length of a file of an index; OSError for what is no file.

    An index may be a stranger's: a link could lead anywhere, and to open a pipe is to wait for its other end.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"something else than a file ({stat.filemode(found.st_mode)})")
        yield descriptor, found.st_size
    finally:
        os.close(descriptor)


def _text_of(file: Path) -> bytes:
    with opened(file) as (descriptor, size):
        if size > LONGEST:
            raise OSError(f"{size:,} bytes, more than the {LONGEST:,} that a manifest may have")
        return os.read(descriptor, LONGEST)


def _parsed(body: Mapping[str, Any]) -> Manifest:
    def optional(make: Callable[..., Any], entry: Any) -> Any:
        return None if entry is None else make(**entry)

    header = Header(
        coarse_dim=body["coarse_dim"],
        coarse_dtype=body["coarse_dtype"],
        fine_dim=body["fine_dim"],
        fine_dtype=body["fine_dtype"],
        normalize=body["normalize"],
        checkpoint=optional(CheckpointReference, body["checkpoint"]),
        quantization=optional(_quantization, body["quantization"]),
        calibration=optional(Calibration, body["calibration"]),
        learned=optional(Learned, body.get("learned")),
    )
    segments = tuple(
        StoredSegment(
            entry["rows"], {name: _file(stored) for name, stored in entry["files"].items()}
        )
        for entry in body["segments"]
    )
    reduction = body["reduction"]
    return Manifest(header, None if reduction is None else _file(reduction), segments)


def _quantization(**entry: Any) -> Quantization:
    return Quantization(**{**entry, "offset": tuple(entry.get("offset", ()))})


def _file(entry: Mapping[str, Any]) -> StoredFile:
    return StoredFile(**{**entry, "shape": tuple(entry["shape"])})


def _check(manifest: Manifest, count: int, file_count: int) -> None:
    """Raise ValueError or TypeError for what cannot be, or contradicts something else in the manifest."""
    header = manifest.header
    _require(
        _is_count(header.coarse_dim) and header.coarse_dim > 0, "coarse_dim", header.coarse_dim
    )
    _require(_is_count(header.fine_dim) and header.fine_dim > 0, "fine_dim", header.fine_dim)
    _require(header.coarse_dtype in COARSE_DTYPES, "coarse_dtype", header.coarse_dtype)
    _require(header.fine_dtype in FINE_DTYPES, "fine_dtype", header.fine_dtype)
    _require(isinstance(header.normalize, bool), "normalize", header.normalize)
    if header.checkpoint is not None:
        reference = header.checkpoint
        for text in (reference.path, reference.sha256, reference.relative or ""):
            _require(isinstance(text, str), "checkpoint", text)
        _require(isinstance(reference.hub, bool), "checkpoint", reference.hub)
    quantization = header.quantization
    _require(
        (quantization is None) == (header.coarse_dtype != "int8"), "quantization", quantization
    )
    if quantization is not None:
        scale = quantization.scale
        _require(type(scale) is float and math.isfinite(scale) and scale > 0, "scale", scale)
        offset = quantization.offset
        _require(len(offset) in (0, header.coarse_dim), "offset", len(offset))
        _require(all(type(v) is float and math.isfinite(v) for v in offset), "offset", offset)
    if header.calibration is not None:
        _check_calibration(header.calibration)
    if header.learned is not None:
        _check_learned(header.learned)
    if manifest.reduction:
        _check_file(
            "reduction", manifest.reduction, (header.fine_dim, header.coarse_dim), "float32"
        )
    for segment in manifest.segments:
        _check_segment(header, segment)
    kinds = {"ids" in segment.files for segment in manifest.segments}
    _require(len(kinds) < 2, "segments", "ids of both kinds")
    names = [file.file for file in manifest.files]
    _require(len(set(names)) == len(names), "segments", "one file named twice")
    _require(type(file_count) is int and file_count == len(names), "file_count", file_count)
    live = sum(segment.live for segment in manifest.segments)
    _require(_is_count(count) and count == live, "count", count)


def _check_calibration(calibration: Calibration) -> None:
    counts = (calibration.k, calibration.candidates, calibration.queries, calibration.items)
    shares = (calibration.target_recall, calibration.confidence, calibration.recall)
    for count in counts:
        _require(_is_count(count) and count > 0, "calibration", count)
    _require(_is_count(calibration.changed), "calibration", calibration.changed)
    for share in (*shares, calibration.lower_bound):
        _require(type(share) is float and 0 <= share <= 1, "calibration", share)
    _require(calibration.candidates >= calibration.k, "calibration", calibration.candidates)


def _check_learned(learned: Learned) -> None:
    for count in (learned.items, learned.later, learned.queries):
        _require(_is_count(count), "learned", count)
    for share in (learned.lost, learned.later_lost):
        _require(type(share) is float and 0 <= share <= 1, "learned", share)


def _check_segment(header: Header, segment: StoredSegment) -> None:
    rows, files = segment.rows, segment.files
    _require(_is_count(rows) and rows > 0, "rows", rows)
    ids = {"ids"} if "ids" in files else {"ids_text", "ids_ends"}
    wanted = {"coarse", "fine"} | ids
    if {"lookup_keys", "lookup_rows"} & files.keys() or "ids" not in files:
        wanted |= {"lookup_keys", "lookup_rows"}
    _require(wanted <= files.keys(), "files", f"{sorted(files)} without {sorted(wanted)}")
    extra = files.keys() - wanted - {"metadata", "deleted"}
    _require(not extra, "files", sorted(extra))
    _check_file("coarse", files["coarse"], (rows, header.coarse_dim), header.coarse_dtype)
    _check_file("fine", files["fine"], (rows, header.fine_dim), header.fine_dtype)
    if "ids" in files:
        _check_file("ids", files["ids"], (rows,), "int64")
    else:
        _check_file("ids_text", files["ids_text"], (None,), "uint8")
        _check_file("ids_ends", files["ids_ends"], (rows,), "int64")
    if "lookup_keys" in files:
        _check_file("lookup_keys", files["lookup_keys"], (None,), "int64", at_most=rows)
        _check_file("lookup_rows", files["lookup_rows"], files["lookup_keys"].shape, "int64")
    if "metadata" in files:
        _check_file("metadata", files["metadata"], (None,), "uint8")
    if "deleted" in files:
        _check_file("deleted", files["deleted"], (None,), "int64", at_most=rows)


def _check_file(
    name: str,
    stored: StoredFile,
    shape: tuple[int | None, ...],
    dtype: str,
    at_most: int | None = None,
) -> None:
    """`shape`: None for any length, up to `at_most`."""
    found = stored.shape
    _require(len(found) == len(shape) and all(map(_is_count, found)), name, found)
    fits = all(want in (None, got) for want, got in zip(shape, found, strict=True))
    _require(fits and (at_most is None or found[0] <= at_most), name, f"shape {found}")
    _require(stored.dtype == dtype, name, stored.dtype)
    size = math.prod(found) * NUMPY_DTYPES[dtype].itemsize
    _require(_is_count(stored.bytes) and stored.bytes == size, name, f"{stored.bytes} bytes")
    _require(FILE_NAME.fullmatch(stored.file) is not None, name, stored.file)
    _require(isinstance(stored.sha256, str), name, stored.sha256)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _require(true: bool, name: str, got: Any) -> None:
    if not true:
        raise ValueError(f"{name}: {got}")
