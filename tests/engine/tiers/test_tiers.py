"""Where vectors lie and in how many bits: the answers stay those of a float64 brute force."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.coarse.rounding import queries_to_int8, round_coarse
from engine.embeddings import as_array, as_tensor
from engine.index import Index
from engine.tiers import fine as fine_module
from engine.tiers.resident import Resident
from tests.engine.brute_force import COARSE, D, assert_found, brute_force, vectors
from tests.engine.tiers.agreement import assert_finds_what_brute_force_finds, both

TIERS = ("device", "host", "disk", "auto")


def grown(place: Path, tier: Any, fine_dtype: Any = np.float32) -> engine.Retriever:
    """129 items in three saved segments and one that is not, some of them removed; ids 0…128 but 5, 60 and 128."""
    items, coarse = vectors(129).astype(fine_dtype), vectors(129, COARSE, seed=2)
    engine.Retriever.from_embeddings(items[:50], coarse[:50]).save(place)
    r = engine.Retriever(place, fine_tier=tier)
    for first, last in ((50, 51), (51, 110), (110, 129)):
        r.add(embeddings=both(coarse[first:last], items[first:last]))
        if last < 129:
            r.save()
    r.remove([5, 60, 128])
    return r


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("batch", [0, 1, 9])
def test_every_tier_finds_what_brute_force_finds(
    tmp_path: Path, tier: Any, dtype: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_module, "GATHERED_BYTES", 40_000)  # several blocks of queries
    with grown(tmp_path, tier, dtype) as r:
        fine, coarse = vectors(129), vectors(129, COARSE, seed=2)
        assert_finds_what_brute_force_finds(r, fine, coarse, [5, 60, 128], batch)


def test_an_empty_index_in_every_tier(tmp_path: Path) -> None:
    engine.Retriever.from_embeddings(vectors(1)).save(tmp_path)
    for tier in TIERS:
        r = engine.Retriever(tmp_path, fine_tier=tier)  # type: ignore[arg-type]
        r.index.without([0])
        r.remove([0])
        for mode in ("exact", "two_stage", "coarse"):
            assert r.search(vectors(2), 3, mode=mode).ids == [[], []]
        r.close()


def test_a_gpus_tiers_on_the_cpu() -> None:
    """The device's own path is one growing tensor; here the CPU plays the device."""
    index = Index.build(vectors(20), vectors(20)).append(
        Index.build(vectors(3), vectors(3), ids=[20, 21, 22])
    )
    cpu = torch.device("cpu")
    made = fine_module.FineVectors.of(index, "device", cpu)
    assert len(made.parts) == 1
    longer = index.append(Index.build(vectors(4), vectors(4), ids=[30, 31, 32, 33]))
    more = fine_module.FineVectors.of(longer, "device", cpu, before=made, same_rows=23)
    torch.testing.assert_close(more.parts[0], torch.from_numpy(longer.fine))


def test_growing_copies_only_what_is_new_and_leaves_older_snapshots_alone() -> None:
    parts = [vectors(5, 4, seed) for seed in range(4)]
    cpu = torch.device("cpu")

    def of(count: int, before: Resident | None, same: int) -> Resident:
        return Resident.of(parts[:count], 4, "float32", cpu, before=before, same_rows=same)

    one = of(1, None, 0)
    two = of(2, one, 5)  # copied: the first has no room
    three = of(3, two, 10)
    assert three.tensor.data_ptr() != two.tensor.data_ptr()  # 12 rows of room
    room = torch.empty(100, 4)
    room[:10] = two.tensor
    two = Resident(room[:10], type(two.room)(room, 10))
    three = of(3, two, 10)
    assert three.tensor.data_ptr() == two.tensor.data_ptr()
    other = Resident.of(
        [*parts[:2], parts[3]], 4, "float32", cpu, before=two, same_rows=10
    )  # another snapshot has the room by now
    assert other.tensor.data_ptr() != two.tensor.data_ptr()
    for made, expected in ((two, parts[:2]), (three, parts[:3]), (other, [*parts[:2], parts[3]])):
        np.testing.assert_array_equal(made.tensor.numpy(), np.concatenate(expected))
    assert of(2, two, 10) is two


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_coarse_vectors_in_fewer_bits_survive_and_are_searched(tmp_path: Path, dtype: Any) -> None:
    """Values that every dtype holds exactly, so the oracle is that of the integers."""
    fine, coarse = vectors(300), vectors(300, COARSE, seed=2)
    coarse[:, 0] = 4  # so that the scale is 4 / 127 for items and queries
    queries, coarse_queries = vectors(5, seed=1), vectors(5, COARSE, seed=3)
    coarse_queries[:, 0] = 4
    r = engine.Retriever.from_embeddings(fine[:200], coarse[:200], coarse_dtype=dtype)
    r.save(tmp_path)
    r = engine.Retriever(tmp_path)
    r.add(embeddings=both(coarse[200:], fine[200:]))
    r.save()
    r.index.verify()
    r.close()
    r = engine.Retriever(tmp_path)
    assert r.index.header.coarse_dtype == dtype
    found = r.search(both(coarse_queries, queries), 300, mode="coarse")
    scores, rows = brute_force(coarse_queries, coarse, 300)
    if dtype == "int8":
        rounded = np.rint(coarse * 127 / 4) * 4 / 127, np.rint(coarse_queries * 127 / 4) * 4 / 127
        scores, rows = brute_force(rounded[1], rounded[0], 300)
        np.testing.assert_allclose(found.scores.numpy(), scores, rtol=1e-5, atol=1e-5)
        quantization = r.index.header.quantization
        assert quantization is not None
        assert (quantization.scale, quantization.clipped) == (4 / 127, 0)
        assert quantization.recall > 0.9
        assert "int8" in repr(r)
    else:
        assert_found(found, (scores, rows))
    assert r.search(both(coarse_queries, queries), 9, candidates=300).ids == (
        r.search(queries, 9, mode="exact").ids
    )


