"""Writes the golden indexes of the current format, once: `python -m tests.engine.index.golden.write`.

Each is an index directory and, beside it, a JSON file of what it holds and what it answers. The answers come from
NumPy in float64, not from a search. docs/index-format.md has the rule: every format adds its own, and none is ever
rewritten.
"""

import json
import sys
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import engine
from engine.index import Index
from engine.index.manifest import VERSION, CheckpointReference

PLACE = Path(__file__).parent / f"format-{VERSION}"
K = 4


def grid(rng: np.random.Generator, rows: int, dim: int) -> NDArray[np.float32]:
    """Multiples of 1/64, so that scores are exact in float32 in whatever order they are summed."""
    return (np.round(64 * rng.standard_normal((rows, dim))) / 64).astype(np.float32)


def write_texts(place: Path) -> NDArray[np.float32]:
    """String ids, metadata of many types, a learned reduction, two segments, deleted rows in both. Its queries."""
    rng = np.random.default_rng(28)
    fine = grid(rng, 13, 6)
    fine[11] = fine[3]  # equal scores in different segments: the lower row first
    ids = ["cat", "a long id with spaces", "猫", "été", *(f"photo/{i:03}.webp" for i in range(9))]
    metadata: list[dict[str, Any] | None] = [
        {
            "text": f"caption {i} ✓",
            "year": 1990 + 3 * i,
            "ratio": i / 4,
            "flag": i % 3 == 0,
            "when": datetime(2026, 1, 1 + i, 12, 30, 15, 250_000),
            "zoned": datetime(2026, 2, 1 + i, tzinfo=UTC),
            "day": date(2026, 3, 1 + i),
            "price": Decimal(f"{10 + i}.50"),
            "raw": bytes([i, 255]),
            "tags": ["a", f"t{i}"],
            "nested": {"x": i, "y": [f"n{i}"]},
        }
        for i in range(13)
    ]
    metadata[2] = None
    metadata[5] = {"text": "the text alone"}
    queries = np.concatenate([grid(rng, 4, 6), fine[3:4]])
    with engine.Retriever.from_embeddings(
        fine[:8], ids=ids[:8], metadata=metadata[:8], coarse_dim=3
    ) as r:
        r.save(place)
    with engine.Retriever(place) as r:
        r.add(embeddings=fine[8:], ids=ids[8:], metadata=metadata[8:])
        r.remove([ids[1], ids[6], ids[9]])
        r.save()
    return queries


def write_numbers(place: Path) -> NDArray[np.float32]:
    """Integer ids that do not ascend, int8 coarse vectors, float16 fine ones of unit length, a checkpoint and a
    calibration; no metadata. Its queries."""
    rng = np.random.default_rng(82)
    made = engine.Retriever.from_embeddings(
        grid(rng, 9, 5).astype(np.float16),
        grid(rng, 9, 3),
        ids=[7, -3, 2**62, 0, 11, 5, -(2**63), 12, 1],
        coarse_dtype="int8",
        normalize=True,
    ).index
    checkpoint = CheckpointReference(
        "somebody/their-model", sha256="0123456789abcdef" * 4, hub=True
    )
    calibration = engine.Calibration(
        k=2,
        candidates=6,
        target_recall=0.9,
        confidence=0.95,
        queries=50,
        recall=0.97,
        lower_bound=0.91,
        items=9,
    )
    header = replace(made.header, checkpoint=checkpoint, calibration=calibration)
    saved = replace(made, header=header).save(place)
    saved = saved.without([11]).save()
    more = grid(rng, 4, 5)
    saved.append(
        Index.build(
            rng.integers(-127, 128, (4, 3)).astype(np.int8),
            (more / np.linalg.norm(more, axis=1, keepdims=True)).astype(np.float16),
            ids=[20, 30, 40, 50],
            normalize=True,
            quantization=saved.header.quantization,
        )
    ).save()
    return grid(rng, 4, 5)


def expected(index: Index, queries: NDArray[np.float32]) -> dict[str, Any]:
    """What `index` holds, and what exact search answers to `queries`, which are rounded to the fine dtype first."""
    rows = np.arange(index.row_count)
    live = rows if index.live is None else rows[index.live]
    asked = queries
    if index.normalize:
        asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    asked = asked.astype(index.fine.dtype).astype(np.float64)
    fine = index.fine.astype(np.float64)
    scores = asked @ fine[live].T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return {
        "format": VERSION,
        "written_by": engine.__version__,
        "header": asdict(index.header),
        "segments": [len(segment) for segment in index.segments],
        "live": live.tolist(),
        "ids": index.ids_at(live),
        "metadata": [index.metadata_at(row) for row in live],
        "coarse": index.coarse.tolist(),
        "fine": index.fine.tolist(),
        "reduction": None if index.reduction is None else index.reduction.tolist(),
        "queries": queries.tolist(),
        "rows": live[best].tolist(),
        "scores": np.take_along_axis(scores, best, axis=1).tolist(),
    }


def as_text(value: Any, indent: str = "") -> str:
    """JSON with an entry a line, and a vector a line."""
    if isinstance(value, dict) and value:
        lines = (
            f"{indent}  {json.dumps(k)}: {as_text(v, indent + '  ')}" for k, v in value.items()
        )
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], list | dict | str):
        lines = (f"{indent}  {one_line(item)}" for item in value)
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return one_line(value)


def one_line(value: Any) -> str:
    """JSON; what JSON has no type for, as the name of its type and its text."""
    return json.dumps(value, ensure_ascii=False, default=lambda v: f"{type(v).__name__} {v}")


def main() -> None:
    if PLACE.exists():
        sys.exit(f"{PLACE} is there, and is never rewritten")
    PLACE.mkdir()
    for name, write in (("texts", write_texts), ("numbers", write_numbers)):
        queries = write(PLACE / f"{name}.index")
        (PLACE / f"{name}.index" / "lock").unlink()  # it names the machine
        content = as_text(expected(Index.open(PLACE / f"{name}.index"), queries))
        (PLACE / f"{name}.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
