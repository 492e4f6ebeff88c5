"""What XNNPACK has no operator for, made of those that it has."""

import math

import numpy as np
from numpy.typing import NDArray

from export.executorch_lowering.tensors import Value
from export.executorch_lowering.xnnpack import Region, Weights

NARROW = 256  # widths up to this are averaged by a product


def mean_square(region: Region, x: Value, eps: float) -> Value:
    """Mean of squares over the last axis, kept as an axis of one, plus `eps`.

    Narrow rows come by the hundred, one a head, and are averaged by a product; a wide one by pooling, so that no matrix
    of its width is read for every token.
    """
    if x.shape[-1] <= NARROW:
        return _narrow_mean(region, region.square(x), np.array([eps], dtype=np.float32))
    return region.add(region.pooled_mean(region.square(x)), region.scalar(eps))


def layer_norm(region: Region, x: Value, weight: NDArray[np.float32], bias: NDArray[np.float32], eps: float) -> Value:
    """Mean and variance of the last axis normalised."""
    mean = _narrow_mean(region, x) if x.shape[-1] <= NARROW else region.pooled_mean(x)
    centred = region.subtract(x, mean)
    normed = region.multiply(centred, region.reciprocal_root(mean_square(region, centred, eps)))
    return region.add(region.multiply(normed, region.constant(weight)), region.constant(bias))


def gelu_tanh(region: Region, x: Value) -> Value:
    """x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x times the sigmoid of 2 u."""
    cubic = region.add(region.scalar(1.0), region.multiply(region.square(x), region.scalar(0.044715)))
    inner = region.multiply(region.multiply(x, cubic), region.scalar(2 * math.sqrt(2 / math.pi)))
    return region.multiply(x, region.sigmoid(inner))


def _narrow_mean(region: Region, x: Value, bias: NDArray[np.float32] | None = None) -> Value:
    width = x.shape[-1]
    average = np.full((1, width), 1.0 / width, dtype=np.float32)
    weights = Weights(shape=(1, width), bits=32, group_size=None, codes=region.store(average), scales=None)
    return region.linear(x, weights, bias)
