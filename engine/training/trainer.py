"""`transformers.Trainer` with our loss, our batches, and a state from which a run goes on to the same result.

Whatever is drawn for a step is a function of the seed and the number of its batch: the loader hands out numbers
only, and the batch is drawn when its turn comes. So a resumed run needs the weights, the optimizer's state, the
queue and the mined neighbours, and no state of any random generator.
"""

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from engine.errors import TrainingError
from engine.model import HiVLPModel, HiVLPOutput
from engine.training.inputs import Inputs
from engine.training.loss import hierarchical_loss
from engine.training.mining import confused_with
from engine.training.queue import Past
from engine.training.sampling import Sampler
from engine.training.settings import Settings
from engine.training.validation import Validation

COMPLETE = "complete"  # the file that is written last into a state: without it, it was cut off
MEMORY = "memory.safetensors"
METRIC = "average_recall"


class HierarchicalTrainer(Trainer):
    """Minimises `hierarchical_loss` over the pairs of each batch."""

    def __init__(
        self,
        model: HiVLPModel,
        settings: Settings,
        args: TrainingArguments,
        *,
        inputs: Inputs,
        sampler: Sampler,
        validation: Validation | None,
        callbacks: list[TrainerCallback],
    ) -> None:
        self._settings, self._inputs, self._sampler = settings, inputs, sampler
        self._validation, self._ours = validation, model
        self._past: Past | None = None
        numbers: Any = range(settings.steps * settings.accumulate * max(args.world_size, 1))
        super().__init__(
            model,
            args,
            train_dataset=numbers,
            eval_dataset=None if validation is None else numbers,  # asked for, and not read
            data_collator=lambda numbers: {"number": torch.tensor(numbers)},
            callbacks=callbacks,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset)

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002  # Trainer passes them
        """Not counted."""
        return 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW, the towers at a rate of their own."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        towers = (self._ours.image_tower, self._ours.text_tower)
        if not self._settings.unfreeze:
            return optimizer
        slow = {id(parameter) for tower in towers for parameter in tower.parameters()}
        for group in list(optimizer.param_groups):
            apart = [parameter for parameter in group["params"] if id(parameter) in slow]
            group["params"] = [p for p in group["params"] if id(p) not in slow]
            if apart:
                rate = self._settings.tower_learning_rate
                optimizer.add_param_group({**group, "params": apart, "lr": rate})
        return optimizer

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One batch forward and backward, drawn by its number."""
        number = int(inputs["number"])
        self._mine_if_due(number)
        drawn = self._sampler.draw(number)
        batch = self._inputs.of(drawn, number)
        # Dropout's own seed, of the seed and the number alike.
        torch.manual_seed(random.Random(f"dropout {self._settings.seed}/{number}").getrandbits(63))
        batch["concepts"] = torch.from_numpy(drawn.concepts)
        return super().training_step(model, batch, num_items_in_batch)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  # Trainer passes it
    ) -> Any:
        """The loss of one batch, and the vectors with it if asked."""
        settings, concepts = self._settings, inputs.pop("concepts")
        if self._ours.config.backbone is None:
            self._ours.image_tower.eval()  # batch statistics stay as they were trained
        output: HiVLPOutput = model(**inputs)
        assert output.image is not None
        assert output.text is not None
        assert output.logit_scales is not None
        if settings.queue and self._past is None:
            self._past = Past.empty(output.image, output.text, concepts)
        loss = hierarchical_loss(
            output.image,
            output.text,
            output.logit_scales,
            concepts=concepts,
            weights={"coarse": settings.coarse_weight, "fine": settings.fine_weight},
            distillation=settings.distillation,
            biases=output.logit_biases if settings.sigmoid else None,
            past=self._past,
        )
        if not torch.isfinite(loss):
            raise TrainingError(
                "loss",
                expected=f"a finite number at step {self.state.global_step + 1}",
                got=str(loss.item()),
                remedy=f"Nothing was published. Remove {self.args.output_dir}, the state of the run, and try a "
                "lower --learning-rate, or leave out --bf16.",
            )
        if self._past is not None:
            self._past = self._past.followed_by(output.image, output.text, concepts, settings.queue)
        return (loss, output) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The average recall of the validation pictures, as the Trainer wants it."""
        assert self._validation is not None
        metrics = {f"eval_{METRIC}": self._validation.average_recall(self._ours)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _mine_if_due(self, number: int) -> None:
        settings, step = self._settings, self.state.global_step
        due = step and step % settings.mine_every == 0 and number % settings.accumulate == 0
        if settings.hard and due:
            images, texts = self._inputs.vectors(self._ours, *self._sampler.first_of_each())
            found = confused_with(texts.fine, images.fine, settings.hard)
            self._sampler.neighbours = found.numpy()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's state and ours; marked as whole at the very end."""
        super()._save_checkpoint(model, trial)
        if not self.args.should_save:  # the first of several processes does
            return
        place = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        memory: dict[str, Tensor] = {}
        if self._past is not None:
            memory |= {f"image.{level}": part for level, part in self._past.image.items()}
            memory |= {f"text.{level}": part for level, part in self._past.text.items()}
            memory["concepts"] = self._past.concepts
        if self._sampler.neighbours is not None:
            memory["neighbours"] = torch.from_numpy(self._sampler.neighbours)
        save_file({name: part.contiguous() for name, part in memory.items()}, place / MEMORY)
        (place / COMPLETE).touch()

    def remember(self, state: Path) -> None:
        """Take the queue and the neighbours from a state; the Trainer takes the rest from it."""
        memory = load_file(state / MEMORY)
        neighbours = memory.pop("neighbours", None)
        if neighbours is not None:
            self._sampler.neighbours = neighbours.numpy()
        memory = {name: part.to(self.args.device) for name, part in memory.items()}
        if "concepts" in memory:
            levels = list(self._ours.logit_scales)
            self._past = Past(
                {level: memory[f"image.{level}"] for level in levels},
                {level: memory[f"text.{level}"] for level in levels},
                memory["concepts"],
            )


def arguments(
    settings: Settings, learning_rate: float, states: Path, validated: bool
) -> TrainingArguments:
    """AdamW with warm-up and cosine decay; a state every so often, the last two and the best one kept."""
    validating: dict[str, Any] = {}
    if validated:
        validating = {
            "eval_strategy": "steps",
            "eval_steps": settings.every,
            "load_best_model_at_end": True,
            "metric_for_best_model": METRIC,
            "greater_is_better": True,
        }
    made = TrainingArguments(
        output_dir=str(states),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # one number, which stands for a batch
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=learning_rate,
        weight_decay=0.05,
        adam_beta2=0.98,
        warmup_steps=settings.steps // 10,
        lr_scheduler_type="cosine",
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=settings.every,
        save_total_limit=2,
        logging_steps=max(1, min(100, settings.steps // 10)),
        report_to="none",
        dataloader_pin_memory=False,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        ddp_timeout=24 * 3600,  # seconds that the others wait for the features
        **validating,
    )
    if made.n_gpu > 1:
        made._n_gpu = 1  # several GPUs: one process each, by torchrun
    return made
