"""Values of a program under construction: shapes that follow the number of tokens, and where a value lives."""

from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.executorch_lowering.xnnpack import Region


class Dynamic(int):
    """An axis size that follows the number of tokens of a call; the integer is its largest value."""


Shape = tuple[int, ...]


class Element(IntEnum):
    """Element types by their number in ExecuTorch's schema (c10::ScalarType)."""

    UINT8 = 0
    INT8 = 1
    INT64 = 4
    FLOAT32 = 6
    BFLOAT16 = 15

    @property
    def num_bytes(self) -> int:
        return {Element.UINT8: 1, Element.INT8: 1, Element.INT64: 8, Element.FLOAT32: 4, Element.BFLOAT16: 2}[self]


@dataclass(eq=False, kw_only=True)
class Value:
    """One tensor: made inside an XNNPACK region, or known to the program, or both once the region hands it out."""

    shape: Shape
    element: Element = Element.FLOAT32
    region: "Region | None" = None
    region_id: int | None = None
    program_id: int | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes at the largest number of tokens."""
        return prod(self.shape) * self.element.num_bytes


def is_dynamic(shape: Shape) -> bool:
    """Whether any axis follows the number of tokens."""
    return any(isinstance(size, Dynamic) for size in shape)
