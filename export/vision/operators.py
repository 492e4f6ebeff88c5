"""What the tower has fused kernels for beside the decoder's operators (namespace `edge`), with plain-torch references.

Axis words: B images, N patches, H heads, D head size, C channels.
"""

# ruff: noqa: ARG001 (a fake kernel has the signature of its operator)

import torch
from torch import Tensor
from torch.nn import functional

from export.operators import _differentiable as differentiable


@differentiable("edge::interpolate_rows")
def interpolate_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of table rows: table (rows, C), rows int64 (N, 4), weights (N, 4) -> (N, C)."""
    return (functional.embedding(rows, table) * weights.unsqueeze(-1)).sum(1)


@interpolate_rows.register_fake
def _(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return table.new_empty((rows.shape[0], table.shape[1]))


@differentiable("edge::rotate_patches")
def rotate_patches(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding over the whole head, halves apart: x (B, N, H, D), cos and sin (N, D / 2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@rotate_patches.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@differentiable("edge::full_attention")
def full_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Every patch attends to every patch of its image: q, k, v (B, N, H, D) -> (B, N, H, D)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, N, D)
    out = functional.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).contiguous()


@full_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
