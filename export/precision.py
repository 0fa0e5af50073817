"""Low precision that lives in the module, and so in any graph traced from it.

TensorRT's networks are strongly typed since version 11: each layer computes in the dtype that the ONNX graph says.
So a tower is cast here, in PyTorch, before it is traced; parity can then run the very module that was traced.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

LOW = (torch.float16, torch.bfloat16)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)

# Sums over many values, exponentials, and the bounds that guard a division: what loses digits, or overflows, where
# products do not.
IN_FLOAT32 = {
    F.softmax,
    torch.softmax,
    Tensor.softmax,
    F.layer_norm,
    torch.layer_norm,
    F.group_norm,
    F.rms_norm,
    F.batch_norm,
    torch.sum,
    Tensor.sum,
    torch.mean,
    Tensor.mean,
    Tensor.clamp_min,
}

# Where nearly all of the work is: their operands must be of one dtype, in torch as in ONNX.
PRODUCTS = {
    F.linear,
    F.bilinear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    torch.mm,
    Tensor.mm,
    torch.bmm,
    Tensor.bmm,
    torch.addmm,
    torch.baddbmm,
}


class Float32Where(TorchFunctionMode):
    """While active, normalisations, softmax, sums and means compute in float32, whatever dtype comes in.

    Their results go back to that dtype, unless the caller asked for one; those of `F.normalize`, unit vectors, stay
    float32. Products, and with them nearly all of the work, keep the dtype of their operands; where one of these
    is float32 (a unit vector that trained heads read, say) and another is not, it is brought down to the other's.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        if func is F.normalize:
            return func(*_widened(args), **kwargs)
        low = _low_dtype((*args, *kwargs.values()))
        if func in IN_FLOAT32 and low is not None:
            result = func(*_widened(args), **{name: _wide(x) for name, x in kwargs.items()})
            came = next(x.dtype for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            return result if kwargs.get("dtype") or came not in LOW else result.to(came)
        if func in PRODUCTS and low is not None:
            return func(
                *(_to(x, low) for x in args), **{name: _to(x, low) for name, x in kwargs.items()}
            )
        return func(*args, **kwargs)


def lower(tower: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the weights of `tower`, in place, to `dtype`, but those of its normalisations; it must be in eval mode.

    Before that, in float32, batch normalisation is folded into the convolution it follows, and fused attention is
    unfolded into steps that `Float32Where` can see.
    """
    assert not tower.training
    fold_batch_norms(tower)
    unfold_attention(tower)
    for module in tower.modules():
        if not isinstance(module, NORMS):
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    setattr(module, name, buffer.to(dtype))
    return tower


def fold_batch_norms(module: nn.Module) -> None:
    """Each `BatchNorm2d` that follows a convolution in an `nn.Sequential` becomes part of it, in place."""
    for part in module.modules():
        if isinstance(part, nn.Sequential):
            for at in range(len(part) - 1):
                convolution, norm = part[at], part[at + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    part[at] = fuse_conv_bn_eval(convolution, norm)
                    part[at + 1] = nn.Identity()


def unfold_attention(module: nn.Module) -> None:
    """Each `nn.MultiheadAttention` becomes a `PlainAttention` over the same weights, in place."""
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.MultiheadAttention):
                setattr(part, name, PlainAttention(child))


class PlainAttention(nn.Module):
    """What `nn.MultiheadAttention` computes, step by step: no mode looks into its own forward."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        assert fused.batch_first
        assert fused.in_proj_weight is not None
        self.fused = fused

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """`[B, T, E]`, and a mask added to the scores, `[T, S]` or `[B * heads, T, S]`; no weights are returned."""
        heads = self.fused.num_heads
        weights = self.fused.in_proj_weight.chunk(3)
        biases = (
            (None,) * 3 if self.fused.in_proj_bias is None else self.fused.in_proj_bias.chunk(3)
        )
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, heads))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask)  # [B, heads, T, E / heads]
        return self.fused.out_proj(mixed.transpose(1, 2).flatten(2)), None


def attention(
    query: Tensor,  # [..., T, E], as are key and value
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,  # bool (True = look) or added to the scores
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` with both products in the operands' dtype and the softmax in float32.

    Half of the scale goes to each operand, so that the product cannot exceed float16's range before it is scaled.
    """
    assert not dropout_p
    low = _low_dtype((query, key, value))
    if low is not None:
        query, key, value = (x.to(low) for x in (query, key, value))
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, dim=-3) for x in (key, value))
    half = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scores = ((query * half) @ (key * half).transpose(-2, -1)).float()
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(torch.float32).min)
        else:
            scores = scores + attn_mask.float()
    weights: Tensor = scores.softmax(dim=-1).to(query.dtype)
    return weights @ value


def _low_dtype(values: tuple[Any, ...]) -> torch.dtype | None:
    """The dtype of the first tensor of 16 bits, if there is one."""
    return next((x.dtype for x in values if isinstance(x, Tensor) and x.dtype in LOW), None)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in LOW else value


def _to(value: Any, low: torch.dtype) -> Any:
    is_wide = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.to(low) if is_wide else value


def _widened(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_wide(value) for value in values)
