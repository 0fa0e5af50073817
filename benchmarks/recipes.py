"""What the hierarchy costs and gains, beside other recipes: `python -m benchmarks.recipes`.

The same frozen image tower, pictures and number of steps, several seeds each, on the held-out style of the example
pictures (`make pictures`):

    fine alone       LightningDOT's way (arXiv 2103.08784): one vector, one contrastive loss, full scan
    hierarchical     ours: coarse and fine vectors trained together, at 16 and at 8 coarse dims; coarse, then rerank
    ablations        one option changed each; one seed
    fusion           UNITER's and METER's way (`benchmarks.fusion`): a cross-encoder that scores every pair, and as
                     a reranker of the best 10; on `POOL` pictures and their first captions: it costs their product

Times are of one run for all ways (`--times`: minutes, no training): `POOL` bundled pictures, the example's vectors,
a fusion model of random weights, which cost what trained ones do; all captions ask at once, encoding not counted.

Every run is written to the JSON as it ends, and what is there is not done again; one cut off goes on. LightningDOT
and the rest are names of recipes here: nothing in these tables says what the published models do on COCO.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import fusion
from benchmarks.machine import ROOT, THREADS, about
from benchmarks.rows import origin
from benchmarks.timing import percentiles, take_turns
from engine.checkpoints import open_checkpoint
from engine.dataset import Example, read_dataset
from engine.embeddings import Embeddings
from engine.encoders import encode_all, open_encoder
from engine.evaluation import Pool, evaluate
from engine.evaluation.recall import Recalls, recalls_of
from engine.model import HiVLPFeatures, HiVLPModel
from engine.model.image_tower import EfficientNetLite0
from engine.model.text_tower import MeanOfPieces
from engine.training import Settings, train
from engine.training.features import cached_features, features_key, picture_features
from kernels import coarse_topk, rerank_topk

RESULTS = Path(__file__).parent / "results" / "recipes.json"
EXAMPLES = ROOT / "examples"
STEPS = 600
SEEDS = (0, 1, 2)
LARGE, FULL, CHEAP = 4096, 2048, 1024  # pairs in a batch; CHEAP: of the ablations
POOL = 1000
CANDIDATES = 32
RERANKED = 10
ASKING_ALL = 16  # captions that are asked of all pictures when that is timed
SECONDS = 10.0  # of each timing
CONFUSED = 16  # pictures that the fusion model's hard negatives are drawn from, each caption

Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One way of training the dual encoder, and how many candidates it is searched with."""

    name: str
    options: dict[str, Any]
    seeds: Sequence[int] = (0,)
    batch_size: int = FULL
    candidates: int = CANDIDATES


# The example's model, but for what keeps that within 12 MB.
ROOMY = {"image_neck": 0, "text_hidden": 256, "coarse_text_dim": 256}
RECIPES = (
    Recipe("fine alone", ROOMY | {"coarse_weight": 0.0}, SEEDS),
    Recipe("hierarchical, 16 dims", ROOMY, SEEDS),
    Recipe("hierarchical, 8 dims", ROOMY | {"coarse_dim": 8}, SEEDS, candidates=64),
    Recipe("fine alone, large batches", ROOMY | {"coarse_weight": 0.0}, SEEDS, LARGE),
    Recipe("hierarchical, 16 dims, large batches", ROOMY, SEEDS, LARGE),
    # Chosen by what it reached with SEEDS; the other three seeds say whether it was luck.
    Recipe("coarse words of 512, large batches", ROOMY | {"coarse_text_dim": 512}, range(6), LARGE),
    Recipe("as it is", ROOMY, batch_size=CHEAP),
    Recipe("the example's sizes", {}, batch_size=CHEAP),
    Recipe(
        "one trunk for both", ROOMY | {"heads": "shared", "coarse_text_dim": 0}, batch_size=CHEAP
    ),
    Recipe(
        "nested in the fine", ROOMY | {"heads": "nested", "coarse_text_dim": 0}, batch_size=CHEAP
    ),
    Recipe("words shared with the fine", ROOMY | {"coarse_text_dim": 0}, batch_size=CHEAP),
    Recipe("distilled", ROOMY | {"distillation": 1.0}, batch_size=CHEAP),
    Recipe("a tenth of the weight", ROOMY | {"coarse_weight": 0.05}, batch_size=CHEAP),
    Recipe("sigmoid loss", ROOMY | {"sigmoid": True}, batch_size=CHEAP),
    Recipe("a queue of 4,096", ROOMY | {"queue": 4096}, batch_size=CHEAP),
    Recipe("hard negatives", ROOMY | {"hard": 1}, batch_size=CHEAP),
)


