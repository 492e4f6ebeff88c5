"""Weights of a Core AI module: made one at a time, held once by the module whatever functions name them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from export.coreai_lowering.graph import Value, held, place
from export.errors import LoweringError

BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "uint4": 4}
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One tensor of the asset: `make` gives float32 for float elements, and a byte for integer ones, in any shape."""

    name: str
    shape: tuple[int, ...]
    element: str
    make: Callable[[], Array]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * BITS[self.element] // 8

    @property
    def rows(self) -> list["Weight"]:
        """Each row as a weight of its own; a constant that Core AI splits is named at random."""
        return [self._row(row) for row in range(self.shape[0])]

    def _row(self, row: int) -> "Weight":
        def make() -> Array:
            return self.make().reshape(self.shape)[row : row + 1]

        return Weight(name=f"{self.name}.{row}", shape=(1, *self.shape[1:]), element=self.element, make=make)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A weight matrix (out, in, 1, 1): floats, codes with scales (out, groups, 1, 1), or codes with tables.

    `tables` (runs of rows, 1, 1, 1, 16, 1) hold what each code stands for.
    """

    values: Weight
    scales: Weight | None = None
    tables: Weight | None = None

    @property
    def parts(self) -> list[Weight]:
        return [part for part in (self.values, self.scales, self.tables) if part is not None]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights that a module holds so far."""

    progress: Callable[[str, int], None]
    held: dict[str, Any] = field(default_factory=dict)

    def value(self, weight: Weight) -> Value:
        """A constant in the function under construction."""
        if weight.name not in self.held:
            self.held[weight.name] = held(_array(weight), weight.element)
            self.progress(weight.name, weight.num_bytes)
        return place(self.held[weight.name])


def _array(weight: Weight) -> Array:
    """The tensor in its element's type; 4-bit codes as bytes."""
    array = weight.make()
    if array.size != prod(weight.shape):
        raise LoweringError(f"coreai: {weight.name} has {array.size} elements, the program says {weight.shape}")
    array = array.reshape(weight.shape)
    if weight.element == "float16":
        return as_float16(weight.name, array)
    return array


def as_float16(name: str, array: Array) -> npt.NDArray[np.float16]:
    """The nearest float16; a number beyond its range is an error."""
    largest = float(np.abs(array).max(initial=0.0))
    if not largest <= LARGEST_FLOAT16:
        raise LoweringError(
            f"coreai: {name} holds {largest:g}, and float16, in which its products are computed, ends at "
            f"{LARGEST_FLOAT16:g}; use another backend for this checkpoint"
        )
    return array.astype(np.float16)
