"""What may be chosen for a training run."""

from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidArgument


@dataclass(frozen=True)
class Settings:
    """One run; by default of the example's model (`make train-example` says the rest).

    The first ten describe the model. None: as the checkpoint that the run starts from has it; from scratch, as in
    `SCRATCH`; on CLIP or SigLIP the fine vector is their own embedding, unless `fine_dim` asks for a head.

    views: of each picture, the first unchanged; None: 3 for our own towers, 1 for CLIP's and SigLIP's.
    phrasing: say captions in other ways (own towers only; see `phrasing`).
    unfreeze: train the towers too, from pixels; else the image tower, and both of CLIP and SigLIP, stay as they are
        and are run once for each picture and caption.
    learning_rate: its peak, of all but towers; None: 3e-3 from scratch, else 1e-3. tower_learning_rate: theirs.
    every: steps between two validations and between two states that a run can be resumed from.
    coarse_weight, fine_weight: of the two levels in the loss. distillation: how much the coarse ranking is drawn
        to the fine one. sigmoid: SigLIP's loss instead of CLIP's. queue: pairs of past batches that are
        negatives, for heads on trained towers: a model that starts from nothing changes too fast for it.
    hard: how many concepts that are confused with it stand beside each drawn one in a batch; found by searching
        with the current vectors every `mine_every` steps.
    """

    coarse_dim: int | None = None
    fine_dim: int | None = None
    heads: str | None = None
    head_dim: int | None = None
    coarse_head_dim: int | None = None
    image_neck: int | None = None
    coarse_text_dim: int | None = None
    text_hidden: int | None = None
    text_layers: int | None = None
    dropout: float | None = None
    vocabulary: int = 5000
    max_length: int = 24
    steps: int = 1600
    batch_size: int = 1024
    accumulate: int = 1
    learning_rate: float | None = None
    tower_learning_rate: float = 1e-5
    unfreeze: bool = False
    bf16: bool = False
    views: int | None = None
    phrasing: bool = True
    every: int = 200
    seed: int = 0
    coarse_weight: float = 0.5
    fine_weight: float = 0.5
    distillation: float = 0.0
    sigmoid: bool = False
    queue: int = 0
    hard: int = 0
    mine_every: int = 200

    def __post_init__(self) -> None:
        at_least: dict[str, Any] = dict.fromkeys(
            ("coarse_dim", "fine_dim", "head_dim", "coarse_head_dim", "text_hidden", "views"), 1
        )
        at_least |= dict.fromkeys(("steps", "batch_size", "accumulate", "every", "mine_every"), 1)
        at_least |= dict.fromkeys(
            ("image_neck", "coarse_text_dim", "text_layers", "dropout", "queue", "hard"), 0
        )
        at_least |= dict.fromkeys(("coarse_weight", "fine_weight", "distillation", "seed"), 0)
        at_least |= {"vocabulary": 8, "max_length": 3}
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise _refused(name, f"at least {least}", value)
        for name in ("learning_rate", "tower_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise _refused(name, "a number above 0", value)
        if not self.coarse_weight + self.fine_weight > 0:
            raise _refused("coarse_weight", "a weight above 0 for a level", self.coarse_weight)


# The example's model: 12 MB in float16, of which the image tower takes 6.8.
SCRATCH: dict[str, Any] = {
    "coarse_dim": 16,
    "fine_dim": 256,
    "heads": "own",
    "head_dim": 512,
    "coarse_head_dim": 512,
    "image_neck": 256,
    "coarse_text_dim": 96,
    "text_hidden": 192,
    "text_layers": 0,
    "dropout": 0.1,
}


def _refused(name: str, expected: str, got: object) -> InvalidArgument:
    return InvalidArgument(
        name, expected=expected, got=repr(got), remedy="Leave it out for its default."
    )
