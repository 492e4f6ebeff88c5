"""Elementary functions and norms in operators whose intermediate values stay inside float16.

float16 ends at 65504, is subnormal below 6.1e-5, and near one has steps of 1e-3 (above) and 5e-4 (below). So no square
of an activation is taken before it was divided by the largest, no exponential of anything positive, and what is close
to zero or one is never made by subtracting from one.
"""

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 (the name that coremltools gives it everywhere)

from export.coreml_lowering.weights import shared

SERIES_FROM = -0.5  # above, exp(x) - 1 has lost a bit or more to the subtraction
# queries and keys come out of a convolution and a silu, as tens at most; their epsilon, over D, is 8e-9
KEY_FACTOR = 64.0
LARGEST_KEY = 1000.0  # beyond, they are cut off rather than made infinite


def half(value: float) -> np.float16:
    """A float16 scalar: a Python float would make a constant of 32 bits."""
    return np.float16(value)


def scaled(x: Any, factor: float) -> Any:
    """x times a constant."""
    return mb.mul(x=x, y=half(factor))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), as max(x, 0) + log(1 + e) with e = exp(-|x|) at most one.

    log(1 + e) is 2 artanh(e / (2 + e)), whose series needs four terms for e <= 1 and keeps all digits of a small e.
    """
    small = mb.exp(x=scaled(mb.abs(x=x), -1.0))
    z = mb.real_div(x=small, y=mb.add(x=small, y=half(2.0)))
    square = mb.mul(x=z, y=z)
    series = half(1 / 7)
    for factor in (1 / 5, 1 / 3, 1.0):
        series = mb.add(x=mb.mul(x=square, y=series), y=half(factor))
    return mb.add(x=mb.maximum(x=x, y=half(0.0)), y=scaled(mb.mul(x=z, y=series), 2.0))


def exp_minus_one(x: Any, exponential: Any) -> Any:
    """exp(x) - 1 for x <= 0, where `exponential` is exp(x): a series near zero, where one would swallow x."""
    near = mb.maximum(x=x, y=half(SERIES_FROM))  # the branch not taken must stay finite too
    series = mb.add(x=scaled(near, 1 / 5), y=half(1.0))
    for factor in (1 / 4, 1 / 3, 1 / 2):
        series = mb.add(x=mb.mul(x=scaled(near, factor), y=series), y=half(1.0))
    far = mb.add(x=exponential, y=half(-1.0))
    return mb.select(cond=mb.greater(x=x, y=half(SERIES_FROM)), a=mb.mul(x=near, y=series), b=far)


def rms_norm(x: Any, weight: Any, eps: float, factor: float = 1.0) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, as half of the layer norm of (x, -x), whose mean is zero.

    The Neural Engine's layer norm accumulates in 32 bits, a mean of squares of our own would overflow at 256; and it
    rounds once. `weight` (2 D,) holds the norm's weights twice. `factor` multiplies x first and changes nothing else:
    an epsilon of 1e-6 is 1.3 % off in float16, which shows where x is small.
    """
    width = x.shape[-1]
    mirrored = mb.concat(values=[x if factor == 1.0 else scaled(x, factor), scaled(x, -factor)], axis=-1)
    normed = mb.layer_norm(x=mirrored, axes=[-1], gamma=weight, epsilon=half(eps * factor**2))
    return mb.slice_by_size(x=normed, begin=[0] * x.rank, size=[*x.shape[:-1], width])


def l2_norm(x: Any, eps: float) -> Any:
    """x / sqrt(sum(x^2) + eps) over the last axis: a norm by the mean of squares, with 1 / sqrt(D) as its weights."""
    width = x.shape[-1]
    inside = mb.maximum(x=mb.minimum(x=x, y=half(LARGEST_KEY)), y=half(-LARGEST_KEY))
    weight = shared(np.full(2 * width, width**-0.5, dtype=np.float16))
    return rms_norm(inside, weight, eps / width, KEY_FACTOR)