@dataclass(frozen=True)
class Work:
    """Where things are, and what all runs share."""

    place: Path
    weights: Path
    features: Path
    training: list[Example]
    held_out: list[Example]
    steps: int

    def settings(self, recipe: Recipe, seed: int) -> Settings:
        given = {"steps": self.steps, "batch_size": recipe.batch_size, "bf16": True, "seed": seed}
        return Settings(**given | recipe.options)

    def checkpoint(self, recipe: Recipe, seed: int) -> Path:
        """Trained now, unless it was before."""
        place = self.place / f"{recipe.name.replace(',', '').replace(' ', '-')}-{seed}"
        if not (place / "config.json").is_file():
            train(
                self.training, place, self.settings(recipe, seed),
                image_weights=self.weights, features_file=self.features,
                resume=place.with_name(f"{place.name}.state").is_dir(),
            )  # fmt: skip
        return place


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes")
    parser.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    parser.add_argument(
        "--image-weights", type=Path, default=Path("build/sources/efficientnet-lite0.safetensors")
    )
    parser.add_argument("--features", type=Path, default=Path("build/features.safetensors"))
    parser.add_argument("--work", type=Path, default=Path("build/recipes"), help="for checkpoints")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", help="runs whose name holds this")
    parser.add_argument("--times", action="store_true", help="only time the ways to search")
    parser.add_argument("--table", action="store_true", help="print the tables of --out")
    options = parser.parse_args()
    if options.table:
        print(tables(json.loads(options.out.read_text())))
        return
    if options.times:
        torch.set_num_threads(THREADS)
        known: Row = json.loads(options.out.read_text()) if options.out.is_file() else {"runs": []}
        _write(options.out, known | {"times": measure_times(POOL)})
        return
    work = Work(
        options.work, options.image_weights, options.features,
        read_dataset(options.pictures, "style", "train"),
        read_dataset(options.pictures, "style", "test"),
        options.steps,
    )  # fmt: skip
    facts = {
        "steps": work.steps,
        "torch": torch.__version__,
        "pictures": len(work.training),
        "searched": len(work.held_out),
        "fusion": asdict(fusion.Settings()),
    }
    rows: list[Row] = []
    if options.out.is_file():
        known = json.loads(options.out.read_text())
        rows = known["runs"]
        facts |= {"times": known["times"]} if "times" in known else {}
    done = {(row["recipe"], row["seed"]) for row in rows}
    order = [(name, seed) for name, seed, _ in runs(work)]
    for name, seed, measure in runs(work):
        if (name, seed) in done or (options.only and options.only not in name):
            continue
        row = {"recipe": name, "seed": seed} | measure()
        rows = sorted([*rows, row], key=lambda row: order.index((row["recipe"], row["seed"])))
        _write(options.out, facts | {"runs": rows})
        print(json.dumps(row), flush=True)


def _write(out: Path, facts: Row) -> None:
    draft = out.with_suffix(".draft")
    draft.write_text(json.dumps(facts, indent=1) + "\n")
    draft.replace(out)


def runs(work: Work) -> Iterator[tuple[str, int, Any]]:
    """Name, seed and what to call, of every run; seeds of one recipe follow each other."""
    for recipe in RECIPES:
        for seed in recipe.seeds:
            yield recipe.name, seed, lambda r=recipe, s=seed: measure_dual(work, r, s)
    for seed in SEEDS:
        yield "fusion", seed, lambda s=seed: measure_fusion(work, s)


