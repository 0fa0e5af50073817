"""`HiVLPProcessor`: image processor and tokenizer of our checkpoints under one name, for `AutoProcessor`."""

from typing import Any

from transformers import ProcessorMixin


class HiVLPProcessor(ProcessorMixin):
    """What `AutoProcessor.from_pretrained` opens a HiVLP directory as: settings are in the directory's files alone.

    The engine itself opens every kind of checkpoint with `engine.checkpoints.open_processor`.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
