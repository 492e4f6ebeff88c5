"""Elementary functions and norms in operators whose intermediate values stay inside float16.

A program in float32 is made of the same operators; constants have the type of what they meet.

float16 ends at 65504, is subnormal below 6.1e-5, and near one has steps of 1e-3 (above) and 5e-4 (below). So no square
of an activation is taken before it was divided by the largest, no exponential of anything positive, and what is close
to zero or one is never made by subtracting from one.
"""

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 (the name that coremltools gives it everywhere)
from coremltools.converters.mil.mil import types

from export.coreml_lowering.weights import shared

SERIES_FROM = -0.5  # above, exp(x) - 1 has lost a bit or more to the subtraction
# queries and keys come out of a convolution and a silu, as tens at most; their epsilon, over D, is 8e-9
KEY_FACTOR = 64.0
LARGEST_KEY = 1000.0  # beyond, they are cut off rather than made infinite


def element_of(x: Any) -> np.dtype[Any]:
    """numpy's name of a value's type."""
    found: np.dtype[Any] = np.dtype(types.nptype_from_builtin(x.dtype))
    return found


def number(value: float, like: Any) -> Any:
    """A scalar of another value's type: a Python float would make a constant of 32 bits."""
    return element_of(like).type(value)


def scaled(x: Any, factor: float) -> Any:
    """x times a constant."""
    return mb.mul(x=x, y=number(factor, x))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), as max(x, 0) + log(1 + e) with e = exp(-|x|) at most one.

    log(1 + e) is 2 artanh(e / (2 + e)), whose series needs four terms for e <= 1 and keeps all digits of a small e.
    """
    small = mb.exp(x=scaled(mb.abs(x=x), -1.0))
    z = mb.real_div(x=small, y=mb.add(x=small, y=number(2.0, x)))
    square = mb.mul(x=z, y=z)
    series = number(1 / 7, x)
    for factor in (1 / 5, 1 / 3, 1.0):
        series = mb.add(x=mb.mul(x=square, y=series), y=number(factor, x))
    return mb.add(x=mb.maximum(x=x, y=number(0.0, x)), y=scaled(mb.mul(x=z, y=series), 2.0))


def exp_minus_one(x: Any, exponential: Any) -> Any:
    """exp(x) - 1 for x <= 0, where `exponential` is exp(x): a series near zero, where one would swallow x."""
    near = mb.maximum(x=x, y=number(SERIES_FROM, x))  # the branch not taken must stay finite too
    series = mb.add(x=scaled(near, 1 / 5), y=number(1.0, x))
    for factor in (1 / 4, 1 / 3, 1 / 2):
        series = mb.add(x=mb.mul(x=scaled(near, factor), y=series), y=number(1.0, x))
    far = mb.add(x=exponential, y=number(-1.0, x))
    return mb.select(cond=mb.greater(x=x, y=number(SERIES_FROM, x)), a=mb.mul(x=near, y=series), b=far)


def rms_norm(x: Any, weight: Any, eps: float, factor: float = 1.0) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, as half of the layer norm of (x, -x), whose mean is zero.

    The Neural Engine's layer norm accumulates in 32 bits, a mean of squares of our own would overflow at 256; and it
    rounds once. `weight` (2 D,) holds the norm's weights twice. `factor` multiplies x first and changes nothing else:
    an epsilon of 1e-6 is 1.3 % off in float16, which shows where x is small.
    """
    width = x.shape[-1]
    mirrored = mb.concat(values=[x if factor == 1.0 else scaled(x, factor), scaled(x, -factor)], axis=-1)
    normed = mb.layer_norm(x=mirrored, axes=[-1], gamma=weight, epsilon=number(eps * factor**2, x))
    return mb.slice_by_size(x=normed, begin=[0] * x.rank, size=[*x.shape[:-1], width])


def l2_norm(x: Any, eps: float) -> Any:
    """x / sqrt(sum(x^2) + eps) over the last axis: a norm by the mean of squares, with 1 / sqrt(D) as its weights."""
    width = x.shape[-1]
    inside = mb.maximum(x=mb.minimum(x=x, y=number(LARGEST_KEY, x)), y=number(-LARGEST_KEY, x))
    weight = shared(np.full(2 * width, width**-0.5, dtype=element_of(x)))
    return rms_norm(inside, weight, eps / width, KEY_FACTOR)
