"""Matrices of the quantized checkpoint as ExecuTorch and XNNPACK take them, and rows of the one that is a table.

Codes and scales are named after their origin and read when the file is written, so a method costs no memory for them,
and methods that read one matrix share its bytes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.decoder import Part, Recipe
from export.executorch_lowering.program import ProgramBuilder, Read
from export.executorch_lowering.tensors import Element, Value
from export.executorch_lowering.xnnpack import Blob, Weights
from export.materialize import materialize, select_rows
from export.quantized import QuantizedCheckpoint

FLOAT32_CODE = 6  # ScalarType of the embedding's result


@dataclass(frozen=True)
class Buffer:
    """A tensor of the decoder, made when an operator asks for it."""

    name: str
    recipe: Recipe


@dataclass
class Matrices:
    """The checkpoint's tensors for one method; `tables` (the embedding, and the head where tied) are of all methods."""

    program: ProgramBuilder
    store: QuantizedCheckpoint
    context_length: int
    tables: dict[Part, Weights] = field(default_factory=dict)

    def array(self, buffer: Buffer) -> NDArray[np.float32]:
        """A small float32 tensor."""
        made: NDArray[np.float32] = materialize(buffer.recipe, self.store, self.context_length).numpy()
        return made

    def is_tied(self, codes: Buffer) -> bool:
        """Whether this matrix is also the embedding table."""
        return codes.recipe.parts[0] in self.tables

    def table(self, codes: Buffer) -> Weights:
        """The embedding's bytes: 4-bit pairs in the embedding kernel's order, the even column in the high nibble."""
        part = codes.recipe.parts[0]
        if part not in self.tables:
            self.tables[part] = self.weights(part, swapped=True)
        return self.tables[part]

    def rows(self, ids: Value, codes: Buffer) -> Value:
        """Rows of the table: ids (1, T) to (1, T, columns)."""
        program, weights = self.program, self.table(codes)
        rows, columns = weights.shape
        out = program.tensor((*ids.shape, columns))
        if weights.scales is None:
            table = program.shared_constant(weights.codes, (rows, columns), Element.FLOAT32)
            program.kernel("aten::embedding", "out", [table, ids, -1, False, False], [out])
        elif weights.bits == 4:
            assert weights.group_size is not None
            table = program.shared_constant(weights.codes, (rows, columns // 2), Element.UINT8)
            scales = program.shared_constant(weights.scales, (rows, columns // weights.group_size), Element.BFLOAT16)
            arguments = [table, scales, None, -8, 7, ids, FLOAT32_CODE]
            program.kernel("quantized_decomposed::embedding_4bit", "dtype_out", arguments, [out])
        else:
            table = program.shared_constant(weights.codes, (rows, columns), Element.INT8)
            scales = program.shared_constant(weights.scales, (rows, 1), Element.FLOAT32)
            arguments = [table, scales, None, -128, 127, ids, FLOAT32_CODE]
            program.kernel("quantized_decomposed::embedding_byte", "dtype_out", arguments, [out])
        return out

    def weights(self, part: Part, swapped: bool = False) -> Weights:
        """One part of a matrix; codes go over as the store holds them (XNNPACK's own order), `swapped` in pairs."""
        form = self.store.layout[part.unit]
        shape = rows, columns = self._shape(part)
        if form.is_float:
            codes = self._later(part, "weight", rows * columns * 4, lambda: self._rows(self.store.weight, part))
            return Weights(shape=shape, bits=32, group_size=None, codes=codes, scales=None)
        read = self._swapped_rows if swapped and form.bits == 4 else self._rows
        kind = "swapped codes" if swapped else "codes"
        codes = self._later(part, kind, rows * columns * form.bits // 8, lambda: read(self.store.packed, part))
        scale_bytes = rows * form.groups(columns) * (2 if form.bits == 4 else 4)
        scales = self._later(part, "scales", scale_bytes, lambda: self._scales(part))
        return Weights(shape=shape, bits=form.bits, group_size=form.group_size, codes=codes, scales=scales)

    def _later(self, part: Part, kind: str, num_bytes: int, read: Read) -> Blob:
        """A blob named after its origin: the store's name is a hash of all that determines its content."""
        origin = f"{self.store.path.name} {part.unit} {part.rows} {kind}"
        return self.program.named_later(Blob(hashlib.sha256(origin.encode()).hexdigest(), num_bytes), read)

    def _rows(self, matrix: Callable[[str], Tensor], part: Part) -> NDArray[Any]:
        found: NDArray[Any] = select_rows(matrix(part.unit), part, self.store.config).numpy()
        return found

    def _swapped_rows(self, matrix: Callable[[str], Tensor], part: Part) -> NDArray[Any]:
        codes = self._rows(matrix, part)
        high = codes >> 4
        codes <<= 4  # in place: the table is the largest thing in memory
        codes |= high
        return codes

    def _scales(self, part: Part) -> NDArray[Any]:
        """As XNNPACK reads them: bfloat16 per group for 4 bits, float32 per row for 8."""
        scales = select_rows(self.store.scales(part.unit), part, self.store.config)
        return scales.to(torch.bfloat16).view(torch.uint16).numpy() if self._is_4_bit(part) else scales.numpy()

    def _is_4_bit(self, part: Part) -> bool:
        return self.store.layout[part.unit].bits == 4

    def _shape(self, part: Part) -> tuple[int, int]:
        entry = self.store.entries[f"{part.unit}.{'weight' if self.store.layout[part.unit].is_float else 'codes'}"]
        rows, columns = entry.shape
        if part.rows != "all":
            rows //= 2
        return rows, columns * (2 if self.store.layout[part.unit].bits == 4 else 1)
