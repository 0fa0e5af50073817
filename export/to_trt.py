"""`python -m export.to_trt CHECKPOINT`: what `export.to_onnx` makes, and TensorRT engines."""

from export import cli


def to_trt(
    checkpoint: cli.Checkpoint,
    output: cli.Output = None,
    dtype: cli.DtypeOption = "fp16",
    batch: cli.Batch = "1,8,64",
    hardware: cli.Hardware = None,
    onnx_only: cli.OnnxOnly = False,
    coarse_data: cli.CoarseData = None,
    coarse_dim: cli.CoarseDim = None,
    parity_data: cli.ParityData = None,
    parity_pairs: cli.ParityPairs = 256,
    min_cosine: cli.MinCosine = None,
    min_overlap: cli.MinOverlap = None,
    triton_repo: cli.TritonRepo = None,
    timing_cache: cli.TimingCache = cli.TIMING_CACHE,
    as_json: cli.Json = False,
) -> None:
    """Export both towers of a checkpoint to ONNX and TensorRT, and compare what they find with PyTorch.

    Exit codes: 0 done, 2 usage or bad input, 3 parity failed (files kept), 4 no TensorRT that can build for the
    hardware (ONNX written).
    """
    cli.run(**locals())


if __name__ == "__main__":
    cli.main(cli.command(to_trt))
