"""Every format, read by `evaluate` and `train` and by `index`: the same records, the same faults.

`read_dataset` is what the first two read with, `build_index` the third. Each source is written here, so the test
knows what both must find. The one raises at the first fault, the other lists all and goes on.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from safetensors.numpy import save_file

import engine
from engine.building import Built, build_index
from engine.dataset import Example, read_dataset
from engine.evaluation.vector_files import read_vectors
from engine.images import read_image
from engine.system.files import Member
from tests.conftest import PICTURES
from tests.engine.building.skipped import skipped_of

COUNT = 5
NAMES = [path.name for path in sorted((PICTURES / "noto").glob("*.webp"))[:COUNT]]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def encoder(untrained: Path) -> engine.Encoder:
    return engine.open_encoder(untrained)


def content(name: str) -> bytes:
    return (PICTURES / "noto" / name).read_bytes()


def whole() -> Rows:
    """A row a picture, one caption each, letters beyond ASCII among them."""
    return [
        {"image": name, "caption": f"ein schönes Bild, {row}", "concept": f"c{row // 2}"}
        for row, name in enumerate(NAMES)
    ]


# ---------------------------------------------------------------- the formats


def write_json_lines(folder: Path, rows: Rows) -> Path:
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def write_csv(folder: Path, rows: Rows) -> Path:
    lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
    (folder / "captions.csv").write_text("\n".join([",".join(rows[0]), *lines]), "utf-8")
    return folder / "captions.csv"


def write_tsv(folder: Path, rows: Rows) -> Path:
    lines = ["\t".join(map(str, row.values())) for row in rows]
    (folder / "captions.tsv").write_text("\n".join(["\t".join(rows[0]), *lines]), "utf-8")
    return folder / "captions.tsv"


def write_parquet(folder: Path, rows: Rows) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet", row_group_size=2)
    return folder / "captions.parquet"


def write_tar(folder: Path, rows: Rows) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for number, row in enumerate(rows):
            about = {key: value for key, value in row.items() if key != "image"}
            for suffix, held in (
                ("webp", content(row["image"])),
                ("json", json.dumps(about, ensure_ascii=False).encode()),
            ):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(held)
                archive.addfile(info, io.BytesIO(held))
    return folder / "a.tar"


@dataclass(frozen=True)
class Format:
    """How a source is written; `place`: how record n of it is called, counted from 0."""

    write: Callable[[Path, Rows], Path]
    place: str
    first: int = 1


FORMATS = {
    "json lines": Format(write_json_lines, ":{}"),
    "csv": Format(write_csv, ":{}", 2),
    "tsv": Format(write_tsv, ":{}", 2),
    "parquet": Format(write_parquet, ", row {}"),
    "tar": Format(write_tar, ":{}", 0),
}
TEXTS, TABLES = ("json lines", "csv", "tsv"), ("json lines", "csv", "tsv", "parquet")
LISTS = ("json lines", "parquet", "tar")

# ---------------------------------------------------------------- what is wrong with them


@dataclass(frozen=True)
class Case:
    """A source that differs from `whole`.

    rows: what is written; mend: what is done to the file then.
    faults: the records that neither can use, by number. flaws: those that the strict reader refuses alone.
    """

    formats: tuple[str, ...]
    rows: Callable[[], Rows] = whole
    mend: Callable[[Path], object] = Path.touch
    faults: tuple[int, ...] = ()
    flaws: tuple[int, ...] = ()
    captions: dict[int, tuple[str, ...]] = field(default_factory=dict)


def with_row(number: int, **values: Any) -> Callable[[], Rows]:
    def rows() -> Rows:
        changed = whole()
        changed[number] |= values
        return changed

    return rows


def renamed(old: str, new: str) -> Callable[[], Rows]:
    return lambda: [{new if k == old else k: v for k, v in row.items()} for row in whole()]


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def mend(file: Path) -> None:
        held = file.read_bytes()
        assert old in held
        file.write_bytes(held.replace(old, new))

    return mend


def mark(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


def cut(sample: int) -> Callable[[Path], None]:
    """A tar that ends before the headers of this sample."""

    def mend(file: Path) -> None:
        with tarfile.open(file) as archive:
            at = archive.getmember(f"{sample}.webp").offset
        file.write_bytes(file.read_bytes()[:at])

    return mend


def cut_within(sample: int) -> Callable[[Path], None]:
    """A tar that ends within the picture of this sample."""

    def mend(file: Path) -> None:
        with tarfile.open(file) as archive:
            at = archive.getmember(f"{sample}.webp").offset_data
        file.write_bytes(file.read_bytes()[: at + 100])

    return mend


def remove_picture(file: Path) -> None:
    (file.parent / NAMES[2]).unlink()


SAID_2 = "ein schönes Bild, 2"
CASES: dict[str, Case] = {
    "whole": Case(tuple(FORMATS)),
    "a byte-order mark": Case(TEXTS, mend=mark),
    "a column called captions": Case(tuple(FORMATS), rows=renamed("caption", "captions")),
    "no line end at the end": Case(
        ("json lines",), mend=lambda file: file.write_bytes(file.read_bytes().rstrip())
    ),
    "line ends of Windows": Case(TEXTS, mend=replaced(b"\n", b"\r\n")),
    "empty lines": Case(TEXTS, mend=lambda file: file.write_bytes(file.read_bytes() + b"\n\n")),
    "a list of captions": Case(
        LISTS,
        rows=lambda: [
            {"image": row["image"], "captions": [row["caption"], "b"], "concept": row["concept"]}
            for row in whole()
        ],
        captions={row: (f"ein schönes Bild, {row}", "b") for row in range(COUNT)},
    ),
    "a caption without words among others": Case(
        LISTS,
        rows=lambda: [
            {
                "image": row["image"],
                "captions": ["a", " " if number == 2 else "b"],
                "concept": row["concept"],
            }
            for number, row in enumerate(whole())
        ],
        flaws=(2,),
        captions={row: ("a",) if row == 2 else ("a", "b") for row in range(COUNT)},
    ),
    "text that is no UTF-8": Case(
        TEXTS,
        mend=replaced("schönes Bild, 2".encode(), "schönes Bild, 2".encode("latin-1")),
        flaws=(2,),
        captions={2: ("ein sch\ufffdnes Bild, 2",)},
    ),
    "text that is no UTF-8, in a tar": Case(
        ("tar",),
        mend=replaced("schönes Bild, 2".encode(), b"sch\xff\xffnes Bild, 2"),
        faults=(2,),
    ),
    "a path that leaves": Case(TABLES, rows=with_row(2, image=f"../{NAMES[2]}"), faults=(2,)),
    "an absolute path": Case(TABLES, rows=with_row(0, image=f"/{NAMES[0]}"), faults=(0,)),
    "no path": Case(TABLES, rows=with_row(2, image=""), faults=(2,)),
    "null as a path": Case(("json lines", "parquet"), rows=with_row(4, image=None), faults=(4,)),
    "several faults": Case(
        TABLES, rows=lambda: [*whole()[:2], *({**r, "image": ".."} for r in whole()[2:])], faults=(2, 3, 4)
    ),
    "a broken line": Case(("json lines",), mend=replaced(b'"c1"}', b'"c1"'), faults=(2, 3)),
    "a line that is no object": Case(
        ("json lines",),
        mend=lambda file: file.write_text("[1]\n" + file.read_text("utf-8"), "utf-8"),
        faults=(-1,),
    ),
    "a field too few": Case(("csv",), mend=replaced(b'Bild, 2","c1"', b'Bild, 2"'), faults=(2,)),
    "a field too many": Case(("tsv",), mend=replaced(b"Bild, 2\t", b"Bild\t2\t"), faults=(2,)),
    "a quote left open": Case(("csv",), mend=replaced(b'Bild, 2"', b"Bild, 2"), faults=(2,)),
    "a broken object in a tar": Case(("tar",), mend=replaced(b'Bild, 2"', b"Bild, 2 "), faults=(2,)),
    "a picture that is not there": Case(TABLES, mend=remove_picture, faults=(2,)),
}  # fmt: skip
PAIRS = [(name, form) for name, case in CASES.items() for form in case.formats]


def write(folder: Path, form: str, case: Case) -> Path:
    for name in NAMES:
        shutil.copy(PICTURES / "noto" / name, folder)
    source = FORMATS[form].write(folder, case.rows())
    case.mend(source)
    return source


def of_index(report: Built) -> list[tuple[Any, ...]]:
    """Id, captions and concept of each item."""
    index = report.index
    found = []
    for row, id in enumerate(index.ids_at(np.arange(len(index)))):
        about = index.metadata_at(row) or {}
        found.append((id, tuple(about["captions"]), about["concept"]))
    return found


def of_dataset(examples: list[Example], source: Path) -> list[tuple[Any, ...]]:
    """The same of each example."""
    return [
        (
            e.image.name.partition(".")[0]
            if isinstance(e.image, Member)
            else e.image.relative_to(source.parent).as_posix(),
            e.captions,
            e.concept,
        )
        for e in examples
    ]


@pytest.mark.parametrize(("name", "form"), PAIRS)
@pytest.mark.parametrize("by", ["file", "folder"])
def test_both_read_the_same(
    name: str, form: str, by: str, encoder: engine.Encoder, tmp_path: Path
) -> None:
    case, kind = CASES[name], FORMATS[form]
    folder = tmp_path / "source"
    folder.mkdir()
    file = write(folder, form, case)
    if by == "folder" and form == "tar":
        for picture in NAMES:
            (folder / picture).unlink()
    source = file if by == "file" else folder

    def place(number: int) -> str:
        extra = 1 if name == "a line that is no object" else 0  # before all others
        return f"{file}{kind.place.format(number + kind.first + extra)}"

    kept = [row for row in range(COUNT) if row not in case.faults]
    expected = [
        (
            str(row) if form == "tar" else NAMES[row],
            case.captions.get(row, (f"ein schönes Bild, {row}",)),
            f"c{row // 2}",
        )
        for row in kept
    ]

    report = build_index([source], tmp_path / "index", encoder)
    listed = skipped_of(report) if report.skipped else []
    assert of_index(report) == expected
    assert [line["place"] for line in listed] == [place(row) for row in case.faults]

    noted: list[str] = []
    examples = read_dataset(source, skipped=noted)
    assert of_dataset(examples, file) == expected
    wrong = sorted((*case.faults, *case.flaws))
    assert [line.partition(": ")[0] for line in noted] == [place(row) for row in wrong]
    if name != "a picture that is not there":  # a picture's own fault is said by who opens it
        whys = [f"{line['place']}: {line['why']}" for line in listed]
        flawed = [place(row) for row in case.flaws]
        assert [line for line in noted if line.partition(": ")[0] not in flawed] == whys
    for row, example in enumerate(examples):  # the pictures, too
        own = encoder.encode_images([read_image(example.image)])
        np.testing.assert_allclose(report.index.fine[row], own.fine[0].numpy(), atol=1e-5)

    if not wrong:
        assert read_dataset(source) == examples
        return
    with pytest.raises(engine.DatasetError) as raised:
        read_dataset(source)
    assert str(raised.value) == noted[0]


@pytest.mark.parametrize(("mend", "kept"), [(cut(2), 2), (cut(1), 1), (cut_within(3), 3)])
def test_a_tar_that_breaks_off(
    mend: Callable[[Path], None], kept: int, encoder: engine.Encoder, tmp_path: Path
) -> None:
    """Between two samples, or within one: what is whole is read, and the rest is a record with a fault.

    The last sample before may lack files, which the strict reader says.
    """
    file = write_tar(tmp_path, whole())
    mend(file)
    report = build_index([file], tmp_path / "index", encoder)
    (line,) = skipped_of(report)
    assert line["place"] == f"{file}:a.tar, the rest"
    assert line["why"].startswith("expected a whole, uncompressed tar, got ")
    noted: list[str] = []
    examples = read_dataset(file, skipped=noted)
    assert of_dataset(examples, file) == of_index(report)
    assert len(examples) == kept
    assert noted == [f"{file}:{kept - 1}: {line['why']}", f"{line['place']}: {line['why']}"]
    with pytest.raises(engine.DatasetError, match="expected a whole, uncompressed tar, got "):
        read_dataset(file)


def test_a_sample_whose_files_lie_apart(encoder: engine.Encoder, tmp_path: Path) -> None:
    """A flaw: the strict reader says so, the other takes what stands together."""
    file = tmp_path / "a.tar"
    members = {"0.webp": content(NAMES[0]), "1.webp": content(NAMES[1]), "1.txt": b"one"}
    members |= {"0.txt": b"zero", "0.png": content(NAMES[2])}
    with tarfile.open(file, "w") as archive:
        for name, held in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(held)
            archive.addfile(info, io.BytesIO(held))
    noted: list[str] = []
    assert [e.captions for e in read_dataset(file, skipped=noted)] == [("one",), ("zero",)]
    assert "captions with words in them" in noted[0]
    assert noted[1].startswith(f"{file}:0: expected the files of a sample side by side")
    # 0009: a key that comes twice is one id, and the second picture is listed
    report = build_index([file], tmp_path / "index", encoder)
    assert report.index.ids_at(np.arange(2)) == ["0", "1"]
    assert [line["place"] for line in skipped_of(report)] == [f"{file}:0"]


# ---------------------------------------------------------------- what one of them does not take


def test_formats_that_one_of_them_takes(encoder: engine.Encoder, tmp_path: Path) -> None:
    """Said by name: pictures within Parquet, and folders without captions."""
    table = tmp_path / "held.parquet"
    parquet.write_table(pa.table({"image": list(map(content, NAMES)), "caption": ["a"] * 5}), table)
    assert build_index([table], tmp_path / "held", encoder).indexed == COUNT
    with pytest.raises(engine.DatasetError, match=r'row 1: expected a path as "image", got'):
        read_dataset(table)
    (tmp_path / "noto").mkdir()
    shutil.copy(PICTURES / "noto" / NAMES[0], tmp_path / "noto")
    assert build_index([tmp_path / "noto"], tmp_path / "folder", encoder).indexed == 1
    with pytest.raises(engine.DatasetError, match="expected a captions file"):
        read_dataset(tmp_path / "noto")
    about = {"filename": NAMES[0], "split": "test", "sentences": [{"raw": "a"}]}
    file = tmp_path / "noto" / "dataset_coco.json"
    file.write_text(json.dumps({"images": [about]}))
    assert [example.captions for example in read_dataset(file)] == [("a",)]
    assert build_index([file], tmp_path / "index", encoder).indexed == 1


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize("form", ["safetensors", "folder"])
@pytest.mark.parametrize("bad", [(), (3,), (3, 6)])
def test_both_read_the_same_vectors(form: str, bad: tuple[int, ...], tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    tensors = {
        name: chance.standard_normal((7, dim)).astype(np.float32)
        for name, dim in (("image", 6), ("text", 6), ("image_coarse", 3), ("text_coarse", 3))
    }
    for row in bad:
        tensors["image"][row, 1] = np.nan
    source = tmp_path / "given.safetensors"
    if form == "folder":
        source = tmp_path / "given"
        source.mkdir()
        for name, array in tensors.items():
            np.save(source / f"{name}.npy", array)
    else:
        save_file(tensors, source)
    report = build_index([source], tmp_path / "index")
    kept = [row for row in range(7) if row not in bad]
    np.testing.assert_array_equal(report.index.fine, tensors["image"][kept])
    np.testing.assert_array_equal(report.index.coarse, tensors["image_coarse"][kept])
    assert report.index.ids_at(np.arange(len(kept))) == kept
    if bad:
        places = [line["place"] for line in skipped_of(report)]
        assert places == [f"{source}, row {row}" for row in bad]
        with pytest.raises(engine.InvalidArgument, match=rf"image: .*in row {bad[0]}\b"):
            read_vectors(source)
        return
    images, texts = read_vectors(source)
    for found, name in ((images, "image"), (texts, "text")):
        assert found.coarse is not None
        np.testing.assert_array_equal(found.fine.numpy(), tensors[name])
        np.testing.assert_array_equal(found.coarse.numpy(), tensors[f"{name}_coarse"])
