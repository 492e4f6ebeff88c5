"""Rounding with each error made up for by all weights that are still to come, in its own row and in the others.

GPTQ spreads a rounding error over the later columns of its row, by A alone. In the metric tr(B E A E') (`_kronecker`)
later rows can make up for it too: with A = C_A' D_A C_A and B = C_B' D_B C_B, C unit lower triangular, the loss is the
sum of d_B d_A (C_B E C_A')^2 over all places, and a place's term holds its own error and those of the rows above it and
the columns before it. Each weight is rounded to make its own term small (as YAQA, Tseng et al. 2025, does).

Places of one antidiagonal do not touch each other, so they are rounded together, block by block of a matrix; what
blocks do to each other are matrix products.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from export.quantize import Codes
from export.quantize._kronecker import Array, Metric
from export.quantize._least_squares import steps_of
from export.schemes import Format

BLOCK = 64


def spread_errors(metric: Metric, scales: Tensor, form: Format) -> Codes:
    """Codes on `scales` (rows, groups).

    Rows and columns go in order of falling weight in the metric: the last ones have nothing behind them to mend them.
    """
    rows, columns = (factor.diagonal().argsort(descending=True) for factor in (metric.outputs, metric.inputs))
    steps = steps_of(scales, metric.wanted.shape[1]).T
    sheet = _Sheet(
        wanted=_array(metric.wanted[rows][:, columns]),
        steps=_array(steps[rows][:, columns]),
        by_row=_array(_behind(metric.outputs[rows][:, rows])[0]),
        by_column=_array(_behind(metric.inputs[columns][:, columns])[0]),
        top=2 ** (form.bits - 1) - 1,
    )
    codes = torch.empty_like(metric.wanted)
    codes[rows.unsqueeze(1), columns] = torch.from_numpy(_round(sheet))
    return Codes(codes.to(torch.int8), scales)


def expected_loss(metric: Metric, scales: Tensor) -> float:
    """What `spread_errors` loses on `scales` (rows, groups) where it clips nothing: d_B d_A s^2 / 12 at every place.

    Each place's own term is then uniform over a step s.
    """
    _, of_rows = _ordered(metric.outputs)
    _, of_columns = _ordered(metric.inputs)
    by_group = of_columns.view(scales.shape[1], -1).sum(1)
    return float(of_rows @ scales.double().square() @ by_group) / 12


def _ordered(factor: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which a factor's places are rounded, and D by place."""
    order = factor.diagonal().argsort(descending=True)
    found = torch.empty(len(order), dtype=torch.float64)
    found[order] = _behind(factor[order][:, order])[1]
    return order, found


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    """A matrix in its order: what it should become, its steps, and C_B and C_A without their diagonals."""

    wanted: Array
    steps: Array
    by_row: Array
    by_column: Array
    top: int


def _round(sheet: _Sheet) -> Array:
    """Codes (rows, columns), one block of columns after the other, in each one block of rows after the other."""
    codes, error = np.empty_like(sheet.wanted), np.empty_like(sheet.wanted)
    rows, columns = sheet.wanted.shape
    for left in range(0, columns, BLOCK):
        wide = slice(left, min(left + BLOCK, columns))
        before = error[:, :left] @ sheet.by_column[wide, :left].T
        felt = np.empty_like(before)  # E C_A' of the rows above
        for above in range(0, rows, BLOCK):
            high = slice(above, min(above + BLOCK, rows))
            block = _Sheet(
                wanted=sheet.wanted[high, wide],
                steps=sheet.steps[high, wide],
                by_row=sheet.by_row[high, high],
                by_column=sheet.by_column[wide, wide],
                top=sheet.top,
            )
            codes[high, wide] = _round_block(block, before[high], sheet.by_row[high, :above] @ felt[:above])
            error[high, wide] = codes[high, wide] * block.steps - block.wanted
            felt[high] = before[high] + error[high, wide]
    return codes


def _round_block(block: _Sheet, before: Array, from_above: Array) -> Array:
    """Codes of a block, one antidiagonal after the other.

    `before` and `from_above` (rows, columns) are what other blocks' errors do to it, by columns and by rows; its own
    are added in place.
    """
    rows, columns = block.wanted.shape
    codes = np.empty_like(block.wanted)
    onto_columns = np.ascontiguousarray(block.by_column.T)  # row l: what an error in column l does to the later ones
    for diagonal in range(rows + columns - 1):
        high = np.arange(max(0, diagonal - columns + 1), min(diagonal, rows - 1) + 1)
        wide = diagonal - high
        wanted, steps, so_far = block.wanted[high, wide], block.steps[high, wide], before[high, wide]
        found = np.rint((wanted - so_far - from_above[high, wide]) / steps).clip(-block.top - 1, block.top)
        codes[high, wide] = found
        error = found * steps - wanted
        before[high] += error[:, None] * onto_columns[wide]
        from_above[:, wide] += block.by_row[:, high] * (so_far + error)
    return codes


def _behind(metric: Tensor) -> tuple[Tensor, Tensor]:
    """C less its diagonal, and D, for metric = C' D C with C unit lower triangular.

    A row of C is what the earlier errors do to one place.
    """
    upper = torch.linalg.cholesky(metric.double().flip(0, 1)).flip(0, 1)  # metric = upper upper'
    unit: Tensor = (upper / upper.diagonal()).T
    return unit.tril(-1).float(), upper.diagonal().square()


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.contiguous().numpy()
    return found
