"""The external data file: every large initializer once, streamed, at offsets that can be memory-mapped.

Two initializers may name the same bytes under different shapes (a tied embedding table is one for the gather and one
for the head): ONNX Runtime maps them both from the file, so the table exists once on disk and once in memory.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from export.mapped_file import write_in_pieces

ALIGNMENT_BYTES = 4096  # of tensors big enough to be worth mapping on their own pages
SMALL_ALIGNMENT_BYTES = 64
MAPPED_BYTES = 1 << 18
INLINE_BYTES = 1024

Array = npt.NDArray[np.generic]


class DataFile:
    """Writes tensors one after another and hands out the external references to them."""

    def __init__(self, path: Path, progress: Callable[[str, int], None]) -> None:
        self.path = path
        self._file = path.open("wb")
        self._progress = progress

    def write(self, name: str, array: Array) -> ir.TensorProtocol:
        """Append `array` and return a reference; small arrays are returned inline instead."""
        if array.nbytes <= INLINE_BYTES:
            return ir.tensor(array, name=name)
        align = ALIGNMENT_BYTES if array.nbytes >= MAPPED_BYTES else SMALL_ALIGNMENT_BYTES
        self._file.write(b"\0" * (-self._file.tell() % align))
        offset = self._file.tell()
        array = np.ascontiguousarray(array)
        write_in_pieces(self._file, array.data)
        self._progress(name, array.nbytes)
        return self._reference(name, offset, array.nbytes, ir.DataType.from_numpy(array.dtype), array.shape)

    def alias(
        self, tensor: ir.TensorProtocol, name: str, shape: tuple[int, ...], first_row: int = 0
    ) -> ir.TensorProtocol:
        """A second name and shape for bytes already written: all of them, or as many rows as `shape` has."""
        if not isinstance(tensor, ir.ExternalTensor):
            rows = tensor.numpy()[first_row : first_row + shape[0]]
            return ir.tensor(rows.reshape(shape), name=name)
        assert tensor.offset is not None
        assert tensor.length is not None
        row_bytes = tensor.length // int(tensor.shape[0])  # type: ignore[arg-type]
        offset = tensor.offset + first_row * row_bytes
        return self._reference(name, offset, shape[0] * row_bytes, tensor.dtype, shape)

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def _reference(
        self, name: str, offset: int, length: int, dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            self.path.name, offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=self.path.parent
        )
