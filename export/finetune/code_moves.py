"""Training codes themselves: at each step those move by one of which the gradients are surest that it pays.

Straight-through training (latent weights rounded on the way forward) moves every latent by about the learning rate
whatever its gradient, so codes near a border flip by noise. Where a method has rounded so that errors cancel, such
flips undo it faster than the gradients gain (docs/log.md). Here there are no latents, as in Helwegen et al.,
arXiv:1906.02107: a moving average of gradients votes on each code, and what moves starts to vote anew.

A code's move by a step s gains |m| s, m the averaged gradient, and costs D s^2 / 2, D the loss's curvature. Codes move
in the order of |m| / (D s), which is the most gain for the least cost; D is taken as proportional to the gradient's
mean square v, as it is of a likelihood's Fisher information, and m has to stand out of its own noise. Scales follow
their gradients by Adam, in shares of themselves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from export.operators import dequantize
from export.quantize import Codes, bfloat16_scales
from export.quantize.recovered import least_reached, read_back
from export.schemes import Format

MOVED_BITS = 4  # finer codes lose so little that moving them gains nothing
AVERAGED = 0.9  # of a gradient's mean that a step keeps; the mean is over some ten steps then
SQUARES_AVERAGED = 0.97
SURE = 2.0  # standard deviations of the mean's noise
STEPS_BEFORE_MOVES = 4  # mean squares of fewer gradients say little
SCALE_RATE = 3e-4  # of a scale a step
SCALE_BETAS = (0.9, 0.99)
SAMPLED = 1 << 21  # ratios that the threshold is found from
LEAST_SCALE, LARGEST_SCALE = 0.5, 2.0  # of what it began with


class MovedMatrix(nn.Module):
    """One matrix of trained codes; calling it gives its dequantized values, float32 (rows, in_features)."""

    held: Tensor
    first_scales: Tensor
    growth: Tensor
    values: nn.Parameter

    def __init__(self, codes: Codes, form: Format) -> None:
        super().__init__()
        self.form = form
        held, scales = _reaching(codes, form)
        self.register_buffer("held", held)
        self.register_buffer("first_scales", scales)
        self.register_buffer("growth", torch.zeros_like(scales))
        self.values = nn.Parameter(dequantize(held, scales), requires_grad=self.is_moved)

    @property
    def is_moved(self) -> bool:
        """Whether training changes it."""
        return self.form.bits <= MOVED_BITS

    def forward(self) -> Tensor:
        values: Tensor = self.values
        return values

    @property
    def scales(self) -> Tensor:
        """Scales (rows, groups), before they are rounded to bfloat16."""
        found: Tensor = self.first_scales * (1 + self.growth)
        return found

    @torch.no_grad()
    def codes(self) -> Codes:
        """The present codes, as the export reads them back."""
        return read_back(self.values, self.form)[0]

    @torch.no_grad()
    def move_(self, moves: Tensor) -> None:
        """Add moves (rows, in_features) of -1, 0 and 1 to the codes, and take the present scales."""
        self.held.add_(moves.to(torch.int8))
        self.growth.clamp_(LEAST_SCALE - 1, LARGEST_SCALE - 1)
        self.values.copy_(dequantize(self.held, bfloat16_scales(self.scales)))

    def free(self, direction: Tensor) -> Tensor:
        """Which codes may move in `direction` (rows, in_features): inside the grid, groups still to be read back."""
        top, least = 2 ** (self.form.bits - 1) - 1, least_reached(self.form)
        held = self.held
        moved = held + direction.to(torch.int8)
        groups = held.view(*self.first_scales.shape, -1).abs()
        at_least = ((groups == least) & (groups.amax(-1, keepdim=True) == least)).view_as(held)
        on_grid: Tensor = (moved >= -top - 1) & (moved <= top)
        return on_grid & ~(at_least & (moved.abs() < least))


def _reaching(codes: Codes, form: Format) -> tuple[Tensor, Tensor]:
    """The same values in codes of which each group's largest can be read back, by halving scales that are too large."""
    held, scales = codes.codes.clone(), codes.scales.clone()
    groups = held.view(*scales.shape, -1)
    for _ in range(form.bits):
        largest = groups.abs().amax(-1)
        low = (largest > 0) & (largest < least_reached(form))
        groups[low] *= 2
        scales[low] /= 2
    return held, scales


