"""The search over scales that several methods share."""

import torch
from torch import Tensor

from export.quantize import Codes, bfloat16_scales
from export.schemes import Format

# steps of a 4-bit grid from zero to a group's absmax; 7 is plain rounding to nearest
STEPS = (7.0, 6.4, 6.7, 7.3, 7.6, 7.9, 8.2, 8.6, 9.0, 9.6, 10.4)
STEPS_WITHOUT_WEIGHTS = STEPS[:9]
# 8 bits have steps to spare, and a clipped row of a large head is known to lose its token: nothing is cut off
STEPS_OF_INT8 = tuple(steps for steps in STEPS if steps <= 7)
WEIGHTS_AT_ONCE = 1 << 22  # the search holds a few copies of them


def search_scales(weight: Tensor, form: Format, importance: Tensor | None) -> Codes:
    """Codes of float32 `weight` (rows, in_features) on each group's best scale, errors weighted if asked."""
    parts = [_search(part, form, importance) for part in weight.split(max(1, WEIGHTS_AT_ONCE // weight.shape[1]))]
    return Codes(torch.cat([part.codes for part in parts]), torch.cat([part.scales for part in parts]))


def _search(weight: Tensor, form: Format, importance: Tensor | None) -> Codes:
    rows, columns = weight.shape
    groups = weight.view(rows, form.groups(columns), -1)
    weights = None if importance is None else importance.view(1, form.groups(columns), -1)
    top = 2 ** (form.bits - 1) - 1
    largest = groups.abs().amax(-1)
    best_error = torch.full_like(largest, float("inf"))
    best_scales = torch.empty_like(largest)
    steps_of_int4 = STEPS_WITHOUT_WEIGHTS if weights is None else STEPS
    for steps in steps_of_int4 if form.bits == 4 else STEPS_OF_INT8:
        scales = bfloat16_scales(largest / (steps * top / 7))
        error = _round(groups, scales, top).mul_(scales.unsqueeze(-1)).sub_(groups).square_()
        total = (error if weights is None else error.mul_(weights)).sum(-1)
        better = total < best_error
        best_error = torch.where(better, total, best_error)
        best_scales = torch.where(better, scales, best_scales)
    return Codes(_round(groups, best_scales, top).to(torch.int8).view(rows, columns), best_scales)


def _round(groups: Tensor, scales: Tensor, top: int) -> Tensor:
    return groups.div(scales.unsqueeze(-1)).round_().clamp_(-top - 1, top)
