"""What the export's own method makes of each matrix in each format: what prices and trials are made of.

A calibrated method repairs most of what plain rounding breaks, and not everywhere alike: folds take away the very
outliers that made a matrix dear. So the method quantizes the model in each 4-bit format throughout, and its matrices
are taken from there, their folds undone: in the checkpoint's own terms a matrix may then be put beside any other.
8 bits and tables are rounded row by row, as the method does it: they cost too little for more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from export import catalog
from export.blocks import QuantizeTable, Statistics
from export.config import ModelConfig
from export.operators import dequantize
from export.quantized import open_quantized
from export.schemes import FLOAT, Format, Layout
from export.search.layouts import TABLES, Space


@dataclass(frozen=True, kw_only=True)
class Made:
    """Where a checkpoint lies that a method quantized, and in which formats."""

    directory: Path
    layout: Layout


class Stored(Protocol):
    """Codes and scales by matrix, as `export.quantized.QuantizedCheckpoint` has them."""

    def codes(self, unit: str) -> Tensor: ...

    def scales(self, unit: str) -> Tensor: ...

    def factors(self, unit: str) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """A method's way with single matrices: `stores` by format, and row by row what they do not hold."""

    by_row: QuantizeTable
    stores: Mapping[Format, Stored]

    def __call__(self, unit: str, weight: Tensor, form: Format, statistics: Statistics | None) -> Tensor:
        store = self.stores.get(form)
        if store is None or unit in TABLES:
            codes = self.by_row(weight, form, statistics)
            return dequantize(codes.codes, codes.scales)
        rows, columns = store.factors(unit)
        return dequantize(store.codes(unit), store.scales(unit)) / rows / columns


def open_rounding(method: str, made: Mapping[Format, Made], config: ModelConfig) -> Rounding:
    """The rounding of a method that has made these checkpoints."""
    return Rounding(
        by_row=catalog.load("quantize", method).quantize_table,
        stores={form: open_quantized(one.directory, config, one.layout) for form, one in made.items()},
    )


def one_format_each(space: Space) -> dict[Format, dict[str, Format]]:
    """By 4-bit format the layout that has it wherever it fits, and the next finer one elsewhere; tables at 8 bits."""
    forms = sorted({form for known in space.candidates.values() for form in known if form.bits == 4}, key=_group)
    return {form: {unit: _nearest(space, unit, form) for unit in space.candidates} for form in forms}


def _nearest(space: Space, unit: str, form: Format) -> Format:
    known = space.candidates[unit]
    if unit in TABLES:
        finest: Format = space.backend.FINEST[8]
        return finest if finest in known else FLOAT
    finer = [other for other in known if other.bits == 4 and _group(other) <= _group(form)]
    return max(finer, key=_group, default=FLOAT)


def _group(form: Format) -> int:
    return form.group_size or 0
