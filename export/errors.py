"""What can go wrong in an export, beside the engine's own errors (`engine.errors` draws the tree).

EngineError
├── ExportError         (RuntimeError)  a tower that cannot be traced, a graph that does not hold
└── TensorRTUnavailable (RuntimeError)  no TensorRT that can build here; the ONNX is written all the same
"""

from engine.errors import EngineError

REPORT = "Please report it with the checkpoint's config.json."


class ExportError(EngineError, RuntimeError):
    """A tower that cannot be traced, a graph that does not hold, an engine that cannot be built."""


class TensorRTUnavailable(EngineError, RuntimeError):
    """No TensorRT that can build for the hardware asked for; the message lists every library's reason."""
