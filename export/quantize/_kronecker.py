"""Codes and scales that minimise tr(B E A E'), E the error of a matrix: what it costs the model, to second order.

With A alone (B the identity) every row of a matrix is a problem of its own, which `_least_squares` solves. B couples
rows: an error that the next layers would amplify is worth another one beside it that cancels it. Descent goes by bands
of rows. Within a band the codes of one column move at once, each to where it would be best alone, as many of them as
together lower the loss most, which is known exactly; all rows of a column at once diverge. What other bands have done
enters once a band, as matrix products. Matrices are held transposed, (in_features, rows), to make a column contiguous.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.quantize import Codes, bfloat16_scales
from export.quantize._least_squares import RUN, damped, steps_of
from export.schemes import Format

Array = NDArray[np.float32]
Places = NDArray[np.intp]

BAND = 64
TOGETHER = 16  # codes of one column that may move at once
BEFORE = np.tri(TOGETHER, k=-1, dtype=np.float32)
SWEEPS = 3
DAMPING_OF_OUTPUTS = 0.2  # of B's mean diagonal: it is learned from as few tokens as A, and gradients are noisier


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a matrix should become, `wanted` (out, in), and the factors A (in, in) and B (out, out) of its loss."""

    wanted: Tensor
    inputs: Tensor
    outputs: Tensor


def metric_of(wanted: Tensor, inputs: Tensor, plain: Tensor, outputs: Tensor) -> Metric:
    """The metric of gradient-weighted factors, A averaged with the inputs' `plain` second moment.

    Few tokens carry most of the gradients, so A alone would fit the text at hand too well.
    """
    both = _normalized(inputs) + _normalized(plain)
    return Metric(wanted=wanted, inputs=damped(both), outputs=damped(_normalized(outputs), DAMPING_OF_OUTPUTS))


def loss(metric: Metric, found: Codes) -> float:
    """tr(B E A E') of what codes stand for."""
    return _loss(metric, _error(metric, found.codes.T.float(), steps_of(found.scales, found.codes.shape[1])))


def improve(metric: Metric, start: Codes, form: Format, sweeps: int = SWEEPS) -> Codes:
    """Codes and scales of no more loss than `start`'s: codes descended on and scales refitted in turn."""
    best, least = start, loss(metric, start)
    for _ in range(sweeps):
        for step in (partial(descend, form=form), refit_scales):
            found = step(metric, best)
            now = loss(metric, found)
            if now < least:  # scales are rounded to bfloat16 behind the refit, which may cost more than it gains
                best, least = found, now
    return best


def descend(metric: Metric, found: Codes, form: Format) -> Codes:
    """One pass over all codes, scales fixed."""
    columns, top = found.codes.shape[1], 2 ** (form.bits - 1) - 1
    steps = steps_of(found.scales, columns)
    codes = found.codes.T.float().contiguous()
    pulled = metric.inputs @ _error(metric, codes, steps)  # A E', (in, rows)
    for start in range(0, codes.shape[1], BAND):
        band = slice(start, min(start + BAND, codes.shape[1]))
        moves = _descend_band(
            _Band(
                codes=codes[:, band],  # a view
                steps=steps[:, band].contiguous(),
                slope=pulled @ metric.outputs[:, band],
                inputs=metric.inputs,
                outputs=metric.outputs[band, band].contiguous(),
            ),
            top,
        )
        pulled[:, band] += metric.inputs @ moves
    return Codes(codes.T.contiguous().to(torch.int8), found.scales)


@dataclass(frozen=True, kw_only=True)
class _Band:
    """Some rows, transposed: `codes` (in, rows) change in place, `slope` is half the loss's gradient by their error."""

    codes: Tensor
    steps: Tensor
    slope: Tensor
    inputs: Tensor
    outputs: Tensor


