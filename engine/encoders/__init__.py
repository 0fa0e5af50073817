"""Encoders: what turns text and images into vectors. One protocol, one way to open them.

encoder.py           the protocol, and encoding many items
opening.py           `open_encoder`, which picks the runtime
dual_encoder.py      a processor and two towers, whatever runs them
torch_encoder.py     a checkpoint's towers in PyTorch
onnx_encoder.py      an export's graphs in ONNX Runtime
tensorrt_encoder.py  an export's engines in TensorRT
manifest.py          what an export holds, and the hash of every file
remembered.py        the encoder of an index, opened only if it is the right one
on_demand.py         the same, when something is to be encoded
"""

from engine.encoders.encoder import CHUNK, Encoder, encode_all, warm
from engine.encoders.opening import open_encoder

__all__ = ["CHUNK", "Encoder", "encode_all", "open_encoder", "warm"]