class CodeMoves:
    """The optimizer of moved matrices; `share` of all their codes may move at a step, at most."""

    def __init__(self, matrices: Sequence[MovedMatrix], share: float) -> None:
        self._matrices = [matrix for matrix in matrices if matrix.is_moved]
        self._share = share
        self._means = [torch.zeros_like(matrix.values) for matrix in self._matrices]
        self._squares = [torch.zeros_like(matrix.values) for matrix in self._matrices]
        self._scale_moments = [torch.zeros_like(matrix.growth).repeat(2, 1, 1) for matrix in self._matrices]
        self._steps = 0

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move codes and scales by the gradients that lie in the matrices' values; `factor` of the full pace."""
        kept = min(SQUARES_AVERAGED, self._steps / (self._steps + 1))
        self._steps += 1
        for matrix, mean, squares in zip(self._matrices, self._means, self._squares, strict=True):
            gradient = _gradient(matrix)
            mean.mul_(AVERAGED).add_(gradient, alpha=1 - AVERAGED)
            squares.mul_(kept).addcmul_(gradient, gradient, value=1 - kept)
        least = self._least_ratio(factor)
        for index, (matrix, mean) in enumerate(zip(self._matrices, self._means, strict=True)):
            moved = self._ratios(index) > least
            self._step_scales(index, factor)
            matrix.move_(torch.where(moved, -mean.sign(), 0.0))
            mean.masked_fill_(moved, 0.0)

    def zero_grad(self) -> None:
        for matrix in self._matrices:
            matrix.values.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "means": self._means,
            "squares": self._squares,
            "scale_moments": self._scale_moments,
            "steps": self._steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, kept in (("means", self._means), ("squares", self._squares), ("scale_moments", self._scale_moments)):
            for place, value in zip(kept, state[name], strict=True):
                place.copy_(value)
        self._steps = state["steps"]

    def _least_ratio(self, factor: float) -> float:
        """The ratio above which about the wanted share of all codes lie, from a sample of them."""
        if self._steps <= STEPS_BEFORE_MOVES:
            return float("inf")
        total = sum(matrix.values.numel() for matrix in self._matrices)
        stride = -(-total // SAMPLED)
        sampled = [
            self._ratios(index).flatten()[self._steps % stride :: stride] for index in range(len(self._matrices))
        ]
        ratios = torch.cat(sampled)
        wanted = int(self._share * factor * len(ratios))
        return float(ratios.kthvalue(max(1, len(ratios) - wanted)).values) if wanted else float("inf")

    def _ratios(self, index: int) -> Tensor:
        """|m| / (D s) of every code of a matrix, up to one number; zero for what may not move or is not sure."""
        matrix, mean, squares = self._matrices[index], self._means[index], self._squares[index]
        # a mean square of few gradients may be small by chance: that of its row and column is not
        by_place = squares.mean(1, keepdim=True) * squares.mean(0, keepdim=True) / squares.mean().clamp(min=1e-38)
        steps = matrix.scales.repeat_interleave(mean.shape[1] // matrix.scales.shape[1], dim=1)
        noise = SURE**2 * (1 - AVERAGED) / (1 + AVERAGED)
        sure = mean.square() > noise * squares
        return torch.where(sure & matrix.free(-mean.sign()), mean.abs() / (squares.maximum(by_place) * steps), 0.0)

    def _step_scales(self, index: int, factor: float) -> None:
        """Adam on every scale, in shares of it."""
        matrix, (mean, squares) = self._matrices[index], self._scale_moments[index]
        by_group = (_gradient(matrix) * matrix.held).view(*matrix.scales.shape, -1).sum(-1)
        gradient = by_group * matrix.first_scales
        mean.lerp_(gradient, 1 - SCALE_BETAS[0])
        squares.lerp_(gradient.square(), 1 - SCALE_BETAS[1])
        unbiased = [1 - beta**self._steps for beta in SCALE_BETAS]
        direction = (mean / unbiased[0]) / ((squares / unbiased[1]).sqrt() + torch.finfo(torch.float32).tiny)
        matrix.growth.sub_(SCALE_RATE * factor * direction)


def _gradient(matrix: MovedMatrix) -> Tensor:
    gradient = matrix.values.grad
    assert gradient is not None
    return gradient
