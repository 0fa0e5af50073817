"""One training run: from captioned pictures to a checkpoint directory."""

import contextlib
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed

from engine.dataset import Example, Skipped
from engine.errors import InvalidArgument
from engine.training.features import (
    cached_features,
    caption_features,
    checked,
    features_key,
    picture_features,
    readable,
)
from engine.training.inputs import Inputs
from engine.training.publish import publish
from engine.training.sampling import Sampler
from engine.training.settings import (
    RATE,
    RATE_FROM_CHECKPOINT,
    SCRATCH,
    VIEWS,
    VIEWS_ON_BACKBONE,
    Settings,
)
from engine.training.start import Start, from_checkpoint, from_scratch
from engine.training.state import (
    Interruption,
    digest_of,
    last_state,
    opened_state,
    side_directory,
)
from engine.training.trainer import METRIC, HierarchicalTrainer, arguments
from engine.training.validation import Validation

VIEWS_SEED = 0  # fixed, so that runs of several seeds share the features of one file


def train(
    examples: Sequence[Example],
    output: Path,
    settings: Settings,
    *,
    image_weights: Path | None = None,
    checkpoint: Path | None = None,
    validation: Sequence[Example] = (),
    features_file: Path | None = None,
    resume: bool = False,
    skipped: Skipped | None = None,
) -> dict[str, Any]:
    """Train, and write the checkpoint to `output`: whole and known to load, or not at all.

    Args:
        image_weights: EfficientNet-Lite0 in safetensors, to start from scratch with.
        checkpoint: or a checkpoint to start from: ours, CLIP, SigLIP or open_clip.
        validation: pictures by whose AR the best weights of the run are chosen; none: the last ones are taken.
        features_file: keeps the features of frozen towers for the next run.
        resume: go on with a run that was cut off, whose state is in `OUTPUT.state`: to the same weights, on the CPU
            with as many threads to the bit. While training, Ctrl-C or SIGTERM saves a state and
            raises KeyboardInterrupt.
        skipped: pictures that cannot be read are left out and noted here. None: ImageError.

    Under `torchrun` every process calls this, on its own GPU or share of the CPU: each draws batches of its own, in
    which its negatives are, gradients are averaged, and the first process computes features and writes.

    Returns what was done, as plain values; `training.json` of the checkpoint holds the same. Raises TrainingError
    where the loss is no number, and errors of data set, checkpoint and arguments before anything is trained.
    """
    began = time.monotonic()
    _check_start(image_weights, checkpoint)
    # Enough concepts, before anything is computed or written.
    _check_hard(settings, Sampler(examples, settings.batch_size, 1, settings.seed))
    set_seed(settings.seed)
    rate = settings.learning_rate or (RATE if checkpoint is None else RATE_FROM_CHECKPOINT)
    args = arguments(settings, rate, side_directory(output), validated=bool(validation))
    start = _start(examples, settings, image_weights, checkpoint)
    run = asdict(settings) | {
        "start": start.digest,
        "pictures": digest_of(examples),
        "validation": digest_of(validation),
    }
    interruption = Interruption()
    with opened_state(output, run, args, resume=resume) as states:
        keep = features_file or states / "features.safetensors"
        with args.main_process_first(local=False):  # the others read what it has computed
            inputs = _inputs(start, examples, settings, keep, skipped)
            checking = _validation(start, validation, settings, keep, skipped)
        views = _views(start, settings)
        sampler = Sampler(inputs.examples, settings.batch_size, views, settings.seed)
        _check_hard(settings, sampler)
        trainer = HierarchicalTrainer(
            start.model,
            settings,
            args,
            inputs=inputs,
            sampler=sampler,
            validation=checking,
            callbacks=[interruption],
        )
        state = last_state(states)
        if state is not None:
            trainer.remember(state)
    with contextlib.redirect_stdout(sys.stderr), interruption.watching():  # the Trainer talks
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    if trainer.state.global_step < settings.steps:
        raise KeyboardInterrupt(
            f"stopped after step {trainer.state.global_step} of {settings.steps}"
        )
    facts = _facts(start, settings, trainer, inputs, checking) | {
        "concepts": sampler.concepts,
        "skipped": list(skipped or []),
        "seconds": round(time.monotonic() - began, 1),
        "torch": torch.__version__,
    }
    trainer.accelerator.wait_for_everyone()  # all have read the best weights, which go with the state
    if trainer.is_world_process_zero():
        publish(start, output, inputs.examples[0], facts)
        shutil.rmtree(states)
    return facts


