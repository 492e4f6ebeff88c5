"""Pools over windows, and quantization at run time."""

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.mil.errors import UnsupportedProgramError
from runtimes.mil.operators.kinds import Ints
from runtimes.mil.types import ELEMENTS


def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    pads = _pads(kernel_sizes, pad_type, pad, ceil_mode)
    windows, count = _windows(x, kernel_sizes, strides, pads, 0.0), torch.ones_like(x)
    total = windows.sum(tuple(range(-len(kernel_sizes), 0)))
    if not exclude_padding_from_average:
        return total / windows[0, 0].reshape(-1, *kernel_sizes)[0].numel()
    return total / _windows(count, kernel_sizes, strides, pads, 0.0).sum(tuple(range(-len(kernel_sizes), 0)))


def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    pads = _pads(kernel_sizes, pad_type, pad, ceil_mode)
    return _windows(x, kernel_sizes, strides, pads, -torch.inf).amax(tuple(range(-len(kernel_sizes), 0)))


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """Rounded to the nearest, then shifted and clamped."""
    wanted = ELEMENTS[output_dtype].torch
    assert wanted is not None
    codes = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        codes = codes + _along(zero_point, input, axis)
    limits = torch.iinfo(wanted)
    return torch.clamp(codes, limits.min, limits.max).to(wanted)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    codes = input.to(torch.float32)
    if zero_point is not None:
        codes = codes - _along(zero_point, input, axis).to(torch.float32)
    return codes * _along(scale, input, axis)


def _along(parameter: Tensor, x: Tensor, axis: int | None) -> Tensor:
    if axis is None or parameter.dim() == 0:
        return parameter
    return parameter.reshape([-1 if at == axis % x.dim() else 1 for at in range(x.dim())])


def _pads(kernel_sizes: Ints, pad_type: str, pad: Ints | None, ceil_mode: bool) -> Ints:
    if ceil_mode or pad_type not in ("valid", "custom"):
        raise UnsupportedProgramError(f"a pool with pad_type {pad_type!r} and ceil_mode {ceil_mode}")
    return pad if pad_type == "custom" and pad else (0,) * (2 * len(kernel_sizes))


def _windows(x: Tensor, kernel_sizes: Ints, strides: Ints | None, pads: Ints, value: float) -> Tensor:
    """Each window as the last axes."""
    pairs = [(pads[2 * axis], pads[2 * axis + 1]) for axis in range(len(kernel_sizes))]
    windows = F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=value)
    for axis, (size, stride) in enumerate(zip(kernel_sizes, strides or (1,) * len(kernel_sizes), strict=True)):
        windows = windows.unfold(2 + axis, size, stride)
    return windows
