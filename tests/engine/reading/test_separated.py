"""CSV and TSV with a quote too many: the row is said to be faulty, the next ones are read."""

from pathlib import Path

import pytest

import engine
from engine.dataset import read_dataset
from engine.reading import json_lines, separated
from engine.reading.json_lines import JsonLines
from engine.reading.separated import Separated
from engine.system import files

COUNT = 40


def table(file: Path, **changed: str) -> Path:
    """`COUNT` rows; `line12="…"` puts another line in the place of row 12, which is line 14 of the file."""
    mark = "\t" if file.suffix == ".tsv" else ","
    lines = [mark.join(("image", "caption"))]
    lines += [f"p{row}.jpg{mark}caption {row}" for row in range(COUNT)]
    for name, line in changed.items():
        lines[int(name.removeprefix("line")) + 1] = line
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def read(file: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Captions by picture, and faults by line; what a data set leaves out is the same."""
    found = list(Separated(file).records())
    captions = {record.name: record.captions[0] for record in found if record.fault is None}
    faults = {
        int(record.place.rpartition(":")[2]): str(record.fault)
        for record in found
        if record.fault is not None
    }
    skipped: list[str] = []
    examples = read_dataset(file, check_images=False, skipped=skipped)
    assert {e.image.name: e.captions[0] for e in examples if isinstance(e.image, Path)} == captions
    assert skipped == [f"{file}:{line}: {fault}" for line, fault in faults.items()]
    return captions, faults


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    """Quotes are characters: at a field's start, around a field, and left open."""
    odd = ['"Stop" sign on a road', '"all of it"', '"left open', 'the end"', 'a "word"', '""']
    lines = {f"line{row}": f"p{row}.jpg\t{said}" for row, said in enumerate(odd)}
    captions, faults = read(table(tmp_path / "captions.tsv", **lines))
    assert faults == {}
    assert list(captions.values()) == odd + [f"caption {row}" for row in range(len(odd), COUNT)]


def test_line_ends_of_windows(tmp_path: Path) -> None:
    for name in ("a.tsv", "a.csv"):
        file = table(tmp_path / name)
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
        captions, faults = read(file)
        assert (len(captions), faults) == (COUNT, {})
        assert captions["p3.jpg"] == "caption 3"


@pytest.mark.parametrize(
    ("lines", "bad"),
    [
        ({"line10": 'p10.jpg,"Stop sign'}, [10]),  # never closed
        ({"line10": 'p10.jpg,"Stop sign', "line13": 'p13.jpg,the end"'}, [10]),
        ({"line10": 'p10.jpg,"Stop sign', "line13": 'p13.jpg,"the end"'}, [10]),
        ({"line10": 'p10.jpg,"Stop" sign'}, [10]),
        ({"line10": 'p10.jpg,"Stop', "line11": 'p11.jpg,"Stop'}, [10, 11]),
        ({"line39": 'p39.jpg,"Stop'}, [39]),
        ({"line10": "p10.jpg"}, [10]),
        ({"line10": "p10.jpg,a,b"}, [10]),
        ({"line10": 'p10.jpg,"a\x00"b'}, [10]),
    ],
)
def test_a_csv_loses_the_bad_row_alone(
    lines: dict[str, str], bad: list[int], tmp_path: Path
) -> None:
    captions, faults = read(table(tmp_path / "captions.csv", **lines))
    assert list(faults) == [row + 2 for row in bad]
    assert list(captions) == [f"p{row}.jpg" for row in range(COUNT) if row not in bad]


def test_a_csv_as_it_should_be(tmp_path: Path) -> None:
    """Quotes doubled, commas and line ends inside of quotes."""
    file = table(tmp_path / "captions.csv", line0='p0.jpg,"a ""b"", c\nand d, e"', line1="")
    captions, faults = read(file)
    assert faults == {}
    assert captions["p0.jpg"] == 'a "b", c\nand d, e'
    assert list(captions) == [f"p{row}.jpg" for row in range(COUNT) if row != 1]


def test_without_skipping_the_line_is_named(tmp_path: Path) -> None:
    file = table(tmp_path / "captions.csv", line10='p10.jpg,"Stop sign')
    with pytest.raises(
        engine.DatasetError, match=r"captions\.csv:12: expected a closing quote before line 13"
    ):
        read_dataset(file, check_images=False)
    file = table(tmp_path / "captions.tsv", line10="p10.jpg")
    with pytest.raises(engine.DatasetError, match=r"captions\.tsv:12: expected 2 fields"):
        read_dataset(file, check_images=False)


def test_a_file_of_nothing_but_faults_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separated, "MAX_FAULTS", 5)
    file = tmp_path / "captions.csv"
    file.write_text('image,caption\na.jpg,a\nb.jpg,"\n' + "x\n" * 100)
    captions, faults = read(file)
    assert list(captions) == ["a.jpg"]
    assert list(faults) == [3, 4, 5, 6, 7, 8]
    assert "The rest of it is left out" in faults[8]


def test_lines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (files, separated, json_lines):
        monkeypatch.setattr(module, "MAX_LINE", 100)
    for suffix in (".csv", ".tsv"):
        file = table(tmp_path / f"captions{suffix}", line7="p7.jpg,\t" + "x" * 1000)
        captions, faults = read(file)
        assert list(faults) == [9]
        assert len(captions) == COUNT - 1
    (tmp_path / "c.jsonl").write_text(f'"{"x" * 1000}"\n{{"image": "a.jpg", "caption": "a"}}\n')
    found = list(JsonLines(tmp_path / "c.jsonl").records())
    assert [record.fault is not None for record in found] == [True, False]


def test_the_names_of_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('"image"\t"caption"\n')
    with pytest.raises(engine.DatasetError, match=r'a\.tsv:1: .*names without quotes, "image"'):
        list(Separated(tmp_path / "a.tsv").records())