def _check_start(image_weights: Path | None, checkpoint: Path | None) -> None:
    if (image_weights is None) == (checkpoint is None):
        raise InvalidArgument(
            "checkpoint",
            expected="image weights to start from scratch with, or a checkpoint to start from",
            got="neither" if checkpoint is None else "both",
            remedy="Give --image-weights FILE or --checkpoint DIRECTORY.",
        )


def _start(
    examples: Sequence[Example],
    settings: Settings,
    image_weights: Path | None,
    checkpoint: Path | None,
) -> Start:
    """The model, what of it is trained, and everything ready for features."""
    if checkpoint is not None:
        start = from_checkpoint(checkpoint, settings)
    else:
        assert image_weights is not None
        start = from_scratch(examples, image_weights, settings)
    model = start.model.requires_grad_(True)
    model.image_tower.requires_grad_(settings.unfreeze)
    model.text_tower.requires_grad_(settings.unfreeze or not start.on_backbone)
    model.eval()
    if torch.cuda.is_available():
        nn.Module.to(model, "cuda")
    return start


def _inputs(
    start: Start,
    examples: Sequence[Example],
    settings: Settings,
    file: Path,
    skipped: Skipped | None,
    *,
    validating: bool = False,
) -> Inputs:
    """How the model is fed with `examples`: by features of frozen towers, computed here, or from pixels."""
    model, processor = start.model, start.processor
    views = 1 if validating else _views(start, settings)
    pictures: Tensor | None = None
    captions: Tensor | None = None
    if settings.unfreeze:
        kept = checked(examples, skipped)
    else:
        key = features_key(examples, start.digest, views, VIEWS_SEED)
        pictures = cached_features(
            file,
            key,
            len(examples),
            lambda first, last: picture_features(
                model, processor, examples[first:last], views, VIEWS_SEED
            ),
        )
        kept, pictures = readable(examples, pictures, skipped)
    if start.on_backbone and not settings.unfreeze:
        said = [caption for example in kept for caption in example.captions]
        captions = cached_features(
            file.with_name(f"{file.stem}-captions{file.suffix}"),
            features_key(kept, start.digest, 0, 0),
            len(said),
            lambda first, last: caption_features(model, processor, said[first:last]),
        )
    phrasing = settings.phrasing and not start.on_backbone
    return Inputs(kept, processor, pictures, captions, phrasing=phrasing, seed=settings.seed)


def _validation(
    start: Start,
    held: Sequence[Example],
    settings: Settings,
    keep: Path,
    skipped: Skipped | None,
) -> Validation | None:
    """By the pictures `held` out, if there are any; their features are kept beside those of the others."""
    if not held:
        return None
    file = keep.with_name(f"{keep.stem}-validation{keep.suffix}")
    return Validation(_inputs(start, held, settings, file, skipped, validating=True))


def _views(start: Start, settings: Settings) -> int:
    return settings.views or (VIEWS_ON_BACKBONE if start.on_backbone else VIEWS)


def _check_hard(settings: Settings, sampler: Sampler) -> None:
    if settings.hard >= sampler.concepts:
        raise InvalidArgument(
            "hard",
            expected=f"less than the {sampler.concepts} concepts of the data set",
            got=str(settings.hard),
            remedy="One to four are usual.",
        )


def _facts(
    start: Start,
    settings: Settings,
    trainer: HierarchicalTrainer,
    inputs: Inputs,
    checking: Validation | None,
) -> dict[str, Any]:
    """What was chosen, and what came of it."""
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return (
        asdict(settings)
        | _shape(start)
        | {
            "learning_rate": trainer.args.learning_rate,
            "processes": trainer.args.world_size,
            "views": _views(start, settings),
            "started_from": start.digest,
            "pictures": len(inputs.examples),
            "captions": sum(len(example.captions) for example in inputs.examples),
            "validation_pictures": len(checking.inputs.examples) if checking else 0,
            "validation_average_recall": _recalls(trainer),
            "best_step": trainer.state.best_global_step if checking else settings.steps,
            "final_loss": logged[-1] if logged else None,
        }
    )


def _shape(start: Start) -> dict[str, Any]:
    """What the settings left open about the model."""
    config = start.model.config
    shape = {name: getattr(config, name) for name in SCRATCH if hasattr(config, name)}
    shape["text_hidden"] = config.text_config.hidden_size
    return shape | {"text_layers": config.text_config.num_hidden_layers}


def _recalls(trainer: HierarchicalTrainer) -> dict[str, float]:
    """Validation AR by step."""
    return {
        str(entry["step"]): entry[f"eval_{METRIC}"]
        for entry in trainer.state.log_history
        if f"eval_{METRIC}" in entry
    }