def measure_dual(work: Work, recipe: Recipe, seed: int) -> Row:
    """Trains one dual encoder and searches the held-out style, all captions asking."""
    checkpoint = work.checkpoint(recipe, seed)
    pool = encoded(work, checkpoint, work.held_out)
    report = evaluate(pool, candidates=(recipe.candidates,))
    first = evaluate(_first(pool, work.held_out), candidates=(recipe.candidates,))
    facts = json.loads((checkpoint / "training.json").read_text())
    names = ("coarse_dim", "batch_size", "steps", "seconds")
    row: Row = {name: facts[name] for name in names} | {"candidates": recipe.candidates}
    row["threads"] = torch.get_num_threads()
    for way, recalls in report.recalls.items():
        row[way.search] = _figures(recalls)
    for way, recalls in first.recalls.items():
        row[f"{way.search}_of_{POOL}"] = _figures(recalls)
    return row


def encoded(work: Work, checkpoint: Path, examples: Sequence[Example]) -> Pool:
    """The vectors of `examples`, from image features that all checkpoints share."""
    model = HiVLPModel.from_pretrained(
        checkpoint, dtype=torch.float32, trust_remote_code=False
    )  # in eval mode
    processor = open_checkpoint(checkpoint).processor
    features = cached_features(
        work.place / f"features-{len(examples)}.safetensors",
        features_key(examples, work.weights.name, 1, 0), len(examples),
        lambda first, last: picture_features(model, processor, examples[first:last], 1, 0),
    )  # fmt: skip
    captions = [caption for example in examples for caption in example.captions]
    with torch.inference_mode():
        images = model.image_heads(features[:, 0].float())
        texts = [
            _vectors(model.get_text_features(**processor.tokens(captions[start : start + 512])))
            for start in range(0, len(captions), 512)
        ]
    coarse, fine = (torch.cat(parts) for parts in zip(*texts, strict=True))
    return Pool.of(Embeddings(*_vectors(images)), Embeddings(coarse, fine), examples)


def _vectors(found: HiVLPFeatures) -> tuple[Tensor, Tensor]:
    assert found.coarse is not None
    assert found.fine is not None
    return found.coarse, found.fine


def _first(pool: Pool, examples: Sequence[Example]) -> Pool:
    return pool.take(torch.arange(min(POOL, len(examples)))).first_captions()


def measure_fusion(work: Work, seed: int) -> Row:
    """Trains a fusion model, its hard negatives from this seed's "fine alone"; scores all pairs, and reranks."""
    checkpoint = work.checkpoint(RECIPES[0], seed)
    tokenizer = open_checkpoint(checkpoint).processor.tokenizer
    settings = fusion.Settings(seed=seed)
    encoder = HiVLPModel.from_pretrained(checkpoint, dtype=torch.float32, trust_remote_code=False)
    assert isinstance(encoder.text_tower, MeanOfPieces)
    words = encoder.text_tower.weight.detach()
    learned = encoded(work, checkpoint, work.training)
    began = time.monotonic()
    model = fusion.train_fusion(
        _regions(work, learned, work.training), work.training, _confused(learned),
        learned.texts.fine, words, tokenizer, settings,
    )  # fmt: skip
    train_seconds = time.monotonic() - began
    seen = encoded(work, checkpoint, work.held_out)
    held_out, pool = work.held_out[:POOL], _first(seen, work.held_out)
    regions = _regions(work, seen, work.held_out).take(torch.arange(len(held_out)))
    captions = [example.captions[0] for example in held_out]
    texts = pool.texts.fine
    scores = fusion.score_pairs(model, regions, captions, texts, tokenizer, settings)
    best = coarse_topk(pool.texts.fine, pool.images.fine, RERANKED).rows
    by_fusion = fusion.score_pairs(model, regions, captions, texts, tokenizer, settings, best)
    back = coarse_topk(pool.images.fine, pool.texts.fine, RERANKED).rows
    reranked = _rescored(pool.texts.fine @ pool.images.fine.T, best, by_fusion)
    reranked_back = _rescored(pool.images.fine @ pool.texts.fine.T, back, scores.T.gather(1, back))
    return {
        "threads": torch.get_num_threads(),
        "train_seconds": train_seconds,
        "all_pairs": _figures(_recalls(scores, scores.T, pool)),
        "reranked": _figures(_recalls(reranked, reranked_back, pool)),
        "fine_alone": _figures(_recalls_of_dual(pool)),
    }


