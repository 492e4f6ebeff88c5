"""Codes that can be learned: a latent value per weight, rounded going forward and taken as it is going backward.

A latent is a weight in units of its scale; the code is the integer nearest to it (straight-through estimator, Bengio et
al. 2013). It starts inside the cell of a code found in closed form, as near to the float weight as that cell allows, so
that training begins with that code. Scales are learned with the codes held (as in LSQ, Esser et al. 2020). AutoRound
(Cheng et al. 2024) learns the same rounding from the float weights; from codes that GPTQ found, a few dozen steps are
enough.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from export.quantize import Codes, bfloat16_scales
from export.schemes import Format

CELL = 0.4  # half a code's cell is 0.5; the rest keeps a rounding from being undone by noise
MOMENTUM = 0.9
LARGEST = 10.0  # times the usual gradient


@dataclass(frozen=True, kw_only=True)
class Latent:
    """A matrix on its way to codes: `codes` (rows, in) in units of the scale, `log_scales` (rows, groups)."""

    codes: Tensor
    log_scales: Tensor
    top: int

    def weight(self) -> Tensor:
        """The quantized matrix, differentiable."""
        found: Tensor = _Quantized.apply(self.codes, self.scales(), self.top)
        return found

    def scales(self) -> Tensor:
        """Positive scales as they are stored; the rounding to bfloat16 is passed through backward."""
        scales = self.log_scales.exp()
        return scales + (bfloat16_scales(scales.detach()) - scales.detach())

    @torch.no_grad()
    def result(self) -> Codes:
        codes = self.codes.round().clamp_(-self.top - 1, self.top).to(torch.int8)
        return Codes(codes, bfloat16_scales(self.log_scales.exp()))


def latent(weight: Tensor, found: Codes, form: Format) -> Latent:
    """A latent of `weight` that rounds to `found`."""
    rows, columns = weight.shape
    codes = found.codes.float()
    natural = (weight.reshape(rows, found.scales.shape[1], -1) / found.scales.unsqueeze(-1)).view(rows, columns)
    start = torch.minimum(torch.maximum(natural, codes - CELL), codes + CELL)
    return Latent(
        codes=start.requires_grad_(),
        log_scales=found.scales.log().requires_grad_(),
        top=2 ** (form.bits - 1) - 1,
    )


class LatentDescent:
    """Moves latents against their averaged gradient, in each matrix by `size` codes in the root mean square.

    Only the largest gradients reach a neighbouring code in few steps. A step of equal size for all (SignSGD, Adam)
    flips thousands of codes whose gradient is noise. Gradients have long tails, so the largest are cut.
    """

    def __init__(self, latents: Iterable[Tensor]) -> None:
        self._latents = list(latents)
        self._averages = [torch.zeros_like(one) for one in self._latents]

    @torch.no_grad()
    def step(self, size: float) -> None:
        for one, average in zip(self._latents, self._averages, strict=True):
            if one.grad is not None:
                average.lerp_(one.grad, 1 - MOMENTUM)
                usual = average.square().mean().sqrt().clamp(min=1e-30)
                one.add_((average / usual).clamp_(-LARGEST, LARGEST), alpha=-size)
                one.grad = None


class _Quantized(torch.autograd.Function):
    """codes rounded times scales; gradients to latents stop where the grid does."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, scales: Tensor, top: int) -> Tensor:
        rows, columns = latents.shape
        codes = latents.round().clamp_(-top - 1, top)
        ctx.save_for_backward(codes.to(torch.int8), scales)
        ctx.inside = (latents > -top - 1.5) & (latents < top + 0.5)
        return (codes.view(rows, scales.shape[1], -1) * scales.unsqueeze(-1)).view(rows, columns)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        codes, scales = ctx.saved_tensors
        rows, columns = slope.shape
        grouped = slope.view(rows, scales.shape[1], -1)
        to_latents = (grouped * scales.unsqueeze(-1)).view(rows, columns) * ctx.inside
        to_scales = (grouped * codes.view_as(grouped)).sum(-1)
        return to_latents, to_scales, None
