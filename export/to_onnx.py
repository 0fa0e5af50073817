"""`python -m export.to_onnx CHECKPOINT`: two graphs, a manifest, a parity report."""

from export import cli


def to_onnx(
    checkpoint: cli.Checkpoint,
    output: cli.Output = None,
    dtype: cli.DtypeOption = "fp32",
    batch: cli.Batch = "1,8,64",
    coarse_data: cli.CoarseData = None,
    coarse_dim: cli.CoarseDim = None,
    parity_data: cli.ParityData = None,
    parity_pairs: cli.ParityPairs = 256,
    min_cosine: cli.MinCosine = None,
    min_overlap: cli.MinOverlap = None,
    triton_repo: cli.TritonRepo = None,
    as_json: cli.Json = False,
) -> None:
    """Export both towers of a checkpoint to ONNX, and compare what they find with PyTorch.

    Exit codes: 0 done, 2 usage or bad input, 3 parity failed (files kept).
    """
    cli.run(**locals())


if __name__ == "__main__":
    cli.main(cli.command(to_onnx))
