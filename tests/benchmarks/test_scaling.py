"""Scaling: the fit finds what made the times, predictions by hand, and a tiny run of it all."""

import itertools
import json
import mmap
from pathlib import Path

import pytest

from benchmarks import rows, scaling

MACHINE = {"device": "a CPU", "threads": 2, "commit": "abc", "dirty": False, "versions": {}}
COSTS = {"call": 0.05, "item": 0.0, "byte": 6e-8, "score": 2e-7, "multiply-add": 4e-9,
         "candidate": 1e-5, "survivor": 3e-6}  # fmt: skip


def coarse_ms(n: int, b: int, d: int, c: int) -> float:
    """The sum that COSTS stand for, written out."""
    found = 0.05 + 6e-8 * n * d + 2e-7 * b * n + 4e-9 * b * n * d + 1e-5 * b * c
    return found + 3e-6 * b * (c * n) ** 0.5


def coarse_row(part: str, n: int, d: int) -> rows.Row:
    points = [
        {"N": n, "B": b, "d": d, "C": c, "ms": {"p50": coarse_ms(n, b, d, c)}}
        for b, c in itertools.product(scaling.BATCHES, scaling.CANDIDATES)
    ]
    return {"name": f"{part} {n} {d}", "part": part, "op": "coarse", "points": points,
            "quick": False, "machine": MACHINE}  # fmt: skip


def fitted() -> list[rows.Row]:
    sizes = itertools.product((1 << 14, 1 << 16, 1 << 18), scaling.DIMS)
    return [coarse_row("fitted", n, d) for n, d in sizes]


def test_the_fit_finds_the_coefficients_that_made_the_times() -> None:
    found = scaling.fits(fitted())
    assert set(found) == {"coarse"}
    assert found["coarse"] == pytest.approx(COSTS, rel=1e-6, abs=1e-15)


def test_coefficients_are_never_negative() -> None:
    # Plain least squares would say 2 a call and -0.5 a unit.
    found = scaling.fit([{"call": 1, "unit": 1}, {"call": 1, "unit": 2}], [1.5, 1.0])
    # Best with the call alone: x / 1.5 and x / 1.0 as near to 1 as can be.
    best = (1 / 1.5 + 1) / (1 / 1.5**2 + 1)
    assert found == pytest.approx({"call": best, "unit": 0.0})


def test_errors_are_relative() -> None:
    # 1 and 300 cannot both be met by one number a unit: x and x / 3 are to be near 1, not x near 3.
    found = scaling.fit([{"unit": 1}, {"unit": 100}], [1.0, 300.0])
    assert found["unit"] == pytest.approx((1 + 1 / 3) / (1 + 1 / 9))


def test_rerank_is_calls_candidates_and_bytes() -> None:
    point = {"B": 3, "C": 5, "D": 7}
    assert scaling.terms("rerank", point) == {"call": 1, "candidate": 15, "byte": 210}
    ms = scaling.from_fit({"call": 1.0, "candidate": 0.1, "byte": 0.01}, "rerank", point)
    assert ms == pytest.approx(1 + 1.5 + 2.1)


def test_tables_hold_the_held_out_point_beside_its_prediction() -> None:
    held = coarse_row("held out", 1 << 20, 64)
    held["points"][0]["ms"]["p50"] *= 2
    memory = {"name": "m", "part": "memory", "N": 1000, "held": 1_800_000, "planned": 1_672_000,
              "quick": False, "machine": MACHINE}  # fmt: skip
    given = {"rows": [*fitted(), held, memory]}
    found = scaling.table(given)
    said = coarse_ms(1 << 20, 1, 64, 128)
    assert (
        f"| coarse, N = 1,048,576, B = 1, d = 64, C = 128 | {said:.3g} | {2 * said:.3g} | -50% |"
        in found
    )
    assert "| coarse | 54 | 5e+04 per call, " in found
    assert "| 0% | 0% |" in found  # the fit's errors: of its own points
    far = coarse_ms(10**9, 1, 64, scaling.KEPT)
    assert f"| coarse, N = 1,000,000,000, B = 1, d = 64, C = 512 | ≈ {far:,.0f} | – | – |" in found
    cases = itertools.product(scaling.BATCHES, scaling.CANDIDATES)
    times = " | ".join(f"{coarse_ms(1 << 14, b, 16, c):.3g}" for b, c in cases)
    assert f"| coarse | N = 16,384, d = 16 | {times} |" in found
    # 64 x 2 + 768 x 2 + 8 bytes an item; in int8 64 fewer.
    assert "| 100,000,000 | bfloat16 | 12.8 GB | 153.6 GB | 0.8 GB | 1,672 | – |" in found
    assert "| 1,000,000,000 | int8 | 64 GB | 1,536 GB | 8 GB | 1,608 | – |" in found
    assert "| 1,000 | int8 | – | – | – | 1,672 | 1,800 |" in found
    assert "not yet measured on a GPU" in found
    # 512 x 1,536 bytes over 3 TB/s and eight GPUs are 33 ns.
    assert (
        "| 100,000,000 | 32 | 1 | 8 | bfloat16, 0.8 GB | GPU | 0.267 | < 0.001 | 0.267 | 0.6 | 1,667 |"
        in found
    )
    assert scaling.ASSUMPTIONS in found
    assert "Measured on a CPU, 2 threads, commit abc." in found


