"""The operators of Core ML programs in plain torch, one function each; its name is the operator's.

A name that Python has taken ends in an underscore (`abs_`). The signature is the contract: its parameters are those
that Core ML defines (opset of iOS 18), with Core ML's defaults, and an operator given any other is refused when the
program is loaded. The annotation says how a parameter arrives: a `Tensor` of fp16 comes widened to fp32, so that an
operator computes in fp32 and is rounded once, afterwards, to the type that the file declares; a `Stored` tensor comes
as it is, for operators that only move numbers; the rest are plain Python values.
"""

import inspect
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from runtimes.mil.operators import (
    activation,
    creation,
    elementwise,
    indexing,
    matrix,
    normalization,
    reduction,
    shapes,
    windows,
)

Operator = Callable[..., Any]
MODULES: tuple[ModuleType, ...] = (
    activation,
    creation,
    elementwise,
    indexing,
    matrix,
    normalization,
    reduction,
    shapes,
    windows,
)


@cache
def operators() -> dict[str, Operator]:
    """Every operator that can be evaluated, by its name in MIL."""
    return {
        name.rstrip("_"): function
        for module in MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    }
