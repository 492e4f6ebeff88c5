"""rtn: round to nearest on the absmax grid. No data, no search; the baseline every other method is measured against."""

import torch
from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes, bfloat16_scales
from export.quantize._matrix import by_matrix
from export.schemes import Format

SUMMARY = "round to nearest on the absmax grid: no data, seconds"
NEEDS_CALIBRATION = False


def quantize_block(task: BlockTask) -> BlockResult:
    """Every matrix on its own."""
    return by_matrix(task, quantize_table)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:  # noqa: ARG001 (the contract)
    """Quantize float32 `weight` (rows, in_features)."""
    rows, columns = weight.shape
    groups = weight.view(rows, form.groups(columns), -1)
    top = 2 ** (form.bits - 1) - 1
    scales = bfloat16_scales(groups.abs().amax(-1) / top)
    codes = groups.div(scales.unsqueeze(-1)).round_().clamp_(-top - 1, top)
    return Codes(codes.to(torch.int8).view(rows, columns), scales)