def test_one_h100_reads_coarse_vectors_and_gathers_over_pcie() -> None:
    found = scaling.on_h100s(10**8, 64, 1, 1)
    assert (found["dtype"], found["fine"]) == ("bfloat16", "host")  # 153.6 GB are more than 64
    assert found["coarse_ms"] == pytest.approx(1e3 * 12.8e9 / 3.0e12)
    assert found["rerank_ms"] == pytest.approx(1e3 * 512 * 1536 / 50e9)
    floor = 1e3 * (12.8e9 / 3.0e12 + 512 * 1536 / 50e9)
    assert found["expected_ms"] == pytest.approx(1.5 * floor + 0.1)


def test_eight_h100s_hold_the_fine_vectors_of_a_hundred_million() -> None:
    found = scaling.on_h100s(10**8, 64, 256, 8)
    assert (found["dtype"], found["fine"]) == ("bfloat16", "GPU")  # 166.4 GB of 512
    by_bytes, by_products = 12.8e9 / 3.0e12, 2 * 256 * 64e8 / 798e12
    assert by_bytes > by_products
    assert found["coarse_ms"] == pytest.approx(1e3 * by_bytes / 8)
    assert found["rerank_ms"] == pytest.approx(1e3 * 256 * 512 * 1536 / 3.0e12 / 8)
    assert found["expected_ms"] == pytest.approx(1.5 * found["floor_ms"] + 0.2)
    more = scaling.on_h100s(10**8, 64, 1024, 8)
    assert more["coarse_ms"] == pytest.approx(1e3 * 2 * 1024 * 64e8 / 798e12 / 8)


def test_what_does_not_fit_in_sixteen_bits_is_int8_and_then_nothing() -> None:
    # Of 80 GB 64 may be taken: a billion x 32 x 2 bytes, or x 64 x 1.
    assert scaling.on_h100s(10**9, 32, 1, 1)["dtype"] == "bfloat16"
    assert scaling.on_h100s(10**9, 64, 1, 1)["dtype"] == "int8"
    assert scaling.on_h100s(10**9, 65, 1, 1)["dtype"] is None
    assert scaling.on_h100s(10**9, 65, 1, 8)["dtype"] == "bfloat16"
    assert scaling.on_h100s(13 * 10**8, 16, 1, 8)["dtype"] is None  # 2,007 GB of fine vectors, ids


def test_a_tiny_run_measures_all_and_the_next_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"QUICK": scaling.Sizes((64, 256), 1024, 100, 100), "BATCHES": (1, 3),
                        "DIMS": (4, 8), "CANDIDATES": (5, 9), "WIDTHS": (16, 32), "FINE": 32,
                        "HELD_RERANK": (4, 20, 32), "THREADS": 1}.items():  # fmt: skip
        monkeypatch.setattr(scaling, name, value)
    monkeypatch.setattr("benchmarks.timing.PAUSE", 0)
    out = tmp_path / "scaling.json"
    scaling.main(["--quick", "--seconds", "0", "--out", str(out)])
    first = json.loads(out.read_text())
    for name in ("coarse", "rerank", "memory"):
        monkeypatch.setattr(scaling, f"measure_{name}", {}.pop)  # would raise
    scaling.main(["--quick", "--seconds", "0", "--out", str(out)])
    assert json.loads(out.read_text()) == first
    parts = [(row["part"], row.get("op")) for row in first["rows"]]
    expected = [("fitted", "coarse")] * 4 + [("fitted", "rerank")] * 2
    assert parts == [*expected, ("held out", "coarse"), ("held out", "rerank"), ("memory", None)]
    assert len(first["rows"][0]["points"]) == 4
    assert first["rows"][-1]["planned"] == 100 * (8 + 2 * 32 + 8)
    printed = capsys.readouterr().out
    assert printed.count("| held out | fit, ms | measured, ms | error |") == 2
    assert "A quick run: its figures say little." in printed


def test_resident_bytes_see_what_is_held() -> None:
    before = scaling.resident_bytes()
    with mmap.mmap(
        -1, 1 << 25
    ) as held:  # pages that are new: a tensor may get ones that were held before
        for place in range(0, len(held), mmap.PAGESIZE):
            held[place] = 1
        grown = scaling.resident_bytes() - before
    assert 0.8 * (1 << 25) < grown < 1.5 * (1 << 25)
