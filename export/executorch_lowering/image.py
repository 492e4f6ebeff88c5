"""What stands around the vision tower in a program: pixels to patches, places of patches, and places of its tokens.

One method serves every size of image. A tensor of ExecuTorch is bounded by its number of elements, not by its sides,
and XNNPACK follows the number of patches; so whatever depends on the sides is computed from them when an image comes:
some thousand numbers. The rows that leave the tower tell the decoder where they stand in four further channels.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from export.executorch_lowering.program import ProgramBuilder, Slot
from export.executorch_lowering.tensors import Dynamic, Element, Shape, Value
from export.executorch_lowering.xnnpack import Region
from export.vision.config import VisionConfig
from export.vision.positions import rotary_frequencies
from runtimes.vision.spec import ImageSpec

FLOAT32_FLAGS = (False, None)  # of a conversion: non_blocking, memory_format
COORDINATES = 4  # further channels of an embedding: time, height, width, and what the next position gains beyond one


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The image at hand in tokens: its sides and their product; at most `most` tokens come, as many as in `shape`."""

    down: Slot
    across: Slot
    tokens: Slot
    most: int
    shape: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Image:
    """What the tower reads of one image: patches (1, N, 3 P P), rows of the learned grid int64 (1, N, 4) with weights
    (1, N, 4), cos and sin (1, N, 1, head_dim / 2); and where its tokens stand, (1, n, 1) each."""

    patches: Value
    rows: Value
    weights: Value
    cos: Value
    sin: Value
    places: tuple[Value, Value, Value, Value]


