"""A torchvision made for another torch, which transformers would fail to import."""

import logging
import sys
from importlib import import_module
from importlib.util import find_spec

_log = logging.getLogger(__name__)


def hide_misfit() -> None:
    """Have transformers believe that there is no torchvision, if it is there and cannot be imported.

    Nothing here needs it. To be called before transformers is imported.
    """
    if (
        "torchvision" in sys.modules
        or "transformers" in sys.modules
        or not find_spec("torchvision")
    ):
        return
    try:
        import_module("torchvision")
    except (
        ImportError,
        RuntimeError,
        OSError,
        AttributeError,
    ) as error:  # what a misfit has been seen to raise
        _log.warning("torchvision does not fit this torch, and is not used: %s", error)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # so `find_spec` finds none
