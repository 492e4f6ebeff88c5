"""How sums are accumulated, which a file does not say and devices do differently.

A program's types fix what is stored after each operator, not what happens inside one. Everything inside an operator is
done in fp32 here and rounded once to the declared type; nobody publishes what the Neural Engine does. With
`accumulate="float16"` comes the pessimistic bound: the products of matrices, convolutions and sums are added one after
the other, each partial sum rounded to fp16 (one rounding a step, like a fused multiply-add). Softmax and the norms stay
in fp32 inside.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Accumulate = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How one operator sums up; `narrow` rounds each partial sum to fp16."""

    narrow: bool = False

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix product of (..., M, K) and (..., K, N)."""
        if not self.narrow or not x.is_floating_point():
            return torch.matmul(x, y)
        total = torch.zeros((), dtype=torch.float32)
        for k in range(x.shape[-1]):
            total = _to_fp16(total + x[..., :, k : k + 1] * y[..., k : k + 1, :])
        return total

    def sum(self, x: Tensor, axes: tuple[int, ...], *, keep_dims: bool = False) -> Tensor:
        """The sum over some axes, in the order in which they lie in memory."""
        if not axes:
            return x
        if not self.narrow or not x.is_floating_point():
            return torch.sum(x, axes, keepdim=keep_dims, dtype=None if x.is_floating_point() else x.dtype)
        summed = sorted(axis % x.dim() for axis in axes)
        kept = [axis for axis in range(x.dim()) if axis not in summed]
        rows = x.permute(*kept, *summed).reshape(*(x.shape[axis] for axis in kept), -1)
        total = torch.zeros(rows.shape[:-1])
        for k in range(rows.shape[-1]):
            total = _to_fp16(total + rows[..., k])
        shape = [1 if axis in summed else size for axis, size in enumerate(x.shape)]
        return total.reshape(shape) if keep_dims else total


def _to_fp16(x: Tensor) -> Tensor:
    return x.to(torch.float16).to(torch.float32)
