"""Codes and scales that minimise the squared error of a matrix's output, for what is known of its inputs.

With H = E[x x^T] over the inputs x that quantized blocks before really give, a row w loses (w - q) H (w - q)^T. Three
steps, the last two never raising it but for the rounding of scales:

* rounding column by column, each error spread over the columns to come (GPTQ, Frantar et al. 2023), in order of falling
  activation, on scales fixed beforehand;
* scales of a row solved for exactly, codes fixed: a system of as many unknowns as the row has groups;
* coordinate descent over codes, scales fixed (QuantEase, Behdin et al. 2023).

Columns are handled in runs, so that all but a run's width of the work is matrix products.
Matrices are held transposed, (in_features, rows), to make a column contiguous.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.quantize import Codes, bfloat16_scales
from export.quantize._search import search_scales
from export.schemes import Format

DAMPING = 0.01  # of the mean square input, added to every input's own: fewer tokens than inputs leave H singular
RUN = 128
ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Target:
    """What rows should become: `wanted` (rows, in) and the metric `gram` (in, in) in which errors count."""

    wanted: Tensor
    gram: Tensor


def damped(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """`gram` with a share of its mean diagonal added; inputs that were always zero count as that share too."""
    result = gram.clone()
    result.diagonal().add_(damping * gram.diagonal().mean().clamp(min=1e-12))
    return result


def plain_target(weight: Tensor, gram: Tensor) -> Target:
    """The float row itself."""
    return Target(wanted=weight, gram=damped(gram))


def fit(target: Target, form: Format, rounds: int = ROUNDS) -> Codes:
    """Codes of `target.wanted` on its groups' best scales."""
    scales = search_scales(target.wanted, form, target.gram.diagonal()).scales
    found = spread_errors(target, scales, form)
    for _ in range(rounds):
        found = descend(target, solve_scales(target, found), form)
    return found


def spread_errors(target: Target, scales: Tensor, form: Format) -> Codes:
    """GPTQ: round in order of falling activation; the columns not yet rounded make up for each error."""
    rows, columns = target.wanted.shape
    top = 2 ** (form.bits - 1) - 1
    order = target.gram.diagonal().argsort(descending=True)
    steps = steps_of(scales, columns)[order]  # (in, rows)
    left = target.wanted.T[order].contiguous()
    factor = _inverse_factor(target.gram[order][:, order])
    codes = torch.empty_like(left)
    for start in range(0, columns, RUN):
        stop = min(start + RUN, columns)
        errors = torch.empty(stop - start, rows)
        for column in range(start, stop):
            row = factor[column]
            codes[column] = (left[column] / steps[column]).round_().clamp_(-top - 1, top)
            errors[column - start] = (left[column] - codes[column] * steps[column]) / row[column]
            left[column + 1 : stop].addr_(row[column + 1 : stop], errors[column - start], alpha=-1)
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    result = torch.empty_like(codes)
    result[order] = codes
    return Codes(result.T.contiguous().to(torch.int8), scales)


def solve_scales(target: Target, found: Codes) -> Codes:
    """The scales of least error for these codes; a group whose best scale is not positive keeps its own."""
    rows, columns = found.codes.shape
    groups = found.scales.shape[1]
    codes = found.codes.float()
    wanted = (target.wanted @ target.gram) * codes
    right = wanted.view(rows, groups, -1).sum(-1)
    left = torch.empty(rows, groups, groups)
    width = columns // groups
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        left[:, group] = ((codes[:, part] @ target.gram[part]) * codes).view(rows, groups, -1).sum(-1)
    # a group of zero codes has an empty row: keep its scale
    ridge = left.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=1e-20) * 1e-5
    left.diagonal(dim1=1, dim2=2).add_(ridge.unsqueeze(-1))
    solved = torch.linalg.solve(left, right + ridge.unsqueeze(-1) * found.scales)
    usable = (solved > 0.5 * found.scales) & (solved < 2 * found.scales)
    return Codes(found.codes, bfloat16_scales(torch.where(usable, solved, found.scales)))


def descend(target: Target, found: Codes, form: Format) -> Codes:
    """One pass over the columns, each set to the code that is best while all others stay."""
    top = 2 ** (form.bits - 1) - 1
    rows, columns = found.codes.shape
    steps = steps_of(found.scales, columns)  # (in, rows)
    codes = found.codes.T.float().contiguous()
    slope = target.gram @ (codes * steps - target.wanted.T)  # half the gradient, (in, rows)
    own = target.gram.diagonal()
    for start in range(0, columns, RUN):
        stop = min(start + RUN, columns)
        near = target.gram[start:stop, start:stop]
        moves = torch.empty(stop - start, rows)
        for column in range(start, stop):
            step = steps[column]
            best = (codes[column] - slope[column] / (own[column] * step)).round_().clamp_(-top - 1, top)
            moves[column - start] = (best - codes[column]) * step
            codes[column] = best
            slope[start:stop].addr_(near[:, column - start], moves[column - start])
        slope[stop:].addmm_(target.gram[stop:, start:stop], moves)
    return Codes(codes.T.contiguous().to(torch.int8), found.scales)


def steps_of(scales: Tensor, columns: int) -> Tensor:
    """The scale of every weight, transposed: (in, rows)."""
    return scales.T.repeat_interleave(columns // scales.shape[1], dim=0)


def _inverse_factor(gram: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
