"""`open_encoder`: the encoder of a checkpoint or of an export, in the best runtime that this machine has for it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from engine.encoders.manifest import MANIFEST, ExportManifest
from engine.errors import CheckpointError, CheckpointMismatch, MissingPackage, RuntimeUnavailable
from engine.index import CheckpointReference

if TYPE_CHECKING:
    from engine.encoders.dual_encoder import DualEncoder

_log = logging.getLogger(__name__)


def open_encoder(
    path: str | Path,
    *,
    device: str = "auto",
    expected: CheckpointReference | None = None,
    engines: bool = True,
) -> "DualEncoder":
    """The encoder of a checkpoint (a directory, or an id on the Hugging Face hub) or of an export directory.

    A checkpoint is run by PyTorch on `device` ("auto": CUDA where there is one). An export is run by TensorRT where
    one of its engines fits this GPU and library, else by ONNX Runtime, else by PyTorch from the checkpoint it was
    made from; `runtime`, `why`, the `repr` and the log say which and why. A file that is not what the export's
    manifest says is an error, never a reason to take another.

    Args:
        expected: the checkpoint behind it, by its hash: CheckpointMismatch where it is another, before weights,
            graphs or engines are read.
        engines: whether TensorRT engines, which are native code, may be run: not from an export you do not trust.
    """
    try:
        from engine.checkpoints import open_checkpoint
        from engine.encoders.torch_encoder import torch_encoder
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in ("transformers", "PIL"):
            raise
        raise MissingPackage.of(package, "models", "Encoding text and images") from None
    directory = Path(path)
    if (directory / MANIFEST).is_file():
        encoder = _open_export(directory, device, expected, engines)
    else:
        checkpoint = open_checkpoint(path, expected=expected)
        encoder = torch_encoder(checkpoint, device=device, why="a checkpoint")
    _log.info("%r", encoder)
    return encoder


def _open_export(
    directory: Path, device: str, expected: CheckpointReference | None, engines: bool
) -> "DualEncoder":
    """TensorRT, then ONNX Runtime, then PyTorch; what an export holds and cannot be run is worth a warning."""
    from engine.encoders.onnx_encoder import onnx_encoder
    from engine.encoders.tensorrt_encoder import tensorrt_encoder

    manifest = ExportManifest.read(directory)
    CheckpointReference(str(directory), manifest.source.sha256).must_be(expected)
    if manifest.parity.get("passed") is False:
        _log.warning("%s: this export failed its parity gate; see its parity.md", directory)
    reasons = []
    if manifest.engines and not engines:
        reasons.append("engines are native code, and nobody but the index named this export")
        _log.info("%s: %s. To run them, name it: encoder=, --checkpoint", directory, reasons[0])
    elif manifest.engines:
        try:
            return tensorrt_encoder(directory, device=device, why="an engine for this GPU")
        except RuntimeUnavailable as unavailable:
            _log.warning("%s", unavailable)
            reasons.append("no TensorRT engine fits this machine")
    else:
        reasons.append("the export holds no TensorRT engine")
    try:
        return onnx_encoder(directory, device=device, why=reasons[0])
    except (RuntimeUnavailable, MissingPackage) as unavailable:
        _log.warning("%s", unavailable)
        reasons.append(str(unavailable))
    return _open_source(manifest, device, "; ".join(reasons))


def _open_source(manifest: ExportManifest, device: str, why: str) -> "DualEncoder":
    """PyTorch, from the checkpoint that an export was made from, if it is still there and the same."""
    from engine.checkpoints import open_checkpoint
    from engine.encoders.torch_encoder import torch_encoder

    source = manifest.source
    try:
        if not source.hub and not Path(source.path).is_dir():
            raise CheckpointError(
                source.path,
                expected="the exported checkpoint",
                got="nothing",
                remedy="Put it back, or export it again.",
            )
        checkpoint = open_checkpoint(source.path, expected=source)
    except CheckpointMismatch:
        raise CheckpointMismatch(
            source.path,
            expected=f"the checkpoint that was exported (sha256 {source.sha256[:12]}…)",
            got="another",
            remedy="Export it again.",
        ) from None
    except CheckpointError as error:
        raise RuntimeUnavailable(
            "export",
            expected="a runtime that can run it here",
            got=f"none: {why}; {error}",
            remedy="Install ONNX Runtime: pip install 'hivlp-engine[onnx]'",
        ) from None
    return torch_encoder(checkpoint, device=device, why=why)
