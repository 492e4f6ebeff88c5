"""Products of matrices, convolutions, attention."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.mil.arithmetic import Arithmetic
from runtimes.mil.errors import ProgramError, UnsupportedProgramError
from runtimes.mil.operators.kinds import Ints, Tensors

AXES: Final = "abcdefghijklmnopqrstuvwxyz"
EQUATIONS: Final = ("abcd,adce->abce", "abc,cbd->abd")


def linear(x: Tensor, weight: Tensor, arithmetic: Arithmetic, bias: Tensor | None = None) -> Tensor:
    """`x` (..., K) by `weight` (N, K)."""
    if arithmetic.narrow:
        product = arithmetic.matmul(x, weight.transpose(-1, -2))
        return product if bias is None else product + bias
    return F.linear(x, weight, bias)


def matmul(
    x: Tensor, y: Tensor, arithmetic: Arithmetic, transpose_x: bool = False, transpose_y: bool = False
) -> Tensor:
    """Over the last two axes, the others broadcast."""
    left = x.transpose(-1, -2) if transpose_x else x
    right = y.transpose(-1, -2) if transpose_y else y
    return arithmetic.matmul(left, right)


def einsum(values: Tensors, equation: str, arithmetic: Arithmetic) -> Tensor:
    """The two products that Core ML allows, whatever the letters; an axis of 1 is broadcast."""
    operands, _, output = equation.replace(" ", "").partition("->")
    letters = sorted(set(operands) - {","}, key=operands.index)
    renamed = equation.replace(" ", "").translate({ord(letter): AXES[at] for at, letter in enumerate(letters)})
    if renamed not in EQUATIONS or len(values) != 2:
        raise UnsupportedProgramError(f"einsum {equation!r} of {len(values)} values")
    if not arithmetic.narrow:
        return torch.einsum(equation, *values)
    summed = "".join(letter for letter in letters if letter not in output)
    products = torch.einsum(f"{operands}->{output}{summed}", *values)
    return arithmetic.sum(products, tuple(range(len(output), products.dim())))


def conv(
    x: Tensor,
    weight: Tensor,
    arithmetic: Arithmetic,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """`x` (B, C, ...) by `weight` (N, C / groups, ...) in one to three dimensions."""
    kernel = tuple(weight.shape[2:])
    strides = strides or (1,) * len(kernel)
    dilations = dilations or (1,) * len(kernel)
    padded = F.pad(x, _flat_pads(_conv_pads(x, kernel, strides, pad_type, pad, dilations)))
    if arithmetic.narrow:
        result = _narrow_conv(padded, weight, strides, dilations, groups, arithmetic)
        return result if bias is None else result + bias.reshape(-1, *[1] * len(kernel))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    return convolve(padded, weight, bias, strides, 0, dilations, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """`x` (B, C, ...) by `weight` (C, N / groups, ...); `pad` is cut off the result."""
    kernel = tuple(weight.shape[2:])
    if output_shape is not None or pad_type not in ("valid", "custom"):
        raise UnsupportedProgramError(f"conv_transpose with pad_type {pad_type!r} or output_shape {output_shape}")
    transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(kernel) - 1]
    ones = (1,) * len(kernel)
    full = transpose(x, weight, bias, strides or ones, 0, 0, groups, dilations or ones)
    pads = pad if pad_type == "custom" and pad else (0,) * (2 * len(kernel))
    for axis in range(len(kernel)):
        stop = full.shape[2 + axis] - pads[2 * axis + 1]
        full = full.narrow(2 + axis, pads[2 * axis], stop - pads[2 * axis])
    return full


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, arithmetic: Arithmetic, attn_mask: Tensor | None = None
) -> Tensor:
    """`query` (..., L, E), `key` (..., S, E), `value` (..., S, V): softmax of the scaled products, times the values."""
    scores = arithmetic.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return arithmetic.matmul(torch.softmax(scores, -1), value)


def _conv_pads(
    x: Tensor, kernel: Ints, strides: Ints, pad_type: str, pad: Ints | None, dilations: Ints
) -> list[tuple[int, int]]:
    """Zeros before and after each axis."""
    if pad_type == "valid":
        return [(0, 0)] * len(kernel)
    if pad_type == "custom":
        if pad is None or len(pad) != 2 * len(kernel):
            raise ProgramError(f"pad {pad} does not fit a kernel of {kernel}")
        return [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(kernel))]
    if pad_type not in ("same", "same_lower"):
        raise UnsupportedProgramError(f"a convolution has no pad_type {pad_type!r}")
    pads = []
    for size, length, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = (length - 1) * dilation + 1
        total = max(0, (-(-size // stride) - 1) * stride + reach - size)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if pad_type == "same" else (more, less))
    return pads


def _flat_pads(pads: list[tuple[int, int]]) -> list[int]:
    """As `F.pad` wants them: the last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]


def _narrow_conv(
    x: Tensor, weight: Tensor, strides: Ints, dilations: Ints, groups: int, arithmetic: Arithmetic
) -> Tensor:
    """The convolution as one matrix product a group, so that its sums can be rounded step by step."""
    kernel = tuple(weight.shape[2:])
    windows = x
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        windows = windows.unfold(2 + axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    places = windows.shape[2 : 2 + len(kernel)]
    order = (0, 1, *range(2 + len(kernel), windows.dim()), *range(2, 2 + len(kernel)))
    columns = windows.permute(*order).reshape(x.shape[0], groups, -1, math.prod(places))
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    return arithmetic.matmul(rows, columns).reshape(x.shape[0], weight.shape[0], *places)
