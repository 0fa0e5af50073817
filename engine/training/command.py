"""What `python -m engine train` does: from a source of captioned pictures to a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from engine.dataset import Example, Skipped, read_dataset
from engine.errors import DatasetError
from engine.training.run import train
from engine.training.settings import Settings
from engine.training.validation import hold_out


@dataclass(frozen=True)
class Request:
    """What to train on and from; the command's help says what each is."""

    source: Path
    output: Path
    images: Path | None
    split: str | None
    validation: str | None
    skip: bool
    image_weights: Path | None
    checkpoint: Path | None
    features: Path | None
    resume: bool
    settings: Settings

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Request":
        """From the command's arguments, those of `Settings` among them."""
        chosen = {field.name: given[field.name] for field in fields(Settings)}
        others = {f.name: given[f.name] for f in fields(cls) if f.name != "settings"}
        return cls(**others, settings=Settings(**chosen))

    def run(self) -> dict[str, Any]:
        """Train; returns what was done, as plain values."""
        skipped: Skipped | None = [] if self.skip else None
        examples, held = self._read("train", skipped), list[Example]()
        if self.validation is not None:
            share = _share(self.validation)
            if share is None:
                held = self._read(self.validation, skipped)
                _refuse_overlap(examples, held, self.validation)
            else:
                examples, held = hold_out(examples, share, self.settings.seed)
        return train(
            examples,
            self.output,
            self.settings,
            image_weights=self.image_weights,
            checkpoint=self.checkpoint,
            validation=held,
            features_file=self.features,
            resume=self.resume,
            skipped=skipped,
        )

    def _read(self, part: str, skipped: Skipped | None) -> list[Example]:
        return read_dataset(self.source, self.split, part, images=self.images, skipped=skipped)


def _share(validation: str) -> float | None:
    try:
        return float(validation)
    except ValueError:
        return None  # the name of a part


def _refuse_overlap(examples: list[Example], held: list[Example], part: str) -> None:
    shared = {example.image for example in examples} & {example.image for example in held}
    if shared:
        raise DatasetError(
            f"{part}: a part that is not trained on expected for validation, found {len(shared)} pictures in both. "
            "Name another part, or a share of the concepts, such as 0.05."
        )