def test_int8_clips_what_is_rare_and_says_so() -> None:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.standard_normal((2000, COARSE)).astype(np.float32))
    coarse[3, 2], coarse[4, 0] = 1000.0, -900.0
    rounded, how = round_coarse(coarse, "int8")
    assert how is not None
    assert 2 <= how.clipped <= 4
    assert (rounded[3, 2], rounded[4, 0]) == (127, -127)  # type: ignore[comparison-overlap]
    inner = coarse.abs() < how.scale * 127
    torch.testing.assert_close(
        rounded * how.scale,
        coarse.clamp(-127 * how.scale, 127 * how.scale),
        atol=how.scale / 2 * 1.001,
        rtol=0,
    )
    assert inner.float().mean() > 0.999
    assert 0.5 < how.recall < 1  # the two clipped ones are missed by all
    exact, lossless = round_coarse(torch.eye(8), "int8")
    assert lossless is not None
    assert lossless.recall == 1.0
    assert torch.equal(exact, torch.eye(8).mul(127).to(torch.int8))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_an_empty_index_takes_coarse_vectors_in_fewer_bits(untrained: Path, dtype: Any) -> None:
    """The first items decide int8's scale, later ones take it: as from_embeddings and add do."""
    encoder = engine.open_encoder(untrained)
    assert encoder.coarse_dim is not None
    fine, coarse = (vectors(300, dim, seed=dim) for dim in (encoder.fine_dim, encoder.coarse_dim))
    grown = engine.Retriever.from_pretrained(encoder, coarse_dtype=dtype)
    given = engine.Retriever.from_embeddings(fine[:200], coarse[:200], coarse_dtype=dtype)
    before = grown.index
    grown.add(embeddings=both(coarse[:0], fine[:0]))
    assert grown.index is before
    grown.add(embeddings=both(coarse[:200], fine[:200]))
    for r in (grown, given):
        r.add(embeddings=both(coarse[200:] * 3, fine[200:]))
    np.testing.assert_array_equal(grown.index.coarse, given.index.coarse)
    assert grown.index.header.coarse_dtype == dtype
    assert grown.index.header.quantization == given.index.header.quantization
    with pytest.raises(engine.InvalidArgument, match=r"coarse_dtype: expected .*int8"):
        engine.Retriever.from_pretrained(encoder, coarse_dtype="int4")  # type: ignore[arg-type]


def test_int8_without_its_scale_is_refused() -> None:
    """Saved, it could not be opened."""
    rounded, how = round_coarse(torch.ones(2, 4), "int8")
    assert len(Index.build(rounded.numpy(), vectors(2), quantization=how)) == 2
    for coarse, quantization in ((rounded.numpy(), None), (vectors(2), how)):
        with pytest.raises(engine.InvalidArgument, match="quantization: expected"):
            Index.build(coarse, vectors(2), quantization=quantization)


def test_int8_of_zeros_and_of_nothing() -> None:
    for coarse in (torch.zeros(3, 4), torch.zeros(0, 4)):
        rounded, how = round_coarse(coarse, "int8")
        assert how is not None
        assert torch.equal(rounded, coarse.to(torch.int8))
        assert torch.equal(queries_to_int8(coarse)[0], rounded)
        assert (how.clipped, how.recall) == (0, 1.0)


