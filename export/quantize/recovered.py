"""recovered: the codes that `python -m export finetune` trained, read back from the values that it stored.

A recovered matrix holds a code times a bfloat16 scale in every place, so codes and scales follow from the values alone:
the largest value of a group is a code times the scale, and one from the upper half of the grid. The first of them that
puts every value of the group on the grid exactly is taken; dequantized, these are the checkpoint's very values.

Matrices of 8 bits and tables may not have been trained (docs/finetune.md): what lies on no grid is rounded there as
`rtn` rounds. A matrix of fewer bits that lies on no grid is an error: it was trained in other groups, or not at all.
"""

import torch
from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.errors import QuantizationError
from export.quantize import Codes, bfloat16_scales, rtn
from export.schemes import Format

SUMMARY = "the codes that `finetune --qat` trained, bit for bit: for recovered checkpoints only"
NEEDS_CALIBRATION = False


def quantize_block(task: BlockTask) -> BlockResult:
    """Every matrix on its own. Raises QuantizationError for one of fewer than 8 bits that lies on no grid."""
    codes: dict[str, Codes] = {}
    for unit, form in task.formats.items():
        if form.is_float:
            continue
        codes[unit], exact = read_back(task.block.tensor(unit), form)
        if form.bits < 8 and not bool(exact.all()):
            raise QuantizationError(
                f"{unit}: {int((~exact).sum())} of {exact.numel()} groups lie on no {form} grid, so the matrix was not "
                "trained in this format; export with the --scheme and --group-size of finetune, or, for a checkpoint "
                "that it did not write, with another --method"
            )
    return BlockResult(codes=codes)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:  # noqa: ARG001 (the contract)
    """Read back float32 `weight` (rows, in_features), rounding what lies on no grid."""
    return read_back(weight, form)[0]


def read_back(weight: Tensor, form: Format) -> tuple[Codes, Tensor]:
    """Codes of float32 `weight` (rows, in_features), and which groups lie on their grid exactly (rows, groups)."""
    rounded = rtn.quantize_table(weight, form, None)
    rows, columns = weight.shape
    groups = weight.reshape(rows, form.groups(columns), -1)
    codes, scales = rounded.codes.clone().view_as(groups), rounded.scales.clone()
    exact = (codes * scales.unsqueeze(-1) == groups).all(-1)
    top = 2 ** (form.bits - 1) - 1
    for reached in (top + 1, *range(top - 1, least_reached(form) - 1, -1)):
        open_groups = groups[~exact]
        if not len(open_groups):
            break
        scale = bfloat16_scales(open_groups.abs().amax(-1) / reached)
        tried = open_groups.div(scale.unsqueeze(-1)).round_().clamp_(-top - 1, top)
        found = (tried * scale.unsqueeze(-1) == open_groups).all(-1)
        places = (~exact).nonzero()[found].unbind(-1)
        codes[places], scales[places] = tried[found].to(torch.int8), scale[found]
        exact[places] = True
    return Codes(codes.view(rows, columns), scales), exact


def least_reached(form: Format) -> int:
    """The code that the largest value of a group is at least, in size, to be read back."""
    return int(2 ** (form.bits - 2)) - 1
