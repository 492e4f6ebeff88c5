"""Elementary operators on values, with Python numbers for scalars, and the norms.

Between products of matrices everything is float32, as in Apple's own composite operators for norms, attention and the
gated delta rule: a square of an activation leaves float16 at 256, and what is normalized later magnifies every
rounding before it. It costs nothing beside the products, which read the weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from coreai._compiler.dialects import coreai

from export.coreai_lowering.graph import Value, constant, element_of, shape_of

WIDE = "float32"


def scalar(number: float, x: Value) -> Value:
    """A number in the element type of `x`."""
    return constant(np.array(number, element_of(x)))


def add(x: Value, y: Value | float) -> Value:
    return coreai.broadcasting_add(x, scalar(y, x) if isinstance(y, float) else y)


def sub(x: Value, y: Value | float) -> Value:
    return coreai.broadcasting_sub(x, scalar(y, x) if isinstance(y, float) else y)


def mul(x: Value, y: Value | float) -> Value:
    return coreai.broadcasting_mul(x, scalar(y, x) if isinstance(y, float) else y)


def matmul(x: Value, y: Value) -> Value:
    return coreai.broadcasting_batch_matmul(x, y)


def exp(x: Value) -> Value:
    return coreai.exp(x)


def sigmoid(x: Value) -> Value:
    return coreai.sigmoid(x)


def silu(x: Value) -> Value:
    """x sigmoid(x), written out: Apple's rules for authors say that the Neural Engine takes it only so."""
    return mul(x, sigmoid(x))


def cast(x: Value, element: str) -> Value:
    return x if element_of(x) == element else coreai.cast(x, np.dtype(element).type)


def cast_bool(x: Value, element: str) -> Value:
    """True as one, false as zero."""
    return coreai.cast(x, np.dtype(element).type)


def reshape(x: Value, shape: Sequence[int]) -> Value:
    return x if shape_of(x) == tuple(shape) else coreai.reshape(x, np.array(shape, np.uint32))


def transpose(x: Value, order: Sequence[int]) -> Value:
    return coreai.transpose(x, np.array(order, np.uint32))


def concat(values: Sequence[Value], axis: int) -> Value:
    return values[0] if len(values) == 1 else coreai.concat(np.array(axis, np.int32), list(values))


def split(x: Value, sizes: Sequence[int], axis: int) -> list[Value]:
    found: Any = coreai.split(x, np.array(sizes, np.uint32), np.array(axis, np.int32))
    return list(found) if len(sizes) > 1 else [found]


def rows(x: Value, start: int, count: int, axis: int) -> Value:
    """`count` entries of one axis from `start` on."""
    sizes = [start, count, shape_of(x)[axis] - start - count]
    index = [position for position, size in enumerate(sizes) if size].index(1)
    parts = split(x, [size for size in sizes if size], axis) if sum(map(bool, sizes)) > 1 else [x]
    return parts[index]


def repeat_heads(x: Value, repeat: int) -> Value:
    """(1, H, T, D) to (1, H repeat, T, D), each head's copies neighbours."""
    if repeat == 1:
        return x
    _, heads, tokens, width = shape_of(x)
    copies = concat([reshape(x, [1, heads, 1, tokens, width])] * repeat, axis=2)
    return reshape(copies, [1, heads * repeat, tokens, width])


def heads_first(x: Value) -> Value:
    """(1, T, H, D) to (1, H, T, D)."""
    _, tokens, heads, width = shape_of(x)
    return reshape(x, [1, heads, tokens, width]) if tokens == 1 else transpose(x, [0, 2, 1, 3])


def heads_last(x: Value) -> Value:
    """(1, H, T, D) to (1, T, H, D)."""
    _, heads, tokens, width = shape_of(x)
    return reshape(x, [1, tokens, heads, width]) if tokens == 1 else transpose(x, [0, 2, 1, 3])


def softplus(x: Value) -> Value:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which no x overflows."""
    size = coreai.abs_(x)
    small = exp(mul(size, -1.0))
    return add(coreai.broadcasting_maximum(x, scalar(0.0, x)), coreai.log(add(small, 1.0)))


def softmax(x: Value) -> Value:
    """Over the last axis."""
    return coreai.softmax(x, np.array(len(shape_of(x)) - 1, np.int32))


def rms_norm(x: Value, weight: Value, eps: float) -> Value:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32."""
    return mul(mul(x, coreai.rsqrt(add(_last_axis(coreai.reduce_mean, x), eps))), weight)


def l2_norm(x: Value, eps: float) -> Value:
    """x / sqrt(sum(x^2) + eps) over the last axis, in float32."""
    return mul(x, coreai.rsqrt(add(_last_axis(coreai.reduce_sum, x), eps)))


def layer_norm(x: Value, weight: Value, bias: Value, eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, in float32."""
    shape = shape_of(x)
    mean = coreai.reduce_mean(x, np.array([len(shape) - 1], np.int32))
    centred = sub(x, reshape(mean, [*shape[:-1], 1]))
    return add(mul(mul(centred, coreai.rsqrt(add(_last_axis(coreai.reduce_mean, centred), eps))), weight), bias)


def _last_axis(reduce: Value, x: Value) -> Value:
    """A reduction of x^2 over the last axis, which stays as an axis of one."""
    shape = shape_of(x)
    return reshape(reduce(mul(x, x), np.array([len(shape) - 1], np.int32)), [*shape[:-1], 1])