def measure_times(count: int) -> Row:
    """Milliseconds a query of each way over `count` bundled pictures, in turns; see the head of this file."""
    checkpoint = EXAMPLES / "checkpoint"
    examples = read_dataset(EXAMPLES / "pictures", None, None)[:count]
    captions = [example.captions[0] for example in examples]
    encoder = open_encoder(checkpoint, device="cpu")
    images = encode_all(encoder, [example.image for example in examples])
    texts = encode_all(encoder, captions)
    asking, listing = texts.coarse, images.coarse
    assert asking is not None
    assert listing is not None
    model = HiVLPModel.from_pretrained(checkpoint, dtype=torch.float32, trust_remote_code=False)
    processor = open_checkpoint(checkpoint).processor
    assert isinstance(model.image_tower, EfficientNetLite0)
    assert isinstance(model.text_tower, MeanOfPieces)
    settings = fusion.Settings()
    slow = fusion.FusionModel(model.text_tower.weight.detach(), texts.fine.shape[1], settings)
    regions = fusion.Regions(*fusion.look(model.image_tower, processor, examples), images.fine)
    matched = partial(
        fusion.score_pairs, slow.eval(), regions, tokenizer=processor.tokenizer, settings=settings
    )
    some = min(ASKING_ALL, count)

    def fine_alone() -> Tensor:
        return coarse_topk(texts.fine, images.fine, RERANKED, max_norm=1.01).rows

    def two_stage() -> Tensor:
        listed = coarse_topk(asking, listing, CANDIDATES, max_norm=1.01)
        return rerank_topk(texts.fine, images.fine, listed.rows, RERANKED).rows

    times = take_turns(
        {
            "two_stage": two_stage,
            "fine_alone": fine_alone,
            "reranked": lambda: matched(captions, texts.fine, candidates=fine_alone()),
            "all_pairs": lambda: matched(captions[:some], texts.fine[:some]),
        },
        seconds=SECONDS,
    )
    asked = {way: some if way == "all_pairs" else count for way in times}
    return {
        "pictures": count,
        "machine": about(),
        "ms_a_query": {way: percentiles(times[way])["p50"] / asked[way] for way in times},
    }


def _regions(work: Work, pool: Pool, examples: Sequence[Example]) -> fusion.Regions:
    """What the tower sees of `examples`, looked at once for all seeds, and their fine vectors in `pool`."""
    file = work.place / f"regions-{len(examples)}.pt"
    if not file.is_file():
        model = HiVLPModel.from_pretrained(
            work.checkpoint(RECIPES[0], 0), dtype=torch.float32, trust_remote_code=False
        )
        processor = open_checkpoint(work.checkpoint(RECIPES[0], 0)).processor
        assert isinstance(model.image_tower, EfficientNetLite0)
        maps, whole = fusion.look(model.image_tower, processor, examples)
        torch.save({"maps": maps, "whole": whole}, file)
    return fusion.Regions(**torch.load(file, weights_only=True), fine=pool.images.fine)


def _confused(pool: Pool) -> Tensor:
    """For each picture, CONFUSED others of other concepts that its first caption finds first: `[N, CONFUSED]`."""
    first = pool.first_captions()
    rows = coarse_topk(first.texts.fine, first.images.fine, 4 * CONFUSED).rows
    same = first.concepts[rows] == first.concepts[:, None]
    order = same.int().argsort(dim=1, stable=True)[:, :CONFUSED]  # the others, in their order
    return rows.gather(1, order)


