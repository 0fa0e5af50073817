"""ONNX graphs: names, dtypes, precision inside, and every batch size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx import helper as make
from onnx.reference import ReferenceEvaluator
from torch import nn

import export.graph
from engine.checkpoints import open_checkpoint
from engine.encoders.manifest import Dtype, ExportManifest, TensorSpec
from export.errors import ExportError
from export.graph import check_batches, export_graph, open_graph, run_graph, widened
from export.tower import ExportedTower, ImageTower, exported_tower
from tests.conftest import ROOT

Exported = Callable[..., tuple[Path, ExportManifest]]
# Every kind that is read, its other shape where one is enough, in every dtype.
CASES: list[tuple[str, Dtype]] = [
    ("clip", "fp16"),
    ("clip-other", "fp32"),
    ("siglip", "fp16"),
    ("siglip2-other", "bf16"),
    ("open_clip-other", "fp32"),
]


def _inputs(place: Path, tower: str, rows: int, length: int | None = None) -> dict[str, Any]:
    """Random pictures; sentences of random tokens, all but the first half padding."""
    chance = np.random.default_rng(rows)
    processor = open_checkpoint(place).processor
    if tower == "image":
        side = processor.pixels([_blank()]).shape[2:]
        return {"pixel_values": chance.standard_normal((rows, 3, *side), dtype=np.float32)}
    length = length or processor.max_tokens
    ids = chance.integers(3, 50, (rows, length)).astype(np.int32)
    mask = np.ones_like(ids)
    mask[rows // 2 :, length // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _blank() -> Any:
    from PIL import Image

    return Image.new("RGB", (50, 40))


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_onnx_runtime_gives_torchs_vectors_at_every_batch_size(
    kind: str, dtype: Dtype, exported: Exported, small: Callable[[str], Path]
) -> None:
    """Beside torch in float32 and, for a head that was learned, the rotation in the graph."""
    place, manifest = exported(kind, dtype)
    checkpoint = open_checkpoint(small(kind))
    for name in ("image", "text"):
        session = open_graph(place / f"{name}.onnx")
        for rows in (1, 3, 64):
            batch = _inputs(small(kind), name, rows)
            coarse, fine = run_graph(session, batch)
            tower = getattr(checkpoint, name)
            with torch.inference_mode():
                _, expected = tower(*(torch.from_numpy(array) for array in batch.values()))
            assert coarse.dtype == fine.dtype == np.float32
            assert coarse.shape == (rows, manifest.coarse_dim)
            least = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.995}[dtype]
            assert (fine * expected.numpy()).sum(axis=1).min() > least
            np.testing.assert_allclose(np.linalg.norm(coarse, axis=1), 1, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(fine, axis=1), 1, atol=1e-5)


def test_sentences_may_have_any_length_where_padding_is_to_the_longest(
    exported: Exported, small: Callable[[str], Path]
) -> None:
    place, manifest = exported("clip-other", "fp32")
    text = open_checkpoint(small("clip-other")).text
    session = open_graph(place / "text.onnx")
    for length in (1, 2, 7, manifest.max_tokens):
        batch = _inputs(small("clip-other"), "text", 3, length)
        with torch.inference_mode():
            _, expected = text(*(torch.from_numpy(array) for array in batch.values()))
        np.testing.assert_allclose(run_graph(session, batch)[1], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_names_and_dtypes_are_the_contracts(kind: str, dtype: Dtype, exported: Exported) -> None:
    place, manifest = exported(kind, dtype)
    ids = ("batch", "tokens" if manifest.padding == "longest" else manifest.max_tokens)
    vectors = {
        "coarse": TensorSpec("float32", ("batch", manifest.coarse_dim)),
        "fine": TensorSpec("float32", ("batch", manifest.fine_dim)),
    }
    image, text = (manifest.graphs[name] for name in ("image", "text"))
    assert image.outputs == text.outputs == vectors
    assert text.inputs == {
        "input_ids": TensorSpec("int32", ids),
        "attention_mask": TensorSpec("int32", ids),
    }
    assert list(image.inputs) == ["pixel_values"]
    assert image.inputs["pixel_values"].dtype == "float32"
    for graph in (image, text):
        onnx.checker.check_model(place / graph.file, full_check=True)


@pytest.mark.parametrize(("kind", "dtype"), [case for case in CASES if case[1] != "fp32"])
def test_products_are_low_and_norms_softmax_and_unit_vectors_are_not(
    kind: str, dtype: Dtype, exported: Exported
) -> None:
    place, _ = exported(kind, dtype)
    low = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[dtype]
    for name in ("image", "text"):
        model = onnx.shape_inference.infer_shapes(onnx.load(place / f"{name}.onnx"))
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        types = {v.name: v.type.tensor_type.elem_type for v in values}
        types |= {w.name: w.data_type for w in model.graph.initializer}
        by_kind: dict[str, list[int]] = {}
        for node in model.graph.node:
            by_kind.setdefault(node.op_type, []).append(types[node.input[0]])
        for kept in ("LayerNormalization", "Softmax", "ReduceL2"):
            assert set(by_kind[kept]) == {TensorProto.FLOAT}, kept
        products = by_kind["MatMul"] + by_kind.get("Gemm", []) + by_kind.get("Conv", [])
        assert products.count(low) == len(products) - 1  # the rotation, after the unit vectors
        full = [w for w in model.graph.initializer if w.data_type == TensorProto.FLOAT]
        assert [w.name for w in full if len(w.dims) > 1] == ["rotation"]


def test_a_graph_says_nothing_of_the_machine_it_was_made_on(exported: Exported) -> None:
    place, _ = exported("clip-other", "fp32")
    for name in ("image", "text"):
        content = (place / f"{name}.onnx").read_bytes()
        assert str(ROOT).encode() not in content
        assert b"site-packages" not in content


def test_weights_beyond_2_gb_go_to_a_file_beside_the_graph(
    small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.graph, "ONE_FILE", 0)
    checkpoint = open_checkpoint(small("clip"))
    tower = exported_tower(checkpoint, "image", "fp32", torch.eye(checkpoint.fine_dim, 4))
    batch = {"pixel_values": torch.randn(2, 3, 32, 32)}
    graph = export_graph(tower, batch, tmp_path / "image.onnx", dynamic_tokens=False)
    assert graph.weights == "image.onnx.data"
    sizes = [(tmp_path / name).stat().st_size for name in (graph.file, graph.weights)]
    weights = sum(weight.nbytes for weight in checkpoint.image.parameters())
    assert sizes[0] < weights / 2
    assert sizes[1] == pytest.approx(weights, rel=0.1)
    coarse, fine = run_graph(
        open_graph(tmp_path / "image.onnx"), {"pixel_values": batch["pixel_values"].numpy()}
    )
    with torch.inference_mode():
        expected = tower(batch["pixel_values"])
    np.testing.assert_allclose(coarse, expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(fine, expected[1].numpy(), atol=1e-5)


class _Branches(nn.Module):
    def forward(self, pixel_values: torch.Tensor) -> tuple[None, torch.Tensor]:
        if pixel_values.sum() > 0:
            return None, pixel_values.mean((2, 3))
        return None, pixel_values.amax((2, 3))


def test_a_tower_that_cannot_be_traced_is_named(tmp_path: Path) -> None:
    tower: ExportedTower = ImageTower(_Branches(), "fp32", torch.eye(3, 2))
    with pytest.raises(
        ExportError, match=r"image\.onnx: expected a tower that torch\.onnx can trace, got "
    ):
        export_graph(
            tower,
            {"pixel_values": torch.ones(2, 3, 4, 4)},
            tmp_path / "image.onnx",
            dynamic_tokens=False,
        )
    assert not list(tmp_path.iterdir())


def _graph_of(nodes: list[Any], file: Path, weights: list[Any] | None = None) -> None:
    pixels = make.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 4])
    outputs = [
        make.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("coarse", "fine")
    ]
    graph = make.make_graph(nodes, "g", [pixels], outputs, weights or [])
    onnx.save(
        make.make_model(graph, opset_imports=[make.make_opsetid("", 22)], ir_version=10), file
    )


def test_a_batch_frozen_into_the_graph_is_found(tmp_path: Path) -> None:
    shape = make.make_tensor("shape", TensorProto.INT64, [2], [2, 4])
    _graph_of(
        [
            make.make_node("Reshape", ["pixel_values", "shape"], ["coarse"]),
            make.make_node("Identity", ["pixel_values"], ["fine"]),
        ],
        tmp_path / "image.onnx",
        [shape],
    )
    few = {"pixel_values": torch.randn(2, 4)}
    check_batches(tmp_path / "image.onnx", few, [2])
    with pytest.raises(ExportError, match="expected a graph that takes a batch of 3, got "):
        check_batches(tmp_path / "image.onnx", few, [2, 3])


def test_vectors_that_depend_on_the_batch_are_found(tmp_path: Path) -> None:
    axes = make.make_tensor("axes", TensorProto.INT64, [1], [0])
    _graph_of(
        [
            make.make_node("ReduceSum", ["pixel_values", "axes"], ["sum"]),
            make.make_node("Add", ["pixel_values", "sum"], ["coarse"]),
            make.make_node("Identity", ["pixel_values"], ["fine"]),
        ],
        tmp_path / "image.onnx",
        [axes],
    )
    with pytest.raises(
        ExportError, match=r"expected the same coarse .* at a batch of 5 as at 2, got "
    ):
        check_batches(tmp_path / "image.onnx", {"pixel_values": torch.randn(2, 4)}, [2, 5])


def test_a_widened_graph_is_the_bfloat16_graph(
    exported: Exported, small: Callable[[str], Path]
) -> None:
    """Beside ONNX's own reference evaluator, which computes in bfloat16."""
    place, _ = exported("siglip2-other", "bf16")
    model = onnx.load(place / "text.onnx")
    batch = _inputs(small("siglip2-other"), "text", 2)
    exact = ReferenceEvaluator(model).run(["coarse", "fine"], batch)
    wide = widened(onnx.load(place / "text.onnx"))
    assert not any(w.data_type == TensorProto.BFLOAT16 for w in wide.graph.initializer)
    for ours, theirs in zip(run_graph(open_graph(place / "text.onnx"), batch), exact, strict=True):
        assert (ours * theirs.astype(np.float32)).sum(axis=1).min() > 0.998
