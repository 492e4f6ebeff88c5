"""Operators that treat each element for itself, with numpy's broadcasting."""

import torch
from torch import Tensor

from runtimes.mil.errors import ProgramError
from runtimes.mil.operators.kinds import Stored
from runtimes.mil.types import ELEMENTS


def abs_(x: Tensor) -> Tensor:
    return torch.abs(x)


def acos(x: Tensor) -> Tensor:
    return torch.acos(x)


def asin(x: Tensor) -> Tensor:
    return torch.asin(x)


def atan(x: Tensor) -> Tensor:
    return torch.atan(x)


def atanh(x: Tensor) -> Tensor:
    return torch.atanh(x)


def ceil(x: Tensor) -> Tensor:
    return torch.ceil(x)


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(x, alpha, beta)


def cos(x: Tensor) -> Tensor:
    return torch.cos(x)


def cosh(x: Tensor) -> Tensor:
    return torch.cosh(x)


def erf(x: Tensor) -> Tensor:
    return torch.erf(x)


def exp(x: Tensor) -> Tensor:
    return torch.exp(x)


def exp2(x: Tensor) -> Tensor:
    return torch.exp2(x)


def floor(x: Tensor) -> Tensor:
    return torch.floor(x)


def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return 1 / (x + epsilon)


def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


def logical_not(x: Stored) -> Tensor:
    return torch.logical_not(x)


def round_(x: Tensor) -> Tensor:
    return torch.round(x)


def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


def sign(x: Tensor) -> Tensor:
    return torch.sign(x)


def sin(x: Tensor) -> Tensor:
    return torch.sin(x)


def sinh(x: Tensor) -> Tensor:
    return torch.sinh(x)


def sqrt(x: Tensor) -> Tensor:
    return torch.sqrt(x)


def square(x: Tensor) -> Tensor:
    return x * x


def tan(x: Tensor) -> Tensor:
    return torch.tan(x)


def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def threshold(x: Tensor, alpha: float) -> Tensor:
    return torch.clamp(x, min=alpha)


def cast(x: Stored, dtype: str) -> Tensor:
    """A fraction is cut off towards zero; what does not fit an integer type is undefined on devices, so refused."""
    wanted = ELEMENTS[dtype].torch if dtype in ELEMENTS else None
    if wanted is None:
        raise ProgramError(f"cannot cast to {dtype!r}")
    if wanted == torch.bool:
        return x != 0
    if x.is_floating_point() and not wanted.is_floating_point:
        limits = torch.iinfo(wanted)
        whole = torch.trunc(x.to(torch.float64))
        if not bool(((whole >= limits.min) & (whole <= limits.max)).all()):
            raise ProgramError(f"a value to cast does not fit {dtype}")
        return whole.to(wanted)
    return x.to(wanted)


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """Of integers, the quotient is cut off towards zero."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.floor(x / y) if x.is_floating_point() else torch.div(x, y, rounding_mode="floor")


def mod(x: Tensor, y: Tensor) -> Tensor:
    return torch.remainder(x, y)


def pow_(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, y)


def equal(x: Tensor, y: Tensor) -> Tensor:
    return x == y


def not_equal(x: Tensor, y: Tensor) -> Tensor:
    return x != y


def greater(x: Tensor, y: Tensor) -> Tensor:
    return x > y


def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return x >= y


def less(x: Tensor, y: Tensor) -> Tensor:
    return x < y


def less_equal(x: Tensor, y: Tensor) -> Tensor:
    return x <= y


def logical_and(x: Stored, y: Stored) -> Tensor:
    return torch.logical_and(x, y)


def logical_or(x: Stored, y: Stored) -> Tensor:
    return torch.logical_or(x, y)


def logical_xor(x: Stored, y: Stored) -> Tensor:
    return torch.logical_xor(x, y)


def select(cond: Stored, a: Stored, b: Stored) -> Tensor:
    return torch.where(cond, a, b)
