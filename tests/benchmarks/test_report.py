"""REPORT.md and README's tables are what the results say, and nothing is shown as measured that was not."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report

MACHINE = {
    "device": "a box", "commit": "abc", "dirty": False, "date": "2026-01-02", "threads": 2, "cuda": None,
    "load": [0.5, 0, 0], "versions": {"torch": "2"},
}  # fmt: skip


def test_readme_and_report_are_what_the_results_say() -> None:
    assert report.main(["--check"]) == 0, "run python -m benchmarks.report"


def test_a_table_that_drifted_is_found_and_mended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    monkeypatch.setattr(report, "REPORT", tmp_path / "REPORT.md")
    text = "before\n<!-- report: gpu -->\n1 ms, typed\n<!-- end -->\nafter\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert report.main(["--check"]) == 1
    assert "README.md is not what the results say" in capsys.readouterr().err
    assert report.main([]) == 0
    found = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert found == f"before\n<!-- report: gpu -->\n{report.NO_GPU}\n<!-- end -->\nafter\n"
    assert report.main(["--check"]) == 0


def test_what_was_not_measured_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    text = report.report()
    named = [name for _, _, names, _ in report.SECTIONS for name in names]
    assert {*named, "search", "dims", "gpu-brief"} == set(report.TABLES)
    assert text.count("Not measured yet: `") == len(named) - 1
    assert report.NO_GPU in text


def test_dims_are_those_that_evaluate_wrote() -> None:
    known = json.loads((report.ROOT / "docs" / "dims.json").read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    lines = [line.strip("| ").split(" | ") for line in report.dims().splitlines()]
    assert lines[0] == ["t→i R@1", "alone", *(f"+ {count}" for count in known["candidates"])]
    (row,) = (line for line in lines if line[0] == "PCA 8-d")
    alone, *kept = row[1:]
    assert alone == f"{known['recalls']['PCA alone (8-d)']['text_to_image']['R@1']:.1f}"
    for count, cell in zip(known["candidates"], kept, strict=True):
        way = known["recalls"][f"PCA 8-d, then fine over {count}"]
        assert cell == f"{way['text_to_image']['R@1']:.1f}"
    assert len(lines) == 2 + 11 + 2  # the checkpoint's own, five dims twice; then a last line


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(SystemExit, match="no-such"):
        report.readme("<!-- report: no-such -->\n<!-- end -->")


def test_benchmarks_show_only_the_columns_they_have() -> None:
    rows: list[dict[str, Any]] = [
        {
            "op": "verify",
            "p50": 2.0,
            "p95": 3.0,
            "p99": 4.0,
            "bytes_s": 5e9,
            "share_of_copy_bytes_s": 0.25,
        },
        {"op": "open", "p50": 0.1234, "p95": 0.2, "p99": 0.3},
        {"op": "other", "p50": 1.0},
    ]
    found = {"machine_info": MACHINE, "benchmarks": [{"extra_info": row} for row in rows]}
    lines = report.benchmarked("verify", "open")(found).splitlines()
    assert lines[0] == "| op | p50, ms | p95 | p99 | GB/s | of copy |"
    assert lines[2:4] == [
        "| verify | 2 | 3 | 4 | 5 | 25 % |",
        "| open | 0.123 | 0.2 | 0.3 | – | – |",
    ]
    assert lines[-1] == "2026-01-02, commit abc, a box, 2 threads, load 0.5; torch 2"


def test_a_gpu_result_is_shown_with_its_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shape = {"op": "coarse", "count": 1000, "d": 64, "batch": 1, "k": 10}
    case = {"shape": shape, "ours": {"p50": 0.5}, "ours, graph": {"p50": 0.25}, "times_floor": 1.25,
            "share_of_copy": 0.8,
            "peers": {"one": {"p50": 2.0}, "two": {"not_installed": "pip install two"}}}  # fmt: skip
    search = [{"method": "ours", "N": 1000, "D": 768, "B": 1, "candidates": 128, "recall": 0.995, "p50": 0.25,
               "p99": 0.5, "qps": 4000.0}]  # fmt: skip
    machine = MACHINE | {"device": "a GPU", "cuda": "13"}
    written = {
        "machine": machine,
        "dry_run": False,
        "cases": [case],
        "search": search,
        "encoders": [],
    }
    (tmp_path / "a_GPU-2026-01-02-abc.json").write_text(json.dumps(written), encoding="utf-8")
    (tmp_path / "dry.json").write_text(json.dumps(written | {"dry_run": True}), encoding="utf-8")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    text = report.gpu_results()
    assert text.startswith("### a_GPU-2026-01-02-abc\n")
    assert text.count("###") == 1
    assert "| coarse | 1,000 | 64 | 1 | 10 | 0.5 | 0.25 | 1.25 | 80 % | 2 | not installed |" in text
    assert "| ours | 1,000 | 768 | 1 | 128 | 0.995 | 0.25 | 0.5 | 4,000 |" in text
    brief = report.gpu_brief()
    assert "a GPU" in brief
    assert "1,000" not in brief  # of other sizes than README speaks of


def test_readme_shows_the_last_whole_run_of_each_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def row(method: str, batch: int, candidates: int | None, **figures: Any) -> dict[str, Any]:
        return {
            "method": method,
            "N": 1_000_000,
            "D": 768,
            "d": 64,
            "B": batch,
            "candidates": candidates,
            **figures,
        }

    search = [
        row("ours", 1, 128, p50=0.25, recall=0.995), row("ours", 32, 128, p50=0.5, recall=1.0),
        row("ours", 1, 1024, p50=9.0, recall=1.0), row("theirs", 1, None, not_installed="pip install theirs"),
        row("plain", 32, None, p50=2.0, recall=0.9),
    ]  # fmt: skip
    for device, date, rows in (("A", "2026-01-02", search), ("A", "2026-01-01", search),
                               ("A", "2026-01-03", []), ("B", "2026-01-01", [])):  # fmt: skip
        machine = MACHINE | {"device": device, "cuda": "13", "date": date}
        written = {"machine": machine, "dry_run": False, "cases": [], "search": rows}
        name = tmp_path / f"{device}-{date}-{len(rows)}.json"
        name.write_text(json.dumps(written), encoding="utf-8")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    brief = report.gpu_brief()
    assert [line[:10] for line in brief.splitlines() if "commit" in line] == [
        "2026-01-01",
        "2026-01-02",
    ]
    assert brief.splitlines()[-4:] == [
        "| method | B = 1 | B = 32 |",
        "| --- | --- | --- |",
        "| ours | 0.25 (0.995) | 0.5 (1.000) |",
        "| plain | – | 2 (0.900) |",
    ]
