"""What `python -m engine train` does: from a source of captioned pictures to a checkpoint."""

from pathlib import Path
from typing import Any

from engine.dataset import Example, Skipped, read_dataset
from engine.errors import DatasetError
from engine.training.run import train
from engine.training.settings import Settings
from engine.training.validation import hold_out


def train_on(
    source: Path,
    output: Path,
    settings: Settings,
    *,
    images: Path | None,
    split: str | None,
    validation: str | None,
    skip: bool,
    image_weights: Path | None,
    checkpoint: Path | None,
    features: Path | None,
    resume: bool,
) -> dict[str, Any]:
    """Train on a source of captioned pictures; the command's help says what each argument is.

    Returns what was done, as plain values.
    """
    skipped: Skipped | None = [] if skip else None

    def read(part: str) -> list[Example]:
        return read_dataset(source, split, part, images=images, skipped=skipped)

    examples, held = read("train"), list[Example]()
    if validation is not None:
        share = _share(validation)
        if share is None:
            held = read(validation)
            _refuse_overlap(examples, held, validation)
        else:
            examples, held = hold_out(examples, share, settings.seed)
    return train(
        examples,
        output,
        settings,
        image_weights=image_weights,
        checkpoint=checkpoint,
        validation=held,
        features_file=features,
        resume=resume,
        skipped=skipped,
    )


def _share(validation: str) -> float | None:
    try:
        return float(validation)
    except ValueError:
        return None  # the name of a part


def _refuse_overlap(examples: list[Example], held: list[Example], part: str) -> None:
    shared = {example.image for example in examples} & {example.image for example in held}
    if shared:
        raise DatasetError(
            "validation",
            expected="a part that is not trained on",
            got=f"{part}, with {len(shared)} pictures of the training part",
            remedy="Name another part, or a share of the concepts, such as 0.05.",
        )
