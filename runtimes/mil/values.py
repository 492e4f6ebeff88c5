"""Values that a program carries in itself: immediate numbers and text, and references into the file of constants."""

from typing import Any, Final

import numpy as np
import torch

from runtimes.mil.blobs import unpack
from runtimes.mil.errors import ProgramError, UnsupportedProgramError
from runtimes.mil.package import Package
from runtimes.mil.types import STRING, TensorType, tensor_type

IMMEDIATE: Final[dict[str, np.dtype[Any]]] = {
    "floats": np.dtype(np.float32),
    "doubles": np.dtype(np.float64),
    "ints": np.dtype(np.int32),
    "longInts": np.dtype(np.int64),
    "bools": np.dtype(np.bool_),
}
MAX_IMMEDIATE: Final = 1 << 24  # elements; more belong into the file of constants


def value_key(value: Any, package: Package) -> object:
    """What tells one value from another: constants in a file by their place, others by their bytes."""
    if value.WhichOneof("value") == "blobFileValue":
        blob = value.blobFileValue
        return str(package.path), blob.fileName, int(blob.offset), str(tensor_type(value.type))
    return value.SerializeToString(deterministic=True)


def read_value(value: Any, package: Package) -> torch.Tensor | str:
    """The tensor, or the text, in a `Value`; what lies in the file is mapped, not copied."""
    declared = tensor_type(value.type)
    kind = value.WhichOneof("value")
    if kind == "blobFileValue":
        array = package.blob_file(value.blobFileValue.fileName).read(int(value.blobFileValue.offset), declared)
        return torch.from_numpy(array)
    if kind != "immediateValue" or value.immediateValue.WhichOneof("value") != "tensor":
        raise UnsupportedProgramError(f"a constant of type {declared} is neither a tensor nor in a file")
    return _immediate(value.immediateValue.tensor, declared)


def check_value(value: Any, package: Package) -> None:
    """Refuse a value that cannot be read, without unpacking what is large."""
    if value.WhichOneof("value") != "blobFileValue":
        read_value(value, package)
        return
    blob = value.blobFileValue
    package.blob_file(blob.fileName).packed(int(blob.offset), tensor_type(value.type))


def _immediate(tensor: Any, declared: TensorType) -> torch.Tensor | str:
    kind = tensor.WhichOneof("value")
    if declared.element == STRING:
        if kind != "strings" or declared.size != 1 or len(tensor.strings.values) != 1:
            raise UnsupportedProgramError(f"a list of texts, {declared}, is not known to the evaluator")
        return str(tensor.strings.values[0])
    if declared.size > MAX_IMMEDIATE:
        raise ProgramError(f"an immediate value of type {declared} is larger than any program needs")
    if kind == "bytes":
        array = _from_bytes(bytes(tensor.bytes.values), declared)
    elif kind in IMMEDIATE:
        array = np.array(getattr(tensor, kind).values, dtype=IMMEDIATE[kind])
    else:
        raise ProgramError(f"an immediate value of type {declared} is given as {kind}")
    if array.size != declared.size:
        raise ProgramError(f"an immediate value of type {declared} has {array.size} elements")
    return torch.from_numpy(array.astype(declared.element.numpy).reshape(declared.closed_shape))


def _from_bytes(content: bytes, declared: TensorType) -> np.ndarray[Any, Any]:
    wanted = -(-declared.size * declared.element.bits // 8)
    if len(content) != wanted:
        raise ProgramError(f"an immediate value of type {declared} has {len(content)} bytes; it takes {wanted}")
    return unpack(np.frombuffer(content, np.uint8), declared.element, declared.size)