def _rescored(scores: Tensor, rows: Tensor, better: Tensor) -> Tensor:
    """`scores`, where those of `rows` are replaced by `better` ones, above all others."""
    lifted = better - better.min() + scores.max() + 1
    return scores.scatter(1, rows, lifted)


def _recalls(text_to_image: Tensor, image_to_text: Tensor, pool: Pool) -> Recalls:
    """From whole score matrices `[M, N]` and `[N, M]`; of equal scores the wrong one is counted first."""
    right = pool.concepts[pool.owners][:, None] == pool.concepts[None, :]
    places = [
        (scores >= scores.masked_fill(~answers, -math.inf).amax(dim=1, keepdim=True))
        .logical_and(~answers).sum(dim=1) + 1
        for scores, answers in ((text_to_image, right), (image_to_text, right.T))
    ]  # fmt: skip
    return recalls_of(places[0], places[1], text_to_image.shape[1])


def _recalls_of_dual(pool: Pool) -> Recalls:
    scores = pool.texts.fine @ pool.images.fine.T
    return _recalls(scores, scores.T, pool)


def _figures(recalls: Recalls) -> dict[str, float]:
    return {
        "t2i_R@1": recalls.text_to_image["R@1"],
        "i2t_R@1": recalls.image_to_text["R@1"],
        "AR": recalls.average,
    }


# ---------------------------------------------------------------------- tables


def tables(facts: Row) -> str:
    """The README's tables: means over the seeds, with standard deviations where there are several."""
    runs_of: dict[str, list[Row]] = {}
    for row in facts["runs"]:
        runs_of.setdefault(row["recipe"], []).append(row)
    lines = [
        "| trained | batch | seeds | fine t→i R@1 | coarse alone | of fine | + rerank | fine AR | + rerank AR |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in runs_of.items():
        if "fine" not in rows[0]:
            continue
        cells = [name, f"{rows[0]['batch_size']:,}", str(len(rows))]
        cells += [_mean([r["fine"]["t2i_R@1"] for r in rows])]
        if name.startswith(RECIPES[0].name):
            cells += ["–"] * 3 + [_mean([r["fine"]["AR"] for r in rows]), "–"]
        else:
            share = [100 * r["coarse"]["t2i_R@1"] / r["fine"]["t2i_R@1"] for r in rows]
            cells += [_mean([r["coarse"]["t2i_R@1"] for r in rows]), _mean(share) + " %"]
            cells += [
                f"{_mean([r['two_stage']['t2i_R@1'] for r in rows])} ({rows[0]['candidates']})"
            ]
            cells += [_mean([r[way]["AR"] for r in rows]) for way in ("fine", "two_stage")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"| {POOL:,} pictures, first captions | seeds | t→i R@1 | i→t R@1 | AR | ms a query |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    times = facts.get("times", {}).get("ms_a_query", {})
    ours = [r[f"two_stage_of_{POOL}"] for r in runs_of.get("hierarchical, 16 dims", [])]
    if ours:
        name = f"coarse 16 + rerank of {CANDIDATES}"
        lines.append(_pool_line(name, ours, times.get("two_stage")))
    for way, name in (
        ("fine_alone", "fine alone, full scan"),
        ("reranked", f"fine alone, fusion over the best {RERANKED}"),
        ("all_pairs", "fusion, all pairs"),
    ):
        rows = runs_of.get("fusion", [])
        if rows:
            lines.append(_pool_line(name, [r[way] for r in rows], times.get(way)))
    if times:
        lines += ["", f"Times: {facts['times']['pictures']:,} pictures, all asked at once, in one run; "
                  f"{origin(facts['times']['machine'])}."]  # fmt: skip
    return "\n".join(lines)


def _pool_line(name: str, figures: list[dict[str, float]], ms: float | None) -> str:
    cells = [_mean([f[key] for f in figures]) for key in ("t2i_R@1", "i2t_R@1", "AR")]
    spent = "–" if ms is None else f"{ms:.3g}"
    return f"| {name} | {len(figures)} | {' | '.join(cells)} | {spent} |"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
