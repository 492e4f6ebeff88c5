"""The decoder's buffers as ONNX initializers: made from the quantized checkpoint and written when first used.

Packing for MatMulNBits and GatherBlockQuantized: unsigned codes offset by half the range, low nibble first, one float32
scale per block. Per-row 8-bit codes are packed in blocks with the row's scale repeated: the same numbers, block-wise.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from export.decoder import Decoder, Matrix, Recipe, largest_block
from export.materialize import materialize, packed_codes
from export.onnx_lowering.data import DataFile
from export.onnx_lowering.translate import MICROSOFT, Emitter
from export.quantized import QuantizedCheckpoint

# ONNX Runtime keeps a matrix's file pages while it packs them: this bounds what loading adds to the peak
PIECE_BYTES = 20 << 20
ROW_BLOCK = 32  # the block that per-row 8-bit codes are packed in, and so that their activations are scaled in


class Writes(Protocol):
    """Where initializers come from and go to, whatever makes their tensors."""

    @property
    def data(self) -> DataFile: ...

    def tensor(self, recipe: Recipe) -> Tensor: ...


@dataclass
class Source:
    """Where the decoder's initializers come from and go to."""

    store: QuantizedCheckpoint
    context_length: int
    data: DataFile

    def tensor(self, recipe: Recipe) -> Tensor:
        return materialize(recipe, self.store, self.context_length)


class PlainInitializer:
    """A float32 tensor as it is."""

    def __init__(self, source: Writes, name: str, recipe: Recipe) -> None:
        self._source, self._name, self._recipe = source, name, recipe
        self._value: ir.Value | None = None

    def value(self, emitter: Emitter) -> ir.Value:
        if self._value is None:
            array = self._source.tensor(self._recipe).contiguous().numpy()
            self._value = emitter.add_initializer(self._source.data.write(self._name, array))
        return self._value

    def columns(self, emitter: Emitter) -> list[ir.Value]:
        """Each column of a matrix (rows, columns) as an initializer of its own, (rows,)."""
        array = self._source.tensor(self._recipe).T.contiguous().numpy()
        return [
            emitter.add_initializer(self._source.data.write(f"{self._name}.{index}", column))
            for index, column in enumerate(array)
        ]


