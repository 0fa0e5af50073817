"""The PyTorch encoder of a checkpoint, whatever its kind."""

import torch
from torch import Tensor, nn

from engine.checkpoints import Checkpoint
from engine.device import pick_device
from engine.encoders.dual_encoder import DualEncoder, Vectors, in_parts

CPU_IMAGES = 8  # larger activations go back to the system each time: 6 ms a picture at 8, 15 at 64


def torch_encoder(checkpoint: Checkpoint, *, device: str = "auto", why: str) -> DualEncoder:
    """The towers of `checkpoint` in float32 on `device` ("auto": CUDA where there is one).

    A call encodes its whole batch at once: `engine.encoders.encode_all` cuts long lists into chunks.
    """
    place = pick_device(device)
    return DualEncoder(
        TorchTower(checkpoint.image, place, CPU_IMAGES if place.type == "cpu" else None),
        TorchTower(checkpoint.text, place),
        checkpoint.processor,
        checkpoint.coarse_dim,
        checkpoint.fine_dim,
        checkpoint.reference,
        runtime="torch",
        why=why,
    )


class TorchTower:
    """A tower on a device, `at_most` so many rows at a time: CPU tensors in, CPU tensors out."""

    def __init__(self, tower: nn.Module, device: torch.device, at_most: int | None = None) -> None:
        self.tower, self.device, self.at_most = tower.to(device), device, at_most

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Vectors:
        return in_parts(self._run, inputs, self.at_most)

    def _run(self, *inputs: Tensor) -> Vectors:
        coarse, fine = self.tower(*(tensor.to(self.device) for tensor in inputs))
        return None if coarse is None else coarse.cpu(), fine.cpu()
