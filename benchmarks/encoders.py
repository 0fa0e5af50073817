"""Encoder latency by runtime, in one run: `python -m benchmarks.encoders`.

The example checkpoint, and a CLIP of ViT-B/32's size with random weights; both towers, batches of 1, 8 and 64, from
inputs in memory to vectors in memory (preprocessing is the same whoever runs the towers). Both are exported first,
into `--work`, where the next run finds them. On a CPU torch and ONNX Runtime compute in float32. On a GPU torch
does too, as `engine` runs it; the export is float16, as are the towers under torch.compile; TensorRT joins where an
installed one builds for it. Timed as `benchmarks.timing.take_turns` says; every call ends with its vectors in
host memory. A runtime that is missing is listed as "not_installed" with the command that would install it, one that
fails with its error. `benchmarks.gpu` runs all of this in little time, and lists what it did not reach.

    python -m benchmarks.encoders --model example     measure one of the two, keep the other's figures
    python -m benchmarks.encoders --table             print the README's table from the JSON
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import THREADS, about
from benchmarks.peers import NotInstalled, NotSupported, outcome
from benchmarks.timing import milliseconds, percentiles, take_turns
from engine.checkpoints import Checkpoint, open_checkpoint
from engine.encoders.dual_encoder import DualEncoder
from engine.encoders.manifest import MANIFEST, TOWERS, ExportManifest, Tower
from engine.encoders.onnx_encoder import CUDA, OnnxTower, onnx_encoder
from engine.encoders.tensorrt_encoder import MODULES, imported, tensorrt_encoder
from engine.encoders.torch_encoder import TorchTower, torch_encoder
from engine.errors import MissingPackage, RuntimeUnavailable
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
CALL_LIMIT_S = 1.0  # on a GPU: what takes longer is called once
COMPILE_S = 20.0  # left at least, or torch.compile is not begun
HOST, CUDA_ONLY = ("torch", "ONNX Runtime"), ("TensorRT", "torch.compile")  # in order of interest

Run = Callable[[], object]
Case = dict[str, Any]


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
    found: list[Case] = []
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


def run(report: dict[str, Any], work: Path, until: float) -> None:
    """Fills `report["encoders"]` of `benchmarks.gpu`, and its `not_reached`; torch.compile, which is slow, last."""
    dry, cuda = report["dry_run"], torch.cuda.is_available()
    found: list[Case] = report["encoders"]
    for name in ["example"] if dry else MODELS:
        found += cases(name, work, (1,) if dry else BATCHES, dry, until)
    for name in MODELS if cuda else []:
        compiled([case for case in found if case["model"] == name], work, until)
    for case in found:
        print(json.dumps(case), flush=True)
        head = {key: case[key] for key in ("model", "tower", "batch")}
        wanted = [*HOST, *(CUDA_ONLY if cuda else ())]
        report["not_reached"] += [
            {"section": "encoders", **head, "runtime": runtime}
            for runtime in wanted
            if runtime not in case["runtimes"]
        ]


def cases(
    name: str, work: Path, batches: tuple[int, ...], quick: bool, until: float = math.inf
) -> list[Case]:
    """One model: a case for each tower and batch size; without figures where the time is over."""
    found: list[Case] = [
        {"model": name, "tower": tower, "batch": batch, "runtimes": {}}
        for tower in TOWERS
        for batch in batches
    ]
    if time.monotonic() > until:
        return found
    work.mkdir(parents=True, exist_ok=True)
    source = MODELS[name](work)
    checkpoint = open_checkpoint(source)
    opened = runtimes(checkpoint, partial(exported, source, work / f"{name}.export"))
    for case in found:
        if time.monotonic() > until:
            break
        given = inputs(checkpoint, case["tower"], case["batch"])
        runs = {
            runtime: partial(getattr(each["encoder"], case["tower"]), *given)
            for runtime, each in opened.items()
            if "encoder" in each
        }
        figures = alone(runs) if torch.cuda.is_available() else in_turns(runs, quick)
        case["runtimes"] = {
            **{name: opened[name] for name in opened if name not in runs},
            **figures,
        }
    return found


def compiled(same: list[Case], work: Path, until: float) -> None:
    """Adds torch.compile to the cases of one model on a GPU: of the towers in float16, replayed as CUDA graphs."""
    if not same or time.monotonic() + COMPILE_S > until:
        return
    checkpoint = open_checkpoint(MODELS[same[0]["model"]](work))
    for case in same:
        if time.monotonic() + COMPILE_S > until:
            return
        given = inputs(checkpoint, case["tower"], case["batch"])
        torch.compiler.reset()  # a shape too many, and it would run uncompiled without a word
        module: Any = _Float16(getattr(checkpoint, case["tower"]))
        module = torch.compile(module, mode="reduce-overhead", dynamic=False)
        tower = TorchTower(module, torch.device("cuda"))
        case["runtimes"].update(alone({"torch.compile": partial(tower, *given)}))


class _Float16(nn.Module):
    """A tower whose weights are float16, as are the pictures it is given."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower.eval().half()

    def forward(self, *inputs: Tensor) -> Any:
        halves = (each.half() if each.is_floating_point() else each for each in inputs)
        return self.tower(*halves)


