"""The side directory of a run, from which it goes on after it was cut off: `OUT.state`."""

import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from engine.dataset import Example
from engine.errors import CheckpointError, EngineError, InvalidArgument
from engine.training.trainer import COMPLETE

RUN = "run.json"


def side_directory(output: Path) -> Path:
    return output.with_name(f"{output.name}.state")


@contextmanager
def opened_state(
    output: Path, run: Mapping[str, Any], args: TrainingArguments, *, resume: bool
) -> Iterator[Path]:
    """`open_state` for as long as a run is made ready: what is refused meanwhile leaves nothing behind.

    Of several processes the first one opens it, and the others then find it. A new side directory goes again, with
    the folders made above it. One that is resumed stays: it is another run's work. Ctrl-C is no refusal: features
    that are computed so far are gone on with.
    """
    missing = [folder for folder in side_directory(output).parents if not folder.exists()]
    first = args.process_index == 0
    with args.main_process_first(local=False):
        place = open_state(output, run, resume=resume or not first)
    try:
        yield place
    except EngineError:
        if first and not resume:
            shutil.rmtree(place)
            for folder in missing:
                with suppress(OSError):  # someone else's files came into it
                    folder.rmdir()
        raise


def open_state(output: Path, run: Mapping[str, Any], *, resume: bool) -> Path:
    """The side directory of a run that writes to `output`: a new one, or the one of the same run before.

    run: what decides the result, as plain values. Raises CheckpointError where something is in the way, or there
    is nothing to resume; InvalidArgument where the run to resume was another.
    """
    place = side_directory(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(
            str(output),
            expected="a name that is not taken, or an empty directory, for the checkpoint",
            got="something else",
            remedy="Choose another place.",
        )
    if not resume:
        if _holds_something(place):
            raise CheckpointError(
                str(place),
                expected=f"no unfinished run to {output}",
                got="the state of one",
                remedy="Go on with it by --resume, or remove it.",
            )
        place.mkdir(parents=True, exist_ok=True)
        _write(place / RUN, run)
        return place
    try:
        before = json.loads((place / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(
            str(place),
            expected="the state of an unfinished run",
            got="none",
            remedy="Start without --resume.",
        ) from None
    wanted = json.loads(json.dumps(run))
    for name in [*wanted, *before]:
        if before.get(name) != wanted.get(name):
            raise InvalidArgument(
                name,
                expected=f"{before.get(name)!r}, as the run that {place} is the state of",
                got=repr(wanted.get(name)),
                remedy="Resume with the same command, or remove that directory and start anew.",
            )
    return place


def _holds_something(place: Path) -> bool:
    """Whether there is more than what a run leaves that ended before it had begun, on a full disk."""
    if not place.is_dir():
        return place.exists()
    return any(file.name != f".{RUN}" for file in place.iterdir())


def last_state(place: Path) -> Path | None:
    """The newest state that was written to its end, or None."""
    whole = [file.parent for file in place.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda state: int(state.name.partition("-")[2]), default=None)


def digest_of(examples: Sequence[Example]) -> str:
    """What the examples are, by name, size and caption."""
    digest = hashlib.sha256()
    for example in examples:
        line = (str(example.image), example.file_size, example.captions, example.concept)
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


class Interruption(TrainerCallback):
    """Ctrl-C or SIGTERM: the step at hand is finished, the state saved, the training stopped.

    A second one stops at once. Of several processes all stop after the same step, whichever was asked: `torchrun`
    passes the signal on, and kills after 30 s.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        asked = self.asked
        if args.world_size > 1:
            # `self.asked` stays: who is asked while the processes agree stops after the next step.
            any_asked = torch.tensor(float(asked), device=args.device)
            torch.distributed.all_reduce(any_asked)
            asked = bool(any_asked > 0)
        if asked and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
        return control

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take both signals meanwhile; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        at_once: dict[signal.Signals, Any] = {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
        }

        def asked(*_: Any) -> None:
            self.asked = True
            for number, stop in at_once.items():
                signal.signal(number, stop)

        before = {number: signal.signal(number, asked) for number in at_once}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _write(file: Path, run: Mapping[str, Any]) -> None:
    draft = file.with_name(f".{file.name}")
    draft.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    draft.replace(file)
