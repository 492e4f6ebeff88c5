"""The positions of patches as a small ONNX subgraph of the grid: `export.vision.positions`, operation by operation.

It runs once an image and takes what a few thousand integers take; so one graph serves every grid.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.onnx_lowering.translate import Emitter
from export.vision.config import VisionConfig
from export.vision.positions import rotary_frequencies

NAME = "positions"


@dataclass(frozen=True, kw_only=True)
class PositionValues:
    """Graph values for N patches: rows int64 (N, 4), weights (N, 4), cos and sin (N, head_dim / 2)."""

    rows: ir.Value
    weights: ir.Value
    cos: ir.Value
    sin: ir.Value


class _Arithmetic:
    """Short names for the emitter's operators; values are numbered."""

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        self._count = 0

    def op(self, kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        self._count += 1
        return self.emitter.one(kind, list(inputs), attributes, f"{NAME}/{self._count}_{kind}")

    def whole(self, value: int) -> ir.Value:
        return self.emitter.constant([value])

    def number(self, name: str, value: float) -> ir.Value:
        return self.emitter.float_constant(f"{NAME}/{name}", np.array([value]))

    def to(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self.op("Cast", value, to=dtype)


def emit_positions(emitter: Emitter, grid: ir.Value, config: VisionConfig) -> PositionValues:
    """The positions of one image; `grid` int64 (1, 3) holds frames (1), rows and columns of patches."""
    on = _Arithmetic(emitter)
    flat = on.op("Reshape", grid, on.whole(3))
    height, width = (on.op("Slice", flat, on.whole(at), on.whole(at + 1)) for at in (1, 2))  # (1,) each
    merge, blocks = on.whole(config.merge_size), on.op("Div", width, on.whole(config.merge_size))
    scalar = on.whole(0)
    count = on.op("Squeeze", on.op("Mul", height, width), scalar)
    zero, one = (on.op("Squeeze", on.whole(value), scalar) for value in (0, 1))
    index = on.op("Range", zero, count, one)
    block = on.op("Div", index, on.whole(config.merge_size**2))
    inner = on.op("Mod", on.op("Div", index, merge), merge)
    row = on.op("Add", on.op("Mul", on.op("Div", block, blocks), merge), inner)
    column = on.op("Add", on.op("Mul", on.op("Mod", block, blocks), merge), on.op("Mod", index, merge))
    row_taps, row_weights = _taps(on, row, height, config.side)
    column_taps, column_weights = _taps(on, column, width, config.side)
    frequencies = emitter.float_constant(f"{NAME}/frequencies", rotary_frequencies(config).numpy())
    angles = [on.op("Mul", _column(on, on.to(place, ir.DataType.FLOAT)), frequencies) for place in (row, column)]
    angle = on.op("Concat", *angles, axis=1)
    rows = on.op(
        "Add", on.op("Mul", _as(on, row_taps, (-1, 2, 1)), on.whole(config.side)), _as(on, column_taps, (-1, 1, 2))
    )
    weights = on.op("Mul", _as(on, row_weights, (-1, 2, 1)), _as(on, column_weights, (-1, 1, 2)))
    return PositionValues(
        rows=_as(on, rows, (-1, 4)),
        weights=_as(on, weights, (-1, 4)),
        cos=on.op("Cos", angle),
        sin=on.op("Sin", angle),
    )


def _taps(on: _Arithmetic, index: ir.Value, size: ir.Value, side: int) -> tuple[ir.Value, ir.Value]:
    """The two neighbours on a learned axis int64 (N, 2), and their weights (N, 2)."""
    last = on.to(on.op("Max", on.op("Sub", size, on.whole(1)), on.whole(1)), ir.DataType.FLOAT)
    scaled = on.op("Mul", on.to(index, ir.DataType.FLOAT), on.number(f"last_{side}", side - 1))
    place = on.op("Div", scaled, last)
    low = on.op("Floor", place)
    part = on.op("Sub", place, low)
    whole = on.to(low, ir.DataType.INT64)
    high = on.op("Min", on.op("Add", whole, on.whole(1)), on.whole(side - 1))
    taps = on.op("Concat", _column(on, whole), _column(on, high), axis=1)
    rest = on.op("Sub", on.number("one", 1.0), part)
    return taps, on.op("Concat", _column(on, rest), _column(on, part), axis=1)


def _column(on: _Arithmetic, value: ir.Value) -> ir.Value:
    """(N,) to (N, 1)."""
    return on.op("Unsqueeze", value, on.whole(1))


def _as(on: _Arithmetic, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    return on.op("Reshape", value, on.emitter.constant(shape))