def read_image(program: ProgramBuilder, config: VisionConfig, images: ImageSpec) -> Image:
    """The method's input, levels uint8 (3, rows, columns), and all that follows from it before the tower."""
    most = images.max_pixels // images.factor**2
    low = next(side for side in range(isqrt(most), 0, -1) if most % side == 0)
    shape = (low, most // low)
    pixels = (3, Dynamic(shape[0] * images.factor), Dynamic(shape[1] * images.factor))
    levels = program.input(pixels, Element.UINT8)
    down, across = (
        program.primitive("executorch_prim::floordiv", "Scalar", [_size(program, levels, axis), images.factor])
        for axis in (1, 2)
    )
    tokens = program.primitive("executorch_prim::mul", "Scalar", [down, across])
    sides = Sides(down=down, across=across, tokens=tokens, most=most, shape=shape)
    patches = _normalised(program, _patches(program, levels, sides, images), images)
    row, column = _counted(program, sides)
    places = _places(program, sides, row, column)
    region = program.open_region()
    row, column = (_in_patches(region, place, config.merge_size, axis) for axis, place in enumerate((row, column)))
    rows, weights = _learned(program, config, sides, row, column)
    cos, sin = _turns(program, config, row, column)
    return Image(patches=patches, rows=rows, weights=weights, cos=cos, sin=sin, places=places)


def _size(program: ProgramBuilder, x: Value, axis: int) -> Slot:
    return program.primitive("aten::sym_size", "int", [x, axis])


def _patches(program: ProgramBuilder, levels: Value, sides: Sides, images: ImageSpec) -> Value:
    """Bytes (3, rows, columns) to float32 (1, N, 3 P P), in blocks of what becomes one token."""
    merge, side = images.merge_size, images.patch_size
    down, across = (Dynamic(size) for size in sides.shape)
    sizes: list[Slot | int] = [3, sides.down, merge, side, sides.across, merge, side]
    cut = _viewed(program, levels, sizes, (3, down, merge, side, across, merge, side))
    blocks = program.tensor((down, across, merge, merge, 3, side, side), Element.UINT8)
    program.kernel("aten::permute_copy", "out", [cut, program.integers([1, 4, 2, 5, 0, 3, 6])], [blocks])
    count = program.primitive("executorch_prim::mul", "Scalar", [sides.tokens, merge**2])
    shape = (1, Dynamic(sides.most * merge**2), 3 * side**2)
    flat = _viewed(program, blocks, [1, count, 3 * side**2], shape)
    out = program.tensor(shape)
    program.kernel("aten::_to_copy", "out", [flat, *FLOAT32_FLAGS], [out])
    return out


def _viewed(program: ProgramBuilder, x: Value, sizes: list[Slot | int], shape: Shape) -> Value:
    out = program.tensor(shape, x.element)
    program.kernel("aten::view_copy", "out", [x, program.integers(sizes)], [out])
    return out


def _normalised(program: ProgramBuilder, patches: Value, images: ImageSpec) -> Value:
    """(level / 255 - mean) / std, in the operations of `runtimes.vision.preprocess.normalize`."""
    region = program.open_region()
    area = images.patch_size**2
    scale = np.array([1 / (255.0 * std) for std in images.std], dtype=np.float32).repeat(area)
    shift = np.array([mean / std for mean, std in zip(images.mean, images.std, strict=True)], dtype=np.float32)
    scaled = region.multiply(patches, region.constant(scale))
    return region.subtract(scaled, region.constant(shift.repeat(area)))


def _counted(program: ProgramBuilder, sides: Sides) -> tuple[Value, Value]:
    """Row and column of each token, float32 (1, n, 1) each: whole numbers, so the division is exact."""
    length: Shape = (1, Dynamic(sides.most), 1)
    counting = program.constant(np.arange(sides.most, dtype=np.float32).reshape(1, -1, 1), Element.FLOAT32)
    index, column, rest, row = (program.tensor(length) for _ in range(4))
    program.kernel("aten::narrow_copy", "out", [counting, 1, 0, sides.tokens], [index])
    program.kernel("aten::remainder", "Scalar_out", [index, sides.across], [column])
    program.kernel("aten::sub", "out", [index, column, 1], [rest])
    program.kernel("aten::div", "Scalar_out", [rest, sides.across], [row])
    return row, column


def _places(program: ProgramBuilder, sides: Sides, row: Value, column: Value) -> tuple[Value, Value, Value, Value]:
    """Time, height and width of each token from the image's beginning, and what the position behind it gains."""
    length = row.shape
    longer = program.primitive("executorch_prim::sym_max", "Scalar", [sides.down, sides.across])
    both = program.primitive("executorch_prim::add", "Scalar", [sides.down, sides.across])
    before_last = program.primitive("executorch_prim::sub", "Scalar", [both, 3])  # row and column of the last: both - 2
    total, behind, gained = (program.tensor(length) for _ in range(3))
    program.kernel("aten::add", "out", [row, column, 1], [total])
    program.kernel("aten::sub", "Scalar_out", [total, before_last, 1], [behind])  # 1 at the last token alone
    region = program.open_region()
    is_last = region.positive_part(behind)
    program.kernel("aten::mul", "Scalar_out", [is_last, longer], [gained])
    region = program.open_region()
    return region.multiply(row, region.scalar(0.0)), row, column, region.subtract(gained, region.scalar(1.0))


def _in_patches(region: Region, place: Value, merge: int, axis: int) -> Value:
    """Row or column of each patch (1, N, 1), of those of tokens."""
    inner = np.arange(merge**2, dtype=np.float32)
    inner = inner // merge if axis == 0 else inner % merge
    spread = region.add(region.multiply(place, region.scalar(float(merge))), region.constant(inner.reshape(1, 1, -1)))
    return region.reshape(spread, (1, Dynamic(place.shape[1] * merge**2), 1))


def _learned(
    program: ProgramBuilder, config: VisionConfig, sides: Sides, row: Value, column: Value
) -> tuple[Value, Value]:
    """The four neighbours in the learned grid and their weights, as `export.vision.positions` mixes them."""
    taps, weights = [], []
    for place, tokens in ((row, sides.down), (column, sides.across)):
        last = program.primitive("executorch_prim::mul", "Scalar", [tokens, config.merge_size])
        last = program.primitive("executorch_prim::sub", "Scalar", [last, 1])
        region = program.open_region()
        stretched, exact = region.multiply(place, region.scalar(float(config.side - 1))), program.tensor(place.shape)
        program.kernel("aten::div", "Scalar_out", [stretched, last], [exact])
        region = program.open_region()
        low = region.floor(exact)
        part = region.subtract(exact, low)
        taps.append((low, region.at_most(region.add(low, region.scalar(1.0)), float(config.side - 1))))
        weights.append((region.subtract(region.scalar(1.0), part), part))
    region = program.open_region()
    lines = [region.multiply(tap, region.scalar(float(config.side))) for tap in taps[0]]
    flat = region.concatenate([region.add(line, tap) for line in lines for tap in taps[1]], -1)
    mixed = region.concatenate([region.multiply(one, other) for one in weights[0] for other in weights[1]], -1)
    rows = program.tensor(flat.shape, Element.INT64)
    program.kernel("aten::_to_copy", "out", [flat, *FLOAT32_FLAGS], [rows])
    return rows, mixed


def _turns(program: ProgramBuilder, config: VisionConfig, row: Value, column: Value) -> tuple[Value, Value]:
    """cos and sin of row and column times frequency, by kernels that call the C library."""
    frequencies = rotary_frequencies(config).numpy()
    region = program.open_region()
    parts = [region.multiply(place, region.constant(frequencies)) for place in (row, column)]
    angles = region.concatenate(parts, -1)
    angles = region.reshape(angles, (1, row.shape[1], 1, angles.shape[-1]))
    out = program.tensor(angles.shape), program.tensor(angles.shape)
    for name, value in zip(("cos", "sin"), out, strict=True):
        program.kernel(f"aten::{name}", "out", [angles], [value])
    return out
