"""Reductions over some axes, or all of them, and sums along one."""

import torch
from torch import Tensor

from runtimes.mil.arithmetic import Arithmetic
from runtimes.mil.operators.kinds import Ints


def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return _first(x == torch.amax(x, axis, keepdim=True), axis, keep_dims, output_dtype)


def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return _first(x == torch.amin(x, axis, keepdim=True), axis, keep_dims, output_dtype)


def reduce_l1_norm(x: Tensor, arithmetic: Arithmetic, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return arithmetic.sum(torch.abs(x), _axes(x, axes), keep_dims=keep_dims)


def reduce_l2_norm(x: Tensor, arithmetic: Arithmetic, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return torch.sqrt(arithmetic.sum(x * x, _axes(x, axes), keep_dims=keep_dims))


def reduce_log_sum(x: Tensor, arithmetic: Arithmetic, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return torch.log(arithmetic.sum(x, _axes(x, axes), keep_dims=keep_dims))


def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return torch.logsumexp(x, _axes(x, axes), keepdim=keep_dims)


def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return torch.amax(x, _axes(x, axes), keepdim=keep_dims)


def reduce_mean(x: Tensor, arithmetic: Arithmetic, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    over = _axes(x, axes)
    count = 1
    for axis in over:
        count *= x.shape[axis]
    return arithmetic.sum(x, over, keep_dims=keep_dims) / count


def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return torch.amin(x, _axes(x, axes), keepdim=keep_dims)


def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in _axes(x, axes)), reverse=True):
        x = torch.prod(x, axis, keepdim=keep_dims, dtype=x.dtype)
    return x


def reduce_sum(x: Tensor, arithmetic: Arithmetic, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return arithmetic.sum(x, _axes(x, axes), keep_dims=keep_dims)


def reduce_sum_square(x: Tensor, arithmetic: Arithmetic, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    return arithmetic.sum(x * x, _axes(x, axes), keep_dims=keep_dims)


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    flipped = torch.flip(x, (axis,)) if reverse else x
    sums = torch.cumsum(flipped, axis, dtype=x.dtype)
    if exclusive:
        sums = torch.cat((torch.zeros_like(sums.narrow(axis, 0, 1)), sums.narrow(axis, 0, x.shape[axis] - 1)), axis)
    return torch.flip(sums, (axis,)) if reverse else sums


def _axes(x: Tensor, axes: Ints | None) -> Ints:
    return tuple(range(x.dim())) if axes is None else axes


def _first(found: Tensor, axis: int, keep_dims: bool, dtype: str) -> Tensor:
    """The first place along an axis; torch's own argmax does not promise the first of equals."""
    place = torch.argmax(
        found.to(torch.int32)
        * torch.arange(found.shape[axis], 0, -1).reshape(
            [-1 if at == axis % found.dim() else 1 for at in range(found.dim())]
        ),
        axis,
        keepdim=keep_dims,
    )
    return place.to({"int32": torch.int32, "uint16": torch.uint16}[dtype])
