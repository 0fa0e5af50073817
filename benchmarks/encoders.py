"""Encoder latency by runtime, in one run: `python -m benchmarks.encoders`.

The example checkpoint, and a CLIP of ViT-B/32's size with random weights; both towers, batches of 1, 8 and 64, from
inputs in memory to vectors in memory (preprocessing is the same whoever runs the towers). Both are exported first,
into `--work`, where the next run finds them. On a CPU torch and ONNX Runtime compute in float32; on a GPU the
export is float16, and TensorRT joins where an installed one builds for it. Timed as
`benchmarks.timing.take_turns` says.

    python -m benchmarks.encoders --model example     measure one of the two, keep the other's figures
    python -m benchmarks.encoders --table             print the README's table from the JSON
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import THREADS, about
from benchmarks.timing import percentiles, take_turns
from engine.checkpoints import Checkpoint, open_checkpoint
from engine.encoders.dual_encoder import DualEncoder
from engine.encoders.manifest import MANIFEST, TOWERS, Manifest, Tower
from engine.encoders.onnx_encoder import onnx_encoder
from engine.encoders.tensorrt_encoder import tensorrt_encoder
from engine.encoders.torch_encoder import torch_encoder
from engine.errors import RuntimeUnavailable
from export.errors import TensorRTUnavailable
from export.pairs import EXAMPLES
from export.parity import Gate
from export.run import Settings, export_checkpoint
from export.tensorrt_builder import choose_targets

RESULTS = Path(__file__).parent / "results" / "encoders.json"
EXAMPLE = Path(__file__).parent.parent / "examples" / "checkpoint"
BATCHES = (1, 8, 64)
TOKENS = 16
SECONDS, LEAST, MOST = 5.0, 5, 200  # a case runs so long, and each runtime so many times

Run = Callable[[], object]


def example(_: Path) -> Path:
    return EXAMPLE


def clip_vit_b_32(work: Path) -> Path:
    """transformers' default CLIP configuration is ViT-B/32's; the weights are random, the vocabulary is small."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from engine.training.tokenizer import train_tokenizer

    place = work / "clip-vit-b-32"
    if not (place / "model.safetensors").is_file():
        torch.manual_seed(0)
        tokenizer = train_tokenizer(["a red car", "a dog and a cat"], 60, 77)
        config = CLIPConfig(text_config={"eos_token_id": tokenizer.sep_token_id})
        CLIPImageProcessorPil().save_pretrained(place)
        tokenizer.save_pretrained(place)
        CLIPModel(config).save_pretrained(place)
    return place


MODELS: dict[str, Callable[[Path], Path]] = {"example": example, "clip-vit-b-32": clip_vit_b_32}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoders")
    parser.add_argument("--model", choices=sorted(MODELS), help="only this one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--work", type=Path, default=Path("build/encoders"), help="for the exports")
    parser.add_argument("--quick", action="store_true", help="each case three times, batch 1 only")
    parser.add_argument("--table", action="store_true", help="print the table, measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text(encoding="utf-8"))["cases"]))
        return
    torch.set_num_threads(THREADS)
    chosen = [arguments.model] if arguments.model else list(MODELS)
    found: list[dict[str, Any]] = []
    if arguments.model and arguments.out.is_file():
        kept = json.loads(arguments.out.read_text(encoding="utf-8"))["cases"]
        found = [case for case in kept if case["model"] not in chosen]
    for name in chosen:
        found += cases(name, arguments.work, (1,) if arguments.quick else BATCHES, arguments.quick)
    found.sort(key=lambda case: list(MODELS).index(case["model"]))
    report = {
        "machine": about("cuda" if torch.cuda.is_available() else "cpu"),
        "tokens": TOKENS,
        "cases": found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(found))


def cases(name: str, work: Path, batches: tuple[int, ...], quick: bool) -> list[dict[str, Any]]:
    """One model: a case for each tower and batch size."""
    work.mkdir(parents=True, exist_ok=True)
    source = MODELS[name](work)
    checkpoint = open_checkpoint(source)
    encoders = _encoders(checkpoint, _exported(source, work / f"{name}.export"))
    found = []
    for tower in TOWERS:
        for batch in batches:
            inputs = _inputs(checkpoint, tower, batch)
            runs = {
                runtime: partial(getattr(encoder, tower), *inputs)
                for runtime, encoder in encoders.items()
            }
            found.append(
                {"model": name, "tower": tower, "batch": batch, "runtimes": in_turns(runs, quick)}
            )
    return found


def _exported(source: Path, out: Path) -> Path:
    """The export that an earlier run left, if it is of this checkpoint; else a new one."""
    if (out / MANIFEST).is_file() and Manifest.read(out).source.path == str(source):
        return out
    targets = []
    if torch.cuda.is_available():
        try:
            targets = choose_targets(None)
        except TensorRTUnavailable as unavailable:
            print(unavailable)
    settings = Settings(
        dtype="fp16" if torch.cuda.is_available() else "fp32",
        batch=(1, 8, 64),
        coarse_data=EXAMPLES,
        coarse_dim=None,
        parity_data=EXAMPLES,
        pairs=16,
        gate=Gate(0, 0),
        timing_cache=out.with_suffix(".timings"),
    )
    export_checkpoint(str(source), out, settings, targets, None)
    return out


def _encoders(checkpoint: Checkpoint, export: Path) -> dict[str, DualEncoder]:
    """Every runtime that this machine has."""
    found = {
        "torch": torch_encoder(checkpoint, why="benchmark"),
        "ONNX Runtime": onnx_encoder(export, why="benchmark"),
    }
    if Manifest.read(export).engines:
        try:
            found["TensorRT"] = tensorrt_encoder(export, why="benchmark")
        except RuntimeUnavailable as unavailable:
            print(unavailable)
    return found


def _inputs(checkpoint: Checkpoint, tower: Tower, batch: int) -> tuple[Tensor, ...]:
    """Noise for pictures; sentences of 16 tokens, or of as many as the checkpoint pads to."""
    chance = torch.Generator().manual_seed(batch)
    if tower == "image":
        from PIL import Image

        side = checkpoint.processor.pixels([Image.new("RGB", (9, 9))]).shape[1:]
        return (torch.randn(batch, *side, generator=chance),)
    ids = checkpoint.processor.tokens(["a red car on a road"] * batch)["input_ids"]
    ids = ids[:, torch.arange(TOKENS) % ids.shape[1]]
    return ids, torch.ones_like(ids)


def in_turns(runs: Mapping[str, Run], quick: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of each, as percentiles."""
    most = 3 if quick else MOST
    times = take_turns(runs, seconds=SECONDS, least=min(LEAST, most), most=most)
    return {name: percentiles(each) for name, each in times.items()}


def table(cases: list[dict[str, Any]]) -> str:
    """Markdown: one row a case; p50 / p95 in milliseconds; how many times faster than torch at p50."""
    names = ["torch", "ONNX Runtime", "TensorRT"]
    names = [n for n in names if any(n in case["runtimes"] for case in cases)]
    head = ["model", "tower", "batch", *(f"{n}, ms" for n in names), *(f"{n} ×" for n in names[1:])]
    rows = []
    for case in cases:
        figures = case["runtimes"]
        times = [
            f"{figures[n]['p50']:.1f} / {figures[n]['p95']:.1f}" if n in figures else "–"
            for n in names
        ]
        ratios = [
            f"{figures['torch']['p50'] / figures[n]['p50']:.2f}" if n in figures else "–"
            for n in names[1:]
        ]
        rows.append([case["model"], case["tower"], str(case["batch"]), *times, *ratios])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
