"""How well an encoder retrieves: recall in both directions, for every way of searching."""

from engine.evaluation.recall import Report, evaluate

__all__ = ["Report", "evaluate"]
