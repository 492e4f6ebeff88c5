"""Constants of a program, compressed ones included, decoded once and kept.

A compressed weight is a chain of `constexpr` operators over parts of the file of constants. Two functions of a package
that use the same parts share the decoded tensor, since it is kept under what it was made from and not under a name.
What matrices multiply is widened to fp32, and kept so while that is little: a small model's steps are then quick, and a
large one takes half the memory. Beyond a budget nothing more is kept, and decoding is repeated at each use.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from runtimes.mil.errors import ProgramError
from runtimes.mil.types import ELEMENTS

KEEP_BYTES: Final = 3_000_000_000
WIDENED_BYTES: Final = 1_500_000_000  # kept in fp32, of those
ROWS_ELEMENTS: Final = 1 << 24  # decoded at a time

Decoder = Callable[[Mapping[str, Tensor | str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A value that does not depend on the inputs; `key` tells equal ones."""

    key: object
    decode: Callable[[], Tensor | str]


class Constants:
    """Decoded constants of one or more packages."""

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        self._kept: dict[object, Tensor | str] = {}
        self._keep_bytes = keep_bytes
        self._widened_bytes = 0
        self.kept_bytes = 0

    def value(self, constant: Constant, *, wide: bool = False) -> Tensor | str:
        """The tensor or text of a constant, of fp16 in fp32 where asked."""
        found = self._kept.get(constant.key)
        if found is None:
            found = constant.decode()
            self._keep(constant.key, found)
        if not wide or isinstance(found, str) or found.dtype != torch.float16:
            return found
        widened = widen(found)
        if self._widened_bytes + _bytes(widened) <= WIDENED_BYTES:
            # takes the place of the narrow one: whoever wants that rounds it back, exactly
            self._widened_bytes += _bytes(widened)
            self._keep(constant.key, widened)
        return widened

    def _keep(self, key: object, value: Tensor | str) -> None:
        """Keep a value in place of what was kept under its key, if the budget allows."""
        room = self._keep_bytes - self.kept_bytes + _bytes(self._kept.get(key))
        if _bytes(value) <= room:
            self.kept_bytes = self._keep_bytes - room + _bytes(value)
            self._kept[key] = value


def _bytes(value: Tensor | str | None) -> int:
    return value.element_size() * value.numel() if isinstance(value, Tensor) else 0


def widen(x: Tensor) -> Tensor:
    """fp16 as fp32, everything else as it is."""
    return x.to(torch.float32) if x.dtype == torch.float16 else x


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """(data - offset) * scale, both for blocks whose size follows from the shapes."""
    _check_blocks(data, tuple(scale.shape))
    if offset is not None and offset.shape != scale.shape:
        raise ProgramError(f"offset {tuple(offset.shape)} and scale {tuple(scale.shape)} differ in shape")
    result = torch.empty(data.shape, dtype=scale.dtype)
    for rows, blocks in _rows(data, scale.shape[0]):
        part = data[rows].to(torch.float32)
        shape = _interleaved(part, tuple(scale.shape))
        values = part.reshape(shape)
        if offset is not None:
            values = values - _spread(offset, blocks)
        result[rows] = (values * _spread(scale, blocks)).reshape(part.shape).to(scale.dtype)
    return result


def constexpr_lut_to_dense(indices: Tensor, lut: Tensor, vector_axis: Tensor | None = None) -> Tensor:
    """Entries of tables: `lut` is (blocks along each axis of `indices`, entries, elements of an entry)."""
    groups, (entries, width) = tuple(lut.shape[:-2]), tuple(lut.shape[-2:])
    _check_blocks(indices, groups)
    if indices.numel() and int(indices.max()) >= entries:
        raise ProgramError(f"an index of {int(indices.max())} is outside a table of {entries}")
    if width > 1 and vector_axis is None:
        raise ProgramError(f"a table of vectors of {width} needs vector_axis")
    table = lut.reshape(-1, width)
    first = torch.arange(math.prod(groups)).reshape(groups) * entries
    result = torch.empty(*indices.shape, width, dtype=lut.dtype)
    for rows, blocks in _rows(indices, groups[0]):
        part = indices[rows]
        places = part.to(torch.int64).reshape(_interleaved(part, groups)) + _spread(first, blocks)
        result[rows] = table.index_select(0, places.reshape(-1)).reshape(*part.shape, width)
    if width == 1:
        return result.squeeze(-1)
    axis = int(vector_axis) % indices.dim() if vector_axis is not None else 0
    return result.movedim(-1, axis + 1).flatten(axis, axis + 1)


def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """(data - zero point) * scale, both alike for all or along one axis."""
    at = int(axis) % quantized_data.dim()
    along = [-1 if place == at else 1 for place in range(quantized_data.dim())]
    shift, factor = (part.to(torch.float32) for part in (zero_point, scale))
    shift = shift.reshape(along) if shift.dim() else shift
    factor = factor.reshape(along) if factor.dim() else factor
    return ((quantized_data.to(torch.float32) - shift) * factor).to(scale.dtype)


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    wanted = ELEMENTS[output_dtype].torch if output_dtype in ELEMENTS else None
    if wanted is None:
        raise ProgramError(f"cannot cast a constant to {output_dtype!r}")
    return source_val.to(wanted)


def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor) -> Tensor:
    """Values where the mask is 1, in order; zero elsewhere."""
    places = mask != 0
    if int(places.sum()) != nonzero_data.numel():
        raise ProgramError(f"{nonzero_data.numel()} values for a mask of {int(places.sum())} ones")
    result = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    result[places] = nonzero_data
    return result


DECODERS: Final[dict[str, Callable[..., Tensor]]] = {
    function.__name__: function
    for function in (
        constexpr_affine_dequantize,
        constexpr_blockwise_shift_scale,
        constexpr_cast,
        constexpr_lut_to_dense,
        constexpr_sparse_to_dense,
    )
}


def _check_blocks(data: Tensor, blocks: tuple[int, ...]) -> None:
    if data.dim() != len(blocks) or any(
        count == 0 or size % count for size, count in zip(data.shape, blocks, strict=True)
    ):
        raise ProgramError(f"blocks of {blocks} do not divide data of {tuple(data.shape)}")


def _rows(data: Tensor, blocks: int) -> Iterator[tuple[slice, Tensor]]:
    """Pieces along the first axis that are small enough, each with the block of each of its rows."""
    size = max(1, ROWS_ELEMENTS // max(1, data[0].numel()))
    for start in range(0, data.shape[0], size):
        rows = torch.arange(start, min(start + size, data.shape[0]))
        yield slice(start, start + rows.numel()), rows // (data.shape[0] // blocks)


def _interleaved(part: Tensor, blocks: tuple[int, ...]) -> list[int]:
    """The shape of rows in which each further axis is split into blocks and what is in one."""
    shape: list[int] = [part.shape[0]]
    for size, count in zip(part.shape[1:], blocks[1:], strict=True):
        shape += [count, size // count]
    return shape


def _spread(parameter: Tensor, rows: Tensor) -> Tensor:
    """A parameter of blocks, in a shape that broadcasts over interleaved rows."""
    chosen = parameter.index_select(0, rows)
    if chosen.dtype == torch.float16 or chosen.dtype in (torch.int8, torch.uint8):
        chosen = chosen.to(torch.float32)
    shape: list[int] = [chosen.shape[0]]
    for count in chosen.shape[1:]:
        shape += [count, 1]
    return chosen.reshape(shape)
