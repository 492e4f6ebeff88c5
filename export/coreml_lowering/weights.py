"""Weights of a Core ML program that are never all in memory: the program holds stand-ins, the file gets the numbers.

A stand-in is an array of the right shape and dtype that occupies nothing. coremltools infers types from it, and asks
for its bytes only when the program is written: then the real tensor is made, written once, and forgotten. A weight that
several functions name is one blob.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.backend.mil.helper import create_file_value_tensor, types_to_proto_primitive
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 (the name that coremltools gives it everywhere)
from coremltools.converters.mil.mil import Program, types

from export.errors import LoweringError

WEIGHTS_FILE = "weight.bin"
SPECIFICATION = 9  # iOS 18: states, several functions, blockwise scales
SMALLEST_BLOB = 10  # elements; coremltools puts fewer into the program itself
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)

Array = npt.NDArray[np.generic]
# what the program's type system calls them; a 4-bit element takes a byte in memory and half of one in the file
ELEMENTS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
    "int4": types.np_int4_dtype,
    "uint4": types.np_uint4_dtype,
}
BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "uint4": 4}


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One tensor of the file: `make` gives float32 for floats, and a byte for each integer, in any shape."""

    name: str
    shape: tuple[int, ...]
    element: str
    make: Callable[[], Array]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * BITS[self.element] // 8

    def stand_in(self) -> Any:
        """The constant in the function under construction."""
        if int(np.prod(self.shape)) < SMALLEST_BLOB:
            array = self.make().reshape(self.shape)
            return mb.const(val=as_float16(self.name, array) if self.element == "float16" else array, name=self.name)
        found = mb.const(val=np.broadcast_to(np.zeros((), ELEMENTS[self.element]), self.shape), name=self.name)
        found.op.weight_id = self.name
        return found


def shared(array: Array) -> Any:
    """A constant that all functions and layers of a program hold as one blob."""
    found = mb.const(val=array)
    found.op.weight_id = hashlib.sha256(repr((array.dtype, array.shape)).encode() + array.tobytes()).hexdigest()
    return found


class WeightWriter(MILProtoExporter):
    """Translates a program to its protobuf, writing each weight when it is first met."""

    def __init__(
        self, program: Program, directory: Path, weights: dict[str, Weight], progress: Callable[[str, int], None]
    ) -> None:
        super().__init__(program, str(directory), SPECIFICATION)
        self._weights, self._progress = weights, progress

    def create_file_value(self, var: Any) -> Any:
        name = var.op.weight_id
        if name not in self._weights or name in self.weight_id_to_file_value:
            return super().create_file_value(var)
        weight = self._weights[name]
        offset = _write(self.get_blob_writer(self.get_weight_path(var.op)), weight)
        value = create_file_value_tensor(
            file_name=f"@model_path/weights/{WEIGHTS_FILE}",
            offset=offset,
            dim=weight.shape,
            data_type=types_to_proto_primitive(var.sym_type.get_primitive()),
        )
        self.weight_id_to_file_value[name] = value
        self._progress(name, weight.num_bytes)
        return value


def _write(blobs: Any, weight: Weight) -> int:
    """Append one tensor and return where it lies."""
    array = weight.make().reshape(-1)
    if array.size != int(np.prod(weight.shape)):
        raise LoweringError(f"coreml: {weight.name} has {array.size} elements, the program says {weight.shape}")
    if weight.element == "int4":
        return int(blobs.write_int4_data(np.ascontiguousarray(array)))
    if weight.element == "int8":
        return int(blobs.write_int8_data(np.ascontiguousarray(array)))
    if weight.element == "uint4":
        return int(blobs.write_uint4_data(np.ascontiguousarray(array)))
    if weight.element == "float32":
        return int(blobs.write_float_data(np.ascontiguousarray(array, dtype=np.float32)))
    return int(blobs.write_fp16_data(as_float16(weight.name, array).view(np.uint16)))


def as_float16(name: str, array: Array) -> npt.NDArray[np.float16]:
    """The nearest float16; a number beyond its range is an error."""
    largest = float(np.abs(array).max(initial=0.0))
    if not largest <= LARGEST_FLOAT16:
        raise LoweringError(
            f"coreml: {name} holds {largest:g}, and float16, in which Core ML computes, ends at {LARGEST_FLOAT16:g}; "
            "use another backend for this checkpoint"
        )
    return np.ascontiguousarray(array.astype(np.float16))
