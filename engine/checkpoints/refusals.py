"""What `transformers` and what it builds on raise for files that they cannot use: it has no error of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging

from engine.checkpoints.files import SAVE_AGAIN
from engine.errors import CheckpointError

REFUSALS: tuple[type[Exception], ...] = (
    OSError,  # files
    ValueError,  # JSON, and settings that contradict each other
    TypeError,  # settings of another type
    KeyError,
    AttributeError,
    RuntimeError,  # torch: shapes that cannot be
    ImportError,  # packages that a tokenizer needs
    SafetensorError,
    StrictDataclassError,  # settings of another type, in configurations
)


@contextmanager
def expected(place: Path, what: str, remedy: str = SAVE_AGAIN) -> Iterator[None]:
    """Turn a refusal within into a CheckpointError: `what` was expected at `place`, and what came.

    Meanwhile transformers shows no loading bar, no table of keys and no remarks: what is wrong is in our error.
    """
    try:
        with _quiet_transformers():
            yield
    except CheckpointError:
        raise
    except REFUSALS as error:
        reason = str(error)
        if "trust_remote_code" in reason:  # how transformers asks for it: never here
            reason = "Python code of the checkpoint's own (auto_map), which is never run"
        raise CheckpointError(str(place), expected=what, got=reason, remedy=remedy) from None


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
