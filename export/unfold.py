"""Reading off codes how far a method made rows and columns of a matrix larger before it rounded (`Fold`).

A fold changes no function: a channel is made larger where it is born and smaller where it is read. So the matrix that
was rounded is the checkpoint's with rows and columns scaled, and the factors are those that fit the codes best (least
squares, rows and columns in turn). Thousands of codes vote on each, so their rounding errors hardly move it.
"""

import torch
from torch import Tensor

ROUNDS = 3  # of fitting rows, then columns


def unfolded(weight: Tensor, quantized: Tensor) -> Tensor:
    """`weight` (rows, columns) scaled to fit `quantized`: the float matrix that was rounded to it."""
    rows, columns = fold_factors(weight, quantized)
    return weight * rows * columns


def fold_factors(weight: Tensor, quantized: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of each row (rows, 1) and column (1, columns); 1 where nothing fits."""
    fitted = weight
    rows, columns = torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1])
    for _ in range(ROUNDS):
        by_row = _ratio(fitted, quantized, 1)
        fitted, rows = fitted * by_row, rows * by_row
        by_column = _ratio(fitted, quantized, 0)
        fitted, columns = fitted * by_column, columns * by_column
    return rows, columns


def _ratio(fitted: Tensor, quantized: Tensor, axis: int) -> Tensor:
    found = (fitted * quantized).sum(axis, keepdim=True) / fitted.square().sum(axis, keepdim=True)
    return torch.where(found.isfinite() & (found > 0), found, torch.ones_like(found))
