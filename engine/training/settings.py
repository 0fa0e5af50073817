"""What may be chosen for a training run, with defaults and help; torch is not needed to know it."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from engine.errors import InvalidArgument

MODEL, LOSS, RUN = "The model", "The loss", "The run"

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
BACKBONE_COARSE_DIM = 64  # what the index takes by default too
RATE, RATE_FROM_CHECKPOINT = 3e-3, 1e-3
VIEWS, VIEWS_ON_BACKBONE = 3, 1
MOST = (1 << 31) - 1  # of any count
LARGEST_SEED = (1 << 32) - 1  # NumPy's


def _setting(
    default: Any,
    help: str,
    panel: str | None = None,
    *,
    least: float | None = None,
    above: float | None = None,
    most: int = MOST,
) -> Any:
    """A field with its help in the command line, the panel that shows it, and its least and largest value."""
    about = {"help": help, "panel": panel, "least": least, "above": above, "most": most}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """One run; by default of the example's model (`make train-example` says the rest).

    Each field says what it is. None: as the checkpoint that the run starts from has it; from scratch, as in
    `SCRATCH`; on CLIP or SigLIP the fine vector is their own embedding, unless `fine_dim` asks for a head.

    unfreeze: else the image tower, and both towers of CLIP and SigLIP, stay as they are and are run once for each
        picture and caption.
    every: a run can be resumed from each of these states.
    queue: for heads on trained towers; a model that starts from nothing changes too fast for it.
    hard: found by searching with the current vectors.
    """

    coarse_dim: int | None = _setting(
        None,
        f"Length of the coarse vectors: {SCRATCH['coarse_dim']}; {BACKBONE_COARSE_DIM} on CLIP.",
        MODEL,
        least=1,
    )
    fine_dim: int | None = _setting(
        None,
        f"Of the fine ones: {SCRATCH['fine_dim']}; on CLIP its own vectors, unchanged.",
        MODEL,
        least=1,
    )
    heads: Literal["own", "shared", "nested"] | None = _setting(
        None, f"How coarse vectors are made: {SCRATCH['heads']}.", MODEL
    )
    head_dim: int | None = _setting(
        None, f"Width of the heads: {SCRATCH['head_dim']}.", MODEL, least=1
    )
    coarse_head_dim: int | None = _setting(None, "Of the coarse ones: the same.", MODEL, least=1)
    image_neck: int | None = _setting(
        None,
        f"Length of picture features before the heads: {SCRATCH['image_neck']}; 0 as they are.",
        MODEL,
        least=0,
    )
    coarse_text_dim: int | None = _setting(
        None,
        f"Word vectors for coarse sentences alone: {SCRATCH['coarse_text_dim']}; 0 for none.",
        MODEL,
        least=0,
    )
    text_hidden: int | None = _setting(
        None, f"Width of the text tower: {SCRATCH['text_hidden']}.", MODEL, least=1
    )
    text_layers: int | None = _setting(
        None, f"Its layers: {SCRATCH['text_layers']}, averaged word vectors.", MODEL, least=0
    )
    dropout: float | None = _setting(None, f"In the heads: {SCRATCH['dropout']}.", MODEL, least=0)
    vocabulary: int = _setting(5000, "Pieces of a new tokenizer.", MODEL, least=8)
    max_length: int = _setting(24, "Pieces of a sentence that are read.", MODEL, least=3)
    unfreeze: bool = _setting(False, "Train the towers too, from pixels.")
    coarse_weight: float = _setting(0.5, "Of the coarse level.", LOSS, least=0)
    fine_weight: float = _setting(0.5, "Of the fine level.", LOSS, least=0)
    distillation: float = _setting(
        0.0, "How much coarse rankings learn from fine ones.", LOSS, least=0
    )
    sigmoid: bool = _setting(False, "SigLIP's loss instead of CLIP's.", LOSS)
    queue: int = _setting(0, "Pairs of past batches, as negatives.", LOSS, least=0)
    hard: int = _setting(
        0, "Concepts in the batch beside each, that are confused with it.", LOSS, least=0
    )
    mine_every: int = _setting(200, "Steps between two searches for these.", LOSS, least=1)
    steps: int = _setting(1600, "Steps to train.", RUN, least=1)
    batch_size: int = _setting(1024, "Concepts in a batch.", RUN, least=1)
    accumulate: int = _setting(1, "Batches a step.", RUN, least=1)
    learning_rate: float | None = _setting(
        None, f"Its peak: {RATE:g}; {RATE_FROM_CHECKPOINT:g} from a checkpoint.", RUN, above=0
    )
    tower_learning_rate: float = _setting(1e-5, "Of unfrozen towers.", RUN, above=0)
    bf16: bool = _setting(False, "Multiply in bfloat16: quicker where CPU or GPU can.", RUN)
    views: int | None = _setting(
        None,
        f"Views of a picture, the first unchanged: {VIEWS}; {VIEWS_ON_BACKBONE} on CLIP.",
        RUN,
        least=1,
    )
    phrasing: bool = _setting(True, "Say captions in other ways (not on CLIP).", RUN)
    every: int = _setting(200, "Steps between two states and validations.", RUN, least=1)
    seed: int = _setting(0, "Of everything drawn at random.", RUN, least=0, most=LARGEST_SEED)

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least, above = (
                getattr(self, one.name),
                one.metadata["least"],
                one.metadata["above"],
            )
            if value is None:
                continue
            if least is not None and value < least:
                raise _refused(one.name, f"at least {least}", value)
            if above is not None and not above < value < math.inf:
                raise _refused(one.name, f"a number above {above}", value)
            if type(value) is int and value > one.metadata["most"]:
                raise _refused(one.name, f"at most {one.metadata['most']:,}", value)
        if not self.coarse_weight + self.fine_weight > 0:
            raise _refused("coarse_weight", "a weight above 0 for a level", self.coarse_weight)


def _refused(name: str, expected: str, got: object) -> InvalidArgument:
    return InvalidArgument(
        name, expected=expected, got=repr(got), remedy="Leave it out for its default."
    )
