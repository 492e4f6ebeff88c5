"""hqq: scales fitted with a loss that forgives the few weights that fit no grid; no data.

Half-quadratic quantization (Badri and Shaji 2023) minimises phi(W - s q) for a phi that grows slower than a square, by
splitting: with E in the place of W - s q,

    min over E, q, s of  |E|^p + beta/2 |E - (W - s q)|^2.

Each part has an answer of its own: E by shrinking W - s q (generalized soft threshold), q by rounding (W - E) / s. The
original moves a zero point and keeps the scale; codes here are symmetric, so it is the scale that moves: least squares
of W - E on the codes. The loss is not the output's, so the state of least |W - s q|^p of all rounds is kept, and the
first one is `mse`'s.
"""

import torch
from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes, bfloat16_scales
from export.quantize._matrix import by_matrix
from export.quantize._search import search_scales
from export.schemes import Format

SUMMARY = "scales that forgive outlying weights: no data, about two minutes at 0.8B"
NEEDS_CALIBRATION = False

NORM = 0.7
BETA = 10.0  # in units of a group's step: a weight is forgiven from about a quarter of a step on
BETA_GROWTH = 1.05
ROUNDS = 12


def quantize_block(task: BlockTask) -> BlockResult:
    """Every matrix on its own."""
    return by_matrix(task, quantize_table)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:  # noqa: ARG001 (the contract)
    """Quantize float32 `weight` (rows, in_features)."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, form.groups(columns), -1)
    top = 2 ** (form.bits - 1) - 1
    start = search_scales(weight, form, None)
    scales = start.scales.unsqueeze(-1)
    codes = start.codes.float().view_as(groups)
    best, best_codes, least = scales, codes, _loss(groups, codes, scales)
    beta = BETA
    for _ in range(ROUNDS):
        forgiven = _shrink((groups - codes * scales) / scales, beta) * scales
        kept = groups - forgiven
        scales = _fitted(kept, codes, scales)
        codes = (kept / scales).round_().clamp_(-top - 1, top)
        loss = _loss(groups, codes, scales)
        better = loss < least
        best, best_codes = torch.where(better, scales, best), torch.where(better, codes, best_codes)
        least = torch.minimum(loss, least)
        beta *= BETA_GROWTH
    return Codes(best_codes.to(torch.int8).view(rows, columns), best.squeeze(-1))


def _loss(groups: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """|W - s q|^p summed over each group, (rows, groups, 1)."""
    return (groups - codes * scales).abs().pow(NORM).sum(-1, keepdim=True)


def _shrink(x: Tensor, beta: float) -> Tensor:
    """The generalized soft threshold: what of x is taken for an outlier."""
    size = x.abs()
    return x.sign() * (size - size.clamp(min=1e-8).pow(NORM - 1) / beta).clamp_(min=0)


def _fitted(wanted: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """The scale of least squares for these codes, where it is near the one before."""
    fitted = (wanted * codes).sum(-1, keepdim=True) / codes.square().sum(-1, keepdim=True).clamp(min=1)
    usable = (fitted > 0.5 * scales) & (fitted < 2 * scales)
    return bfloat16_scales(torch.where(usable, fitted, scales))