def _descend_band(band: _Band, top: int) -> Tensor:
    """Move each column's codes once; returns by how much the weights moved (in, rows)."""
    columns = band.codes.shape[0]
    moved = torch.zeros_like(band.steps)
    own = band.inputs.diagonal().unsqueeze(1) * band.outputs.diagonal()  # the loss's curvature along each weight
    by_slope = own.mul(band.steps).reciprocal_()
    for start in range(0, columns, RUN):
        run = slice(start, min(start + RUN, columns))
        near = band.inputs[run, run].contiguous()
        wide = _Run(
            codes=band.codes[run].numpy(),
            steps=band.steps[run].numpy(),
            slope=band.slope[run].numpy(),
            by_slope=by_slope[run].numpy(),
            own=own[run].numpy(),
            inputs=near.numpy(),
            outputs=band.outputs.numpy(),
            moved=moved[run].numpy(),
        )
        through = torch.from_numpy(_descend_run(wide, top))
        band.slope[run.stop :].addmm_(band.inputs[run.stop :, run], through)
    return moved


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Some columns of a band, as arrays over the same memory: steps this small cost numpy a third of torch's time."""

    codes: Array
    steps: Array
    slope: Array
    by_slope: Array
    own: Array
    inputs: Array
    outputs: Array
    moved: Array


def _descend_run(run: _Run, top: int) -> Array:
    """Move the codes column by column; returns what of it reaches each row's slope through B (columns, rows)."""
    through = np.zeros_like(run.slope)
    for column, (codes, slope) in enumerate(zip(run.codes, run.slope, strict=True)):
        best = np.minimum(np.maximum(np.rint(codes - slope * run.by_slope[column]), -top - 1), top)
        rows = np.flatnonzero(best != codes)
        if not rows.size:
            continue
        moves = (best[rows] - codes[rows]) * run.steps[column, rows]
        gains = moves * (2 * slope[rows] + run.own[column, rows] * moves)  # of each alone
        if rows.size > 1:
            kept = _lowering(moves, gains, run.outputs[rows[:, None], rows], run.inputs[column, column])
            rows, moves = rows[kept], moves[kept]
        codes[rows] = best[rows]
        run.moved[column, rows] = moves
        through[column] = moves @ run.outputs[rows]
        run.slope[column + 1 :] += run.inputs[column + 1 :, column, None] * through[column]
    return through


def _lowering(moves: Array, gains: Array, outputs: Array, curvature: float) -> Places:
    """Which of a column's moves lower the loss most together: the first so many in order of what each gains alone.

    The very first lowers it, so there always are some.
    """
    order = gains.argsort()[:TOGETHER]
    moves = moves[order]
    pairs = moves * ((outputs[order[:, None], order] * BEFORE[: len(order), : len(order)]) @ moves)
    count = int((gains[order] + 2 * curvature * pairs).cumsum().argmin()) + 1
    return order[:count]


def refit_scales(metric: Metric, found: Codes) -> Codes:
    """Scales of less loss for these codes: along each one's own best step, all as far as together is best."""
    rows, columns = found.codes.shape
    groups = found.scales.shape[1]
    codes = found.codes.T.float()
    error = _error(metric, codes, steps_of(found.scales, columns))
    slope = (metric.inputs @ error) @ metric.outputs  # (in, rows)
    by_scale = (slope * codes).view(groups, -1, rows).sum(1)
    width = columns // groups
    curvature = torch.empty(groups, rows)
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        curvature[group] = (codes[part] * (metric.inputs[part, part] @ codes[part])).sum(0)
    curvature *= metric.outputs.diagonal()
    direction = torch.where(curvature > 0, -by_scale / curvature, 0.0)
    change = codes * direction.repeat_interleave(width, dim=0)
    bend = _loss(metric, change)
    reach = -float((by_scale * direction).sum()) / bend if bend > 0 else 0.0
    new = found.scales + reach * direction.T
    usable = (new > 0.5 * found.scales) & (new < 2 * found.scales)
    return Codes(found.codes, bfloat16_scales(torch.where(usable, new, found.scales)))


def _error(metric: Metric, codes: Tensor, steps: Tensor) -> Tensor:
    """The error of every weight, transposed (in, rows)."""
    return codes * steps - metric.wanted.T


def _loss(metric: Metric, error: Tensor) -> float:
    return float(((metric.inputs @ error) * (error @ metric.outputs)).sum(dtype=torch.float64))


def _normalized(moment: Tensor) -> Tensor:
    return moment / moment.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
