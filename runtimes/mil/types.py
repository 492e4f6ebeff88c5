"""Element and tensor types of the Model Intermediate Language (MIL), as its protobufs number them.

Types narrower than a byte exist only in weight files and as inputs of the `constexpr` operators; in memory they are
bytes.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from runtimes.mil.errors import ProgramError, UnsupportedProgramError
from runtimes.mil.protobufs import MIL


@dataclass(frozen=True, kw_only=True)
class ElementType:
    """One element type: its name in MIL, its width in a file, and what holds it in memory (None: text)."""

    name: str
    bits: int
    torch: torch.dtype | None
    numpy: np.dtype[Any] | None

    @property
    def is_float(self) -> bool:
        return self.torch is not None and self.torch.is_floating_point


def _element(name: str, bits: int, held_as: torch.dtype | None) -> ElementType:
    numpy = None if held_as is None else np.dtype(str(held_as).removeprefix("torch."))
    return ElementType(name=name, bits=bits, torch=held_as, numpy=numpy)


STRING: Final = _element("string", 0, None)
_BY_PROTO_NAME: Final = {
    "STRING": STRING,
    "BOOL": _element("bool", 8, torch.bool),
    "FLOAT16": _element("fp16", 16, torch.float16),
    "FLOAT32": _element("fp32", 32, torch.float32),
    "FLOAT64": _element("fp64", 64, torch.float64),
    "INT4": _element("int4", 4, torch.int8),
    "INT8": _element("int8", 8, torch.int8),
    "INT16": _element("int16", 16, torch.int16),
    "INT32": _element("int32", 32, torch.int32),
    "INT64": _element("int64", 64, torch.int64),
    "UINT1": _element("uint1", 1, torch.uint8),
    "UINT2": _element("uint2", 2, torch.uint8),
    "UINT3": _element("uint3", 3, torch.uint8),
    "UINT4": _element("uint4", 4, torch.uint8),
    "UINT6": _element("uint6", 6, torch.uint8),
    "UINT8": _element("uint8", 8, torch.uint8),
    "UINT16": _element("uint16", 16, torch.uint16),
    "UINT32": _element("uint32", 32, torch.uint32),
}
ELEMENTS: Final = {element.name: element for element in _BY_PROTO_NAME.values()}
_BY_NUMBER: Final = {MIL.DataType.Value(name): element for name, element in _BY_PROTO_NAME.items()}


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """An element type and a shape; a dimension is None where the program leaves it open."""

    element: ElementType
    shape: tuple[int | None, ...]

    @property
    def size(self) -> int:
        """The number of elements; the shape must be closed."""
        count = 1
        for dimension in self.closed_shape:
            count *= dimension
        return count

    @property
    def closed_shape(self) -> tuple[int, ...]:
        """The shape, where every dimension must be known."""
        known = tuple(dimension for dimension in self.shape if dimension is not None)
        if len(known) != len(self.shape):
            raise ProgramError(f"a shape is open where it must be known: {self}; fix the shapes of the program")
        return known

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may stand here."""
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(ours in (None, theirs) for ours, theirs in pairs)

    def __str__(self) -> str:
        return f"{self.element.name} ({', '.join('?' if size is None else str(size) for size in self.shape)})"


def element_type(number: int) -> ElementType:
    """The element type with a number in the protobufs."""
    if number not in _BY_NUMBER:
        names = {value: name for name, value in MIL.DataType.items()}
        raise UnsupportedProgramError(f"element type {names.get(number, number)} is not known to the evaluator")
    return _BY_NUMBER[number]


def tensor_type(value_type: Any) -> TensorType:
    """The type in a `ValueType` that must be a tensor."""
    kind = value_type.WhichOneof("type")
    if kind != "tensorType":
        raise UnsupportedProgramError(f"a value of type {kind} stands where the evaluator knows tensors only")
    tensor = value_type.tensorType
    shape: list[int | None] = []
    for dimension in tensor.dimensions:
        known = dimension.WhichOneof("dimension") == "constant"
        shape.append(int(dimension.constant.size) if known else None)
    if tensor.rank != len(shape):
        raise ProgramError(f"a tensor type says rank {tensor.rank} and lists {len(shape)} dimensions")
    return TensorType(element=element_type(tensor.dataType), shape=tuple(shape))


def state_type(value_type: Any) -> TensorType | None:
    """The tensor type inside a state type, or None where the type is not a state."""
    if value_type.WhichOneof("type") != "stateType":
        return None
    return tensor_type(value_type.stateType.wrappedType)