class ScalesInitializer:
    """float32 scales (out_features, in_features / block_size); a row's scale is repeated where blocks are smaller."""

    def __init__(self, source: Source, name: str, recipe: Recipe, blocks: int) -> None:
        self._source, self._name, self._recipe, self._blocks = source, name, recipe, blocks
        self._written: ir.TensorProtocol | None = None

    def value(self, emitter: Emitter) -> ir.Value:
        return emitter.initializers.get(self._name) or emitter.add_initializer(self._write())

    def piece(self, emitter: Emitter, rows: slice) -> ir.Value:
        """The scales of some rows, over the same bytes."""
        name = f"{self._name}.{rows.start}"
        shape = (rows.stop - rows.start, self._blocks)
        return emitter.add_initializer(self._source.data.alias(self._write(), name, shape, rows.start))

    def of_rows(self, emitter: Emitter, rows: slice) -> ir.Value:
        """One scale for each of some rows of a per-row format, (rows,)."""
        scales = self._source.tensor(self._recipe)[rows, 0].contiguous()
        return emitter.add_initializer(self._source.data.write(f"{self._name}.rows.{rows.start}", scales.numpy()))

    def _write(self) -> ir.TensorProtocol:
        if self._written is None:
            scales = self._source.tensor(self._recipe)
            repeated = scales.repeat_interleave(self._blocks // scales.shape[1], dim=1)
            self._written = self._source.data.write(self._name, repeated.contiguous().numpy())
        return self._written


class GridInitializer:
    """A static grid, as QuantizeLinear and DequantizeLinear read it: unsigned, which x86 and ARM kernels both take."""

    def __init__(self, source: Source, recipe: Recipe) -> None:
        scale, zero = source.tensor(recipe).tolist()
        self.scale, self.zero_point = float(scale), int(zero) + 128

    def rounded(self, emitter: Emitter, x: ir.Value, name: str) -> ir.Value:
        """x on the grid, float32; made once for all matrices that read it."""
        key = (x, self.scale, self.zero_point)
        if key not in emitter.rounded:
            grid = [
                emitter.float_constant(f"{name}/scale", np.array(self.scale)),
                emitter.add_initializer(
                    ir.tensor(np.array(self.zero_point, dtype=np.uint8), name=f"{name}/zero_point")
                ),
            ]
            codes = emitter.one("QuantizeLinear", [x, *grid], {}, f"{name}/codes")
            emitter.rounded[key] = emitter.one("DequantizeLinear", [codes, *grid], {}, f"{name}/rounded")
        return emitter.rounded[key]


class CodesInitializer:
    """Packed codes, as a matrix (out, blocks, bytes) and, over the same bytes, as a table (out, bytes).

    For products with static activations 8-bit codes are written transposed instead, (in, out).
    """

    def __init__(self, source: Source, name: str, recipe: Recipe, matrix: Matrix) -> None:
        self._source, self._name, self._recipe = source, name, recipe
        self.out_features, self.in_features = (int(size) for size in matrix.codes.shape)
        self.bits = matrix.form.bits
        self.block_size = block_size(matrix)
        self._written: ir.TensorProtocol | None = None
        self._table: ir.Value | None = None

    def pieces(self) -> list[slice]:
        """Row ranges to multiply by separately: a matrix as large as the head would be mapped and packed at once."""
        row_bytes = self.in_features * self.bits // 8
        count = -(-self.out_features * row_bytes // PIECE_BYTES)
        rows = -(-self.out_features // count)
        return [slice(start, min(start + rows, self.out_features)) for start in range(0, self.out_features, rows)]

    def matrix(self, emitter: Emitter, rows: slice) -> ir.Value:
        blocks = (self.in_features // self.block_size, self.block_size * self.bits // 8)
        name = f"{self._name}.matrix.{rows.start}"
        shape = (rows.stop - rows.start, *blocks)
        return emitter.add_initializer(self._source.data.alias(self._write(), name, shape, rows.start))

    def transposed(self, emitter: Emitter, rows: slice) -> ir.Value:
        """Some rows of 8-bit codes as the right factor of a product, int8 (in, rows)."""
        codes = packed_codes(self._recipe, self._source.store)[rows].T.contiguous()
        return emitter.add_initializer(self._source.data.write(f"{self._name}.columns.{rows.start}", codes.numpy()))

    def table(self, emitter: Emitter) -> ir.Value:
        if self._table is None:
            shape = (self.out_features, self.in_features * self.bits // 8)
            self._table = emitter.add_initializer(self._source.data.alias(self._write(), f"{self._name}.table", shape))
        return self._table

    def _write(self) -> ir.TensorProtocol:
        if self._written is None:
            packed = packed_codes(self._recipe, self._source.store)
            unsigned = packed if self.bits == 4 else packed.view(torch.uint8) ^ 0x80  # code + 128 without overflow
            self._written = self._source.data.write(self._name, unsigned.numpy())
        return self._written


class FloatMatrixInitializer:
    """A float32 matrix: transposed once for products, as stored where it also serves as an embedding table."""

    def __init__(self, source: Writes, name: str, recipe: Recipe, is_table: bool) -> None:
        self._source, self._name, self._recipe = source, name, recipe
        self._is_table = is_table
        self._written: ir.TensorProtocol | None = None

    def product(self, emitter: Emitter, x: ir.Value, name: str) -> ir.Value:
        if self._is_table:
            return emitter.one(f"{MICROSOFT}::FusedMatMul", [x, self.table(emitter)], {"transB": 1}, name)
        return emitter.one("MatMul", [x, self._write(emitter)], {}, name)

    def table(self, emitter: Emitter) -> ir.Value:
        assert self._is_table
        return self._write(emitter)

    def _write(self, emitter: Emitter) -> ir.Value:
        if self._written is None:
            weight = self._source.tensor(self._recipe)
            array = (weight if self._is_table else weight.T).contiguous().numpy()
            self._written = self._source.data.write(self._name, array)
        return emitter.initializers.get(self._name) or emitter.add_initializer(self._written)


Initializer = PlainInitializer | GridInitializer | ScalesInitializer | CodesInitializer | FloatMatrixInitializer


def initializers(decoder: Decoder, source: Source) -> dict[str, Initializer]:
    """One lazy initializer per buffer of `decoder`, by the buffer's qualified name."""
    found: dict[str, Initializer] = {}
    modules = dict(decoder.named_modules())
    for name, recipe in decoder.recipes().items():
        owner, _, field = name.rpartition(".")
        module = modules[owner]
        if recipe.field == "grid":
            found[name] = GridInitializer(source, recipe)
        elif not isinstance(module, Matrix):
            found[name] = PlainInitializer(source, name, recipe)
        elif field == "codes":
            found[name] = CodesInitializer(source, name, recipe, module)
        elif field == "scales":
            blocks = module.codes.shape[1] // block_size(module)
            found[name] = ScalesInitializer(source, name, recipe, blocks)
        else:
            found[name] = FloatMatrixInitializer(source, name, recipe, is_table=owner == "embed")
    return found


def block_size(matrix: Matrix) -> int:
    """The block that a quantized matrix is packed in: its group, or the largest that divides a per-row one."""
    return matrix.form.group_size or largest_block(matrix.codes.shape[1], ROW_BLOCK)