def exported(source: Path, out: Path) -> Path:
    """The export that an earlier run left, if it is of this checkpoint; else a new one."""
    if (out / MANIFEST).is_file() and ExportManifest.read(out).source.path == str(source):
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


def runtimes(checkpoint: Checkpoint, export: Callable[[], Path]) -> dict[str, dict[str, Any]]:
    """Every runtime that has a place on this machine: its "encoder", or why there is none."""
    place = _or_why(lambda: {"path": export()})
    found = {"torch": _or_why(lambda: {"encoder": torch_encoder(checkpoint, why="benchmark")})}
    openers = {"ONNX Runtime": _onnx}
    if torch.cuda.is_available():
        openers["TensorRT"] = _tensorrt
    for runtime, opened in openers.items():
        found[runtime] = place
        if "path" in place:
            found[runtime] = _or_why(partial(_encoder_of, opened, place["path"]))
    return found


def _encoder_of(opened: Callable[[Path], DualEncoder], export: Path) -> dict[str, Any]:
    return {"encoder": opened(export)}


def _or_why(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`outcome`, which takes the engine's own errors for what they say."""

    def made() -> dict[str, Any]:
        try:
            return make()
        except MissingPackage as error:
            raise NotInstalled(str(error)) from error
        except (RuntimeUnavailable, TensorRTUnavailable) as error:
            raise NotSupported(str(error)) from error

    return outcome(made)


def _onnx(export: Path) -> DualEncoder:
    """On a GPU only with its CUDA provider: else it would run on the CPU without a word."""
    if torch.cuda.is_available():
        import onnxruntime

        if CUDA not in onnxruntime.get_available_providers():
            raise NotInstalled("pip uninstall onnxruntime; pip install onnxruntime-gpu")
    encoder = onnx_encoder(export, why="benchmark")
    towers = (encoder.image, encoder.text)
    if torch.cuda.is_available() and not all(
        isinstance(tower, OnnxTower) and CUDA in tower._session.get_providers() for tower in towers
    ):
        raise NotSupported("onnxruntime-gpu could not start its CUDA provider: its log says why")
    return encoder


def _tensorrt(export: Path) -> DualEncoder:
    if not any(map(imported, MODULES)):
        raise NotInstalled("pip install 'hivlp-engine[gpu]'")
    if not ExportManifest.read(export).engines:
        choose_targets(None)  # says why there are none
    return tensorrt_encoder(export, why="benchmark")


def inputs(checkpoint: Checkpoint, tower: Tower, batch: int) -> tuple[Tensor, ...]:
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


def alone(runs: Mapping[str, Run]) -> dict[str, dict[str, Any]]:
    """On a GPU nothing else runs, and no turns are taken: milliseconds as percentiles, or why there are none."""

    def timed(run: Run) -> dict[str, float]:
        for _ in range(
            3
        ):  # the first compiles, and the second captures a graph, where there is one
            run()
        return percentiles(milliseconds(run, torch.device("cuda"), CALL_LIMIT_S))

    return {name: outcome(partial(timed, run)) for name, run in runs.items()}


def table(cases: list[Case]) -> str:
    """Markdown: one row a case; p50 / p95 in milliseconds; how many times faster than torch at p50."""
    names = [
        n
        for n in (*HOST, *CUDA_ONLY)
        if any("p50" in case["runtimes"].get(n, {}) for case in cases)
    ]
    head = ["model", "tower", "batch", *(f"{n}, ms" for n in names), *(f"{n} ×" for n in names[1:])]
    rows = []
    for case in cases:
        figures = {name: each for name, each in case["runtimes"].items() if "p50" in each}
        times = [
            f"{figures[n]['p50']:.1f} / {figures[n]['p95']:.1f}" if n in figures else "–"
            for n in names
        ]
        ratios = [
            f"{figures['torch']['p50'] / figures[n]['p50']:.2f}"
            if {"torch", n} <= set(figures)
            else "–"
            for n in names[1:]
        ]
        rows.append([case["model"], case["tower"], str(case["batch"]), *times, *ratios])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
