"""A weight matrix that is trained through its own rounding: forward on the grid, backward as if it were not there.

The forward value is what the method `rtn` would make of the weight clipped to a learned bound of each group, by calling
that method: so the codes that training sees are the codes of an export, by construction. Clipping to the bound c makes
the largest value of a group a code of +-7 (at 4 bits), hence the dequantized matrix gives the same codes again and is
what a recovered checkpoint stores.

Gradients pass to the weights inside the bound unchanged (straight-through, Bengio et al., arXiv:1308.3432) and to the
bound as learned step size quantization has it (LSQ, Esser et al., arXiv:1902.08153). AdamW moves every value by about
the learning rate whatever its gradient, and a group's weights may be 1000 times smaller than another's; so values are
held in units near their group's step, and a learning rate means steps of the grid.
"""

from typing import Any

import torch
from torch import Tensor, nn

from export.operators import dequantize
from export.quantize import TINY, Codes, rtn
from export.schemes import Format

BOUNDS = (1.0, 0.95, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)  # shares of a group's absmax to start from
MIN_BOUND = 1.0  # in units: a bound never reaches zero


def round_to_codes(weight: Tensor, form: Format) -> Codes:
    """What an export with `--method rtn` makes of a matrix (rows, in_features)."""
    return rtn.quantize_table(weight, form, None)


class FakeQuantized(nn.Module):
    """One trainable matrix; calling it gives its dequantized codes, float32 (rows, in_features)."""

    unit: Tensor

    def __init__(self, weight: Tensor, form: Format, bound: Tensor | None = None) -> None:
        """`bound` (rows, groups) is where to start; by default the one of least squared rounding error."""
        super().__init__()
        self.form = form
        groups = weight.detach().float().view(weight.shape[0], form.groups(weight.shape[1]), -1)
        bound = _first_bound(groups, form) if bound is None else bound.unsqueeze(-1)
        # a power of two, so that weight / unit * unit is the weight
        self.register_buffer("unit", torch.exp2(torch.floor(torch.log2(bound / largest_code(form)))))
        self.values = nn.Parameter(groups / self.unit)
        self.bound = nn.Parameter(bound / self.unit)

    def forward(self) -> Tensor:
        weight: Tensor = _FakeQuantize.apply(self.values * self.unit, self.bound * self.unit, self.form)
        return weight

    @torch.no_grad()
    def codes(self) -> Codes:
        """The codes of the present values."""
        return round_to_codes(_clipped(self.values * self.unit, self.bound * self.unit), self.form)

    @torch.no_grad()
    def keep_in_range_(self) -> None:
        """After a step of the optimizer: a bound beyond the largest value would bound nothing and drift away."""
        largest = self.values.abs().amax(-1, keepdim=True)
        self.bound.copy_(self.bound.minimum(largest).clamp_(min=MIN_BOUND))


class _FakeQuantize(torch.autograd.Function):
    """Groups (rows, groups, columns) and bounds (rows, groups, 1) to a dequantized matrix."""

    @staticmethod
    def forward(ctx: Any, groups: Tensor, bound: Tensor, form: Format) -> Tensor:
        found = round_to_codes(_clipped(groups, bound), form)
        ctx.save_for_backward(groups, bound, found.codes, found.scales)
        ctx.form = form
        return dequantize(found.codes, found.scales)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        groups, bound, codes, scales = ctx.saved_tensors
        gradient = gradients[0].view_as(groups)
        inside = groups.abs() <= bound
        rounding = (codes.view_as(groups) - groups / scales.unsqueeze(-1)) / largest_code(ctx.form)
        slope = torch.where(inside, rounding, groups.sign())  # of the dequantized value against the bound
        return gradient * inside, (gradient * slope).sum(-1, keepdim=True), None


def largest_code(form: Format) -> int:
    """The largest code that training uses; its negative is the smallest."""
    return int(2 ** (form.bits - 1)) - 1


def _clipped(groups: Tensor, bound: Tensor) -> Tensor:
    return groups.minimum(bound).maximum(-bound).flatten(1)


def _first_bound(groups: Tensor, form: Format) -> Tensor:
    """The bound of least squared rounding error among a few, (rows, groups, 1)."""
    largest = groups.abs().amax(-1, keepdim=True).clamp_(min=TINY)
    best, best_error = largest, torch.full_like(largest, float("inf"))
    for share in BOUNDS:
        bound = largest * share
        found = round_to_codes(_clipped(groups, bound), form)
        error = (dequantize(found.codes, found.scales).view_as(groups) - groups).square_().sum(-1, keepdim=True)
        better = error < best_error
        best, best_error = torch.where(better, bound, best), torch.where(better, error, best_error)
    return best
