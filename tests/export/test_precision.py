"""Low precision: what stays in float32, and that what is rewritten for it still computes the same."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from export.precision import Float32Where, PlainAttention, attention, fold_batch_norms, lower

LOW = (torch.float16, torch.bfloat16)


def _attention64(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """In float64 NumPy; `mask` is added to the scores."""
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]) + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("masked", ["no", "bool", "added", "causal"])
@pytest.mark.parametrize("length", [1, 7, 63])
def test_attention_is_attention(masked: str, length: int) -> None:
    chance = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, 3, length, 8, generator=chance, dtype=torch.float64) for _ in "qkv")
    mask = torch.rand(2, 1, length, length, generator=chance) > 0.4
    mask[..., 0] = True  # every query may look at something
    added = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e9)
    given = {"no": None, "bool": mask, "added": added, "causal": None}[masked]
    wanted = {"no": 0, "causal": np.triu(np.full((length, length), -1e9), 1)}.get(
        masked, added.numpy()
    )
    found = attention(q.float(), k.float(), v.float(), given, is_causal=masked == "causal")
    expected = _attention64(q.numpy(), k.numpy(), v.numpy(), wanted)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_attention_with_fewer_key_heads_and_a_scale_of_its_own() -> None:
    chance = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 5, 8, generator=chance)
    k, v = (torch.randn(2, 2, 5, 8, generator=chance) for _ in "kv")
    found = attention(q, k, v, scale=0.3, enable_gqa=True)
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", LOW)
def test_attention_scores_beyond_float16(dtype: torch.dtype) -> None:
    """Unscaled, these products are 80,000: infinity in float16."""
    q = torch.full((1, 1, 2, 64), 50.0, dtype=dtype)
    k = torch.stack([torch.full((64,), 25.0), torch.full((64,), -25.0)])[None, None].to(dtype)
    v = torch.eye(2, dtype=dtype)[None, None]
    found = attention(q, k, v)
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]], dtype=dtype))


@pytest.mark.parametrize("masked", ["no", "2-d", "3-d"])
def test_plain_attention_is_torchs(masked: str) -> None:
    torch.manual_seed(1)
    fused = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    nn.init.normal_(fused.in_proj_bias)
    query, key = torch.randn(2, 1, 12), torch.randn(2, 5, 12)
    shape = {"no": (), "2-d": (1, 5), "3-d": (6, 1, 5)}[masked]
    mask = torch.randn(shape) if shape else None
    with torch.no_grad():
        expected = fused(query, key, key, attn_mask=mask)[0]
        found = PlainAttention(fused)(query, key, key, attn_mask=mask)[0]
    torch.testing.assert_close(found, expected)


def test_batch_norms_are_folded_away() -> None:
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Conv2d(3, 7, 3, bias=False), nn.BatchNorm2d(7), nn.ReLU()).eval()
    norm = plain[1]
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    folded, pictures = copy.deepcopy(plain), torch.randn(2, 3, 9, 9)
    fold_batch_norms(folded)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(pictures), plain(pictures))


class _Sees(nn.Module):
    """A norm, a softmax, a product, a sum; then a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.seen = nn.LayerNorm(8), nn.Linear(8, 8), []  # type: ignore[var-annotated]
        self.linear.register_forward_pre_hook(lambda _, args: self.seen.append(args[0].dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(self.norm(x))
        self.seen += [x.dtype, x.softmax(-1).dtype, x.sum(-1).dtype]
        return F.normalize(x, dim=-1)


@pytest.mark.parametrize("dtype", LOW)
def test_products_are_low_and_unit_vectors_are_not(dtype: torch.dtype) -> None:
    module = lower(_Sees().eval(), dtype)
    assert module.linear.weight.dtype == dtype  # type: ignore[union-attr]
    assert module.norm.weight.dtype == torch.float32  # type: ignore[union-attr]
    with torch.inference_mode(), Float32Where():
        found = module(torch.randn(4, 8).to(dtype))
    assert module.seen == [dtype] * 4
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))


class Dtypes(TorchDispatchMode):
    """The dtypes that sums and means were given."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name in ("mean", "sum"):
            self.inputs.append((name, args[0].dtype))
        return func(*args, **(kwargs or {}))


def test_sums_are_taken_in_float32() -> None:
    """70,000 is beyond float16, its mean is not; and 4,096 ones and a half are not 4,096."""
    with Float32Where():
        assert torch.full((7,), 1e4, dtype=torch.float16).mean().item() == 1e4
        weights = torch.tensor([11.0, 0.0], dtype=torch.float16).softmax(0)
    assert weights.dtype == torch.float16
    with (
        Dtypes() as seen,
        Float32Where(),
    ):  # a CPU adds float16 in float32 anyway: ask for its inputs
        torch.ones(7, dtype=torch.float16).mean()
        torch.mean(torch.ones(7, dtype=torch.float16))
        torch.ones(7, dtype=torch.float16).sum()
    assert seen.inputs == [("mean", torch.float32), ("mean", torch.float32), ("sum", torch.float32)]
    long = torch.full((1, 300), 300.0, dtype=torch.float16)
    with Float32Where():
        unit = F.normalize(long, dim=-1)
    assert unit.norm().item() == pytest.approx(1, abs=1e-6)