def test_bfloat16_bits() -> None:
    tensor = torch.tensor([[1.0, -2.5], [3e38, 0.0]]).bfloat16()
    array = as_array(tensor)
    assert array.dtype == np.uint16
    assert torch.equal(as_tensor(array), tensor)
    with pytest.raises(engine.InvalidArgument, match="bfloat16, got NaN or inf in row 1"):
        Index.build(as_array(torch.tensor([[1.0], [torch.inf]]).bfloat16()), vectors(2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_coarse_vectors_that_do_not_fit_are_refused(dtype: Any) -> None:
    coarse = vectors(7, COARSE)
    coarse[2, 3] = np.nan if dtype != "float16" else 70_000
    with pytest.raises(engine.InvalidArgument, match=r"coarse: .*NaN or inf in row 2"):
        engine.Retriever.from_embeddings(vectors(7), coarse, coarse_dtype=dtype)
    with pytest.raises(engine.InvalidArgument, match="coarse_dtype: expected"):
        engine.Retriever.from_embeddings(vectors(7), coarse_dtype="int4")  # type: ignore[arg-type]


def test_plan_says_what_an_index_takes() -> None:
    plan = engine.Retriever.plan(1_000_000, fine_dim=512, fine_dtype="float16", device="cpu")
    assert (plan.coarse_bytes, plan.fine_bytes) == (256_000_000, 1_024_000_000)
    assert plan.disk_bytes == 1_288_000_000
    assert plan.fine_tier == "disk"
    lines = str(plan).splitlines()
    assert lines[0] == "1,000,000 items"
    assert "256,000,000 B  cpu" in lines[1]
    assert "1,024,000,000 B  mapped from disk" in lines[2]
    rows = vectors(100)
    r = engine.Retriever.from_embeddings(rows, coarse_dtype="int8", coarse_dim=COARSE)
    small = engine.Retriever.plan(100, fine_dim=D, coarse_dim=COARSE, coarse_dtype="int8")
    assert small.coarse_bytes + small.fine_bytes == r.index.nbytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": -1}, "items: expected"),
        ({"fine_dim": 0}, "fine_dim: expected"),
        ({"coarse_dtype": "uint8"}, "coarse_dtype: expected"),
        ({"fine_dtype": "int8"}, 'fine_dtype: expected "float32" or "float16"'),
        ({"fine_tier": "gpu"}, "fine_tier: expected"),
    ],
)
def test_bad_plans(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(engine.InvalidArgument, match=message):
        engine.Retriever.plan(**{"items": 5, "fine_dim": 8, **arguments})


MILLION = """
import re, sys, numpy as np, torch
from pathlib import Path
import engine
torch.set_num_threads(1)
place = Path(sys.argv[1])

def memory(kind):
    for line in open("/proc/self/status"):
        if line.startswith(kind + ":"):
            return int(line.split()[1]) * 1024

def of_fine_files():
    found, name = 0, ""
    for line in open("/proc/self/smaps"):
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            name = line.split()[-1].rpartition("/")[2]
        elif line.startswith("Rss:") and name.startswith("fine-"):
            found += int(line.split()[1]) * 1024
    return found

def search(seed):
    rng = np.random.default_rng(seed)
    fine = rng.standard_normal((8, 512), dtype=np.float32)
    coarse = rng.standard_normal((8, 64), dtype=np.float32)
    asked = engine.Embeddings(torch.from_numpy(coarse), torch.from_numpy(fine))
    assert r.search(asked, 10, candidates=128).counts.tolist() == [10] * 8

r = engine.Retriever(place, fine_tier="disk")
search(1)  # torch's code and a search's own working memory are there from here on
once = memory("VmRSS")
for seed in range(2, 6):
    search(seed)
fine_bytes = r.index.segments[0].fine.nbytes * len(r.index.segments)
print(memory("VmHWM"), memory("VmRSS") - once, of_fine_files(), fine_bytes)
"""


def test_a_million_items_are_searched_in_far_less_memory_than_their_fine_vectors(
    tmp_path: Path,
) -> None:
    """1M x (64 float16 + 512 float16), written in pieces, searched by another process with the fine tier mapped."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((125_000, 512), dtype=np.float32).astype(np.float16)
    index = None
    for piece in range(8):
        fine = np.roll(block, piece, axis=1)
        part = Index.build(
            np.ascontiguousarray(fine[:, :64]),
            fine,
            ids=np.arange(piece * 125_000, (piece + 1) * 125_000),
        )
        index = part.save(tmp_path) if index is None else index.append(part).save()
    assert index is not None
    assert len(index) == 1_000_000
    for file in tmp_path.glob("fine-*"):  # as of an index larger than memory: not in the page cache
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    child = subprocess.run(
        [sys.executable, "-c", MILLION, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert child.returncode == 0, child.stderr
    peak, growth, mapped, fine_bytes = map(int, child.stdout.split())
    print(
        f"peak {peak:,} B, four searches more {growth:,} B, of the fine files {mapped:,} B of {fine_bytes:,} B"
    )
    assert fine_bytes == 1_024_000_000
    assert peak < 0.7 * fine_bytes
    # 5 searches x 8 queries x 128 candidates, each a row of 1 KiB in a page of 4 KiB, are 21 MB
    assert 0 < mapped < 0.03 * fine_bytes
    assert growth < 0.1 * fine_bytes
