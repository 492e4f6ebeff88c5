"""A weight matrix that is trained through its own rounding: forward on the grid, backward as if it were not there.

The grid is the export's: codes from -8 to 7 (at 4 bits) times a scale that bfloat16 holds, so training starts from any
method's codes as they are. What it leaves, dequantized, says its codes itself: the method `recovered` reads them back,
and `codes` asks that very method. For that a group's largest value has to be in the upper half of the grid, and a
scale that grows beyond is held.

Gradients pass unchanged to the weights that only rounding moved (straight-through, Bengio et al., arXiv:1308.3432), not
to those that were clipped, and to the scale as learned step size quantization has it (LSQ, Esser et al.,
arXiv:1902.08153). AdamW moves every value by about the learning rate whatever its gradient, and a group's weights may
be 1000 times smaller than another's; so values are held in units near their group's step, and a learning rate means
steps of the grid. The scale is held as the value of the largest code, which moves as slowly as a weight.
"""

from typing import Any

import torch
from torch import Tensor, nn

from export.quantize import Codes, bfloat16_scales
from export.quantize.recovered import least_reached, read_back
from export.schemes import Format

MIN_BOUND = 2.0**-10  # in units, of which a group's largest value is some four to sixteen when training starts


class FakeQuantized(nn.Module):
    """One trainable matrix; calling it gives its dequantized codes, float32 (rows, in_features)."""

    unit: Tensor

    def __init__(self, weight: Tensor, form: Format, scales: Tensor) -> None:
        """Begin at `weight` (rows, in_features) on the grid of `scales` (rows, groups)."""
        super().__init__()
        self.form = form
        groups = weight.detach().float().view(weight.shape[0], form.groups(weight.shape[1]), -1)
        # a power of two, so that weight / unit * unit is the weight
        self.register_buffer("unit", torch.exp2(torch.floor(torch.log2(scales))).unsqueeze(-1))
        self.values = nn.Parameter(groups / self.unit)
        self.bound = nn.Parameter(largest_code(form) * scales.unsqueeze(-1) / self.unit)

    def forward(self) -> Tensor:
        weight: Tensor = _FakeQuantize.apply(self.values * self.unit, self.bound * self.unit, self.form)
        return weight

    @torch.no_grad()
    def held(self) -> Codes:
        """The codes and scales of the present values as they stand, whether or not they could be read back."""
        scales, _, codes = _rounded(self.values * self.unit, self.bound * self.unit, self.form)
        return Codes(codes.flatten(1).to(torch.int8), scales.squeeze(-1))

    @torch.no_grad()
    def codes(self) -> Codes:
        """The codes of the present values, as the export reads them back."""
        return read_back(self(), self.form)[0]

    @torch.no_grad()
    def keep_in_range_(self) -> None:
        """After a step of the optimizer: scales stay positive, and small enough that a group reaches its grid's end."""
        reached = largest_code(self.form) / least_reached(self.form)
        self.bound.copy_(self.bound.minimum(self.values.abs().amax(-1, keepdim=True) * reached).clamp_(min=MIN_BOUND))


class _FakeQuantize(torch.autograd.Function):
    """Groups (rows, groups, columns) and values of the largest code (rows, groups, 1) to a dequantized matrix."""

    @staticmethod
    def forward(ctx: Any, groups: Tensor, bound: Tensor, form: Format) -> Tensor:
        top = largest_code(form)
        scales, natural, codes = _rounded(groups, bound, form)
        inside = (natural >= -top - 1.5) & (natural <= top + 0.5)
        ctx.save_for_backward(inside, torch.where(inside, codes - natural, codes) / top)
        return (codes * scales).flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        inside, slope = ctx.saved_tensors  # the slope of a dequantized value against the bound
        gradient = gradients[0].view_as(slope)
        return gradient * inside, (gradient * slope).sum(-1, keepdim=True), None


def _rounded(groups: Tensor, bound: Tensor, form: Format) -> tuple[Tensor, Tensor, Tensor]:
    """Scales (rows, groups, 1), values in steps of them, and these rounded to codes."""
    top = largest_code(form)
    scales = bfloat16_scales(bound / top)
    natural = groups / scales
    return scales, natural, natural.round().clamp_(-top - 1, top)


def largest_code(form: Format) -> int:
    """The largest code of a format."""
    return int(2 ** (form.bits - 1)) - 1
