"""Tensors out of shapes and numbers, and numbers out of shapes."""

import torch
from torch import Tensor

from runtimes.mil.operators.kinds import Ints, Stored


def fill(shape: Ints, value: Stored | None = None) -> Tensor:
    return torch.zeros(shape) if value is None else value.expand(shape)


def fill_like(ref_tensor: Stored, value: Stored | None = None) -> Tensor:
    return torch.zeros(ref_tensor.shape) if value is None else value.expand(ref_tensor.shape)


def one_hot(
    indices: Stored,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Stored | None = None,
    off_value: Stored | None = None,
) -> Tensor:
    """An index outside gets a vector without a one."""
    at = axis + indices.dim() + 1 if axis < 0 else axis
    hot = indices.unsqueeze(at) == torch.arange(one_hot_vector_size, dtype=indices.dtype).reshape(
        -1, *[1] * (indices.dim() - at)
    )
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value
    off = torch.zeros((), dtype=on.dtype) if off_value is None else off_value
    return torch.where(hot, on, off)


def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def shape(x: Stored) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)
