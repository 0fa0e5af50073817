"""A signal that comes while the processes agree whether to stop stops them after the next step."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl

from engine.training.state import Interruption

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone, over gloo."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def stops(interruption: Interruption, step: int, *, processes: int = 2, steps: int = 9) -> bool:
    """Whether the training stops after `step`; it saves exactly then."""
    args = SimpleNamespace(world_size=processes, device=torch.device("cpu"))
    state = SimpleNamespace(global_step=step, max_steps=steps)
    control = interruption.on_step_end(args, state, TrainerControl())
    assert control.should_save == control.should_training_stop
    return bool(control.should_training_stop)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_during_the_reduction_is_not_lost(
    number: signal.Signals, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduce = torch.distributed.all_reduce

    def interrupted(tensor: torch.Tensor) -> None:
        if moment == "before":
            os.kill(os.getpid(), number)
        reduce(tensor)
        if moment == "after":
            os.kill(os.getpid(), number)

    interruption = Interruption()
    with interruption.watching():
        assert not stops(interruption, 1)
        with monkeypatch.context() as during:
            during.setattr(torch.distributed, "all_reduce", interrupted)
            assert not stops(interruption, 2)  # the others do not know of it yet
        assert stops(interruption, 3)


@pytest.mark.usefixtures("group")
def test_one_that_was_not_asked_stops_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(1))
    assert stops(Interruption(), 1)
    assert not stops(Interruption(), 9)  # the last step: there is nothing left to stop


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_asks_and_the_second_one_stops_at_once(number: signal.Signals) -> None:
    found: list[Any] = [signal.getsignal(each) for each in BOTH]
    interruption = Interruption()
    with interruption.watching():
        assert not stops(interruption, 1, processes=1)
        os.kill(os.getpid(), number)
        assert stops(interruption, 2, processes=1)
        assert not stops(interruption, 9, processes=1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in BOTH] == found
