"""Training dual encoders with hierarchical vectors."""

from engine.training.loss import hierarchical_loss
from engine.training.run import Settings, train

__all__ = ["Settings", "hierarchical_loss", "train"]
