"""Which device to search and encode on."""

from typing import Any

import torch

from engine.errors import InvalidArgument


def pick_device(device: Any) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU; anything else is torch's own device string."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError):
        picked = None
    there = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if picked is None or picked.type not in there:
        raise InvalidArgument(
            "device",
            expected='"auto", "cpu", or a CUDA device that is there',
            got=repr(device),
            remedy='Use device="auto".',
        )
    return picked
