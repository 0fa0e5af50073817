"""Our checkpoint format: a `transformers` model, its configuration and its processor.

Importing this module registers them with the Auto classes, so that `AutoModel.from_pretrained` and
`AutoProcessor.from_pretrained` load a HiVLP directory.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from engine.model.configuration import HiVLPConfig
from engine.model.heads import HiVLPFeatures
from engine.model.modeling import HiVLPModel, HiVLPOutput
from engine.model.processing import HiVLPProcessor

AutoConfig.register("hivlp", HiVLPConfig, exist_ok=True)
AutoModel.register(HiVLPConfig, HiVLPModel, exist_ok=True)
AutoProcessor.register(HiVLPConfig, HiVLPProcessor, exist_ok=True)

__all__ = ["HiVLPConfig", "HiVLPFeatures", "HiVLPModel", "HiVLPOutput", "HiVLPProcessor"]
