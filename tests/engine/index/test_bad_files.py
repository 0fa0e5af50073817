"""Damaged files and lying manifests: a typed error, or the exact answer; never a crash, a hang or a wrong answer.

What is promised: opening reads the manifest (which has a checksum) and every file's length. A bit that changed
inside a file is found by `verify`; without it, an answer is that of what the files hold now.
"""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.index import Index
from engine.index.lock import LOCK
from engine.index.manifest import MANIFEST, read_manifest
from tests.engine.brute_force import brute_force
from tests.engine.index.model import COARSE, FINE
from tests.engine.index.outcome import QUERY, answer, outcome
from tests.engine.index.small import write_manifest

LIES, FLIPS, SEED = 5000, 1500, 11
# What nothing else in the manifest can contradict: it is believed.
BELIEVED = {"normalize", "checkpoint", "path", "sha256", "reduction", "clipped", "recall"}

VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2**64, 1e308, [], [0], {}, {"a": 1}, [10**9, 10**9]),
    *("", "x", "int8", "float16", "../x", "/dev/zero", "a" * 5000, "\ud800"),
]


def vectors(count: int, dim: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(-9, 10, (count, dim)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments with every kind of file but int64 ids: strings, metadata, deleted rows, a reduction."""
    place = tmp_path_factory.mktemp("whole") / "index"
    parts = [
        Index.build(
            vectors(count, COARSE, seed),
            vectors(count, FINE, seed + 50),
            ids=[f"item {seed} {row}" for row in range(count)],
            metadata=[{"n": row, "text": f"é{row}"} for row in range(count)],
            reduction=np.eye(FINE, COARSE, dtype=np.float32),
        )
        for seed, count in ((1, 30), (2, 5), (3, 5))
    ]
    index = parts[0].save(place)
    for part in parts[1:]:
        index = index.append(part).save()
    index.without(["item 1 3", "item 1 7", "item 2 0"]).save()
    return place


def test_every_truncation_is_refused(whole: Path, tmp_path: Path) -> None:
    tried = 0
    place = tmp_path / "index"
    shutil.copytree(whole, place)
    for file in sorted(place.iterdir()):
        if file.name == LOCK:
            continue
        content = file.read_bytes()
        lengths = range(len(content))
        if len(content) > 1000:
            lengths = random.Random(SEED).sample(lengths, 300)  # type: ignore[assignment]
        for length in lengths:
            file.write_bytes(content[:length])
            tried += 1
            with pytest.raises(engine.IndexFormatError):
                Index.open(place)
        file.write_bytes(content)
    Index.open(place).verify()
    print(f"{tried} truncations, all refused")


@pytest.mark.parametrize("rows", [5, 20_000])
def test_a_file_with_bytes_too_many_is_refused(tmp_path: Path, rows: int) -> None:
    """Whether it is read or mapped: another length is another file."""
    index = Index.build(vectors(rows, COARSE, 1), vectors(rows, FINE, 2))
    index.append(Index.build(vectors(1, COARSE, 3), vectors(1, FINE, 4), ids=[rows])).save(tmp_path)
    for file in sorted(tmp_path.glob("*-*.bin")):
        content = file.read_bytes()
        for extra in (b"\0", bytes(4 * FINE), bytes(8192)):
            file.write_bytes(content + extra)
            with pytest.raises(engine.IndexFormatError, match=f"{file.name}.*{len(content)} bytes"):
                Index.open(tmp_path)
        file.write_bytes(content)
    Index.open(tmp_path).verify()


def test_a_flipped_bit_is_found_by_verify_and_crashes_nothing(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    shutil.copytree(whole, place)
    files = sorted(file for file in place.iterdir() if file.name != LOCK)
    rng, seen = random.Random(SEED), Counter[str]()
    for _ in range(FLIPS):
        file = rng.choice(files)
        content = bytearray(file.read_bytes())
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        try:
            index = Index.open(place)
        except engine.IndexFormatError:
            seen["refused when opened"] += 1
            assert file.name == MANIFEST
        else:
            with pytest.raises(engine.IndexFormatError, match=file.name):
                index.verify()
            seen[_answer_of_what_is_there(index, place)] += 1
        file.write_bytes(content)
    print(f"{FLIPS} flipped bits, seed {SEED}, all found by open or verify: {dict(seen)}")


def _answer_of_what_is_there(index: Index, place: Path) -> str:
    """Search, and compare with brute force over the arrays that the files hold now."""
    said = outcome(place)
    if isinstance(said, str):
        return said
    if not (np.isfinite(index.fine).all() and np.abs(index.fine).max() < 1e15):
        return "answered, not finite or huge"
    scores, rows = brute_force(QUERY, index.fine, 9, index.live)
    np.testing.assert_allclose(said[0][0][0], scores, rtol=1e-5)
    if np.diff(scores).any():
        hits = rows[0][rows[0] >= 0]
        assert said[0][0][1][0] == index.ids_at(hits) or len(set(scores[0])) < len(scores[0])
    return "answered"


def _places(part: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    entries: Any = ()
    if isinstance(part, dict):
        entries = part.items()
    elif isinstance(part, list):
        entries = enumerate(part)
    for name, value in entries:
        found += _places(value, (*path, name))
    return found


def lie(manifest: Any, rng: random.Random, names: list[str]) -> str | None:
    """Change one place of a manifest; what was done, or None where that would be believed."""
    path = rng.choice([p for p in _places(manifest) if p != ("checksum",)])
    if BELIEVED & set(path):
        return None
    holder = manifest
    for name in path[:-1]:
        holder = holder[name]
    name, old = path[-1], holder[path[-1]]
    kind = rng.choice(["value", "number", "gone", "twice", "key"])
    if kind == "gone":
        del holder[name]
    elif kind == "twice" and isinstance(holder, list):
        holder.insert(name, old)
    elif kind == "key" and isinstance(holder, dict):
        holder[rng.choice(["deleted", "metadata", "lookup_keys", "extra"])] = holder.pop(name)
    elif kind == "number" and isinstance(old, int):
        holder[name] = old + rng.choice([-1, 1, -old, 2**31, 2**63, -2 * old, 0.5])
    else:
        holder[name] = rng.choice([*VALUES, rng.choice(names)])
    if (
        isinstance(holder, (dict, list))
        and kind not in ("gone", "twice", "key")
        and holder[name] == old
    ):
        return None
    return f"{kind} {'/'.join(map(str, path))}"


def tell_lies(whole: Path, place: Path, count: int) -> tuple[Counter[str], list[str]]:
    """`count` manifests with one lie each and their checksum made right again: outcomes, and wrong answers."""
    shutil.copytree(whole, place)
    text, truth = (place / MANIFEST).read_bytes(), answer(place)
    names = [stored.file for stored in read_manifest(place)[0].files]
    rng, seen, wrong = random.Random(SEED), Counter[str](), []
    while seen.total() < count:
        manifest = json.loads(text)
        done = lie(manifest, rng, names)
        if done is not None:
            write_manifest(place, manifest)
            said = outcome(place)
            seen[said if isinstance(said, str) else "the exact answer"] += 1
            if not isinstance(said, str) and said != truth:
                wrong.append(done)
    return seen, wrong


def test_a_lying_manifest_never_makes_a_wrong_answer(whole: Path, tmp_path: Path) -> None:
    seen, wrong = tell_lies(whole, tmp_path / "index", LIES)
    print(f"{LIES} lies, seed {SEED}: {dict(seen)}, {len(wrong)} wrong answers")
    assert not wrong, wrong[:5]
    assert set(seen) <= {"IndexFormatError", "the exact answer"}


def test_a_planted_bug_is_caught(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the counts of items and files not compared, a dropped segment or file would go unnoticed."""
    from engine.index import manifest

    real = manifest._require

    def lenient(true: bool, name: str, got: Any) -> None:
        real(true or name in ("count", "file_count"), name, got)

    monkeypatch.setattr(manifest, "_require", lenient)
    _, wrong = tell_lies(whole, tmp_path / "index", 1500)
    print(f"planted: {len(wrong)} wrong answers in 1500 lies, such as {wrong[:3]}")
    assert wrong


def test_json_that_is_hard_to_read(tmp_path: Path) -> None:
    for text in (
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format": "hivlp-index", "version": 1e999}',
        b"9" * 9999,
    ):
        (tmp_path / MANIFEST).write_bytes(text)
        with pytest.raises(engine.IndexFormatError):
            Index.open(tmp_path)


def test_writing_a_manifest_again_keeps_it_good(whole: Path, tmp_path: Path) -> None:
    """Else every lie would be refused for its checksum."""
    place = tmp_path / "index"
    shutil.copytree(whole, place)
    write_manifest(place, json.loads((place / MANIFEST).read_bytes()) | {"extra": 1})
    assert answer(place) == answer(whole)
