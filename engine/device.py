"""Which device to search and encode on."""

import torch

from engine.errors import InvalidArgument


def pick_device(device: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU; anything else is torch's own device string."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError:
        picked = None
    if picked is None or (picked.type == "cuda" and not torch.cuda.is_available()):
        raise InvalidArgument(
            "device",
            expected='"auto", "cpu", or a CUDA device that is there',
            got=repr(device),
            remedy='Use device="auto".',
        )
    return picked
