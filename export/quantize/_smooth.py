"""Choosing how far each fold of a block goes: the channel factors whose readers lose least to rounding.

A channel's factor is its root mean square to one power over its weights' magnitude to another, as in AWQ (Lin et al.
2024) and SmoothQuant (Xiao et al. 2023), both powers searched. The source's own rounding needs no look: dividing a row
divides its scales, and a norm stays float.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from export.blocks import Block, BlockResult, BlockTask, Fold, Statistics
from export.quantize import TINY, Codes
from export.quantize._folds import Tensors, fold, normalized, read_columns, source_channels
from export.quantize._matrix import Quantize
from export.schemes import Format

INPUT_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
WEIGHT_POWERS = (0.0, 0.5, 1.0)
CLIPPED = 1.08  # the usual choice of the search over scales


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """A block after its folds: the tensors that changed, and statistics of every unit's inputs as they are now.

    `rows` and `columns` are those of `BlockResult`.
    """

    tensors: Tensors
    statistics: Mapping[str, Statistics]
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def after(self, block: Block, one: Fold, factors: Tensor) -> "Smoothed":
        """The block after one more fold: columns of its readers `factors` (channels,) times larger."""
        spread = read_columns(one, factors)
        rows = {one.source: 1 / factors.unsqueeze(1)} if one.kind == "rows" else {}
        columns = {unit: self.columns.get(unit, torch.ones(())) * spread.unsqueeze(0) for unit in one.readers}
        return Smoothed(
            tensors=self.tensors | fold(block, one, factors, self.tensors),
            statistics={**self.statistics} | {unit: divided(self.statistics[unit], spread) for unit in one.readers},
            rows={**self.rows} | rows,
            columns={**self.columns} | columns,
        )

    def rounded(self, task: BlockTask, quantize: Quantize) -> BlockResult:
        """Every matrix quantized as it is now, and the float tensors that changed."""
        codes = {
            unit: quantize(self.tensors.get(unit, task.block.tensor(unit)), form, self.statistics[unit])
            for unit, form in task.formats.items()
            if not form.is_float
        }
        return self.result(codes)

    def result(self, codes: Mapping[str, Codes]) -> BlockResult:
        """Codes of the matrices as they are now, and the float tensors that changed."""
        return BlockResult(
            codes=codes,
            floats={name: one for name, one in self.tensors.items() if name not in codes},
            rows={unit: one for unit, one in self.rows.items() if unit in codes},
            columns={unit: one for unit, one in self.columns.items() if unit in codes},
        )


@torch.no_grad()
def smooth_for_weights(task: BlockTask, statistics: Mapping[str, Statistics]) -> Smoothed:
    """Fold so that weights round well: every factor is tried on the readers' weighted rounding errors."""
    found = Smoothed(tensors={}, statistics=statistics)
    for one in task.block.folds:
        formats = {unit: task.formats[unit] for unit in one.readers if not task.formats[unit].is_float}
        if not formats:
            continue
        found = found.after(task.block, one, _best_factors(task, one, formats, found.statistics))
    return found


def _best_factors(
    task: BlockTask, one: Fold, formats: Mapping[str, Format], statistics: Mapping[str, Statistics]
) -> Tensor:
    """The factors of least error, 1 being among them."""
    weights = {unit: task.block.tensor(unit) for unit in formats}
    squares = statistics[one.readers[0]].mean_square
    inputs = source_channels(one, squares).clamp(min=1e-12).sqrt()
    columns = torch.cat(list(weights.values())).square().mean(0)
    magnitudes = source_channels(one, columns).clamp(min=1e-12).sqrt()
    best, least = torch.ones_like(inputs), float("inf")
    for input_power, weight_power in product(INPUT_POWERS, WEIGHT_POWERS):
        factors = normalized(inputs**input_power / magnitudes**weight_power)
        columns = read_columns(one, factors)
        error = sum(_error(weights[unit] * columns, form, squares / columns**2) for unit, form in formats.items())
        if error < least:
            best, least = factors, error
    return best


def _error(weight: Tensor, form: Format, squares: Tensor) -> float:
    """The weighted error of rounding on one clipped scale a group: a search would cost ten times as much."""
    rows, columns = weight.shape
    groups = weight.view(rows, form.groups(columns), -1)
    top = 2 ** (form.bits - 1) - 1
    scales = groups.abs().amax(-1, keepdim=True).clamp(min=TINY) / (top * CLIPPED)
    error = groups.div(scales).round_().clamp_(-top - 1, top).mul_(scales).sub_(groups)
    return float((error.view(rows, columns).square_() @ squares).sum())


def divided(statistics: Statistics, columns: Tensor) -> Statistics:
    """Statistics of inputs that are `columns` times smaller."""
    gram = None if statistics.gram is None else statistics.gram / columns / columns.unsqueeze(1)
    return Statistics(mean_square=statistics.mean_square / columns**2, gram=gram)
