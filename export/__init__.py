"""From a checkpoint to ONNX and TensorRT, with proof that search still finds the same pictures.

    python -m export.to_onnx CHECKPOINT      two graphs, a manifest, a parity report
    python -m export.to_trt  CHECKPOINT      the same, and engines

What it writes is run by `engine`, from the manifest alone.
"""
