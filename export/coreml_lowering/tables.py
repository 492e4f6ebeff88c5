"""Matrices of few values as `constexpr_lut_to_dense` wants them: a sorted table for each run of rows, and places in it.

The quantized checkpoint holds the values themselves (export/quantize/kmeans.py), so nothing is rounded here.
"""

import torch
from torch import Tensor

from export.errors import LoweringError

ENTRIES = 16  # of 4-bit codes


def values_of(name: str, weight: Tensor, rows: int) -> Tensor:
    """The values of each run of `rows` rows of weight (out, in), ascending: (runs, 16), the last one repeated."""
    runs = weight.reshape(-1, rows * weight.shape[1])
    tables = torch.empty(runs.shape[0], ENTRIES, dtype=weight.dtype)
    for table, run in zip(tables, runs, strict=True):
        found = run.unique()
        if found.numel() > ENTRIES:
            raise LoweringError(
                f"coreml: {name} holds {found.numel()} values in {rows} rows, a table has room for {ENTRIES}; it was "
                "not made for tables, so use --method kmeans"
            )
        table[: found.numel()] = found
        table[found.numel() :] = found[-1]
    return tables


def codes_of(weight: Tensor, tables: Tensor) -> Tensor:
    """The place of each value in its run's table, uint8 in the shape of `weight`."""
    runs = weight.reshape(tables.shape[0], -1).contiguous()
    return torch.searchsorted(tables.contiguous(), runs).to(torch.uint8).view_as(weight)
