"""`python -m engine` as `torchrun` starts it, and a signal in the middle of a step.

python -m torch.distributed.run … -m tests.engine.training.interrupted SIGNAL STEP ARGUMENTS…

The second process sends SIGNAL to the launcher's group while it makes STEP. It finishes that step once the
launcher has passed the signal on.
"""

import os
import signal
import sys
import time
from typing import Any

from engine.__main__ import main
from engine.training import trainer


def interrupt(number: signal.Signals, step: int) -> None:
    """From now on in this process."""
    own = trainer.HierarchicalTrainer.compute_loss
    sent = False

    def compute_loss(self: Any, *given: Any, **named: Any) -> Any:
        nonlocal sent
        if self.state.global_step == step - 1 and not sent:
            sent = True
            asked = signal.getsignal(number)
            os.killpg(os.getppid(), number)
            deadline = time.monotonic() + 20
            while signal.getsignal(number) is asked:  # the handler replaces itself
                assert time.monotonic() < deadline
                time.sleep(0.01)
        return own(self, *given, **named)

    trainer.HierarchicalTrainer.compute_loss = compute_loss  # type: ignore[method-assign]


if __name__ == "__main__":
    name, at, *rest = sys.argv[1:]
    if os.environ["RANK"] == "1":
        interrupt(signal.Signals[name], int(at))
    sys.argv = ["engine", *rest]
    main()
