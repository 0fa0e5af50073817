"""Any sequence of changes against a plain dictionary: `python -m tests.engine.index.machine [--steps 10000]`.

A `Retriever` over a directory and a dictionary are changed alike; searches of both must agree, whatever was added,
removed, replaced, saved, reopened, compacted or refused before.
"""

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import engine
from tests.engine.index.model import merging_often

COARSE, FINE, K = 3, 6, 4
RULES: Counter[str] = Counter()
SOME_IDS = strategies.lists(strategies.integers(0, 40), min_size=1, max_size=9, unique=True)
SEEDS = strategies.integers(0, 10_000)


class IndexMachine(RuleBasedStateMachine):
    """`model`: id -> (coarse, fine, metadata or None). `saved`: the model when it was last saved."""

    strings = False

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="machine-"))
        self.model: dict[Any, Any] = {}
        self.saved: dict[Any, Any] = {}

    @initialize(
        strings=strategies.booleans(),
        tier=strategies.sampled_from(["device", "disk"]),
        dtype=strategies.sampled_from(["float32", "float16", "bfloat16"]),
        ids=SOME_IDS,
    )
    def begin(self, strings: bool, tier: Any, dtype: Any, ids: list[int]) -> None:
        self.strings, self.tier = strings, tier
        items = self._items(ids, 0)
        new = self._vectors(items)
        engine.Retriever.from_embeddings(
            new.fine, new.coarse, ids=list(items), coarse_dtype=dtype
        ).save(self.place / "index")
        self.model = {id: (*item[:2], None) for id, item in items.items()}
        self.saved = dict(self.model)
        self.r = engine.Retriever(self.place / "index", fine_tier=tier)
        self.reader = engine.Retriever(self.place / "index", fine_tier=tier)

    def _items(self, ids: list[int], seed: int) -> dict[Any, Any]:
        """Vectors of small integers: exact in every dtype, with many ties; metadata for some."""
        rng = np.random.default_rng(seed)
        return {
            (f"é{id}" if self.strings else id): (
                rng.integers(-2, 3, COARSE).astype(np.float32),
                rng.integers(-2, 3, FINE).astype(np.float32),
                {"n": id, "seed": seed} if rng.random() < 0.5 else None,
            )
            for id in ids
        }

    def _vectors(self, items: dict[Any, Any]) -> engine.Embeddings:
        coarse, fine = (np.array([item[part] for item in items.values()]) for part in (0, 1))
        return engine.Embeddings(torch.from_numpy(coarse), torch.from_numpy(fine))

    @rule(
        ids=SOME_IDS, seed=SEEDS, on_conflict=strategies.sampled_from(["error", "replace", "skip"])
    )
    def add(self, ids: list[int], seed: int, on_conflict: Any) -> None:
        RULES[f"add, {on_conflict}"] += 1
        items = self._items(ids, seed)
        before, known = self.r.index, items.keys() & self.model.keys()
        try:
            self.r.add(
                embeddings=self._vectors(items),
                ids=list(items),
                metadata=[item[2] for item in items.values()],
                on_conflict=on_conflict,
            )
        except engine.InvalidArgument:
            RULES["refused add"] += 1
            assert on_conflict == "error"
            assert known
            assert self.r.index is before
            return
        assert on_conflict != "error" or not known
        for id, item in items.items():
            if on_conflict == "skip" and id in known:
                continue
            self.model.pop(id, None)  # a replaced item is a new row, after all others
            self.model[id] = item

    @rule(seed=SEEDS)
    def refused_add(self, seed: int) -> None:
        RULES["add with a NaN"] += 1
        before = self.r.index
        vectors = self._vectors(self._items([41, 42], seed))
        vectors.fine[1, 2] = torch.nan
        try:
            self.r.add(embeddings=vectors, ids=["x", "y"] if self.strings else [41, 42])
        except engine.InvalidArgument:
            assert self.r.index is before
            return
        raise AssertionError("a NaN was taken")

    @precondition(lambda self: self.model)
    @rule(pick=strategies.lists(SEEDS, min_size=1, max_size=5))
    def remove(self, pick: list[int]) -> None:
        RULES["remove"] += 1
        held = list(self.model)
        ids = list(dict.fromkeys(held[number % len(held)] for number in pick))
        self.r.remove(ids)
        for id in ids:
            del self.model[id]

    @rule()
    def save(self) -> None:
        RULES["save"] += 1
        before = self.r.index
        self.r.save()
        RULES["merged by a save"] += len(self.r.index.segments) < len(before.segments)
        RULES["deleted rows dropped by a save"] += self.r.index.row_count < before.row_count
        self.saved = dict(self.model)

    @rule(saving=strategies.booleans())
    def reopen(self, saving: bool) -> None:
        RULES[f"reopen, {'saved' if saving else 'not saved'}"] += 1
        if saving:
            self.save()
        self.r.close()
        self.r = engine.Retriever(self.place / "index", fine_tier=self.tier)
        self.r.index.verify()
        self.model = dict(self.saved)

    @rule()
    def compact(self) -> None:
        RULES["compact"] += 1
        self.r.compact()
        self.saved = dict(self.model)
        assert self.r.index.row_count == len(self.model)

    @rule(seed=SEEDS)
    def refresh(self, seed: int) -> None:
        RULES["refresh"] += 1
        self.reader.refresh()
        self._compare(self.reader, self.saved, seed)

    @rule(seed=SEEDS)
    def search(self, seed: int) -> None:
        RULES["search"] += 1
        self._compare(self.r, self.model, seed)

    @invariant()
    def holds_as_many(self) -> None:
        if self.model:
            assert len(self.r) == len(self.model)

    def _compare(self, r: engine.Retriever, model: dict[Any, Any], seed: int) -> None:
        """Ids, scores and metadata of the best, exactly: rows follow the order in which items were added."""
        rng = np.random.default_rng(seed)
        queries = rng.integers(-2, 3, (2, FINE)).astype(np.float32)
        coarse = rng.integers(-2, 3, (2, COARSE)).astype(np.float32)
        asked = engine.Embeddings(torch.from_numpy(coarse), torch.from_numpy(queries))
        for mode, part, vectors in (
            ("exact", 1, queries),
            ("coarse", 0, coarse),
            ("two_stage", 1, queries),
        ):
            found = r.search(asked, K, mode=mode)  # type: ignore[arg-type]
            items = list(model.items())
            for query, hits in enumerate(found):
                scores = [
                    float(item[part].astype(np.float64) @ vectors[query]) for _, item in items
                ]
                best = sorted(range(len(items)), key=lambda row: (-scores[row], row))[:K]
                got = [(hit.id, hit.score, hit.metadata) for hit in hits]
                assert got == [(items[row][0], scores[row], items[row][1][2]) for row in best]

    def teardown(self) -> None:
        if hasattr(self, "r"):
            self.r.close()
        shutil.rmtree(self.place)


def run(runs: int, steps: int, *, number: int = 0, shrink: bool = True) -> None:
    """So many runs of so many steps, the same for the same number."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    with merging_often(2):
        run_state_machine_as_test(
            hypothesis.seed(number)(IndexMachine),
            settings=settings(
                max_examples=runs,
                stateful_step_count=steps,
                deadline=None,
                phases=phases,
                database=None,
                suppress_health_check=checks,
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    number = 0
    while RULES.total() < given.steps:
        run(50, 50, number=number)
        number += 1
        print(f"{RULES.total()} steps, seeds 0 to {number - 1}: {dict(RULES)}", flush=True)


if __name__ == "__main__":
    main()
