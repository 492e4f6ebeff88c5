"""mse: round to nearest on the scale that minimises each group's squared error.

A 4-bit symmetric grid reaches -8 but only +7, and the largest weight of a group is rarely worth the step it forces on
the others; trying a few scales between absmax/9 and absmax/6.5 lowers the squared error by about a fifth at no cost in
bytes. The search is exhaustive over `CANDIDATES`, so it is never worse than `rtn`, which is one of them.
"""

import torch
from torch import Tensor

from export.quantize import Codes, bfloat16_scales
from export.schemes import Format

SUMMARY = "round to nearest on the scale of least squared error: no data, about a minute at 0.8B"
CANDIDATES = (7.0, 6.7, 7.3, 7.6, 7.9, 8.2, 8.6, 9.0)  # steps from zero to the group's absmax


def quantize(weight: Tensor, form: Format) -> Codes:
    """Quantize float32 `weight` (rows, in_features)."""
    rows, columns = weight.shape
    groups = weight.view(rows, form.groups(columns), -1)
    top = 2 ** (form.bits - 1) - 1
    largest = groups.abs().amax(-1)
    best_error = torch.full_like(largest, float("inf"))
    best_scales = torch.empty_like(largest)
    for steps in CANDIDATES:
        scales = bfloat16_scales(largest / (steps * top / 7))
        error = _round(groups, scales, top).mul_(scales.unsqueeze(-1)).sub_(groups).square_().sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scales = torch.where(better, scales, best_scales)
    return Codes(_round(groups, best_scales, top).to(torch.int8).view(rows, columns), best_scales)


def _round(groups: Tensor, scales: Tensor, top: int) -> Tensor:
    return groups.div(scales.unsqueeze(-1)).round_().clamp_(-top - 1, top)
