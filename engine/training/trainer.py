"""`transformers.Trainer` with our loss, over cached features of the image tower."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from engine.checkpoints import Processor
from engine.dataset import Example
from engine.model import HiVLPModel
from engine.training.loss import hierarchical_loss
from engine.training.phrasing import phrase


class Concepts(Dataset[tuple[Tensor, str]]):
    """Item i is concept i: one of its pictures, in one of its views, with one of that picture's captions.

    Drawn anew each time. A batch of different concepts holds no two rows that show the same thing, which is what
    the loss asks for; and a concept drawn in many styles weighs no more than one with a single picture.

    Args:
        features: float16 `[N, views, F]`, the image tower's, in the order of `examples`.
    """

    def __init__(self, examples: Sequence[Example], features: Tensor, seed: int) -> None:
        rows: dict[str, list[int]] = {}
        for row, example in enumerate(examples):
            rows.setdefault(example.concept, []).append(row)
        self._rows = list(rows.values())
        self._examples = examples
        self._features = features
        self._chance = random.Random(seed)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, concept: int) -> tuple[Tensor, str]:
        row = self._chance.choice(self._rows[concept])
        view = self._chance.randrange(self._features.shape[1])
        caption = self._chance.choice(self._examples[row].captions)
        return self._features[row, view], phrase(caption, self._chance)


class HierarchicalTrainer(Trainer):
    """Minimises `hierarchical_loss` over the pairs of each batch."""

    def __init__(
        self,
        model: HiVLPModel,
        args: TrainingArguments,
        *,
        train_dataset: Concepts,
        processor: Processor,
    ) -> None:
        self._processor = processor
        super().__init__(model, args, train_dataset=train_dataset, data_collator=self._collate)

    def _collate(self, pairs: list[tuple[Tensor, str]]) -> dict[str, Tensor]:
        features, captions = zip(*pairs, strict=True)
        return {"image_features": torch.stack(features).float(), **self._processor.tokens(captions)}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  # Trainer passes it
    ) -> Any:
        """The loss of one batch, and the vectors with it if asked."""
        output = model(**inputs)
        loss = hierarchical_loss(output.image, output.text, model.logit_scales)
        return (loss, output) if return_outputs else loss


def arguments(
    scratch: str, steps: int, batch_size: int, learning_rate: float, bf16: bool, seed: int
) -> TrainingArguments:
    """AdamW with warm-up and cosine decay; nothing is saved or reported on the way."""
    return TrainingArguments(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.05,
        adam_beta2=0.98,
        warmup_steps=steps // 10,
        lr_scheduler_type="cosine",
        dataloader_drop_last=True,
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=100,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
    )
